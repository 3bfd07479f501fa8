//! Many runs as one table: tests down, hosts across, history behind each cell.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::HostFacts;
use crate::journal::{Counts, Run, TestReport};
use crate::outcome::Outcome;

/// What makes runs belong to the same column.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct HostKey {
    /// Architecture.
    pub arch: String,
    /// Numbers of the release first, so that 6.9 comes before 6.12.
    #[serde(skip)]
    order: Vec<u64>,
    /// `uname -r`.
    pub kernel: String,
    /// KVM's module.
    pub backend: String,
    /// Host profile.
    pub profile: String,
}

impl HostKey {
    /// Whether two runs differ in nothing but the kernel's release.
    pub fn is_same_but_kernel(&self, other: &Self) -> bool {
        (&self.arch, &self.backend, &self.profile) == (&other.arch, &other.backend, &other.profile)
    }

    fn of(host: &HostFacts) -> Self {
        let numbers = host.kernel.split(|c: char| !c.is_ascii_digit());
        Self {
            arch: host.arch.clone(),
            order: numbers.filter_map(|n| n.parse().ok()).collect(),
            kernel: host.kernel.clone(),
            backend: host.backend.clone(),
            profile: host.profile.clone(),
        }
    }

    /// As a heading.
    pub fn label(&self) -> String {
        let profile = match self.profile.as_str() {
            "" | "native" => String::new(),
            profile => format!(" ({profile})"),
        };
        format!("{} {} {}{profile}", self.arch, self.kernel, self.backend)
    }
}

/// One test on one host.
#[derive(Clone, Debug, Serialize)]
pub struct Cell<'a> {
    /// The latest result; of repetitions in one run, the worst.
    pub latest: &'a TestReport,
    /// Every result of the latest run: one for each repetition.
    #[serde(skip)]
    pub repetitions: Vec<&'a TestReport>,
    /// The result of every run that had the test, oldest first, with the run's start.
    #[serde(skip)]
    pub history: Vec<(u64, &'a TestReport)>,
}

/// One host.
#[derive(Clone, Debug)]
pub struct Column<'a> {
    /// Which host.
    pub key: HostKey,
    /// Its runs, oldest first.
    pub runs: Vec<&'a Run>,
    /// Its tests.
    pub cells: BTreeMap<&'a str, Cell<'a>>,
    /// Why its runs are not whole, in sentences, unless a later run has results of all that they have.
    pub shortfalls: Vec<String>,
}

impl Column<'_> {
    /// The latest outcomes, counted.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        self.cells.values().for_each(|cell| counts.add(cell.latest.outcome));
        counts
    }
}

/// The whole table.
#[derive(Clone, Debug)]
pub struct Matrix<'a> {
    /// Hosts, by architecture and kernel.
    pub columns: Vec<Column<'a>>,
    /// Every test that any host has.
    pub tests: BTreeSet<&'a str>,
}

impl<'a> Matrix<'a> {
    /// Sorts runs into columns.
    pub fn new(runs: &'a [Run]) -> Self {
        let mut by_key: BTreeMap<HostKey, Vec<&Run>> = BTreeMap::new();
        for run in runs {
            by_key.entry(HostKey::of(&run.info.host)).or_default().push(run);
        }
        let columns: Vec<Column<'_>> =
            by_key.into_iter().map(|(key, runs)| column(key, runs)).collect();
        let tests = columns.iter().flat_map(|c| c.cells.keys().copied()).collect();
        Self { columns, tests }
    }

    /// The groups of every test.
    pub fn groups(&self) -> BTreeSet<&str> {
        let cells = self.columns.iter().flat_map(|c| c.cells.values());
        cells.flat_map(|cell| cell.latest.groups.iter().map(String::as_str)).collect()
    }
}

fn column<'a>(key: HostKey, mut runs: Vec<&'a Run>) -> Column<'a> {
    runs.sort_by_key(|run| run.info.started);
    let mut cells: BTreeMap<&str, Cell<'_>> = BTreeMap::new();
    for run in &runs {
        let mut of_run: BTreeMap<&str, Vec<&TestReport>> = BTreeMap::new();
        for result in &run.results {
            of_run.entry(&result.test).or_default().push(result);
        }
        for (test, repetitions) in of_run {
            // Of equals the first.
            let worst = repetitions.iter().rev().max_by_key(|result| severity(result.outcome));
            let Some(&latest) = worst else { continue };
            let mut history = cells.remove(test).map_or_else(Vec::new, |cell| cell.history);
            history.push((run.info.started, latest));
            cells.insert(test, Cell { latest, repetitions, history });
        }
    }
    let is_latest = |result: &TestReport| {
        cells.get(result.test.as_str()).is_some_and(|cell| std::ptr::eq(cell.latest, result))
    };
    let counts = |run: &&&Run| run.results.is_empty() || run.results.iter().any(is_latest);
    let shortfalls = runs.iter().filter(counts).filter_map(|run| run.shortfall()).collect();
    Column { key, runs, cells, shortfalls }
}

/// The worse, the greater.
pub fn severity(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Skip => 0,
        Outcome::Pass => 1,
        Outcome::KnownFail => 2,
        Outcome::Xpass => 3,
        Outcome::Error => 4,
        Outcome::Timeout => 5,
        Outcome::Fail => 6,
        Outcome::HostBug => 7,
    }
}
