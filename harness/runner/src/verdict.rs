//! What the end of a worker means.

use results::outcome::Outcome;
use results::trouble;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;

use crate::body::{Reader, Verdict};
use crate::tally::Tally;

/// Log lines that a result keeps.
const LOG_LINES: usize = 200;

/// All there is to know of a worker that ended.
#[derive(Debug)]
pub struct Ending {
    /// How the process ended.
    pub status: WaitStatus,
    /// Whether its deadline passed.
    pub late: bool,
    /// What its threads were doing when it was killed for not stopping as told.
    pub stuck: Vec<String>,
    /// Its deadline.
    pub timeout: Duration,
    /// How long it ran.
    pub duration: Duration,
    /// What it reported.
    pub tally: Tally,
    /// What it did that no test may do.
    pub misdeeds: Vec<String>,
    /// The kernel's complaints while it ran.
    pub kernel_log: Vec<String>,
    /// What else was seen while it ran.
    pub notes: Vec<String>,
}

/// A test's end, before the policy on known failures.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// The raw verdict.
    pub outcome: Outcome,
    /// One sentence for a person.
    pub reason: Option<String>,
    /// Everything else that helps.
    pub details: Vec<String>,
    /// Checks and metrics.
    pub tally: Tally,
    /// Wall-clock time, isolation included.
    pub duration: Duration,
    /// The kernel's complaints while it ran.
    pub kernel_log: Vec<String>,
}

impl Finished {
    /// An end that no worker was needed for, or that no worker could be had for.
    pub fn without_worker(outcome: Outcome, reason: String) -> Self {
        Self {
            outcome,
            reason: Some(reason),
            details: Vec::new(),
            tally: Tally::default(),
            duration: Duration::ZERO,
            kernel_log: Vec::new(),
        }
    }
}

impl Ending {
    /// The verdict, which is the body's own as its reader sees it, unless it did what no test may or the
    /// kernel complained.
    pub(crate) fn finish(mut self, reader: &mut dyn Reader) -> Finished {
        let Verdict { mut outcome, mut reason, mut details } = reader.judge(&mut self);
        if matches!(outcome, Outcome::Pass | Outcome::Skip) && !self.misdeeds.is_empty() {
            outcome = Outcome::Error;
            reason = Some(self.misdeed());
        } else {
            let told = self.misdeeds.iter().map(|m| format!("the test {m}"));
            details.extend(told.filter(|misdeed| reason.as_ref() != Some(misdeed)));
        }
        if outcome == Outcome::Fail && reason.is_none() {
            reason = Some(self.failed_checks_reason());
        }
        if !self.kernel_log.is_empty() {
            let was = match &reason {
                Some(reason) => format!("the test itself: {outcome}: {reason}"),
                None => format!("the test itself: {outcome}"),
            };
            details.insert(0, was);
            outcome = Outcome::HostBug;
            reason = trouble::headline(self.kernel_log.iter().map(String::as_str))
                .map(ToOwned::to_owned);
        }
        details.append(&mut self.notes);
        let excess = self.tally.log.len().saturating_sub(LOG_LINES);
        self.tally.log.drain(..excess);
        Finished {
            outcome,
            reason,
            details,
            tally: self.tally,
            duration: self.duration,
            kernel_log: self.kernel_log,
        }
    }

    /// What it did that no test may do, as a reason.
    pub(crate) fn misdeed(&self) -> String {
        format!("the test {}", self.misdeeds.join("; "))
    }

    /// Whether it was still there when the runner killed it.
    pub(crate) fn was_killed(&self) -> bool {
        matches!(self.status, WaitStatus::Signaled(_, Signal::SIGKILL, _))
    }

    fn failed_checks_reason(&self) -> String {
        let Some(first) = self.tally.failed.first() else {
            return "failed without a reason".to_owned();
        };
        match self.tally.failed.len() {
            1 => format!("check failed: {first}"),
            n => format!("{n} checks failed, first: {first}"),
        }
    }
}

/// A duration in seconds, with as many digits as matter.
pub struct Seconds(pub Duration);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.0.as_secs_f64();
        if seconds >= 10.0 { write!(f, "{seconds:.0} s") } else { write!(f, "{seconds:.1} s") }
    }
}
