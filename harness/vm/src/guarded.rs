//! Raw ioctls on buffers that end where unmapped memory begins: a kernel that reads or writes past
//! the bytes it was given gets EFAULT instead of our memory.
#![expect(unsafe_code, reason = "raw ioctls on memory mapped for them")]

use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

/// The largest page of any kernel of this architecture.
const PAGE: usize = if cfg!(target_arch = "powerpc64") { 0x1_0000 } else { 4096 };

/// Bytes followed by an inaccessible page.
#[derive(Debug)]
pub struct GuardedBuffer {
    base: NonNull<libc::c_void>,
    mapped: usize,
    len: usize,
}

// SAFETY: the buffer owns its mapping.
unsafe impl Send for GuardedBuffer {}

impl GuardedBuffer {
    /// A copy of `bytes`.
    ///
    /// # Panics
    ///
    /// No memory.
    pub fn new(bytes: &[u8]) -> Self {
        let data = bytes.len().div_ceil(PAGE) * PAGE;
        let mapped = NonZeroUsize::new(data + PAGE).expect("at least the guard page");
        // SAFETY: a new private mapping.
        let base = unsafe {
            mmap_anonymous(
                None,
                mapped,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_PRIVATE,
            )
        }
        .expect("memory for an ioctl's argument");
        // SAFETY: the last page of our own mapping.
        unsafe { mprotect(base.byte_add(data), PAGE, ProtFlags::PROT_NONE) }.expect("a guard page");
        let mut buffer = Self { base, mapped: mapped.get(), len: bytes.len() };
        buffer.bytes_mut().copy_from_slice(bytes);
        buffer
    }

    fn start(&self) -> *mut u8 {
        // SAFETY: stays within the mapping: the data end right before the guard page.
        unsafe { self.base.as_ptr().cast::<u8>().add(self.mapped - PAGE - self.len) }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `len` initialised bytes of our own mapping.
        unsafe { std::slice::from_raw_parts(self.start(), self.len) }
    }

    /// The bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.len) }
    }

    /// Their address, for structures that point to them.
    pub fn address(&self) -> u64 {
        self.start() as u64
    }
}

impl Drop for GuardedBuffer {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and nothing borrows it any more.
        let _ = unsafe { munmap(self.base, self.mapped) };
    }
}

/// An ioctl whose argument is a structure: `bytes` go in and come back.
///
/// # Errors
///
/// The errno.
pub fn raw_ioctl(fd: &impl AsRawFd, request: u64, bytes: &mut [u8]) -> Result<i32, Errno> {
    let mut buffer = GuardedBuffer::new(bytes);
    // SAFETY: the kernel can touch nothing behind the buffer, and what it writes is plain bytes.
    let result =
        unsafe { libc::ioctl(fd.as_raw_fd(), request as _, buffer.bytes_mut().as_mut_ptr()) };
    bytes.copy_from_slice(buffer.bytes());
    Errno::result(result)
}

/// An ioctl whose argument is a number.
///
/// # Errors
///
/// The errno.
pub fn raw_ioctl_value(fd: &impl AsRawFd, request: u64, value: u64) -> Result<i32, Errno> {
    // SAFETY: used for ioctls that take no pointer; one given by mistake is the kernel's to refuse.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), request as _, value) })
}

/// An ioctl whose argument is a number and that returns a new descriptor.
///
/// # Errors
///
/// The errno.
pub fn raw_ioctl_value_fd(fd: &impl AsRawFd, request: u64, value: u64) -> Result<OwnedFd, Errno> {
    let new = raw_ioctl_value(fd, request, value)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}

/// An ioctl that returns a new descriptor; `bytes` as in [`raw_ioctl`], none for no argument.
///
/// # Errors
///
/// The errno.
pub fn raw_ioctl_fd(fd: &impl AsRawFd, request: u64, bytes: &mut [u8]) -> Result<OwnedFd, Errno> {
    if bytes.is_empty() {
        return raw_ioctl_value_fd(fd, request, 0);
    }
    let new = raw_ioctl(fd, request, bytes)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}
