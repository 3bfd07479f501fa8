//! The command line that the runner and the lab share: its options, where results go, and a run that
//! happens on another host.

pub mod args;
pub mod finished;
pub mod given;
pub mod nearest;
pub mod outputs;
pub mod process;
pub mod remote;
pub mod reports;

use std::fmt::Display;

/// Exit status of an error or misuse.
pub const MISUSE: u8 = 2;
/// Exit status that makes `git bisect run` pass a commit over.
pub const BISECT_SKIP: u8 = 125;
/// Statuses from here on are a signal's, and end a bisection.
pub const SIGNALLED: u8 = 128;

/// The exit status that the user gets for a run's own: with `--bisect`, 0 and 1 are a verdict on KVM, a
/// signal stays one, and anything else passes the commit over.
pub fn exit_status(status: u8, bisect: bool) -> u8 {
    match status {
        0 | 1 => status,
        _ if bisect && status < SIGNALLED => BISECT_SKIP,
        _ => status,
    }
}

/// Why the program cannot do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

impl Refusal {
    /// In the words of an error.
    pub fn of(e: impl Display) -> Self {
        Self(e.to_string())
    }
}
