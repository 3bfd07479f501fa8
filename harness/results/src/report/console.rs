//! What a person sees while and after tests run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::Output;
use super::{Reporter, stats_lines};
use crate::PERF;
use crate::journal::{RunInfo, Summary, TestReport};
use crate::outcome::Outcome;

/// Failing tests that the summary tells in full.
const FAILURES_IN_FULL: usize = 20;
/// Log lines shown of a failing test without `-v`.
const LOG_LINES: usize = 10;
/// Slowest tests shown.
const SLOWEST: usize = 10;
/// Tests named as the running ones.
const RUNNING_NAMES: usize = 2;

/// Lines for a person on standard output or, where that carries results, standard error.
pub struct Console {
    output: Output,
    colour: bool,
    verbose: bool,
    command: String,
    bar: Option<ProgressBar>,
}

impl Console {
    /// `command` is how the user calls the runner, for the hints.
    pub fn new(to_stderr: bool, verbose: bool, command: &str) -> io::Result<Self> {
        let terminal =
            if to_stderr { io::stderr().is_terminal() } else { io::stdout().is_terminal() };
        let colour = terminal && std::env::var_os("NO_COLOR").is_none();
        let output = if to_stderr { Output::stderr() } else { Output::create("-")? };
        Ok(Self {
            output,
            colour,
            verbose,
            command: command.to_owned(),
            bar: (terminal && io::stderr().is_terminal()).then(ProgressBar::hidden),
        })
    }

    /// Shows which tests run now. Draws from this thread only: a ticker thread
    /// would not survive the forks.
    pub fn tick(&mut self, running: &[&str]) {
        if let Some(bar) = &self.bar {
            let mut text =
                running.iter().take(RUNNING_NAMES).copied().collect::<Vec<_>>().join(", ");
            if running.len() > RUNNING_NAMES {
                let _ = write!(text, " and {} more", running.len() - RUNNING_NAMES);
            }
            bar.set_message(text);
            bar.tick();
        }
    }

    /// Says something beside the results.
    pub fn say(&mut self, line: &str) {
        self.print(&format!("{line}\n"));
    }

    fn print(&mut self, text: &str) {
        let output = &mut self.output;
        match &self.bar {
            Some(bar) => bar.suspend(|| output.write(text)),
            None => output.write(text),
        }
    }

