//! TAP version 13, one line a test.

use std::fmt::Write as _;

use super::output::Output;
use super::{Reporter, stats_lines};
use crate::journal::{RunInfo, Summary, TestReport};
use crate::outcome::Outcome;

/// Writes TAP 13 as results come.
#[derive(Debug)]
pub struct Tap {
    output: Output,
    told: usize,
}

impl Tap {
    /// Starts a TAP stream.
    pub fn new(output: Output) -> Self {
        Self { output, told: 0 }
    }
}

impl Reporter for Tap {
    fn start(&mut self, run: &RunInfo) {
        let host = &run.host;
        self.output.write(&format!(
            "TAP version 13\n1..{}\n# {} {} {}\n",
            run.tests, host.arch, host.kernel, host.backend
        ));
    }

    fn result(&mut self, result: &TestReport) {
        self.told += 1;
        self.output.write(&point(self.told, result));
    }

    fn finish(&mut self, _: &RunInfo, _: &[TestReport], summary: &Summary) {
        if let Some(why) = summary.shortfall() {
            self.output.write(&format!("Bail out! {}\n", one_line(&why)));
        }
    }

    fn broken(&self) -> Option<&str> {
        self.output.broken()
    }
}

/// One test point with its diagnostics.
fn point(number: usize, result: &TestReport) -> String {
    let reason = one_line(result.reason.as_deref().unwrap_or_default());
    let ok = if matches!(result.outcome, Outcome::Pass | Outcome::Skip) { "ok" } else { "not ok" };
    let directive = match result.outcome {
        Outcome::Skip => format!(" # SKIP {reason}"),
        Outcome::KnownFail => format!(" # TODO known failure: {reason}"),
        _ => String::new(),
    };
    let mut text = format!("{ok} {number} - {}{directive}\n", result.test.replace('#', "\\#"));
    if !matches!(result.outcome, Outcome::Pass | Outcome::Skip) || result.flaky {
        text.push_str("  ---\n");
        let _ = writeln!(text, "  outcome: {}", result.outcome);
        if result.flaky {
            let _ = writeln!(text, "  flaky: true\n  attempts: {}", result.attempts);
        }
        if result.outcome != Outcome::KnownFail {
            let _ = writeln!(text, "  reason: {}", quoted(&reason));
        }
        let _ = writeln!(text, "  duration_ms: {:.3}", result.duration_us as f64 / 1000.0);
        list(
            &mut text,
            "failed_checks",
            result.failed_checks.iter().map(|c| match c.detail.as_str() {
                "" => c.name.clone(),
                detail => format!("{}: {detail}", c.name),
            }),
        );
        list(&mut text, "details", result.details.iter().cloned());
        list(&mut text, "kvm_stats", stats_lines(result).into_iter());
        list(&mut text, "kernel_log", result.kernel_log.iter().cloned());
        list(&mut text, "log", result.log.iter().cloned());
        let _ = writeln!(text, "  at: {}", quoted(&result.location));
        text.push_str("  ...\n");
    }
    text
}

fn list(text: &mut String, key: &str, items: impl Iterator<Item = String>) {
    for (nth, item) in items.enumerate() {
        if nth == 0 {
            let _ = writeln!(text, "  {key}:");
        }
        let _ = writeln!(text, "    - {}", no_key(&quoted(&item)));
    }
}

/// A JSON string is a YAML string, whatever is in it.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A quoted list item that Perl's reader does not take for a mapping: that one looks for a colon
/// behind the first word, whatever the quotes.
fn no_key(quoted: &str) -> String {
    let end = quoted.find(char::is_whitespace).unwrap_or(quoted.len());
    let word = quoted[..end].strip_suffix(':').unwrap_or(&quoted[..end]);
    match quoted[word.len()..].trim_start().strip_prefix(':') {
        Some(rest) if rest.starts_with(char::is_whitespace) => format!("{word}\\x3a{rest}"),
        _ => quoted.to_owned(),
    }
}

/// Text that stays on its line.
pub(super) fn one_line(text: &str) -> String {
    text.split(['\n', '\r']).map(str::trim_end).collect::<Vec<_>>().join(" ")
}
