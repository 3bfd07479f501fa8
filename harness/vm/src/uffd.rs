//! userfaultfd(2): a guest's access to memory that is not there yet waits until we supply it.
#![expect(unsafe_code, reason = "ioctls on structures of plain integers")]

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Event, Mapping};
use crate::failure::{Failure, TestResult};
use crate::skip;

const UFFD_API: u64 = 0xaa;
const UFFDIO_API: libc::Ioctl = nix::request_code_readwrite!(UFFD_API, 0x3f, 24);
const UFFDIO_REGISTER: libc::Ioctl = nix::request_code_readwrite!(UFFD_API, 0x00, 32);
const UFFDIO_COPY: libc::Ioctl = nix::request_code_readwrite!(UFFD_API, 0x03, 40);
const UFFDIO_CONTINUE: libc::Ioctl = nix::request_code_readwrite!(UFFD_API, 0x07, 32);
const UFFD_EVENT_PAGEFAULT: u8 = 0x12;
const UFFD_FEATURE_MINOR_HUGETLBFS: u64 = 1 << 9;
const UFFD_FEATURE_MINOR_SHMEM: u64 = 1 << 10;

/// Which accesses wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultMode {
    /// Those to pages that are not there.
    Missing,
    /// Those to pages that shared memory holds but this mapping has not seen.
    Minor,
}

/// A userfaultfd.
#[derive(Debug)]
pub struct Userfault(OwnedFd);

impl Userfault {
    /// One for faults of `mode`, also when the kernel itself accesses the memory.
    ///
    /// # Errors
    ///
    /// A skip that says what the host lacks.
    pub fn new(mode: FaultMode) -> TestResult<Self> {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: the system call takes flags alone.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
        if fd < 0 {
            skip!("userfaultfd for kernel accesses ({})", Errno::last().desc());
        }
        // SAFETY: the kernel has just made this descriptor for us.
        let fd = Self(unsafe { OwnedFd::from_raw_fd(fd as i32) });
        let features = match mode {
            FaultMode::Missing => 0,
            FaultMode::Minor => UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_MINOR_HUGETLBFS,
        };
        if fd.ioctl(UFFDIO_API, &mut [UFFD_API, features, 0]).is_err() {
            skip!("userfaultfd's minor faults");
        }
        Ok(fd)
    }

    fn ioctl<const N: usize>(
        &self,
        request: libc::Ioctl,
        words: &mut [u64; N],
    ) -> Result<(), Errno> {
        // SAFETY: each request's structure is as many words as its number says; addresses in it are
        // of mappings that outlive the call.
        Errno::result(unsafe { libc::ioctl(self.0.as_raw_fd(), request, words.as_mut_ptr()) })
            .map(drop)
    }

    /// Lets accesses to all of `mapping` wait.
    ///
    /// # Errors
    ///
    /// The host refuses.
    pub fn register(&self, mapping: &Mapping, mode: FaultMode) -> TestResult {
        let mode = match mode {
            FaultMode::Missing => 1,
            FaultMode::Minor => 4,
        };
        self.ioctl(UFFDIO_REGISTER, &mut [mapping.hva(), mapping.len() as u64, mode, 0])
            .map_err(|e| Failure::Error(format!("UFFDIO_REGISTER: {e}")))
    }

    /// The host virtual address of the next access that waits; `None` once `stop` is signalled.
    ///
    /// # Errors
    ///
    /// The host refuses.
    pub fn next(&self, stop: &Event) -> TestResult<Option<u64>> {
        loop {
            let mut fds = [
                PollFd::new(self.0.as_fd(), PollFlags::POLLIN),
                PollFd::new(stop.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(Failure::Error(format!("poll: {e}"))),
            }
            let (fault, stopped) = (fds[0].any() == Some(true), fds[1].any() == Some(true));
            if !fault && stopped {
                return Ok(None);
            }
            let mut message = [0_u8; 32];
            match nix::unistd::read(&self.0, &mut message) {
                Ok(32) if message[0] == UFFD_EVENT_PAGEFAULT => {
                    let address = message[16..24].try_into().unwrap_or_default();
                    return Ok(Some(u64::from_ne_bytes(address)));
                }
                // Another reader was quicker.
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                other => return Err(Failure::Error(format!("userfaultfd message: {other:?}"))),
            }
        }
    }

    /// Puts a copy of `bytes` at `address` and lets its access go on.
    ///
    /// # Errors
    ///
    /// The errno; EEXIST where a page is there already.
    pub fn copy(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        let (from, len) = (bytes.as_ptr() as u64, bytes.len() as u64);
        self.ioctl(UFFDIO_COPY, &mut [address, from, len, 0, 0])
    }

    /// Maps what the shared memory holds at `address` and lets the access go on.
    ///
    /// # Errors
    ///
    /// The errno; EEXIST where a page is there already.
    pub fn go_on(&self, address: u64, len: u64) -> Result<(), Errno> {
        self.ioctl(UFFDIO_CONTINUE, &mut [address, len, 0, 0])
    }
}

/// Two mappings of the same memory: what is written through one is there for the other.
///
/// # Errors
///
/// The host refuses.
pub fn shared_twins(len: usize) -> TestResult<[Mapping; 2]> {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use nix::sys::mman::{MapFlags, ProtFlags};
    let error = |e: String| Failure::Error(format!("memfd of {len} bytes: {e}"));
    let file: File = memfd_create("guest memory", MFdFlags::MFD_CLOEXEC)
        .map_err(|e| error(e.to_string()))?
        .into();
    file.set_len(len as u64).map_err(|e| error(e.to_string()))?;
    let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let map = || {
        Mapping::of_descriptor(&file, 0, len, prot, MapFlags::MAP_SHARED)
            .map_err(|e| error(e.to_string()))
    };
    Ok([map()?, map()?])
}
