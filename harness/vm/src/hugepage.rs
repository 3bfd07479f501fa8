//! What a slot's memory is made of, and what the host does with it under a guest.
#![expect(unsafe_code, reason = "changes mappings of our own that a guest uses too")]

use std::fmt::Display;
use std::fs::{self, File};
use std::path::PathBuf;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MRemapFlags, MapFlags, MmapAdvise, ProtFlags, madvise, mprotect, mremap};

use super::Mapping;
use crate::failure::{Failure, TestResult};
use crate::quirks::Quirk;
use crate::skip;

/// Kinds of memory that a slot can be of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Private zeroes in small pages.
    Anonymous,
    /// Private zeroes that the host may hold in transparent huge pages.
    Thp,
    /// Private huge pages of hugetlbfs.
    Hugetlb,
    /// Shared zeroes (shmem).
    Shmem,
    /// A memfd, shared.
    Memfd,
    /// A memfd of huge pages, shared.
    MemfdHugetlb,
}

impl Backing {
    /// Every kind, by the name that options use.
    pub const ALL: [(&'static str, Self); 6] = [
        ("anonymous", Self::Anonymous),
        ("thp", Self::Thp),
        ("hugetlb", Self::Hugetlb),
        ("shmem", Self::Shmem),
        ("memfd", Self::Memfd),
        ("memfd_hugetlb", Self::MemfdHugetlb),
    ];

    /// `len` bytes of it, at a multiple of the host's huge page where it has huge pages.
    ///
    /// # Errors
    ///
    /// The host refuses; a skip names what it lacks.
    pub fn map(self, len: usize) -> TestResult<Mapping> {
        let private = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        match self {
            Self::Anonymous => {
                let mapping = Mapping::with_alignment(len, huge_or_page(), private)?;
                // A kernel without huge pages says no, and has none to keep away.
                let _ = mapping.advise(MmapAdvise::MADV_NOHUGEPAGE);
                Ok(mapping)
            }
            Self::Thp => {
                let Some(huge) = transparent_huge_page_size() else {
                    skip!("transparent huge pages");
                };
                let mapping = Mapping::with_alignment(len, huge, private)?;
                mapping.advise(MmapAdvise::MADV_HUGEPAGE)?;
                Ok(mapping)
            }
            Self::Hugetlb => with_huge_pages(len, |len, size| {
                let size = MapFlags::from_bits_retain(size.cast_signed());
                Mapping::with_flags(len, MapFlags::MAP_PRIVATE | MapFlags::MAP_HUGETLB | size)
            }),
            Self::Shmem => Mapping::with_alignment(len, huge_or_page(), MapFlags::MAP_SHARED),
            Self::Memfd => memfd(len, MFdFlags::empty()),
            Self::MemfdHugetlb => with_huge_pages(len, |len, size| {
                memfd(len, MFdFlags::MFD_HUGETLB | MFdFlags::from_bits_retain(size))
            }),
        }
    }
}

fn memfd(len: usize, flags: MFdFlags) -> TestResult<Mapping> {
    let error = |e| Failure::Error(format!("memfd of {len} bytes: {e}"));
    let file: File = memfd_create("guest memory", flags | MFdFlags::MFD_CLOEXEC)
        .map_err(|e| error(e.to_string()))?
        .into();
    file.set_len(len as u64).map_err(|e| error(e.to_string()))?;
    let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    Mapping::of_descriptor(&file, 0, len, prot, MapFlags::MAP_SHARED)
        .map_err(|e| error(e.to_string()))
}

/// Bytes of the huge page that one entry of the second lowest table maps: the one that KVM's mappings and
/// transparent huge pages are of. Hugetlbfs may have others, even as its default. `None` where the host
/// has no such pages.
pub fn huge_page_size() -> Option<usize> {
    transparent_huge_page_size().or_else(|| Pool::of(pmd_size()).map(|pool| pool.page))
}

fn huge_or_page() -> usize {
    huge_page_size().unwrap_or(guest_protocol::layout::PAGE_SIZE as usize)
}

const THP: &str = "/sys/kernel/mm/transparent_hugepage";

/// What an entry of the second lowest table maps, if there are transparent huge pages or not.
fn pmd_size() -> usize {
    let size = fs::read_to_string(format!("{THP}/hpage_pmd_size")).ok();
    size.and_then(|size| size.trim().parse().ok()).unwrap_or(2 << 20)
}

/// Bytes of a transparent huge page, where the host makes them on request.
fn transparent_huge_page_size() -> Option<usize> {
    if Quirk::HugePagesOnRequest.is_here() {
        let _ = fs::write(format!("{THP}/enabled"), "madvise");
    }
    let enabled = fs::read_to_string(format!("{THP}/enabled")).ok()?;
    (!enabled.contains("[never]")).then(pmd_size)
}

/// Hugetlbfs's pages of one size.
#[derive(Debug)]
struct Pool {
    page: usize,
    dir: PathBuf,
}

impl Pool {
    /// The pool of pages of `page` bytes, where the host has one.
    fn of(page: usize) -> Option<Self> {
        let dir = PathBuf::from(format!("/sys/kernel/mm/hugepages/hugepages-{}kB", page >> 10));
        dir.is_dir().then_some(Self { page, dir })
    }

