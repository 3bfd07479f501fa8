//! One self-contained page: kernels × tests, with what failed behind each cell.

use serde::Serialize;

use super::console::words;
use super::matrix::Matrix;
use super::stats_lines;
use crate::journal::Run;
use crate::outcome::{FailedCheck, Metric, Outcome};

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("page.js");

/// What the page's script shows. Fields are short because they come a thousand times.
#[derive(Serialize)]
struct Data<'a> {
    outcomes: Vec<(&'static str, &'static str)>,
    groups: Vec<&'a str>,
    columns: Vec<ColumnData<'a>>,
    tests: Vec<&'a str>,
}

#[derive(Serialize)]
struct ColumnData<'a> {
    arch: &'a str,
    kernel: &'a str,
    backend: &'a str,
    profile: &'a str,
    /// Why its runs are not whole.
    cut: &'a [String],
    /// By test, `null` where the host has no such test.
    cells: Vec<Option<CellData<'a>>>,
}

#[derive(Serialize)]
struct CellData<'a> {
    /// Outcome.
    o: Outcome,
    /// Microseconds.
    t: u64,
    /// Number of checks.
    n: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    checks: &'a [FailedCheck],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    details: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    metrics: &'a [Metric],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stats: Vec<String>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    log: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    kernel_log: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<&'a str>,
    at: &'a str,
    groups: &'a [String],
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    flaky: bool,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    history: &'a [(u64, Outcome)],
}

/// Makes the page.
pub fn render(runs: &[Run]) -> String {
    let matrix = Matrix::new(runs);
    let columns = matrix
        .columns
        .iter()
        .map(|column| ColumnData {
            arch: &column.key.arch,
            kernel: &column.key.kernel,
            backend: &column.key.backend,
            profile: &column.key.profile,
            cut: &column.shortfalls,
            cells: matrix.tests.iter().map(|test| column.cells.get(test).map(cell)).collect(),
        })
        .collect();
    let data = Data {
        outcomes: Outcome::ALL.into_iter().map(|o| (o.name(), words(o))).collect(),
        groups: matrix.groups().into_iter().collect(),
        columns,
        tests: matrix.tests.iter().copied().collect(),
    };
    let json = match serde_json::to_string(&data) {
        // No text of a test may end the script element that it stands in.
        Ok(json) => json.replace('<', "\\u003c"),
        Err(e) => unreachable!("plain data serialises: {e}"),
    };
    let page = PAGE.replacen("/*STYLE*/", STYLE, 1).replacen("/*SCRIPT*/", SCRIPT, 1);
    page.replacen("/*DATA*/", &json, 1)
}

fn cell<'a>(cell: &'a super::matrix::Cell<'a>) -> CellData<'a> {
    let result = cell.latest;
    CellData {
        o: result.outcome,
        t: result.duration_us,
        n: result.checks,
        reason: result.reason.as_deref(),
        checks: &result.failed_checks,
        details: &result.details,
        metrics: &result.metrics,
        stats: stats_lines(result),
        log: &result.log,
        kernel_log: &result.kernel_log,
        reference: result.reference.as_deref(),
        at: &result.location,
        groups: &result.groups,
        flaky: result.flaky,
        history: if cell.history.len() > 1 { &cell.history } else { &[] },
    }
}
