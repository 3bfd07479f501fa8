//! What the harness knows of a test before it runs.

use crate::failure::TestResult;
use crate::perf::TestOption;
use crate::requirement::Requirement;

/// Something of the payload that the host half names: a `#[guest]` function, a `#[shared]` static.
/// The macros make a type of the same name for it, so that whatever is imported brings its path along, and
/// a renamed one does not compile.
pub trait InPayload {
    /// `module::path::name` in the `suites` crate.
    const PATH: &'static str;
}

/// A guest function, named so that the payload's symbol can be found.
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

/// The name of a variant, and why a test cannot but see it.
pub type Sees = (&'static str, &'static str);

/// One named test.
#[derive(Clone, Copy, Debug)]
pub struct TestCase {
    /// Full path in the `suites` crate (`suites::x86_64::exits::pio::host::in_byte`); see
    /// [`TestCase::name`].
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
    /// Variants that it cannot but see, and why.
    pub sees: &'static [Sees],
    /// The host half.
    pub run: fn() -> TestResult,
}

impl TestCase {
    /// The name users see: `x86_64::pio::in_byte`, or `memslots::move` for a common test. The folder is no
    /// part of it, so that files can move, nor is the host half's module.
    pub fn name(&self) -> String {
        let mut segments: Vec<&str> = self.path.split("::").skip(1).collect();
        if self.subject().is_some() {
            segments.remove(1);
        }
        if let Some(file) = segments.windows(2).position(|pair| pair == [self.file_group(), "host"])
        {
            segments.remove(file + 1);
        }
        if segments.first() == Some(&"common") {
            segments.remove(0);
        }
        segments.join("::")
    }

    /// The KVM feature, which is the file's name: also a group of that name.
    pub fn file_group(&self) -> &'static str {
        let stem = self.file.rsplit('/').next().unwrap_or(self.file);
        stem.strip_suffix(".rs").unwrap_or(stem)
    }

    /// The subject, which is the folder's name: also a group of that name.
    pub fn subject(&self) -> Option<&'static str> {
        match self.file.strip_prefix("suites/src/")?.split('/').collect::<Vec<_>>()[..] {
            [_, subject, _] => Some(subject),
            _ => None,
        }
    }
}
