//! Signals that ask the lab to stop: the run ends, and what is known so far is reported.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::error::{At as _, Result};

/// How long a signal may go unnoticed.
pub(crate) const LATENCY: Duration = Duration::from_millis(100);

/// The number of the last signal, 0 before the first.
static PENDING: OnceLock<Arc<AtomicUsize>> = OnceLock::new();

/// Takes SIGINT, SIGTERM and SIGHUP. The second of a kind ends the process at once.
///
/// # Errors
/// The kernel refuses.
pub fn take() -> Result<()> {
    let pending = PENDING.get_or_init(Arc::default);
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let number = signal as i32;
        let second = Arc::new(std::sync::atomic::AtomicBool::new(false));
        // In this order: the first arms what the second meets.
        signal_hook::flag::register_conditional_default(number, Arc::clone(&second))
            .at("signal")?;
        signal_hook::flag::register(number, second).at("signal")?;
        signal_hook::flag::register_usize(number, Arc::clone(pending), number as usize)
            .at("signal")?;
    }
    Ok(())
}

/// The signal that asks to stop, if one came.
#[must_use]
pub fn pending() -> Option<Signal> {
    let number = PENDING.get()?.load(Ordering::SeqCst);
    i32::try_from(number).ok().and_then(|number| Signal::try_from(number).ok())
}
