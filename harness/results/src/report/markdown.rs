//! Markdown, for merge requests and mails.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::console::{Time, is_news, words};
use super::junit::description;
use super::matrix::Matrix;
use crate::journal::Run;
use crate::outcome::Outcome;

/// Failures told in full.
const FAILURES: usize = 100;

/// A summary, what failed and why, and what was skipped.
pub fn render(runs: &[Run]) -> String {
    let matrix = Matrix::new(runs);
    let mut text = String::from("# KVM conformance\n\n");
    hosts(&mut text, &matrix);
    if matrix.columns.len() > 1 {
        differences(&mut text, &matrix);
    }
    failures(&mut text, &matrix);
    by_reason(&mut text, &matrix, Outcome::KnownFail, "Known failures");
    by_reason(&mut text, &matrix, Outcome::Skip, "Skipped");
    text
}

fn hosts(text: &mut String, matrix: &Matrix<'_>) {
    text.push_str("| host | tests |");
    for outcome in Outcome::ALL {
        let _ = write!(text, " {} |", words(outcome));
    }
    text.push_str(" time |\n|---|--:|");
    text.push_str(&"--:|".repeat(Outcome::ALL.len() + 1));
    text.push('\n');
    for column in &matrix.columns {
        let counts = column.counts();
        let _ = write!(text, "| {} | {} |", escape(&column.key.label()), column.cells.len());
        for outcome in Outcome::ALL {
            let _ = write!(text, " {} |", counts.of(outcome));
        }
        let time: u64 = column.cells.values().map(|cell| cell.latest.duration_us).sum();
        let _ = writeln!(text, " {} |", Time(time));
    }
    for column in &matrix.columns {
        for why in &column.shortfalls {
            let _ = writeln!(text, "\n**{}: {}**", escape(&column.key.label()), escape(why));
        }
    }
}

/// Tests that do not end the same everywhere.
fn differences(text: &mut String, matrix: &Matrix<'_>) {
    let mut rows = String::new();
    for test in &matrix.tests {
        let outcomes: Vec<Option<Outcome>> = matrix
            .columns
            .iter()
            .map(|c| c.cells.get(test).map(|cell| cell.latest.outcome))
            .collect();
        let mut seen = outcomes.iter().flatten().filter(|o| **o != Outcome::Skip);
        let first = seen.next();
        if seen.all(|outcome| Some(outcome) == first) {
            continue;
        }
        let _ = write!(rows, "| `{}` |", escape(test));
        for outcome in outcomes {
            let _ = write!(rows, " {} |", outcome.map_or("", words));
        }
        rows.push('\n');
    }
    if rows.is_empty() {
        return;
    }
    text.push_str("\n## Differences between hosts\n\n| test |");
    for column in &matrix.columns {
        let _ = write!(text, " {} |", escape(&column.key.label()));
    }
    let _ = writeln!(text, "\n|---|{}", "---|".repeat(matrix.columns.len()));
    text.push_str(&rows);
}

fn failures(text: &mut String, matrix: &Matrix<'_>) {
    let news: Vec<_> = matrix
        .columns
        .iter()
        .flat_map(|c| c.cells.values().map(move |cell| (c, cell.latest)))
        .filter(|(_, result)| is_news(result.outcome))
        .collect();
    if news.is_empty() {
        return;
    }
    text.push_str("\n## Failures\n");
    for (column, result) in news.iter().take(FAILURES) {
        let _ = writeln!(
            text,
            "\n### {}: `{}` on {}\n\n{}\n",
            words(result.outcome),
            result.test,
            escape(&column.key.label()),
            escape(result.reason.as_deref().unwrap_or("no reason given"))
        );
        let mut block = description(result);
        for line in &result.log {
            let _ = write!(block, "\nlog: {line}");
        }
        let fence = fence(&block);
        let _ = writeln!(text, "{fence}text\n{block}\n{fence}");
    }
    if news.len() > FAILURES {
        let _ = writeln!(text, "\n… and {} more.", news.len() - FAILURES);
    }
}

fn by_reason(text: &mut String, matrix: &Matrix<'_>, outcome: Outcome, heading: &str) {
    let mut reasons: BTreeMap<(&str, String), Vec<&str>> = BTreeMap::new();
    for column in &matrix.columns {
        for (test, cell) in column.cells.iter().filter(|(_, c)| c.latest.outcome == outcome) {
            let reason = cell.latest.reason.as_deref().unwrap_or("no reason given");
            reasons.entry((reason, column.key.label())).or_default().push(test);
        }
    }
    if reasons.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n## {heading}\n");
    for ((reason, host), tests) in reasons {
        let tests: Vec<String> = tests.iter().map(|test| format!("`{test}`")).collect();
        let _ = writeln!(text, "- {} ({}): {}", escape(reason), escape(&host), tests.join(", "));
    }
}

/// Text that is text in Markdown, in a table too.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => escaped.push(' '),
            '\\' | '`' | '*' | '_' | '|' | '<' | '>' | '[' | ']' | '#' => escaped.extend(['\\', c]),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A code fence longer than any in `block`.
fn fence(block: &str) -> String {
    let longest = block.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    "`".repeat(longest.max(2) + 1)
}
