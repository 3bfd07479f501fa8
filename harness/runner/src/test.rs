//! A test as the runner knows it, wherever it comes from.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use results::HostFacts;
use vm::case::{Sees, Weight};
use vm::perf::TestOption;
use vm::requirement::Requirement;
use vm::variant::Set;

use crate::body::Body;

/// Deadline of a test for which nobody names one.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// Address space of a test for which nobody names one.
pub(crate) const DEFAULT_MEMORY_BYTES: u64 = 16 << 30;

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
    /// Where it asks for others than the policy's; the policy's as soon as that is joined.
    pub limits: Limits,
    /// What policy says of this very test.
    pub policy: Option<Arc<TestPolicy>>,
    /// What is run.
    pub body: Body,
    /// Under which circumstance.
    pub variant: Set,
    /// Variants that it cannot but see, and why.
    pub sees: &'static [Sees],
}

/// What stands between a test's id and its variant.
pub(crate) const VARIANT: char = '@';
/// How much longer a test may take under a variant.
const VARIANT_TIME: u32 = 4;

/// What policy says of one test.
#[derive(Clone, Debug, Default)]
pub struct TestPolicy {
    /// Its own deadline.
    pub timeout: Option<Duration>,
    /// Its own address space limit.
    pub memory_bytes: Option<u64>,
    /// Must run alone.
    pub exclusive: bool,
    /// More groups.
    pub groups: Vec<String>,
    /// More requirements, by capability name.
    pub requires: Vec<String>,
    /// Values of its options.
    pub parameters: BTreeMap<String, String>,
}

impl Test {
    /// The name users see.
    pub fn name(&self) -> &str {
        &self.id
    }

    /// Its name without a variant.
    pub fn plain_name(&self) -> &str {
        self.id.split(VARIANT).next().unwrap_or(&self.id)
    }

    /// The same under a variant, unless it sees that, or is of another suite.
    pub fn under(&self, variant: Set) -> Option<Self> {
        let is_seen = |name| self.sees.iter().any(|(seen, _)| *seen == name);
        let is_plain = matches!(self.body, Body::Native(_)) && !self.id.contains(VARIANT);
        if !is_plain || variant.variants().any(|variant| is_seen(variant.name)) {
            return None;
        }
        let mut test = self.clone();
        test.id = format!("{}{VARIANT}{}", self.id, variant.name()).into();
        test.variant = variant;
        test.groups.extend(variant.variants().map(|variant| variant.name.into()));
        test.groups.sort_unstable();
        test.limits.timeout = Some(self.timeout() * VARIANT_TIME);
        Some(test)
    }

    /// Whether it is in `group`.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// Deadline before scaling.
    pub fn timeout(&self) -> Duration {
        self.limits.timeout.unwrap_or(DEFAULT_TIMEOUT)
    }

    /// Address space of its process.
    pub fn memory_bytes(&self) -> u64 {
        self.limits.memory_bytes.unwrap_or(DEFAULT_MEMORY_BYTES)
    }

    /// The values that policy gives to its options.
    pub fn parameters(&self) -> impl Iterator<Item = (&String, &String)> {
        self.policy.iter().flat_map(|policy| &policy.parameters)
    }

    /// Every requirement's name: its own, and capabilities that policy lists.
    pub fn requirement_names(&self) -> Vec<&str> {
        self.needs.iter().map(|need| need.name).chain(self.listed()).collect()
    }

    /// The requirements that this host does not meet.
    pub fn unmet(&self, facts: &HostFacts) -> Vec<&str> {
        let own = self.needs.iter().filter(|need| !need.met(facts)).map(|need| need.name);
        own.chain(self.listed().filter(|name| facts.cap(name) <= 0)).collect()
    }

    fn listed(&self) -> impl Iterator<Item = &str> {
        self.policy.iter().flat_map(|policy| policy.requires.iter().map(String::as_str))
    }
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
