//! Gets vCPUs out of KVM_RUN when the runner says that time is up.
//!
//! The runner sends SIGUSR1 to the worker. The handler sets `immediate_exit` of every vCPU that
//! runs, and passes the signal on to its thread, so that KVM_RUN returns EINTR wherever it was.
#![expect(unsafe_code, reason = "a signal handler, and pointers to kvm_run")]

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, Ordering};
use std::sync::{Mutex, PoisonError};

use kvm_bindings::kvm_run;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Threads that can be inside KVM_RUN at once and still be told of the deadline.
const SLOTS: usize = 512;

static EXPIRED: AtomicBool = AtomicBool::new(false);
static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());
static THREADS: [AtomicI32; SLOTS] = [const { AtomicI32::new(0) }; SLOTS];
static RUNS: [AtomicPtr<kvm_run>; SLOTS] = [const { AtomicPtr::new(std::ptr::null_mut()) }; SLOTS];

/// Whether the deadline of this worker has passed.
pub(crate) fn expired() -> bool {
    EXPIRED.load(Ordering::SeqCst)
}

/// Keeps what a vCPU was doing at the deadline, whatever its test makes of the failure.
pub(crate) fn tell(state: &str) {
    TOLD.lock().unwrap_or_else(PoisonError::into_inner).push(state.to_owned());
}

/// What the vCPUs of this worker were doing at the deadline.
pub fn told() -> Vec<String> {
    std::mem::take(&mut *TOLD.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Makes SIGUSR1 mean "time is up" in this process.
///
/// # Panics
///
/// The kernel refuses the handler.
pub fn install() {
    let action =
        SigAction::new(SigHandler::Handler(on_deadline), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler uses atomics and async-signal-safe system calls only.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.expect("a handler for SIGUSR1");
}

extern "C" fn on_deadline(_: libc::c_int) {
    EXPIRED.store(true, Ordering::SeqCst);
    let me = tid();
    for (thread, run) in THREADS.iter().zip(&RUNS) {
        let run = run.load(Ordering::SeqCst);
        let tid = thread.load(Ordering::SeqCst);
        if run.is_null() || tid == 0 {
            continue;
        }
        // SAFETY: a non-null pointer stays mapped until its thread has taken it back (`Running`).
        unsafe { (&raw mut (*run).immediate_exit).write_volatile(1) };
        if tid != me {
            // SAFETY: a system call without pointers.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, libc::SIGUSR1) };
        }
    }
}

fn tid() -> i32 {
    // SAFETY: a system call without arguments.
    unsafe { libc::syscall(libc::SYS_gettid) as i32 }
}

/// This thread is about to enter KVM_RUN on `run`.
pub(crate) struct Running(usize);

impl Running {
    pub(crate) fn enter(run: *mut kvm_run) -> Self {
        thread_local!(static SLOT: Cell<Option<(u32, usize)>> = const { Cell::new(None) });
        // A forked child must not take over its parent's slot for another thread id.
        let pid = std::process::id();
        let index = match SLOT.get() {
            Some((owner, index)) if owner == pid => index,
            _ => {
                let me = tid();
                let free = THREADS.iter().position(|thread| {
                    thread.compare_exchange(0, me, Ordering::SeqCst, Ordering::SeqCst).is_ok()
                });
                // With no slot left, the thread still dies with its process.
                let index = free.unwrap_or(SLOTS);
                SLOT.set(Some((pid, index)));
                index
            }
        };
        if let Some(slot) = RUNS.get(index) {
            slot.store(run, Ordering::SeqCst);
        }
        // Either the handler sees the slot, or this sees that the handler has been there.
        if expired() {
            // SAFETY: the caller's own `kvm_run`, which is mapped while its vCPU lives.
            unsafe { (&raw mut (*run).immediate_exit).write_volatile(1) };
        }
        Self(index)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(slot) = RUNS.get(self.0) {
            slot.store(std::ptr::null_mut(), Ordering::SeqCst);
        }
    }
}
