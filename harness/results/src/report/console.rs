//! What a person sees while and after tests run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

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
/// Groups named of which nothing ran.
const SKIPPED_GROUPS: usize = 12;
/// Failures that a command line names one by one.
const NAMED_AGAIN: usize = 8;
/// Where no line can be written over, how long nothing is printed.
const QUIET_FOR: Duration = Duration::from_secs(10);
/// Tests named as the running ones.
const RUNNING_NAMES: usize = 2;

/// How much a person wants to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// The summary alone.
    Summary,
    /// What is not a plain pass, too.
    News,
    /// Every test, with its log and numbers.
    Everything,
}

/// Lines for a person on standard output or, where that carries results, standard error.
pub struct Console {
    output: Output,
    colour: bool,
    detail: Detail,
    command: String,
    /// The file of the result stream, if there is one.
    stream: Option<String>,
    bar: Option<ProgressBar>,
    progress: Progress,
}

/// How far the run is.
#[derive(Debug)]
struct Progress {
    tests: usize,
    told: usize,
    news: usize,
    /// When something was printed last.
    printed: Instant,
}

impl Console {
    /// `command` is how the user would run one of the tests again, but for its name.
    ///
    /// # Errors
    ///
    /// Standard output cannot be used.
    pub fn new(to_stderr: bool, detail: Detail, command: &str) -> io::Result<Self> {
        let terminal =
            if to_stderr { io::stderr().is_terminal() } else { io::stdout().is_terminal() };
        let colour = terminal && std::env::var_os("NO_COLOR").is_none();
        let output = if to_stderr { Output::stderr() } else { Output::create("-")? };
        Ok(Self {
            output,
            colour,
            detail,
            command: command.to_owned(),
            stream: None,
            bar: (terminal && io::stderr().is_terminal()).then(ProgressBar::hidden),
            progress: Progress { tests: 0, told: 0, news: 0, printed: Instant::now() },
        })
    }

    /// The same where the result stream goes to a file, if it does.
    #[must_use]
    pub fn with_stream(self, file: Option<String>) -> Self {
        Self { stream: file.filter(|file| file != "-"), ..self }
    }

    /// Why a person did not see everything; that a reader went away, as in `… | head`, is no reason.
    pub fn lost(&self) -> Option<&str> {
        self.output.lost()
    }

