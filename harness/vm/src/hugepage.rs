//! What a slot's memory is made of, and what the host does with it under a guest.
#![expect(unsafe_code, reason = "changes mappings of our own that a guest uses too")]

use std::fs::{self, File};
use std::ptr::NonNull;

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
            Self::Hugetlb => with_huge_pages(len, |len| {
                Mapping::with_flags(len, MapFlags::MAP_PRIVATE | MapFlags::MAP_HUGETLB)
            }),
            Self::Shmem => Mapping::with_alignment(len, huge_or_page(), MapFlags::MAP_SHARED),
            Self::Memfd => memfd(len, MFdFlags::empty()),
            Self::MemfdHugetlb => with_huge_pages(len, |len| memfd(len, MFdFlags::MFD_HUGETLB)),
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

/// Bytes of the host's usual huge page, transparent or not; `None` where it has none.
pub fn huge_page_size() -> Option<usize> {
    transparent_huge_page_size().or_else(|| meminfo("Hugepagesize:").map(|kib| kib << 10))
}

fn huge_or_page() -> usize {
    huge_page_size().unwrap_or(guest_protocol::layout::PAGE_SIZE as usize)
}

/// Bytes of a transparent huge page, where the host makes them on request.
fn transparent_huge_page_size() -> Option<usize> {
    const DIR: &str = "/sys/kernel/mm/transparent_hugepage";
    if Quirk::HugePagesOnRequest.is_here() {
        let _ = fs::write(format!("{DIR}/enabled"), "madvise");
    }
    let enabled = fs::read_to_string(format!("{DIR}/enabled")).ok()?;
    let size = fs::read_to_string(format!("{DIR}/hpage_pmd_size")).ok()?;
    (!enabled.contains("[never]")).then(|| size.trim().parse().ok()).flatten()
}

/// A number of `/proc/meminfo`.
fn meminfo(key: &str) -> Option<usize> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(key))?;
    value.split_whitespace().next()?.parse().ok()
}

/// Maps `len` bytes, rounded up to huge pages, while so many are to be had: a host that makes them on
/// request gets more of them, another one must have them.
fn with_huge_pages(
    len: usize,
    map: impl FnOnce(usize) -> TestResult<Mapping>,
) -> TestResult<Mapping> {
    const MEMINFO: &str = "/proc/meminfo";
    // Tests run side by side: from the look to the mapping, which reserves its pages, only one may want any.
    let file = File::open(MEMINFO).map_err(|e| Failure::Error(format!("{MEMINFO}: {e}")))?;
    let _turn = Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, e)| Failure::Error(format!("flock of {MEMINFO}: {e}")))?;
    let Some(size) = meminfo("Hugepagesize:").map(|kib| kib << 10) else {
        skip!("huge pages of hugetlbfs");
    };
    let needed = len.div_ceil(size);
    let number = |key| meminfo(key).unwrap_or(0);
    let free = || number("HugePages_Free:").saturating_sub(number("HugePages_Rsvd:"));
    if free() < needed && Quirk::HugePagesOnRequest.is_here() {
        let more = number("HugePages_Total:") + needed - free();
        let _ = fs::write("/proc/sys/vm/nr_hugepages", more.to_string());
    }
    if free() < needed {
        skip!("{needed} free huge pages of {} KiB (vm.nr_hugepages)", size >> 10);
    }
    map(needed * size)
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
