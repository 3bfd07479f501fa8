//! Gets vCPUs out of KVM_RUN when the runner says that time is up.
//!
//! The runner sends SIGUSR1 to the worker. The handler sets `immediate_exit` of every vCPU that
//! runs, and passes the signal on to its thread, so that KVM_RUN returns EINTR wherever it was.
#![expect(unsafe_code, reason = "a signal handler, and pointers to kvm_run")]

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, Ordering};
use std::sync::{Mutex, Once, PoisonError};

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

/// Gets `thread`, which has not ended, out of KVM_RUN, if it is there or about to be.
pub(crate) fn kick(thread: i32) {
    static HANDLER: Once = Once::new();
    HANDLER.call_once(|| {
        let action =
            SigAction::new(SigHandler::Handler(on_kick), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler uses atomics and async-signal-safe system calls only.
        unsafe { sigaction(Signal::SIGURG, &action) }.expect("a handler for SIGURG");
    });
    // SAFETY: a system call without pointers.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, libc::SIGURG) };
}

extern "C" fn on_kick(_: libc::c_int) {
    let me = tid();
    for (_, run) in THREADS.iter().zip(&RUNS).filter(|(t, _)| t.load(Ordering::SeqCst) == me) {
        let run = run.load(Ordering::SeqCst);
        if !run.is_null() {
            // SAFETY: this thread's own, which stays mapped until it has taken it back (`Running`).
            unsafe { (&raw mut (*run).immediate_exit).write_volatile(1) };
        }
    }
}

pub(crate) fn tid() -> i32 {
    // SAFETY: a system call without arguments.
    unsafe { libc::syscall(libc::SYS_gettid) as i32 }
}

/// The process and place in [`THREADS`] of a thread that has run a vCPU; free again when it ends.
struct Slot(Cell<Option<(u32, usize)>>);

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some((owner, index)) = self.0.get()
            && owner == std::process::id()
            && let Some(thread) = THREADS.get(index)
        {
            thread.store(0, Ordering::SeqCst);
        }
    }
}

/// This thread is about to enter KVM_RUN.
pub(crate) struct Running(usize);

impl Running {
    /// On `run`, and out of it at once if the test has ended or `is_stopped` says that the thread has.
    pub(crate) fn enter(run: *mut kvm_run, is_stopped: fn() -> bool) -> Self {
        thread_local!(static SLOT: Slot = const { Slot(Cell::new(None)) });
        // A forked child must not take over its parent's slot for another thread id.
        let pid = std::process::id();
        let index = match SLOT.with(|slot| slot.0.get()) {
            Some((owner, index)) if owner == pid => index,
            _ => {
                let me = tid();
                let free = THREADS.iter().position(|thread| {
                    thread.compare_exchange(0, me, Ordering::SeqCst, Ordering::SeqCst).is_ok()
                });
                // With no slot left, the thread still dies with its process.
                let index = free.unwrap_or(SLOTS);
                SLOT.with(|slot| slot.0.set(Some((pid, index))));
                index
            }
        };
        if let Some(slot) = RUNS.get(index) {
            slot.store(run, Ordering::SeqCst);
        }
        // Either whoever wants this thread out sees the slot, or this sees that somebody does.
        if expired() || is_stopped() {
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