    fn paint(&self, outcome: Outcome, text: &str) -> String {
        let code = match outcome {
            Outcome::Pass => "32",
            Outcome::Fail | Outcome::Timeout | Outcome::HostBug | Outcome::Error => "1;31",
            Outcome::Xpass => "1;35",
            Outcome::Skip | Outcome::KnownFail => "33",
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn line(&self, result: &TestReport) -> String {
        let mut line = self.paint(result.outcome, &label(result.outcome));
        let _ = write!(line, " {}", result.test);
        if result.iteration > 1 {
            let _ = write!(line, " #{}", result.iteration);
        }
        match result.outcome {
            Outcome::Pass => {
                let time = Time(result.duration_us);
                let _ = write!(line, " ({}, {time})", count(result.checks, "check"));
                if result.flaky {
                    let _ = write!(line, " FLAKY: passed only on attempt {}", result.attempts);
                }
            }
            _ => {
                let _ = write!(line, ": {}", result.reason.as_deref().unwrap_or("no reason given"));
            }
        }
        line.push('\n');
        line
    }

    fn failure(&self, result: &TestReport) -> String {
        let mut text = self.line(result);
        for check in &result.failed_checks {
            let _ = writeln!(text, "    check: {}", check.name);
            for line in check.detail.lines() {
                let _ = writeln!(text, "           {line}");
            }
        }
        for line in &result.details {
            let _ = writeln!(text, "    {line}");
        }
        if !result.kernel_log.is_empty() {
            text.push_str("    kernel log:\n");
            let most = if self.verbose { usize::MAX } else { 2 * LOG_LINES };
            for line in result.kernel_log.iter().take(most) {
                let _ = writeln!(text, "      {line}");
            }
        }
        let stats = stats_lines(result);
        if !stats.is_empty() && self.verbose {
            text.push_str("    KVM statistics:\n");
            text.extend(stats.iter().map(|line| format!("      {line}\n")));
        }
        if let Some(reference) = &result.reference {
            let _ = writeln!(text, "    see {reference}");
        }
        if !result.log.is_empty() {
            let skipped = if self.verbose { 0 } else { result.log.len().saturating_sub(LOG_LINES) };
            let _ = writeln!(text, "    log{}:", if skipped > 0 { ", last lines" } else { "" });
            for line in &result.log[skipped..] {
                let _ = writeln!(text, "      {line}");
            }
        }
        if !result.location.is_empty() {
            let _ = writeln!(text, "    test: {}", result.location);
        }
        text
    }

    fn summary(&self, results: &[TestReport], summary: &Summary) -> String {
        let mut text = String::new();
        let failures: Vec<&TestReport> = results.iter().filter(|r| is_news(r.outcome)).collect();
        if !failures.is_empty() {
            text.push('\n');
        }
        for failure in failures.iter().take(FAILURES_IN_FULL) {
            text.push_str(&self.failure(failure));
        }
        if failures.len() > FAILURES_IN_FULL {
            let more = failures.len() - FAILURES_IN_FULL;
            let _ = writeln!(text, "… and {} more, named above", count(more, "failing test"));
        }
        let flakes = flakes(results);
        let repetitions = results.iter().map(|r| r.iteration).max().unwrap_or(1);
        if flakes.is_empty() && repetitions > 1 {
            let _ = writeln!(text, "\nflaky: none in {repetitions} repetitions");
        }
        if !flakes.is_empty() {
            text.push_str("\nflaky:\n");
            text.extend(flakes.iter().map(|flake| format!("  {flake}\n")));
        }
        if results.len() > SLOWEST {
            text.push_str("\nslowest:\n");
            let mut slowest: Vec<&TestReport> = results.iter().collect();
            slowest.sort_by_key(|r| std::cmp::Reverse(r.duration_us));
            for result in slowest.iter().take(SLOWEST) {
                let _ = writeln!(
                    text,
                    "  {:>9}  {}",
                    Time(result.duration_us).to_string(),
                    result.test
                );
            }
        }
        let _ = writeln!(text, "\n{}", self.counts(summary));
        if let Some(signal) = &summary.interrupted {
            let _ = writeln!(text, "cut short by {signal}: not every test has run");
        }
        if let Some(first) = failures.iter().min_by_key(|r| urgency(r.outcome)) {
            let _ = writeln!(text, "next: {} -v {}", self.command, first.test);
        }
        text
    }

    fn counts(&self, summary: &Summary) -> String {
        let counts: Vec<String> = Outcome::ALL
            .into_iter()
            .map(|outcome| (outcome, summary.counts.of(outcome)))
            .filter(|(outcome, n)| *n > 0 || *outcome == Outcome::Pass)
            .map(|(outcome, n)| self.paint(outcome, &format!("{n} {}", words(outcome))))
            .collect();
        format!(
            "{}, {} in {}: {}",
            count(summary.total, "test"),
            count(summary.checks, "check"),
            Time(summary.duration_us),
            counts.join(", ")
        )
    }
}

impl Reporter for Console {
    fn start(&mut self, run: &RunInfo) {
        let host = &run.host;
        let head = format!(
            "kvm-conformance {} on {} {}, {} ({}): {}\n",
            run.version,
            host.arch,
            host.kernel,
            host.backend,
            count(host.cpus, "CPU"),
            count(run.tests, "test")
        );
        self.print(&head);
        if run.timeout_scale > 1.0 {
            self.say(&format!("slow host: deadlines × {:.1}", run.timeout_scale));
        }
        if !run.kernel_log_watched && self.verbose {
            self.say("/dev/kmsg cannot be read here: kernel warnings show only as taint");
        }
        if self.bar.is_some() {
            let style = ProgressStyle::with_template("[{pos}/{len}] {elapsed} {wide_msg}");
            let bar =
                ProgressBar::with_draw_target(Some(run.tests as u64), ProgressDrawTarget::stderr());
            self.bar = Some(match style {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            });
        }
    }

    fn result(&mut self, result: &TestReport) {
        let mut text = self.line(result);
        // Tests that measure are run for their numbers.
        let measures = result.groups.iter().any(|group| group == PERF);
        if (self.verbose || measures) && result.outcome == Outcome::Pass {
            for metric in &result.metrics {
                let _ = writeln!(text, "     {metric}");
            }
        }
        if self.verbose && result.outcome == Outcome::Pass {
            text.extend(result.log.iter().map(|line| format!("     {line}\n")));
        }
        self.print(&text);
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }

    fn finish(&mut self, _: &RunInfo, results: &[TestReport], summary: &Summary) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let text = self.summary(results, summary);
        self.print(&text);
    }
}

/// `1 test`, `2 tests`.
fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Whether a person must look at such a result.
pub fn is_news(outcome: Outcome) -> bool {
    !matches!(outcome, Outcome::Pass | Outcome::Skip | Outcome::KnownFail)
}

/// Which failure to look at first.
fn urgency(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::HostBug => 0,
        Outcome::Fail => 1,
        Outcome::Timeout => 2,
        Outcome::Xpass => 3,
        _ => 4,
    }
}

/// Tests that passed sometimes, one line each.
pub fn flakes(results: &[TestReport]) -> Vec<String> {
    let mut by_test: BTreeMap<&str, Vec<&TestReport>> = BTreeMap::new();
    for result in results {
        by_test.entry(&result.test).or_default().push(result);
    }
    by_test
        .into_iter()
        .filter_map(|(test, runs)| {
            let passed = runs.iter().filter(|r| r.outcome == Outcome::Pass).count();
            let retried = runs.iter().filter(|r| r.flaky).map(|r| r.attempts).max();
            match retried {
                _ if passed > 0 && passed < runs.len() => {
                    Some(format!("{test}: passed {passed} of {}", runs.len()))
                }
                Some(attempts) => Some(format!("{test}: passed only on attempt {attempts}")),
                None => None,
            }
        })
        .collect()
}

fn label(outcome: Outcome) -> String {
    format!("{:<4}", words(outcome).to_uppercase())
}

/// An outcome as people say it.
pub fn words(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::KnownFail => "known fail",
        Outcome::HostBug => "host bug",
        other => other.name(),
    }
}

/// Microseconds, in the unit that reads best.
pub struct Time(pub u64);

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let time = Duration::from_micros(self.0);
        if time >= Duration::from_secs(1) {
            write!(f, "{:.1} s", time.as_secs_f64())
        } else {
            write!(f, "{:.1} ms", time.as_secs_f64() * 1000.0)
        }
    }
}
