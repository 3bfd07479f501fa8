//! The tests of this binary joined with the policy of `unittests.yaml`.

pub mod known;
pub mod mutants;
pub mod policy;
pub mod version;
mod yaml;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

pub use policy::{Policy, PolicyError};

use crate::select::Glob;
use results::HostFacts;
use vm::case::TestCase;

/// The name of the policy that a program carries with it, in messages.
pub const BUILT_IN_NAME: &str = "unittests.yaml";

/// Every architecture that tests exist for.
pub const ARCHITECTURES: [&str; 5] = ["x86_64", "aarch64", "ppc64le", "riscv64", "s390x"];
/// Group of tests that only run on request.
pub const NODEFAULT: &str = "nodefault";
pub use results::PERF;
/// Group of tests that unload KVM: the runner itself lets go of it while one of them runs.
pub const MODULE: &str = "module";

/// A test with everything that policy says of it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The test.
    pub case: &'static TestCase,
    /// Every group it is in, sorted.
    pub groups: Vec<String>,
    /// Deadline before scaling.
    pub timeout: Duration,
    /// Must run alone.
    pub exclusive: bool,
    /// Address space limit of its worker.
    pub memory_bytes: u64,
    /// Parameters for the test.
    pub parameters: BTreeMap<String, String>,
    /// Capabilities that policy requires beside the test's own requirements.
    pub requires: Vec<String>,
}

impl Entry {
    /// The name users see.
    pub fn name(&self) -> &'static str {
        self.case.name()
    }

    /// Whether the test is in `group`.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// Every requirement's name.
    pub fn requirement_names(&self) -> Vec<&str> {
        let own = self.case.requires.iter().map(|r| r.name);
        own.chain(self.requires.iter().map(String::as_str)).collect()
    }

    /// The requirements that this host does not meet.
    pub fn unmet(&self, facts: &HostFacts) -> Vec<&str> {
        let own = self.case.requires.iter().filter(|r| !(r.met)(facts)).map(|r| r.name);
        let listed = self.requires.iter().map(String::as_str);
        own.chain(listed.filter(|name| facts.caps.get(*name).copied().unwrap_or(0) <= 0)).collect()
    }
}

/// Every test, in a stable order, and the policy.
#[derive(Debug)]
pub struct Registry {
    /// Sorted by name.
    pub entries: Vec<Entry>,
    /// What `unittests.yaml` says.
    pub policy: Policy,
}

impl Registry {
    /// Joins tests and policy; a name in the policy that means nothing is an error.
    pub fn new(tests: &[&'static TestCase], policy: Policy) -> Result<Self, PolicyError> {
        let mut cases: Vec<&'static TestCase> = tests.to_vec();
        cases.sort_by_key(|case| (case.name(), case.path));
        if let Some(pair) = cases.windows(2).find(|pair| pair[0].name() == pair[1].name()) {
            return Err(PolicyError::new(format!(
                "two tests are named `{}`: {}:{} and {}:{}",
                pair[0].name(),
                pair[0].file,
                pair[0].line,
                pair[1].file,
                pair[1].line
            )));
        }
        policy.check_names(&cases)?;
        let mut extra: HashMap<&str, Vec<&str>> = HashMap::new();
        for (group, members) in &policy.groups {
            for case in members_of(members, &cases) {
                extra.entry(case.name()).or_default().push(group);
            }
        }
        let entries = cases
            .iter()
            .map(|case| entry(case, &policy, extra.get(case.name()).map_or(&[], Vec::as_slice)))
            .collect();
        Ok(Self { entries, policy })
    }

    /// Every group that a test is in.
    pub fn groups(&self) -> BTreeSet<&str> {
        self.entries.iter().flat_map(|e| e.groups.iter().map(String::as_str)).collect()
    }

    /// The test of that exact name.
    pub fn find(&self, name: &str) -> Option<&Entry> {
        let at = self.entries.binary_search_by_key(&name, |e| e.name()).ok()?;
        self.entries.get(at)
    }
}

/// The tests that the patterns of a group name.
fn members_of<'a>(
    patterns: &[String],
    cases: &'a [&'static TestCase],
) -> impl Iterator<Item = &'a &'static TestCase> {
    let globs: Vec<Glob> = patterns.iter().filter_map(|p| Glob::new(p).ok()).collect();
    cases.iter().filter(move |case| globs.iter().any(|glob| glob.is_match(case.name())))
}

fn entry(case: &'static TestCase, policy: &Policy, extra: &[&str]) -> Entry {
    let own = policy.tests.get(case.name());
    let mut groups: BTreeSet<&str> = own_groups(case).into_iter().collect();
    groups.extend(extra);
    groups.extend(own.iter().flat_map(|t| t.groups.iter().map(String::as_str)));
    Entry {
        case,
        groups: groups.into_iter().map(ToOwned::to_owned).collect(),
        timeout: own.and_then(|t| t.timeout).unwrap_or(policy.timeout),
        exclusive: case.exclusive || own.is_some_and(|t| t.exclusive),
        memory_bytes: own.and_then(|t| t.memory_bytes).unwrap_or(policy.memory_bytes),
        parameters: own.map(|t| t.parameters.clone()).unwrap_or_default(),
        requires: own.map(|t| t.requires.clone()).unwrap_or_default(),
    }
}

/// The groups that a test is in by itself: its file, its architecture, its own.
pub(crate) fn own_groups(case: &TestCase) -> Vec<&str> {
    let mut groups = vec![case.file_group(), architecture(case.name()).unwrap_or("common")];
    groups.extend(case.groups);
    groups
}

/// The architecture that a test's name begins with.
pub fn architecture(name: &str) -> Option<&str> {
    let first = name.split("::").next()?;
    ARCHITECTURES.contains(&first).then_some(first)
}
