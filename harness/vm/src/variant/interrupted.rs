//! `interrupted`: a signal ends KVM_RUN soon after it began, and the run loop goes in again.
#![expect(unsafe_code, reason = "a timer of one thread and a handler for its signal")]

use std::cell::Cell;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use super::{Set, holds, took_effect};
use crate::watchdog;

/// No test sends it.
const SIGNAL: Signal = Signal::SIGPROF;
/// Time until the first signal, which doubles with every KVM_RUN that one has ended: the vCPU gets somewhere
/// on a slow host too.
const FIRST_NS: i64 = 20_000;
/// Doublings.
const MOST: u32 = 10;

thread_local! {
    static TIMER: Cell<Option<libc::timer_t>> = const { Cell::new(None) };
    static CAME: AtomicBool = const { AtomicBool::new(false) };
}

/// Runs, to begin at other times.
static RUNS: AtomicU32 = AtomicU32::new(0);

extern "C" fn on_signal(_: libc::c_int) {
    CAME.with(|came| came.store(true, Ordering::SeqCst));
}

/// This thread's timer.
fn timer() -> Option<libc::timer_t> {
    static HANDLER: Once = Once::new();
    HANDLER.call_once(|| {
        let action =
            SigAction::new(SigHandler::Handler(on_signal), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler writes an atomic of its thread, which the thread has made before.
        let _ = unsafe { sigaction(SIGNAL, &action) };
    });
    CAME.with(|came| came.store(false, Ordering::SeqCst));
    if let Some(timer) = TIMER.get() {
        return Some(timer);
    }
    // SAFETY: all zeroes are a valid sigevent.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_THREAD_ID;
    event.sigev_signo = SIGNAL as libc::c_int;
    event.sigev_notify_thread_id = watchdog::tid();
    let mut timer = std::ptr::null_mut();
    // SAFETY: both are valid for the call.
    let made = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) };
    (made == 0).then(|| TIMER.set(Some(timer)))?;
    Some(timer)
}

fn set(timer: libc::timer_t, nanoseconds: i64) {
    // SAFETY: all zeroes are a valid itimerspec, which disarms.
    let mut value: libc::itimerspec = unsafe { std::mem::zeroed() };
    value.it_value.tv_sec = (nanoseconds / 1_000_000_000) as _;
    value.it_value.tv_nsec = (nanoseconds % 1_000_000_000) as _;
    // SAFETY: a timer of this thread, and a value that is valid for the call.
    let _ = unsafe { libc::timer_settime(timer, 0, &raw const value, std::ptr::null_mut()) };
}

/// A signal that comes for this thread.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: libc::timer_t,
}

impl Alarm {
    /// Sets it, some time from now.
    pub fn begin(tries: u32) -> Option<Self> {
        if !holds(Set::INTERRUPTED) {
            return None;
        }
        let timer = timer()?;
        // At odd places: another fraction of the time for each run.
        let sixteenths = i64::from(RUNS.fetch_add(7, Ordering::Relaxed) % 16) + 1;
        set(timer, (FIRST_NS << tries.min(MOST)) / 16 * sixteenths);
        Some(Self { timer })
    }

    /// Takes it back; says whether the signal has come, and is all that has ended KVM_RUN.
    pub fn end(self, errno: i32) -> bool {
        set(self.timer, 0);
        let came = CAME.with(|came| came.swap(false, Ordering::SeqCst));
        let ended = came && errno == Errno::EINTR as i32;
        if ended {
            took_effect(Set::INTERRUPTED);
        }
        ended
    }
}
