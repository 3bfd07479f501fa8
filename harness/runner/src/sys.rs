//! The system calls of process isolation that need `unsafe` or a raw number.
#![expect(unsafe_code, reason = "fork, pidfd_open, close_range and tgkill have no safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::unistd::{ForkResult, Pid};

/// Forks. The caller must have no other thread, which is checked where `/proc` can tell.
pub fn fork() -> io::Result<ForkResult> {
    debug_assert!(threads().is_none_or(|n| n == 1), "fork in a process with several threads");
    // SAFETY: the process is single threaded, so the child's heap and locks are
    // in a consistent state and it may go on as an ordinary process.
    Ok(unsafe { nix::unistd::fork() }?)
}

fn threads() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/task").ok()?.count())
}

/// A descriptor that becomes readable when the process ends.
pub fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor (it is close-on-exec), and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Sends a signal to the main thread of a worker.
pub fn signal_main_thread(pid: Pid, signal: nix::sys::signal::Signal) {
    // SAFETY: tgkill takes three integers; a process that is gone is an error that changes nothing.
    unsafe { libc::syscall(libc::SYS_tgkill, pid.as_raw(), pid.as_raw(), signal as i32) };
}

/// Closes every descriptor above stderr but the ones in `keep`.
///
/// To be called by a fresh child only, which drops no Rust owner of a closed
/// descriptor before it ends.
pub fn close_all_but(keep: &[RawFd]) {
    let mut keep: Vec<u32> = keep.iter().filter(|fd| **fd > 2).map(|fd| *fd as u32).collect();
    keep.sort_unstable();
    let mut first = 3u32;
    for fd in keep {
        if first < fd {
            close_range(first, fd - 1);
        }
        first = fd + 1;
    }
    close_range(first, u32::MAX);
}

fn close_range(first: u32, last: u32) {
    // SAFETY: the caller's contract: no owner of these descriptors is used or dropped again.
    let failed = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } != 0;
    if failed {
        for fd in first..=last.min(4096) {
            // SAFETY: as above; a number that is not open is an error that changes nothing.
            unsafe { libc::close(fd as RawFd) };
        }
    }
}

/// Makes `to` a copy of `from`.
pub fn dup_onto(from: &impl AsRawFd, to: RawFd) {
    // SAFETY: only called for standard descriptors, which no Rust value of this crate owns.
    unsafe { libc::dup2(from.as_raw_fd(), to) };
}

/// A copy of a standard descriptor, above the standard ones and close-on-exec.
pub fn dup_above_stdio(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC returns a new descriptor or -1.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Ends the process without running exit handlers that belong to the parent.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit never returns and touches no memory.
    unsafe { libc::_exit(code) }
}

/// Which of the first descriptors of this process are open.
pub fn open_fds(below: RawFd) -> Vec<RawFd> {
    let mut fds: Vec<libc::pollfd> =
        (0..below).map(|fd| libc::pollfd { fd, events: 0, revents: 0 }).collect();
    // SAFETY: the pointer and the length are those of a live vector; the call does not block.
    let ready = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, 0) };
    if ready < 0 {
        return Vec::new();
    }
    fds.iter().filter(|p| p.revents & libc::POLLNVAL == 0).map(|p| p.fd).collect()
}
