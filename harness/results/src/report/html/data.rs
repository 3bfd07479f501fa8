//! What the page's scripts show. A night has a test on a host sixty thousand times: what each of them
//! has is one character or number in a row of them, and what few have stands by itself.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::super::console::words;
use super::super::matrix::{Cell, Column, Matrix};
use super::super::stats_lines;
use crate::journal::{Run, TestReport};
use crate::outcome::{FailedCheck, Metric, Outcome};

/// What stands for no result.
const NONE: char = '.';
/// Microseconds in the unit of times.
const TIME_UNIT_US: u64 = 100;
/// Runs of a test that a history goes back.
const MOST_RUNS: usize = 60;

#[derive(Serialize)]
struct Data<'a> {
    /// Letter, name and words of each outcome.
    outcomes: Vec<(char, &'static str, &'static str)>,
    groups: Vec<&'a str>,
    hosts: Vec<Host<'a>>,
    tests: Vec<Test<'a>>,
    /// Reasons, which many results share.
    texts: Vec<&'a str>,
}

#[derive(Serialize)]
struct Test<'a> {
    name: &'a str,
    at: &'a str,
    /// Places in the list of groups.
    groups: Vec<usize>,
    /// Checks that held somewhere.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    checks: Vec<&'a str>,
}

#[derive(Serialize)]
struct Host<'a> {
    arch: &'a str,
    kernel: &'a str,
    backend: &'a str,
    profile: &'a str,
    /// What the lab booted.
    spec: &'a str,
    /// Why its runs are not whole.
    cut: &'a [String],
    /// Start of the latest run, in seconds since 1970, and how long it took.
    started: u64,
    duration: u64,
    /// The outcome of each test.
    cells: String,
    /// How long each took, in units of 0.1 ms.
    times: Vec<u64>,
    /// How many checks each evaluated.
    counts: Vec<usize>,
    /// What only some results have, by test.
    more: BTreeMap<usize, More<'a>>,
    /// Outcomes from run to run, by test, where they were not always the same.
    history: BTreeMap<usize, String>,
    /// Starts of those runs.
    runs: Vec<u64>,
    /// What was measured from run to run, by test.
    metrics: BTreeMap<usize, Vec<Series<'a>>>,
}

#[derive(Serialize)]
struct More<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<usize>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    failed: &'a [FailedCheck],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    details: &'a [String],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stats: Vec<String>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    log: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    kernel_log: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    flaky: bool,
}

/// A metric from run to run, oldest first: start, value, smallest, largest.
#[derive(Serialize)]
struct Series<'a> {
    name: &'a str,
    unit: &'a str,
    values: Vec<(u64, f64, f64, f64)>,
}

/// The data as JSON that may stand in a script element.
pub(super) fn json(runs: &[Run]) -> String {
    let matrix = Matrix::new(runs);
    let mut texts = Texts::default();
    let groups: Vec<&str> = matrix.groups().into_iter().collect();
    let tests: Vec<&str> = matrix.tests.iter().copied().collect();
    let data = Data {
        outcomes: Outcome::ALL.into_iter().map(|o| (letter(o), o.name(), words(o))).collect(),
        hosts: matrix.columns.iter().map(|column| host(column, &tests, &mut texts)).collect(),
        tests: tests.iter().map(|name| test(name, &matrix, &groups)).collect(),
        texts: texts.list,
        groups,
    };
    match serde_json::to_string(&data) {
        // No text of a test may end the script element that it stands in.
        Ok(json) => json.replace('<', "\\u003c"),
        Err(e) => unreachable!("plain data serialises: {e}"),
    }
}

fn letter(outcome: Outcome) -> char {
    match outcome {
        Outcome::Pass => 'p',
        Outcome::Fail => 'f',
        Outcome::Error => 'e',
        Outcome::Timeout => 't',
        Outcome::Skip => 's',
        Outcome::KnownFail => 'k',
        Outcome::Xpass => 'x',
        Outcome::HostBug => 'h',
    }
}

/// Texts, each once.
#[derive(Default)]
struct Texts<'a> {
    list: Vec<&'a str>,
    places: BTreeMap<&'a str, usize>,
}

impl<'a> Texts<'a> {
    fn place(&mut self, text: &'a str) -> usize {
        *self.places.entry(text).or_insert_with(|| {
            self.list.push(text);
            self.list.len() - 1
        })
    }
}