    /// Shows what is waited for before the first test, with the last sign of life: in one line that is
    /// written over, or now and then in a line of its own.
    pub fn waiting(&mut self, what: &str, sign: &str) {
        if let Some(bar) = &mut self.bar {
            if bar.is_hidden() {
                *bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
                if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}") {
                    bar.set_style(style);
                }
            }
            bar.set_message(if sign.is_empty() {
                what.to_owned()
            } else {
                format!("{what}: {sign}")
            });
            bar.tick();
        } else if self.detail > Detail::Summary && self.progress.printed.elapsed() >= QUIET_FOR {
            self.say(&format!("{what} …"));
        }
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
        } else if self.detail > Detail::Summary && self.progress.printed.elapsed() >= QUIET_FOR {
            let Progress { tests, told, news, .. } = self.progress;
            let first = running.first().map_or(String::new(), |test| format!(", running {test}"));
            self.say(&format!("{told} of {}{first}; {news} failed so far", count(tests, "test")));
        }
    }

    /// Says something beside the results.
    pub fn say(&mut self, line: &str) {
        self.print(&format!("{line}\n"));
    }

    fn print(&mut self, text: &str) {
        self.progress.printed = Instant::now();
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
            let most = if self.is_verbose() { usize::MAX } else { 2 * LOG_LINES };
            for line in result.kernel_log.iter().take(most) {
                let _ = writeln!(text, "      {line}");
            }
        }
        let stats = stats_lines(result);
        if !stats.is_empty() && self.is_verbose() {
            text.push_str("    KVM statistics:\n");
            text.extend(stats.iter().map(|line| format!("      {line}\n")));
        }
        if let Some(reference) = &result.reference {
            let _ = writeln!(text, "    see {reference}");
        }
        if !result.log.is_empty() {
            let skipped =
                if self.is_verbose() { 0 } else { result.log.len().saturating_sub(LOG_LINES) };
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

    fn is_verbose(&self) -> bool {
        self.detail == Detail::Everything
    }

    /// Whether a result gets a line as it comes.
    fn shows(&self, result: &TestReport) -> bool {
        match self.detail {
            Detail::Summary => false,
            Detail::News => result.outcome != Outcome::Pass || result.flaky || measures(result),
            Detail::Everything => true,
        }
    }

    /// The commands that run failures again.
    fn again(&self, failures: &[&TestReport]) -> String {
        let Some(first) = failures.iter().min_by_key(|r| urgency(r.outcome)) else {
            return String::new();
        };
        let mut text = format!("next: {} -v {}\n", self.command, first.test);
        let mut names: Vec<&str> = failures.iter().map(|failure| failure.test.as_str()).collect();
        names.dedup();
        match &self.stream {
            _ if names.len() < 2 => {}
            Some(file) => {
                let _ = writeln!(text, "all that failed: {} --failed {file}", self.command);
            }
            None if names.len() <= NAMED_AGAIN => {
                let _ = writeln!(text, "all that failed: {} {}", self.command, names.join(" "));
            }
            None => text
                .push_str("all that failed: with `--json FILE`, `--failed FILE` runs it again\n"),
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
        if results.len() > SLOWEST && self.is_verbose() {
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
        text.push('\n');
        text.push_str(&skipped_groups(results));
        let _ = writeln!(text, "{}", self.counts(summary));
        if let Some(why) = summary.shortfall() {
            let _ = writeln!(text, "{}", self.paint(Outcome::Error, &why));
        }
        text.push_str(&self.again(&failures));
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
        if !run.kernel_log_watched && self.is_verbose() {
            self.say("/dev/kmsg cannot be read here: kernel warnings show only as taint");
        }
        self.progress.tests = run.tests;
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
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
        self.progress.told += 1;
        self.progress.news += usize::from(is_news(result.outcome));
        if self.shows(result) {
            let mut text = self.line(result);
            if (self.is_verbose() || measures(result)) && result.outcome == Outcome::Pass {
                for metric in &result.metrics {
                    let _ = writeln!(text, "     {metric}");
                }
            }
            if self.is_verbose() && result.outcome == Outcome::Pass {
                text.extend(result.log.iter().map(|line| format!("     {line}\n")));
            }
            self.print(&text);
        }
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

/// Whether a test is run for its numbers.
fn measures(result: &TestReport) -> bool {
    result.groups.iter().any(|group| group == PERF)
}

/// The groups of which no test ran, the largest first, in a line.
fn skipped_groups(results: &[TestReport]) -> String {
    let mut groups: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for result in results {
        for group in &result.groups {
            let (skipped, all) = groups.entry(group).or_default();
            *skipped += usize::from(result.outcome == Outcome::Skip);
            *all += 1;
        }
    }
    groups.retain(|_, (skipped, all)| skipped == all);
    if groups.is_empty() {
        return String::new();
    }
    let mut groups: Vec<(&str, usize)> = groups.into_iter().map(|(g, (_, n))| (g, n)).collect();
    groups.sort_by_key(|(_, tests)| std::cmp::Reverse(*tests));
    let named = groups.iter().take(SKIPPED_GROUPS);
    let mut named: Vec<String> = named.map(|(group, n)| format!("{group} ({n})")).collect();
    if let Some(more) = groups.len().checked_sub(SKIPPED_GROUPS).filter(|more| *more > 0) {
        named.push(format!("and {more} more"));
    }
    format!("groups of which nothing ran: {}\n", named.join(", "))
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
