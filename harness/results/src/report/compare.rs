//! What changed between two runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::console::{Time, is_news, words};
use super::matrix::{Cell, Matrix};
use crate::journal::Run;
use crate::outcome::{Metric, Outcome};

/// A pass that got slower by less than this is noise.
const SLOWER_AT_LEAST_US: u64 = 20_000;
/// Fewer values of a metric have no spread that says anything.
const ENOUGH_SAMPLES: usize = 3;
/// A change of the median by less than this part is no news, however narrow the spread.
const SLIGHT: f64 = 0.05;
/// Names of checks that are listed for one test.
const LISTED_CHECKS: usize = 12;

/// What changed, and whether anything regressed.
#[derive(Debug)]
pub struct Comparison {
    /// For a person.
    pub text: String,
    /// Something that was well is not any more.
    pub regressed: bool,
    /// The later run is not whole: nothing is known of a part of the tests.
    pub incomplete: bool,
}

/// The headings, in the order in which they are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Regressed,
    ChecksLost,
    Fixed,
    StillFailing,
    NewFailing,
    New,
    NewChecks,
    Gone,
    NoResult,
    NotRun,
    RunAgain,
    Slower,
    Measured,
}

impl Change {
    fn heading(self) -> &'static str {
        match self {
            Self::Regressed => "regressed",
            Self::ChecksLost => "passes without a check that it had",
            Self::Fixed => "fixed",
            Self::StillFailing => "still failing",
            Self::NewFailing => "new, and failing",
            Self::New => "new",
            Self::NewChecks => "has a new check",
            Self::Gone => "gone",
            Self::NoResult => "no result in the run that was cut short",
            Self::NotRun => "now skipped",
            Self::RunAgain => "no longer skipped",
            Self::Slower => "slower",
            Self::Measured => "measured otherwise, beyond the spread",
        }
    }
}

/// Compares two sets of runs. A host of the one is compared with the same host
/// of the other; where each has a single host, those two are, whatever they are.
pub fn compare(old: &[Run], new: &[Run], slower: f64) -> Comparison {
    let (old, new) = (Matrix::new(old), Matrix::new(new));
    let mut changes: BTreeMap<Change, Vec<String>> = BTreeMap::new();
    let mut text = String::new();
    let mut lost = false;
    let single = old.columns.len() == 1 && new.columns.len() == 1;
    if single && old.columns[0].key != new.columns[0].key {
        let _ = writeln!(text, "{} → {}\n", old.columns[0].key.label(), new.columns[0].key.label());
    }
    for (when, matrix) in [("before", &old), ("after", &new)] {
        for column in &matrix.columns {
            for why in &column.shortfalls {
                let _ = writeln!(text, "{when}: {}: {why}\n", column.key.label());
            }
        }
    }
    for column in &new.columns {
        let before = old.columns.iter().find(|c| single || c.key == column.key);
        let Some(before) = before else {
            let _ = writeln!(text, "{}: a host without earlier results\n", column.key.label());
            continue;
        };
        let host = if single { String::new() } else { format!(" on {}", column.key.label()) };
        let mut tests: Vec<&str> =
            column.cells.keys().chain(before.cells.keys()).copied().collect();
        tests.sort_unstable();
        tests.dedup();
        for test in tests {
            let cells = (before.cells.get(test), column.cells.get(test));
            let mut note = |(change, told): (Change, String)| {
                let change = match change {
                    Change::Gone if !column.shortfalls.is_empty() => Change::NoResult,
                    change => change,
                };
                changes.entry(change).or_default().push(format!("{test}{host}: {told}"));
            };
            change(cells.0, cells.1, slower).into_iter().for_each(&mut note);
            if let (Some(old), Some(new)) = cells {
                changed_checks(old, new).into_iter().for_each(&mut note);
                changed_metrics(old, new).into_iter().for_each(note);
            }
        }
        // Another backend has other checks.
        lost |=
            before.key.is_same_but_kernel(&column.key) && changes.contains_key(&Change::ChecksLost);
    }
    for column in
        old.columns.iter().filter(|c| !single && !new.columns.iter().any(|n| n.key == c.key))
    {
        let _ = writeln!(text, "{}: a host without later results\n", column.key.label());
    }
    for (change, lines) in &changes {
        let _ = writeln!(text, "{} ({}):", change.heading(), lines.len());
        for line in lines {
            let _ = writeln!(text, "  {line}");
        }
        text.push('\n');
    }
    if changes.is_empty() {
        text.push_str("no change\n");
    }
    let regressed = lost || changes.contains_key(&Change::Regressed);
    let incomplete = new.columns.iter().any(|column| !column.shortfalls.is_empty());
    Comparison { text, regressed, incomplete }
}

/// Checks that only one of two results has, where the test passes: one that fails may end before its
/// other checks.
fn changed_checks(old: &Cell<'_>, new: &Cell<'_>) -> Vec<(Change, String)> {
    let passes = |outcome| matches!(outcome, Outcome::Pass | Outcome::Xpass);
    let (true, Some(was), Some(is)) = (passes(new.latest.outcome), names(old), names(new)) else {
        return Vec::new();
    };
    let listed = |change, names: Vec<&&str>| {
        let more = names.len().saturating_sub(LISTED_CHECKS);
        let named = names.into_iter().take(LISTED_CHECKS).map(|name| (change, (*name).to_owned()));
        let rest = (more > 0).then(|| (change, format!("… and {more} more")));
        named.chain(rest).collect::<Vec<_>>()
    };
    let mut changes = listed(Change::ChecksLost, was.difference(&is).collect());
    if passes(old.latest.outcome) {
        changes.extend(listed(Change::NewChecks, is.difference(&was).collect()));
    }
    changes
}

