//! What the end of a worker means.

use results::outcome::Outcome;
use results::trouble;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;

use crate::tally::Tally;
use vm::payload::Payload;

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
    /// The verdict. Without a worker's own word there is no pass.
    pub fn finish(mut self) -> Finished {
        let told = self.tally.verdict.take();
        let (mut outcome, mut reason, mut details) = self.judge(told);
        if matches!(outcome, Outcome::Pass | Outcome::Skip) && !self.misdeeds.is_empty() {
            outcome = Outcome::Error;
            reason = Some(format!("the test {}", self.misdeeds.join("; ")));
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

    fn judge(
        &self,
        told: Option<(Outcome, Option<String>, Vec<String>)>,
    ) -> (Outcome, Option<String>, Vec<String>) {
        let limit = Seconds(self.timeout);
        match told {
            // Our own kill says more than what the worker said before it hung again.
            Some((outcome, reason, details)) if self.late => match outcome {
                Outcome::Timeout | Outcome::Fail => (outcome, reason, details),
                _ => {
                    let text = reason.map_or_else(String::new, |r| format!(": {r}"));
                    let reason =
                        format!("ended only after its deadline of {limit} ({outcome}{text})");
                    (Outcome::Timeout, Some(reason), details)
                }
            },
            None if self.late && self.status_is_ours() => (
                Outcome::Timeout,
                Some(format!("no verdict within {limit}: the host half did not return, killed")),
                self.stuck.iter().cloned().chain(self.vcpus()).collect(),
            ),
            Some((outcome, reason, details)) => {
                if self.status != WaitStatus::Exited(pid_of(&self.status), 0) {
                    let reason = format!("the worker {} after its verdict", ended(&self.status));
                    return (Outcome::Error, Some(reason), details);
                }
                match outcome {
                    Outcome::Pass if !self.tally.failed.is_empty() => {
                        (Outcome::Fail, reason, details)
                    }
                    Outcome::Pass
                    | Outcome::Fail
                    | Outcome::Error
                    | Outcome::Timeout
                    | Outcome::Skip => (outcome, reason, details),
                    other => {
                        (Outcome::Error, Some(format!("a worker may not say `{other}`")), details)
                    }
                }
            }
            None if !self.misdeeds.is_empty() => {
                (Outcome::Error, Some(format!("the test {}", self.misdeeds.join("; "))), Vec::new())
            }
            None => {
                let reason = format!("the worker {} before its verdict", ended(&self.status));
                (Outcome::Error, Some(reason), Vec::new())
            }
        }
    }

    /// Where the vCPUs of a worker that had to be killed stood.
    fn vcpus(&self) -> impl Iterator<Item = String> {
        self.tally.vcpus.iter().map(|(index, exits, pc)| {
            let place = pc.map_or_else(String::new, |pc| {
                let symbol = Payload::get().map_or(String::new(), |p| p.symbolize(pc));
                format!(", stands at {pc:#x} {symbol}")
            });
            let exits = format!("{exits} {}", if *exits == 1 { "exit" } else { "exits" });
            format!("vCPU {index}: {exits}{place}")
        })
    }

    /// Whether the worker was still there when the runner killed it.
    fn status_is_ours(&self) -> bool {
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

fn pid_of(status: &WaitStatus) -> nix::unistd::Pid {
    status.pid().unwrap_or(nix::unistd::Pid::from_raw(0))
}

fn ended(status: &WaitStatus) -> String {
    match status {
        WaitStatus::Exited(_, code) => format!("exited with status {code}"),
        WaitStatus::Signaled(_, signal, _) => format!("was ended by {signal}"),
        other => format!("ended oddly ({other:?})"),
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
