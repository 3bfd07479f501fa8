//! The tests of this binary joined with the policy of `unittests.yaml`.

mod hosts;
pub mod judge;
pub mod known;
pub mod lineage;
pub mod mutants;
pub mod policy;
pub mod version;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

pub use policy::Policy;

use crate::pattern::Glob;
use crate::test::{Limits, Test};
use crate::yaml::FileError;
use vm::case::Weight;
use vm::variant::Set;

/// The name of the policy that a program carries with it, in messages.
pub const BUILT_IN_NAME: &str = "unittests.yaml";

/// Every architecture that tests exist for.
pub use defs::arch::IDS as ARCHITECTURES;
/// Group of tests that only run on request.
pub const NODEFAULT: &str = "nodefault";
pub use results::PERF;

/// Every test, in a stable order, and the policy.
#[derive(Debug)]
pub struct Registry {
    /// Sorted by name; what policy says of them holds for them.
    pub tests: Vec<Test>,
    /// What `unittests.yaml` says.
    pub policy: Policy,
}

impl Registry {
    /// Joins tests and policy; a name in the policy that means nothing is an error.
    pub fn new(mut tests: Vec<Test>, policy: Policy) -> Result<Self, FileError> {
        tests.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        if let Some([one, other]) = tests.windows(2).find_map(|pair| match pair {
            [one, other] if one.id == other.id => Some([one, other]),
            _ => None,
        }) {
            let mut places = [&one.location, &other.location].map(ToString::to_string);
            places.sort();
            let (id, [here, there]) = (&one.id, places);
            return Err(FileError::new(format!("two tests are named `{id}`: {here} and {there}")));
        }
        policy.check_names(&tests)?;
        let mut extra: HashMap<usize, Vec<&str>> = HashMap::new();
        for (group, members) in &policy.groups {
            for nth in members_of(members, &tests) {
                extra.entry(nth).or_default().push(group);
            }
        }
        for (nth, test) in tests.iter_mut().enumerate() {
            apply(&policy, extra.get(&nth).map_or(&[], Vec::as_slice), test);
        }
        Ok(Self { tests, policy })
    }

    /// Adds each test under each of these variants, where it does not see them.
    pub fn add_variants(&mut self, variants: &[Set]) {
        let of =
            |test: &Test| variants.iter().filter_map(|set| test.under(*set)).collect::<Vec<_>>();
        let more: Vec<Test> =
            self.tests.iter().flat_map(of).filter(|test| self.find(&test.id).is_none()).collect();
        self.tests.extend(more);
        self.tests.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    }

    /// Every group that a test is in.
    pub fn groups(&self) -> BTreeSet<&str> {
        self.tests.iter().flat_map(|test| test.groups.iter().map(|group| &**group)).collect()
    }

    /// The test of that exact name.
    pub fn find(&self, name: &str) -> Option<&Test> {
        let at = self.tests.binary_search_by(|test| (*test.id).cmp(name)).ok()?;
        self.tests.get(at)
    }
}

/// The places of the tests that the patterns of a group name.
fn members_of(patterns: &[String], tests: &[Test]) -> impl Iterator<Item = usize> {
    let globs: Vec<Glob> = patterns.iter().filter_map(|p| Glob::new(p).ok()).collect();
    let is_member = move |test: &Test| globs.iter().any(|glob| glob.is_match(&test.id));
    tests.iter().enumerate().filter(move |(_, test)| is_member(test)).map(|(nth, _)| nth)
}

/// Says to a test what policy says of it; `extra` are groups that it lists.
fn apply(policy: &Policy, extra: &[&str], test: &mut Test) {
    let own = policy.tests.get(&*test.id);
    let listed = own.iter().flat_map(|t| t.groups.iter().map(String::as_str));
    test.groups.extend(extra.iter().copied().chain(listed).map(|group| group.to_owned().into()));
    test.groups.sort_unstable();
    test.groups.dedup();
    if own.is_some_and(|own| own.exclusive) {
        test.weight = test.weight.or(Weight::Alone);
    }
    let limits = test.limits;
    test.limits = Limits {
        timeout: own.and_then(|t| t.timeout).or(limits.timeout).or(Some(policy.timeout)),
        memory_bytes: own
            .and_then(|t| t.memory_bytes)
            .or(limits.memory_bytes)
            .or(Some(policy.memory_bytes)),
    };
    test.policy = own.map(Arc::clone);
}

/// The architecture that a test's name begins with.
pub fn architecture(name: &str) -> Option<&str> {
    let first = name.split("::").next()?;
    ARCHITECTURES.contains(&first).then_some(first)
}
