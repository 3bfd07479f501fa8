//! Waiting for another vCPU or the host.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::arch;

/// Spins until `done` holds. The host's deadline is the time limit.
pub fn wait_until(mut done: impl FnMut() -> bool) {
    while !done() {
        arch::relax();
    }
}

/// Spins at most `rounds` times; says whether `done` came to hold.
pub fn spin_for(rounds: u64, mut done: impl FnMut() -> bool) -> bool {
    for _ in 0..rounds {
        if done() {
            return true;
        }
        arch::relax();
    }
    done()
}

/// A barrier for `n` vCPUs that can be used again and again.
#[derive(Debug, Default)]
pub struct Barrier(AtomicU64);

impl Barrier {
    /// A barrier nobody waits at.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Waits until `n` vCPUs have come here.
    pub fn wait(&self, n: u64) {
        let ticket = self.0.fetch_add(1, Ordering::SeqCst);
        let target = (ticket / n + 1) * n;
        wait_until(|| self.0.load(Ordering::SeqCst) >= target);
    }
}
