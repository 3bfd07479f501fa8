//! Mapped memory: starts at a page, so a disk can be read into it past every cache.

#![expect(unsafe_code, reason = "there is no safe interface to mmap")]

use std::fs::File;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

const ACCESS: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

/// Memory of this process alone, or the contents of a file.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    bytes: NonZeroUsize,
}

impl Mapping {
    /// Zeros; at least one byte.
    pub fn anonymous(bytes: usize) -> nix::Result<Self> {
        let bytes = NonZeroUsize::new(bytes).unwrap_or(NonZeroUsize::MIN);
        // SAFETY: the kernel picks a place where nothing is mapped.
        let start = unsafe { mmap_anonymous(None, bytes, ACCESS, MapFlags::MAP_PRIVATE) }?;
        Ok(Self { start: start.cast(), bytes })
    }

    /// The first bytes of a file that has at least as many, which nobody else uses meanwhile.
    pub fn of(file: &File, bytes: NonZeroUsize) -> nix::Result<Self> {
        // SAFETY: the kernel picks a place where nothing is mapped. The init is the only process,
        // so nobody shortens the file or writes to it behind the slice that `bytes` gives.
        let start = unsafe { mmap(None, bytes, ACCESS, MapFlags::MAP_SHARED, file, 0) }?;
        Ok(Self { start: start.cast(), bytes })
    }

    /// All of it.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is this long, readable and writable, and lives as long as `self`,
        // which is borrowed as a whole.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes.get()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no slice of it outlives it.
        let _ = unsafe { munmap(self.start.cast(), self.bytes.get()) };
    }
}
