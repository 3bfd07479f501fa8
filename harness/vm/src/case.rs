//! What the harness knows of a test before it runs.

use crate::failure::TestResult;
use crate::requirement::Requirement;

/// A guest function, named so that the payload's symbol can be found, and
/// type-checked in the host build so that a renamed one does not compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestFn {
    /// `module::path::name` in the `suites` crate.
    pub name: &'static str,
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
    /// Must run alone: timing, module parameters, host-wide state.
    pub exclusive: bool,
    /// Weight for parallel runs: vCPUs that the test runs at a time.
    pub vcpus: u32,
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
