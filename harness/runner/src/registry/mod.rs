//! The tests of this binary joined with the policy of `unittests.yaml`.

pub mod known;
pub mod mutants;
pub mod policy;
pub mod version;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

pub use policy::Policy;

use crate::select::Glob;
use crate::test::Test;
use crate::yaml::FileError;
use results::HostFacts;
use vm::case::Weight;

/// The name of the policy that a program carries with it, in messages.
pub const BUILT_IN_NAME: &str = "unittests.yaml";

/// Every architecture that tests exist for.
pub const ARCHITECTURES: [&str; 5] = ["x86_64", "aarch64", "ppc64le", "riscv64", "s390x"];
/// Group of tests that only run on request.
pub const NODEFAULT: &str = "nodefault";
pub use results::PERF;

/// A test with everything that policy says of it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The test; its groups, sorted, and its weight are the policy's too.
    pub test: Test,
    /// Deadline before scaling.
    pub timeout: Duration,
    /// Address space limit of its worker.
    pub memory_bytes: u64,
    /// Values for its options.
    pub parameters: BTreeMap<String, String>,
    /// Capabilities that policy requires beside the test's own requirements.
    pub requires: Vec<String>,
}

impl Entry {
    /// The name users see.
    pub fn name(&self) -> &str {
        &self.test.id
    }

    /// Whether the test is in `group`.
    pub fn in_group(&self, group: &str) -> bool {
        self.test.groups.iter().any(|g| g == group)
    }

    /// Every requirement's name.
    pub fn requirement_names(&self) -> Vec<&str> {
        let own = self.test.needs.iter().map(|r| r.name);
        own.chain(self.requires.iter().map(String::as_str)).collect()
    }

    /// The requirements that this host does not meet.
    pub fn unmet(&self, facts: &HostFacts) -> Vec<&str> {
        let own = self.test.needs.iter().filter(|r| !r.met(facts)).map(|r| r.name);
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
    pub fn new(mut tests: Vec<Test>, policy: Policy) -> Result<Self, FileError> {
        tests.sort_by(|a, b| a.id.cmp(&b.id));
        if let Some([one, other]) = tests.windows(2).find_map(|pair| match pair {
            [one, other] if one.id == other.id => Some([one, other]),
            _ => None,
        }) {
            let (id, here, there) = (&one.id, &one.location, &other.location);
            return Err(FileError::new(format!("two tests are named `{id}`: {here} and {there}")));
        }
        policy.check_names(&tests)?;
        let mut extra: HashMap<usize, Vec<&str>> = HashMap::new();
        for (group, members) in &policy.groups {
            for nth in members_of(members, &tests) {
                extra.entry(nth).or_default().push(group);
            }
        }
        let entries = tests
            .into_iter()
            .enumerate()
            .map(|(nth, test)| entry(test, &policy, extra.get(&nth).map_or(&[], Vec::as_slice)))
            .collect();
        Ok(Self { entries, policy })
    }

    /// Every group that a test is in.
    pub fn groups(&self) -> BTreeSet<&str> {
        self.entries.iter().flat_map(|e| e.test.groups.iter().map(|g| &**g)).collect()
    }

    /// The test of that exact name.
    pub fn find(&self, name: &str) -> Option<&Entry> {
        let at = self.entries.binary_search_by(|e| e.name().cmp(name)).ok()?;
        self.entries.get(at)
    }
}

/// The places of the tests that the patterns of a group name.
fn members_of(patterns: &[String], tests: &[Test]) -> impl Iterator<Item = usize> {
    let globs: Vec<Glob> = patterns.iter().filter_map(|p| Glob::new(p).ok()).collect();
    let is_member = move |test: &Test| globs.iter().any(|glob| glob.is_match(&test.id));
    tests.iter().enumerate().filter(move |(_, test)| is_member(test)).map(|(nth, _)| nth)
}

fn entry(mut test: Test, policy: &Policy, extra: &[&str]) -> Entry {
    let own = policy.tests.get(&*test.id);
    let listed = own.iter().flat_map(|t| t.groups.iter().map(String::as_str));
    test.groups.extend(extra.iter().copied().chain(listed).map(|group| group.to_owned().into()));
    test.groups.sort_unstable();
    test.groups.dedup();
    if own.is_some_and(|own| own.exclusive) && test.weight != Weight::AloneWithoutKvm {
        test.weight = Weight::Alone;
    }
    let limits = test.limits;
    Entry {
        timeout: own.and_then(|t| t.timeout).or(limits.timeout).unwrap_or(policy.timeout),
        memory_bytes: own
            .and_then(|t| t.memory_bytes)
            .or(limits.memory_bytes)
            .unwrap_or(policy.memory_bytes),
        parameters: own.map(|t| t.parameters.clone()).unwrap_or_default(),
        requires: own.map(|t| t.requires.clone()).unwrap_or_default(),
        test,
    }
}

/// The architecture that a test's name begins with.
pub fn architecture(name: &str) -> Option<&str> {
    let first = name.split("::").next()?;
    ARCHITECTURES.contains(&first).then_some(first)
}
