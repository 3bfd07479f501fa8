//! Guest memory on the host's side.
#![expect(unsafe_code, reason = "maps memory that a guest writes too")]

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

use guest_protocol::layout;
use nix::errno::Errno;

use crate::arch;
use crate::failure::{Failure, TestResult};
use crate::quirks::Quirk;

/// Page-aligned memory of this process; unmapped on drop.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<libc::c_void>,
    len: usize,
}

// SAFETY: owned memory, reached through volatile or atomic accesses only.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// `len` bytes of private zeroes, in small pages.
    ///
    /// # Errors
    ///
    /// No memory.
    pub fn anonymous(len: usize) -> TestResult<Self> {
        let mapping = Self::with_flags(len, MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE)?;
        // A kernel without huge pages says no, and has none to keep away.
        // SAFETY: our own mapping.
        let _ = unsafe { madvise(mapping.base, len, MmapAdvise::MADV_NOHUGEPAGE) };
        Ok(mapping)
    }

    /// `len` bytes of zeroes mapped with `flags`.
    ///
    /// # Errors
    ///
    /// The host refuses.
    pub fn with_flags(len: usize, flags: MapFlags) -> TestResult<Self> {
        match arch::SLOT_ALIGNMENT {
            Some(align) => Self::with_alignment(len, align, flags),
            None => Self::anywhere(len, flags),
        }
    }

    fn anywhere(len: usize, flags: MapFlags) -> TestResult<Self> {
        let size =
            NonZeroUsize::new(len).ok_or_else(|| Failure::Error("mapping of 0 bytes".into()))?;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            mmap_anonymous(None, size, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags)
        }
        .map_err(|e| Failure::Error(format!("mmap of {len} bytes: {e}")))?;
        Ok(Self { base, len })
    }

    /// `len` bytes of zeroes mapped with `flags`, at a multiple of `align` (a power of two of at least
    /// a page).
    ///
    /// # Errors
    ///
    /// The host refuses.
    pub fn with_alignment(len: usize, align: usize, flags: MapFlags) -> TestResult<Self> {
        let whole = Self::anywhere(len + align, flags)?;
        let head = (whole.hva() as usize).next_multiple_of(align) - whole.hva() as usize;
        let kept = len.next_multiple_of(layout::PAGE_SIZE as usize);
        // SAFETY: both ends lie in the new mapping, which nobody has seen yet.
        let base = unsafe {
            let base = whole.base.byte_add(head);
            if head > 0 {
                let _ = munmap(whole.base, head);
            }
            if head + kept < len + align {
                let _ = munmap(base.byte_add(kept), len + align - head - kept);
            }
            base
        };
        std::mem::forget(whole);
        Ok(Self { base, len })
    }

    /// `len` bytes of what a KVM descriptor offers for mapping at `offset`.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn of_descriptor(
        fd: &impl AsRawFd,
        offset: u64,
        len: usize,
        prot: ProtFlags,
        flags: MapFlags,
    ) -> Result<Self, Errno> {
        let size = NonZeroUsize::new(len).ok_or(Errno::EINVAL)?;
        // SAFETY: a new mapping at an address of the kernel's choice, of a descriptor that is open
        // for as long as `fd` is borrowed.
        let base = unsafe {
            mmap(None, size, prot, flags, BorrowedFd::borrow_raw(fd.as_raw_fd()), offset as i64)
        }?;
        Ok(Self { base, len })
    }

    /// Puts a private copy of the first `len` bytes of `file` over the start of this mapping.
    ///
    /// # Errors
    ///
    /// The host refuses.
    pub fn overlay(&mut self, file: &File, len: usize) -> TestResult {
        assert!(len <= self.len, "the overlay is larger than the mapping");
        let address = NonZeroUsize::new(self.base.as_ptr() as usize);
        let size = NonZeroUsize::new(len).ok_or_else(|| Failure::Error("empty overlay".into()))?;
        let mut flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED;
        if Quirk::FetchNeedsMappedPages.is_here() {
            flags |= MapFlags::MAP_POPULATE;
        }
        // SAFETY: replaces pages of our own mapping.
        unsafe {
            mmap(address, size, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags, file, 0)
        }
        .map_err(|e| Failure::Error(format!("mmap of the payload: {e}")))?;
        Ok(())
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: a mapping has at least one byte.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Host virtual address of the first byte.
    pub fn hva(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    /// Advises the kernel about all of the mapping.
    ///
    /// # Errors
    ///
    /// The host refuses.
    pub fn advise(&self, advice: MmapAdvise) -> TestResult {
        assert!(advice != MmapAdvise::MADV_REMOVE, "only advice that keeps the mapping");
        // SAFETY: our own mapping, whose bytes nobody assumes to stay the same.
        unsafe { madvise(self.base, self.len, advice) }
            .map_err(|e| Failure::Error(format!("madvise {advice:?}: {e}")))
    }

    /// The byte at `offset`, as something that guest and host may touch at once.
    ///
    /// # Panics
    ///
    /// `offset` is outside.
    pub fn byte(&self, offset: usize) -> &AtomicU8 {
        assert!(offset < self.len, "offset {offset:#x} is outside {:#x} bytes", self.len);
        // SAFETY: in bounds, and an atomic byte may be shared.
        unsafe { &*self.base.as_ptr().cast::<AtomicU8>().add(offset) }
    }

    /// A value inside the mapping that guest and host may touch at once.
    ///
    /// # Panics
    ///
    /// It is outside, or not aligned.
    pub fn shared<T: guest_runtime::shared::Shared>(&self, offset: usize) -> &T {
        let end = offset.checked_add(size_of::<T>());
        assert!(end.is_some_and(|end| end <= self.len), "value at {offset:#x} is outside");
        // SAFETY: in bounds.
        let pointer = unsafe { self.base.as_ptr().cast::<u8>().add(offset) }.cast::<T>();
        assert!(pointer.is_aligned(), "value at {offset:#x} is not aligned");
        // SAFETY: in bounds, aligned, valid for every bit pattern and for sharing (`Shared`).
        unsafe { &*pointer }
    }

    /// Copies bytes out. A guest that writes meanwhile can mix old and new.
    ///
    /// # Panics
    ///
    /// The range is outside.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) {
        self.check(offset, bytes.len());
        // SAFETY: in bounds; the bytes are plain, and a torn copy is what the caller accepts.
        unsafe {
            let from = self.base.as_ptr().cast::<u8>().add(offset);
            std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len());
        }
    }

    /// Copies bytes in.
    ///
    /// # Panics
    ///
    /// The range is outside.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        self.check(offset, bytes.len());
        // SAFETY: in bounds.
        unsafe {
            let to = self.base.as_ptr().cast::<u8>().add(offset);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
    }

    /// Fills the mapping with one byte.
    pub fn fill(&self, value: u8) {
        // SAFETY: exactly our own mapping.
        unsafe { std::ptr::write_bytes(self.base.as_ptr().cast::<u8>(), value, self.len) }
    }

    /// Loads a `u64`.
    pub fn read_u64(&self, offset: usize) -> u64 {
        let mut bytes = [0; 8];
        self.read(offset, &mut bytes);
        u64::from_ne_bytes(bytes)
    }

    /// Reads one byte volatile: touches the page.
    pub fn touch(&self, offset: usize) -> u8 {
        self.byte(offset).load(Ordering::SeqCst)
    }

    fn check(&self, offset: usize, len: usize) {
        let end = offset.checked_add(len);
        assert!(
            end.is_some_and(|end| end <= self.len),
            "{len} bytes at {offset:#x} are outside {:#x} bytes",
            self.len
        );
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and no reference outlives it.
        let _ = unsafe { munmap(self.base, self.len) };
    }
}

/// The default memslot's memory: guest-physical 0 to its length.
#[derive(Debug)]
pub struct Ram(pub(crate) Mapping);

impl Ram {
    /// Whether `len` bytes at `gpa` are RAM.
    pub fn contains(&self, gpa: u64, len: usize) -> bool {
        gpa.checked_add(len as u64).is_some_and(|end| end <= self.0.len() as u64)
    }

    /// Copies out, `None` outside RAM.
    pub fn read(&self, gpa: u64, bytes: &mut [u8]) -> Option<()> {
        self.contains(gpa, bytes.len()).then(|| self.0.read(gpa as usize, bytes))
    }

    /// A word at an aligned address of RAM.
    pub fn word(&self, gpa: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(gpa, &mut bytes)?;
        gpa.is_multiple_of(8).then_some(u64::from_ne_bytes(bytes))
    }

    /// Copies in, `None` outside RAM.
    pub fn write(&self, gpa: u64, bytes: &[u8]) -> Option<()> {
        self.contains(gpa, bytes.len()).then(|| self.0.write(gpa as usize, bytes))
    }

    /// The mapping behind it.
    pub fn mapping(&self) -> &Mapping {
        &self.0
    }
}
