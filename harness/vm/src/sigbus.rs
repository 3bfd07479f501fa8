//! SIGBUS for an access that is not aligned, as a value: what a host with `split_lock_detect=fatal` sends
//! to a thread whose guest splits a lock.
#![expect(unsafe_code, reason = "a signal handler")]

use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::failure::{Failure, TestResult};

static TAKEN: AtomicU32 = AtomicU32::new(0);

/// While it lives, SIGBUS with BUS_ADRALN is counted; one of another cause ends the process.
#[derive(Debug)]
pub struct AlignmentSignals(SigAction);

impl AlignmentSignals {
    /// Begins to count, for this whole process.
    ///
    /// # Errors
    ///
    /// The host refuses the handler.
    pub fn count() -> TestResult<Self> {
        TAKEN.store(0, Ordering::SeqCst);
        let handler = SigHandler::SigAction(on_bus);
        // SAFETY: the handler uses an atomic and async-signal-safe system calls only.
        unsafe { set(&SigAction::new(handler, SaFlags::SA_SIGINFO, SigSet::empty())) }
            .map(Self)
            .map_err(|e| Failure::Error(format!("sigaction(SIGBUS): {e}")))
    }

    /// How many came.
    pub fn taken(&self) -> u32 {
        TAKEN.load(Ordering::SeqCst)
    }
}

impl Drop for AlignmentSignals {
    fn drop(&mut self) {
        // SAFETY: what was in force before.
        let _ = unsafe { set(&self.0) };
    }
}

/// # Safety
///
/// The handler is async-signal-safe.
unsafe fn set(action: &SigAction) -> Result<SigAction, Errno> {
    // SAFETY: the caller's.
    unsafe { sigaction(Signal::SIGBUS, action) }
}

extern "C" fn on_bus(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid pointer to a handler with SA_SIGINFO.
    let cause = unsafe { (*info).si_code };
    if cause == libc::BUS_ADRALN {
        TAKEN.fetch_add(1, Ordering::SeqCst);
        return;
    }
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // The access is made again, and has its usual end.
    // SAFETY: the default handler.
    let _ = unsafe { set(&default) };
}
