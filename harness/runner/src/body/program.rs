//! Programs of other suites: the exit status says how one ended, and TAP or KTAP, where it prints
//! that, which checks it made.

use std::collections::BTreeMap;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use results::outcome::Outcome;

use super::tap::Tap;
use super::{Reader, Verdict, check, ended};
use crate::verdict::{Ending, Seconds};

/// The check of a program that makes none by name.
const STATUS: &str = "the program ends with a status that means success";
/// What stands in the line before the reason, where one of the kernel's KVM selftests gives one.
const ASSERTION: &str = "Test Assertion Failure";

/// A program and its command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its file.
    pub path: PathBuf,
    /// Its arguments, without its name.
    pub args: Vec<String>,
    /// What its exit status means.
    pub exit_map: ExitMap,
}

/// What a program's exit status means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitMap {
    /// Status → outcome.
    pub statuses: BTreeMap<i32, Outcome>,
    /// Any other status.
    pub other: Outcome,
    /// A signal ended the program.
    pub signal: Outcome,
}

/// As the kernel's selftests have it: 0 is a pass and 4 a skip.
impl Default for ExitMap {
    fn default() -> Self {
        Self {
            statuses: [(0, Outcome::Pass), (4, Outcome::Skip)].into(),
            other: Outcome::Fail,
            signal: Outcome::Error,
        }
    }
}

impl ExitMap {
    fn outcome(&self, status: &WaitStatus) -> Outcome {
        match status {
            WaitStatus::Exited(_, code) => *self.statuses.get(code).unwrap_or(&self.other),
            WaitStatus::Signaled(..) => self.signal,
            _ => Outcome::Error,
        }
    }
}

/// What a program has printed, and what its end means.
#[derive(Debug)]
pub(super) struct Output {
    exit_map: ExitMap,
    tap: Tap,
    /// The last line that is neither empty nor TAP.
    last: String,
    /// The line behind an assertion's header.
    assertion: Option<String>,
    /// Whether that header was the last line.
    is_next: bool,
}

impl Output {
    pub(super) fn of(program: &Program) -> Self {
        Self {
            exit_map: program.exit_map.clone(),
            tap: Tap::default(),
            last: String::new(),
            assertion: None,
            is_next: false,
        }
    }

    /// What the program itself gives as its reason.
    fn words(&self) -> &str {
        let bail_out = self.tap.bailed_out.as_deref();
        bail_out.or(self.assertion.as_deref()).unwrap_or(&self.last)
    }

    /// A reason from what there is to say of an end.
    fn reason(&self, end: String) -> String {
        match self.words() {
            "" => end,
            words => format!("{end}: {words}"),
        }
    }
}

impl Reader for Output {
    /// It knows nothing of our signals.
    fn last_words(&self) -> &'static [Signal] {
        &[]
    }

    fn line(&mut self, line: &str) {
        if self.tap.take(line) {
            return;
        }
        let line = line.trim();
        if line.is_empty() {
            return;
        }
        if std::mem::replace(&mut self.is_next, line.contains(ASSERTION)) {
            self.assertion.get_or_insert_with(|| line.to_owned());
        }
        line.clone_into(&mut self.last);
    }

    fn judge(&mut self, ending: &mut Ending) -> Verdict {
        if let Some((outcome, reason, details)) = ending.tally.verdict.take() {
            // The worker's, which could not become the program.
            return Verdict { outcome, reason, details };
        }
        let checked = self.tap.report(&mut ending.tally);
        if ending.late {
            let reason = format!("no end within {}, killed", Seconds(ending.timeout));
            let details = std::mem::take(&mut ending.stuck);
            return Verdict { outcome: Outcome::Timeout, reason: Some(reason), details };
        }
        if ending.was_killed() && !ending.misdeeds.is_empty() {
            return Verdict::new(Outcome::Error, ending.misdeed());
        }
        let outcome = self.exit_map.outcome(&ending.status);
        let end = format!("the program {}", ended(&ending.status));
        let failed = !ending.tally.failed.is_empty();
        match outcome {
            Outcome::Pass | Outcome::Skip | Outcome::Fail if failed => {
                Verdict { outcome: Outcome::Fail, reason: None, details: Vec::new() }
            }
            Outcome::Pass => match self.tap.complaint() {
                Some(complaint) => Verdict::new(Outcome::Error, complaint),
                None if checked == 0 && self.tap.skipped.is_some() => {
                    Verdict::new(Outcome::Skip, self.tap.skipped.clone().unwrap_or_default())
                }
                None => {
                    if checked == 0 {
                        check(&mut ending.tally, STATUS, true, String::new());
                    }
                    Verdict { outcome, reason: None, details: Vec::new() }
                }
            },
            Outcome::Skip => {
                let words = self.tap.skipped.as_deref().unwrap_or(self.words());
                let reason = if words.is_empty() { end.as_str() } else { words };
                Verdict::new(outcome, reason)
            }
            Outcome::Fail => {
                check(&mut ending.tally, STATUS, false, end.clone());
                Verdict::new(outcome, self.reason(end))
            }
            _ => Verdict::new(outcome, self.reason(end)),
        }
    }
}
