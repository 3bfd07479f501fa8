//! Eventfds: what irqfds are triggered by, and what ioeventfds signal.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::failure::{Failure, TestResult};
use crate::waited::Patience;
use crate::watchdog::expired;

/// How long something that the kernel does in the background may take while this process can run.
const LONGEST: Duration = Duration::from_secs(3);

/// Waits until `done` holds; says whether it came to hold before the wait was over ([`Patience`]).
pub fn eventually(mut done: impl FnMut() -> bool) -> bool {
    let patience = Patience::new(LONGEST);
    while !done() {
        if patience.is_over() || expired() {
            return done();
        }
        std::thread::yield_now();
    }
    true
}

/// A non-blocking eventfd.
#[derive(Debug)]
pub struct Event(EventFd);

impl Event {
    /// One that counts from 0.
    ///
    /// # Errors
    ///
    /// The host refuses.
    pub fn new() -> TestResult<Self> {
        Self::with_count(0)
    }

    /// One that was signalled `count` times before.
    ///
    /// # Errors
    ///
    /// The host refuses.
    pub fn with_count(count: u32) -> TestResult<Self> {
        EventFd::from_value_and_flags(count, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
            .map(Self)
            .map_err(|e| Failure::Error(format!("eventfd: {e}")))
    }

    /// Adds `count` to the counter.
    ///
    /// # Errors
    ///
    /// The counter is full, or the host refuses.
    pub fn signal(&self, count: u64) -> TestResult {
        match self.0.write(count) {
            Ok(_) => Ok(()),
            Err(e) => Err(Failure::Error(format!("write of {count} to an eventfd: {e}"))),
        }
    }

    /// Takes the counter: what `read` returns, EAGAIN for 0.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn take(&self) -> Result<u64, Errno> {
        self.0.read()
    }

    /// The counter, which is 0 from then on.
    pub fn count(&self) -> u64 {
        self.take().unwrap_or(0)
    }

    /// Whether `poll` says POLLIN within `wait`.
    ///
    /// # Errors
    ///
    /// The host refuses.
    pub fn readable_within(&self, wait: Duration) -> TestResult<bool> {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            // The deadline's signal: the test is over anyway.
            Ok(_) | Err(Errno::EINTR) => Ok(fds[0].any().unwrap_or(false)),
            Err(e) => Err(Failure::Error(format!("poll: {e}"))),
        }
    }

    /// Whether `poll` says POLLIN at once.
    ///
    /// # Errors
    ///
    /// The host refuses.
    pub fn is_readable(&self) -> TestResult<bool> {
        self.readable_within(Duration::ZERO)
    }

    /// Another descriptor of the same eventfd.
    ///
    /// # Errors
    ///
    /// The host refuses.
    pub fn duplicate(&self) -> TestResult<OwnedFd> {
        self.0.as_fd().try_clone_to_owned().map_err(|e| Failure::Error(format!("dup: {e}")))
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Event {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