/// Metrics whose median left the range of the values that were measured before, and the other way round,
/// so that neither range explains the other: what a rate or a time may do by chance is no news.
fn changed_metrics(old: &Cell<'_>, new: &Cell<'_>) -> Vec<(Change, String)> {
    let told = |was: &Metric, is: &Metric| {
        let (before, after) = (was.spread.as_ref()?, is.spread.as_ref()?);
        let few = before.samples.len() < ENOUGH_SAMPLES || after.samples.len() < ENOUGH_SAMPLES;
        let meet = after.min <= before.max && before.min <= after.max;
        let much = (is.value - was.value).abs() > SLIGHT * was.value.abs();
        if few || meet || !much || was.value == 0.0 {
            return None;
        }
        let percent = 100.0 * (is.value - was.value) / was.value.abs();
        Some((Change::Measured, format!("{was} → {is}: {percent:+.0} %")))
    };
    let metrics = &new.latest.metrics;
    let pairs = metrics.iter().filter_map(|is| {
        let same = |was: &&Metric| was.name == is.name && was.unit == is.unit;
        Some((old.latest.metrics.iter().find(same)?, is))
    });
    pairs.filter_map(|(was, is)| told(was, is)).collect()
}

/// The checks that any repetition evaluated, unless the stream does not name them.
fn names<'a>(cell: &Cell<'a>) -> Option<BTreeSet<&'a str>> {
    let mut all = BTreeSet::new();
    for result in &cell.repetitions {
        all.extend(result.check_names()?);
    }
    Some(all)
}

fn change(old: Option<&Cell<'_>>, new: Option<&Cell<'_>>, slower: f64) -> Option<(Change, String)> {
    let (old, new) = match (old, new) {
        (None, Some(new)) => {
            let change = if is_news(new.latest.outcome) { Change::NewFailing } else { Change::New };
            return Some((change, told(new)));
        }
        (Some(old), None) => {
            return Some((Change::Gone, format!("was {}", words(old.latest.outcome))));
        }
        (Some(old), Some(new)) => (old, new),
        (None, None) => return None,
    };
    let (was, is) = (old.latest.outcome, new.latest.outcome);
    let step = || format!("{} → {}", words(was), told(new));
    match (is_news(was), is_news(is)) {
        (false, true) => Some((Change::Regressed, step())),
        (true, false) if is != Outcome::Skip => Some((Change::Fixed, step())),
        (true, true) => Some((Change::StillFailing, if was == is { told(new) } else { step() })),
        _ if was != is && is == Outcome::Skip => Some((Change::NotRun, step())),
        _ if was != is && was == Outcome::Skip => Some((Change::RunAgain, step())),
        _ if was == Outcome::KnownFail && is == Outcome::Pass => Some((Change::Fixed, step())),
        // A failure that was put on the list after it came up is no longer news, but it came up.
        _ if was == Outcome::Pass && is == Outcome::KnownFail => Some((Change::Regressed, step())),
        _ => {
            let (before, after) = (old.latest.duration_us, new.latest.duration_us);
            let much = after > before + SLOWER_AT_LEAST_US && after as f64 > before as f64 * slower;
            much.then(|| (Change::Slower, format!("{} → {}", Time(before), Time(after))))
        }
    }
}

fn told(cell: &Cell<'_>) -> String {
    let outcome = words(cell.latest.outcome);
    match &cell.latest.reason {
        Some(reason) => format!("{outcome}: {reason}"),
        None => outcome.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{RunInfo, Summary, TestReport};
    use crate::outcome::Spread;

    fn run(samples: &[f64]) -> Run {
        let (value, spread) = Spread::of(samples).unwrap();
        let metric = Metric { name: "exit".into(), unit: "ns".into(), value, spread: Some(spread) };
        let result = TestReport { metrics: vec![metric], ..TestReport::bare("a", Outcome::Pass) };
        let summary = Some(Summary::default());
        Run { info: RunInfo::default(), results: vec![result], summary, unfinished: None }
    }

    #[test]
    fn a_metric_is_news_where_its_spread_does_not_explain_it() {
        for (old, new, news) in [
            (&[100.0, 110.0, 105.0][..], &[150.0, 160.0, 155.0][..], true),
            (&[150.0, 160.0, 155.0], &[100.0, 110.0, 105.0], true),
            (&[100.0, 160.0, 105.0], &[150.0, 160.0, 155.0], false),
            (&[100.0, 100.0, 100.0], &[101.0, 101.0, 101.0], false),
            (&[100.0], &[200.0], false),
        ] {
            let told = compare(&[run(old)], &[run(new)], 2.0);
            assert_eq!(told.text.contains("measured otherwise"), news, "{}", told.text);
            assert!(!told.regressed);
        }
        let told = compare(&[run(&[100.0, 101.0, 102.0])], &[run(&[150.0, 151.0, 152.0])], 2.0);
        let line = "a: exit = 101 ns (100 to 102, 3 samples) → exit = 151 ns (150 to 152, 3 samples): +50 %";
        assert!(told.text.contains(line), "{}", told.text);
    }
}
