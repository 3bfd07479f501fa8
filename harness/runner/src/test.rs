//! A test as the runner knows it, wherever it comes from.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use vm::case::Weight;
use vm::perf::TestOption;
use vm::requirement::Requirement;

use crate::body::Body;

/// One test.
#[derive(Clone, Debug)]
pub struct Test {
    /// What users, policy and streams call it.
    pub id: Cow<'static, str>,
    /// The suite that it is of.
    pub source: Cow<'static, str>,
    /// Where it is written.
    pub location: Location,
    /// The rule that it checks.
    pub doc: Cow<'static, str>,
    /// What the host must have for it to mean anything.
    pub needs: Vec<Requirement>,
    /// What else may run beside it.
    pub weight: Weight,
    /// Every group that it is in.
    pub groups: Vec<Cow<'static, str>>,
    /// What a user can set of it.
    pub options: Vec<TestOption>,
    /// Where it asks for others than the policy's.
    pub limits: Limits,
    /// What is run.
    pub body: Body,
}

/// A place in a source file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The file.
    pub file: Cow<'static, str>,
    /// From 1.
    pub line: u32,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Limits that a test asks for; the policy's default stands for each that it does not name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Deadline before scaling.
    pub timeout: Option<Duration>,
    /// Address space of its process.
    pub memory_bytes: Option<u64>,
}

/// Share of a parallel run's capacity that a test of this weight takes; `None` for all of it.
pub fn cpus(weight: Weight) -> Option<usize> {
    match weight {
        Weight::Cpus(n) => Some(n.max(1) as usize),
        Weight::Alone | Weight::AloneWithoutKvm => None,
    }
}