fn test<'a>(name: &'a str, matrix: &Matrix<'a>, groups: &[&str]) -> Test<'a> {
    let results = matrix.columns.iter().filter_map(|column| column.cells.get(name));
    let results: Vec<&TestReport> = results.map(|cell| cell.latest).collect();
    let own: BTreeSet<&str> =
        results.iter().flat_map(|result| &result.groups).map(String::as_str).collect();
    let checks: BTreeSet<&str> =
        results.iter().flat_map(|result| &result.passed_checks).map(String::as_str).collect();
    Test {
        name,
        at: results.iter().map(|r| r.location.as_str()).find(|at| !at.is_empty()).unwrap_or(""),
        groups: own.iter().filter_map(|group| groups.binary_search(group).ok()).collect(),
        checks: checks.into_iter().collect(),
    }
}

fn host<'a>(column: &'a Column<'a>, tests: &[&str], texts: &mut Texts<'a>) -> Host<'a> {
    let cells: Vec<Option<&Cell<'a>>> = tests.iter().map(|test| column.cells.get(test)).collect();
    let each = |value: fn(&TestReport) -> u64| {
        cells.iter().map(|cell| cell.map_or(0, |cell| value(cell.latest))).collect::<Vec<u64>>()
    };
    let some = |nth: usize| cells[nth].map(|cell| (nth, cell));
    let runs = &column.runs[column.runs.len().saturating_sub(MOST_RUNS)..];
    let starts: Vec<u64> = runs.iter().map(|run| run.info.started).collect();
    let latest = runs.last();
    let summary = latest.and_then(|run| run.summary.as_ref());
    Host {
        arch: &column.key.arch,
        kernel: &column.key.kernel,
        backend: &column.key.backend,
        profile: &column.key.profile,
        spec: latest.map_or("", |run| &run.info.host.kernel_spec),
        cut: &column.shortfalls,
        started: latest.map_or(0, |run| run.info.started),
        duration: summary.map_or(0, |summary| summary.duration_us),
        cells: cells.iter().map(|c| c.map_or(NONE, |cell| letter(cell.latest.outcome))).collect(),
        times: each(|result| result.duration_us / TIME_UNIT_US),
        counts: cells.iter().map(|cell| cell.map_or(0, |cell| cell.latest.checks)).collect(),
        more: (0..tests.len())
            .filter_map(some)
            .filter_map(|(nth, cell)| Some((nth, more(cell.latest, texts)?)))
            .collect(),
        history: (0..tests.len())
            .filter_map(some)
            .filter_map(|(nth, cell)| Some((nth, history(cell, &starts)?)))
            .collect(),
        metrics: (0..tests.len())
            .filter_map(some)
            .map(|(nth, cell)| (nth, series(cell)))
            .filter(|(_, series)| !series.is_empty())
            .collect(),
        runs: starts,
    }
}

/// What a result has that most have not.
fn more<'a>(result: &'a TestReport, texts: &mut Texts<'a>) -> Option<More<'a>> {
    let more = More {
        reason: result.reason.as_deref().map(|reason| texts.place(reason)),
        failed: &result.failed_checks,
        details: &result.details,
        stats: stats_lines(result),
        log: &result.log,
        kernel_log: &result.kernel_log,
        reference: result.reference.as_deref(),
        flaky: result.flaky,
    };
    let lists = [more.details, &more.stats, more.log, more.kernel_log];
    let is_plain = more.reason.is_none()
        && more.failed.is_empty()
        && more.reference.is_none()
        && !more.flaky
        && lists.iter().all(|list| list.is_empty());
    (!is_plain).then_some(more)
}

/// The outcomes from run to run, where they were not always the same.
fn history(cell: &Cell<'_>, starts: &[u64]) -> Option<String> {
    let outcome = |start: &u64| {
        let of_run = cell.history.iter().find(|(started, _)| started == start);
        of_run.map_or(NONE, |(_, result)| letter(result.outcome))
    };
    let history: String = starts.iter().map(outcome).collect();
    let first = history.chars().next()?;
    history.chars().any(|other| other != first).then_some(history)
}

/// What was measured, from run to run.
fn series<'a>(cell: &Cell<'a>) -> Vec<Series<'a>> {
    let mut all: Vec<Series<'a>> = Vec::new();
    let from = cell.history.len().saturating_sub(MOST_RUNS);
    for (started, result) in &cell.history[from..] {
        for Metric { name, unit, value, spread } in &result.metrics {
            let (min, max) = spread.as_ref().map_or((*value, *value), |s| (s.min, s.max));
            let at = (*started, *value, min, max);
            match all.iter_mut().find(|series| (series.name, series.unit) == (name, unit)) {
                Some(series) => series.values.push(at),
                None => all.push(Series { name, unit, values: vec![at] }),
            }
        }
    }
    all
}