    fn number(&self, name: &str) -> usize {
        let text = fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    /// Pages that nobody has or was promised.
    fn free(&self) -> usize {
        self.number("free_hugepages").saturating_sub(self.number("resv_hugepages"))
    }

    /// This size in the flags of mmap and memfd_create, which put it at the same place.
    fn flag(&self) -> u32 {
        self.page.trailing_zeros() << libc::MAP_HUGE_SHIFT
    }
}

/// Maps `len` bytes, rounded up to huge pages, by [`Pool::flag`], while so many are to be had: a host that
/// makes them on request gets more of them, another one must have them.
fn with_huge_pages(
    len: usize,
    map: impl Fn(usize, u32) -> TestResult<Mapping>,
) -> TestResult<Mapping> {
    let Some(pool) = Pool::of(pmd_size()) else {
        skip!("huge pages of {} KiB of hugetlbfs", pmd_size() >> 10);
    };
    // Tests run side by side: from the look to the mapping, which reserves its pages, only one may want any.
    let error = |e: &dyn Display| Failure::Error(format!("{}: {e}", pool.dir.display()));
    let file = File::open(&pool.dir).map_err(|e| error(&e))?;
    let _turn = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| error(&e))?;
    let needed = len.div_ceil(pool.page);
    if pool.free() < needed && Quirk::HugePagesOnRequest.is_here() {
        let more = pool.number("nr_hugepages") + needed - pool.free();
        let _ = fs::write(pool.dir.join("nr_hugepages"), more.to_string());
    }
    if pool.free() < needed {
        skip!("{needed} free huge pages of {} KiB (vm.nr_hugepages)", pool.page >> 10);
    }
    let map = || map(needed * pool.page, pool.flag());
    // Where a cgroup limits them, pages that are there and reserved are a SIGBUS when they are touched.
    if map()?.populate().is_err() {
        skip!("{needed} huge pages of {} KiB within the hugetlb limits", pool.page >> 10);
    }
    map()
}

impl Mapping {
    fn part(&self, offset: usize, len: usize) -> NonNull<libc::c_void> {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len()), "part is outside");
        let address = self.hva() as usize + offset;
        NonNull::new(address as *mut libc::c_void).expect("a mapping is not at 0")
    }

    /// Bytes of the host's page tables that map this mapping by huge pages.
    pub fn huge_bytes(&self) -> u64 {
        let (start, end) = (self.hva(), self.hva() + self.len() as u64);
        let mut inside = false;
        let mut kib = 0;
        for line in fs::read_to_string("/proc/self/smaps").unwrap_or_default().lines() {
            let mut words = line.split_whitespace();
            let (Some(first), second) = (words.next(), words.next()) else { continue };
            if let Some((from, to)) = first.split_once('-') {
                let address = |text| u64::from_str_radix(text, 16).unwrap_or(0);
                inside = address(from) < end && address(to) > start;
            }
            let huge = ["AnonHugePages:", "ShmemPmdMapped:", "Private_Hugetlb:", "Shared_Hugetlb:"];
            if inside && huge.contains(&first) {
                kib += second.and_then(|kib| kib.parse().ok()).unwrap_or(0);
            }
        }
        kib << 10
    }

    /// Has every page there, written. Kernels before 5.14 cannot, and leave it at that.
    fn populate(&self) -> Result<(), Errno> {
        // SAFETY: our own mapping, which keeps its bytes.
        let done = unsafe {
            madvise(self.part(0, self.len()), self.len(), MmapAdvise::MADV_POPULATE_WRITE)
        };
        done.or_else(|errno| if errno == Errno::EINVAL { Ok(()) } else { Err(errno) })
    }

    /// `mprotect` of a part.
    ///
    /// # Errors
    ///
    /// The host refuses.
    pub fn protect(&self, offset: usize, len: usize, prot: ProtFlags) -> TestResult {
        // SAFETY: our own mapping; accesses through it are the caller's to get right.
        unsafe { mprotect(self.part(offset, len), len, prot) }
            .map_err(|e| Failure::Error(format!("mprotect to {prot:?}: {e}")))
    }

    /// `madvise` of a part.
    ///
    /// # Errors
    ///
    /// The host refuses.
    pub fn advise_part(&self, offset: usize, len: usize, advice: MmapAdvise) -> TestResult {
        assert!(advice != MmapAdvise::MADV_REMOVE, "only advice that keeps the mapping");
        // SAFETY: our own mapping, whose bytes nobody assumes to stay the same.
        unsafe { madvise(self.part(offset, len), len, advice) }
            .map_err(|e| Failure::Error(format!("madvise {advice:?} of a part: {e}")))
    }

    /// `mremap`: the pages of this mapping take the place of those of `target` at `offset`.
    ///
    /// # Errors
    ///
    /// The host refuses.
    pub fn move_onto(self, target: &Self, offset: usize) -> TestResult {
        let flags = MRemapFlags::MREMAP_MAYMOVE | MRemapFlags::MREMAP_FIXED;
        let (from, len) = (self.part(0, self.len()), self.len());
        // SAFETY: replaces pages of `target`, whose bytes nobody assumes to stay the same; `self` is
        // consumed, and has nothing left to unmap.
        unsafe { mremap(from, len, len, flags, Some(target.part(offset, len))) }
            .map_err(|e| Failure::Error(format!("mremap: {e}")))?;
        std::mem::forget(self);
        Ok(())
    }
}
