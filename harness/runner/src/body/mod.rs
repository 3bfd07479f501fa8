//! What a test runs. Each kind of body has a reader here, which makes a verdict of what its process
//! says and how it ends; `worker` starts it.

mod native;
mod program;
mod tap;

use std::fmt;

use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use results::outcome::Outcome;
use vm::failure::TestResult;

use crate::tally::Tally;
use crate::verdict::Ending;

pub use program::{ExitMap, Program};

/// What a test runs.
#[derive(Clone, Debug)]
pub enum Body {
    /// A function of this program, which reports by the event pipe.
    Native(fn() -> TestResult),
    /// A program of another suite, which reports by its exit status and its output.
    Program(Box<Program>),
}

impl Body {
    /// A reader for one run of it.
    pub(crate) fn reader(&self) -> Box<dyn Reader> {
        match self {
            Self::Native(_) => Box::new(native::Verdicts),
            Self::Program(program) => Box::new(program::Output::of(program)),
        }
    }
}

/// Reads one run of a body.
pub(crate) trait Reader: fmt::Debug {
    /// The signals that ask it for its last words at the deadline, one after the other, before it is
    /// killed.
    fn last_words(&self) -> &'static [Signal];

    /// Takes a line of its output in, which is in the log already.
    fn line(&mut self, line: &str);

    /// The verdict on a body that has ended.
    fn judge(&mut self, ending: &mut Ending) -> Verdict;
}

/// What a reader makes of an end.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    pub outcome: Outcome,
    pub reason: Option<String>,
    pub details: Vec<String>,
}

impl Verdict {
    fn new(outcome: Outcome, reason: impl Into<String>) -> Self {
        Self { outcome, reason: Some(reason.into()), details: Vec::new() }
    }
}

/// How a process ended, in words.
fn ended(status: &WaitStatus) -> String {
    match status {
        WaitStatus::Exited(_, code) => format!("exited with status {code}"),
        WaitStatus::Signaled(_, signal, _) => format!("was ended by {signal}"),
        other => format!("ended oddly ({other:?})"),
    }
}

/// A check that the runner itself evaluates.
fn check(tally: &mut Tally, name: &str, pass: bool, detail: String) {
    tally.add(vm::record::Event::Check { name: name.to_owned(), pass, detail });
}
