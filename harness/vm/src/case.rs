//! What the harness knows of a test before it runs.

use crate::failure::TestResult;
use crate::perf::TestOption;
use crate::requirement::Requirement;

/// A guest function, named so that the payload's symbol can be found, and
/// type-checked in the host build so that a renamed one does not compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestFn {
    /// `module::path::name` in the `suites` crate.
    pub name: &'static str,
}

/// What else may run beside a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Others, as long as there are as many CPUs; vCPUs that the test runs at a time.
    Cpus(u32),
    /// Nothing: timing, module parameters, host-wide state.
    Alone,
    /// Nothing, and nobody but the test may use KVM, since it unloads it.
    AloneWithoutKvm,
}

impl Weight {
    /// The heavier of both: the test's own and its file's.
    pub const fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::AloneWithoutKvm, _) | (_, Self::AloneWithoutKvm) => Self::AloneWithoutKvm,
            (Self::Alone, _) | (_, Self::Alone) => Self::Alone,
            (Self::Cpus(one), Self::Cpus(other)) => {
                Self::Cpus(if one > other { one } else { other })
            }
        }
    }
}

/// One named test.
#[derive(Clone, Copy, Debug)]
pub struct TestCase {
    /// Full path in the `suites` crate (`suites::x86_64::pio::in_byte`); see [`TestCase::name`].
    pub path: &'static str,
    /// Source file of the test.
    pub file: &'static str,
    /// Line of the test function.
    pub line: u32,
    /// The test's doc comment: the rule it checks.
    pub doc: &'static str,
    /// What the host must have for the test to mean anything.
    pub requires: &'static [Requirement],
    /// Groups beside the ones every test is in (its file, its architecture).
    pub groups: &'static [&'static str],
    /// What else may run beside it.
    pub weight: Weight,
    /// What a user can set of it.
    pub options: &'static [TestOption],
    /// The host half.
    pub run: fn() -> TestResult,
}

impl TestCase {
    /// The name users see: `x86_64::pio::in_byte`, or `memslots::move` for a common test.
    pub fn name(&self) -> &'static str {
        let name = self.path.strip_prefix("suites::").unwrap_or(self.path);
        name.strip_prefix("common::").unwrap_or(name)
    }

    /// The KVM feature, which is the file's name: also a group of that name.
    pub fn file_group(&self) -> &'static str {
        let stem = self.file.rsplit('/').next().unwrap_or(self.file);
        stem.strip_suffix(".rs").unwrap_or(stem)
    }
}
