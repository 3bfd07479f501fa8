//! `hopping`: the vCPU's thread runs on another host CPU than before.

use std::cell::Cell;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::{Set, holds, took_effect};

thread_local! {
    /// Counts the runs of a thread: the CPU is that one of the allowed.
    static TURN: Cell<usize> = const { Cell::new(0) };
}

/// The thread is on a CPU of our choice.
#[derive(Debug)]
pub(super) struct Hop {
    /// Where it may run otherwise.
    before: CpuSet,
}

impl Hop {
    /// Chooses the next CPU; not for a thread that has one only.
    pub fn begin() -> Option<Self> {
        if !holds(Set::HOPPING) {
            return None;
        }
        let this = Pid::from_raw(0);
        let before = sched_getaffinity(this).ok()?;
        let allowed: Vec<_> =
            (0..CpuSet::count()).filter(|cpu| before.is_set(*cpu).unwrap_or(false)).collect();
        if allowed.len() < 2 {
            return None;
        }
        let turn = TURN.get().wrapping_add(1);
        TURN.set(turn);
        let mut next = CpuSet::new();
        next.set(allowed[turn % allowed.len()]).ok()?;
        sched_setaffinity(this, &next).ok()?;
        took_effect(Set::HOPPING);
        Some(Self { before })
    }
}

impl Drop for Hop {
    fn drop(&mut self) {
        let _ = sched_setaffinity(Pid::from_raw(0), &self.before);
    }
}
