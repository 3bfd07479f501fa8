//! What tests that measure have in common: options, and measured times with their spread.

use std::time::Duration;

use crate::failure::{Failure, TestResult};
use crate::record;

/// Something that a user can set of a test, by `--set NAME=VALUE` or in `unittests.yaml`
/// (`parameters`). A test declares those that it reads: `#[kvm_test(…, options = [BYTES])]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TestOption {
    /// Its name.
    pub name: &'static str,
    /// What its value means.
    pub meaning: &'static str,
}

/// How many vCPUs.
pub const VCPUS: TestOption = TestOption::new("vcpus", "vCPUs");
/// How much memory.
pub const BYTES: TestOption =
    TestOption::new("bytes", "bytes of memory for each vCPU, or of all where vCPUs share it");
/// How often.
pub const ITERATIONS: TestOption = TestOption::new("iterations", "rounds that are measured");
/// Whether memory is shared.
pub const OVERLAP: TestOption = TestOption::new("overlap", "yes: every vCPU uses the same memory");
/// What stands behind the memory.
pub const BACKING: TestOption =
    TestOption::new("backing", "memory: anonymous, thp, hugetlb, shmem, memfd or memfd_hugetlb");
/// How many memslots.
pub const SLOTS: TestOption = TestOption::new("slots", "memslots that the memory is cut into");

impl TestOption {
    /// What nobody can set.
    pub const NONE: Self = Self::new("", "");

    /// An option with that name and meaning.
    pub const fn new(name: &'static str, meaning: &'static str) -> Self {
        Self { name, meaning }
    }

    /// The value that is given, as it was written.
    ///
    /// # Errors
    ///
    /// The running test does not declare the option.
    pub fn given(self) -> TestResult<Option<String>> {
        record::parameter(self.name)
    }

    fn parsed<T>(self, default: T, what: &str, parse: impl Fn(&str) -> Option<T>) -> TestResult<T> {
        let name = self.name;
        match self.given()? {
            None => Ok(default),
            Some(text) => parse(&text)
                .ok_or_else(|| Failure::Error(format!("option {name}: `{text}` is not {what}"))),
        }
    }

    /// A number of at least 1.
    ///
    /// # Errors
    ///
    /// It is none.
    pub fn count(self, default: u64) -> TestResult<u64> {
        self.parsed(default, "a number of at least 1", |text| text.parse().ok().filter(|n| *n > 0))
    }

    /// A number that may be 0.
    ///
    /// # Errors
    ///
    /// It is none.
    pub fn number(self, default: u64) -> TestResult<u64> {
        self.parsed(default, "a number", |text| text.parse().ok())
    }

    /// 0 to 100.
    ///
    /// # Errors
    ///
    /// It is not.
    pub fn percent(self, default: u64) -> TestResult<u64> {
        self.parsed(default, "a percentage", |text| {
            text.trim_end_matches('%').parse().ok().filter(|n| *n <= 100)
        })
    }

    /// `yes` or `no`.
    ///
    /// # Errors
    ///
    /// It is neither.
    pub fn flag(self, default: bool) -> TestResult<bool> {
        self.parsed(default, "yes or no", |text| match text {
            "yes" | "true" | "1" => Some(true),
            "no" | "false" | "0" => Some(false),
            _ => None,
        })
    }

    /// A whole number of pages; `4096`, `64KiB`, `16MiB`, `1GiB`.
    ///
    /// # Errors
    ///
    /// It is none.
    pub fn bytes(self, default: u64) -> TestResult<u64> {
        const PAGE: u64 = guest_protocol::layout::PAGE_SIZE;
        self.parsed(default, "a size in whole pages", |text| {
            let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
            let shift = match &text[digits.len()..] {
                "" => 0,
                "KiB" | "K" => 10,
                "MiB" | "M" => 20,
                "GiB" | "G" => 30,
                _ => return None,
            };
            let bytes = digits.trim().parse::<u64>().ok()?.checked_mul(1 << shift)?;
            (bytes > 0 && bytes % PAGE == 0).then_some(bytes)
        })
    }

    /// One of the values named.
    ///
    /// # Errors
    ///
    /// None of them.
    pub fn choice<T: Copy>(self, default: T, values: &[(&str, T)]) -> TestResult<T> {
        let names: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
        self.parsed(default, &format!("one of {}", names.join(", ")), |text| {
            values.iter().find(|(name, _)| *name == text).map(|(_, value)| *value)
        })
    }
}

/// Times of the same thing, measured again and again.
#[derive(Clone, Debug, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    /// Nothing measured yet.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds one.
    pub fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// Runs `what` and adds its time.
    pub fn measure<T>(&mut self, what: impl FnOnce() -> T) -> T {
        let start = std::time::Instant::now();
        let result = what();
        self.add(start.elapsed());
        result
    }

    /// All of them.
    pub fn total(&self) -> Duration {
        self.0.iter().sum()
    }

    /// Reports them as a metric in microseconds; nothing if nothing was measured.
    pub fn report(&self, name: &str) {
        let micros: Vec<f64> = self.0.iter().map(|time| time.as_nanos() as f64 / 1e3).collect();
        record::samples(name, "us", &micros);
    }

    /// Reports how many of `per_sample` things a second each sample did.
    pub fn report_rate(&self, name: &str, unit: &str, per_sample: u64) {
        let rates: Vec<f64> =
            self.0.iter().map(|t| per_sample as f64 / t.as_secs_f64().max(1e-9)).collect();
        record::samples(name, unit, &rates);
    }
}
