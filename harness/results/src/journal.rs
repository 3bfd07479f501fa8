//! The result stream: JSON lines, from which every report is made. See `docs/results.md`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::HostFacts;
use crate::outcome::{FailedCheck, Metric, Outcome, Stats};

/// One line of the stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Line {
    /// The first line.
    Run(RunInfo),
    /// A test is about to run (only with `--mark`).
    Start(Start),
    /// One test's verdict.
    Result(TestReport),
    /// The last line.
    Summary(Summary),
}

/// The announcement of a test: what a host that does not answer any more cannot be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Its name.
    pub test: String,
    /// Which repetition of `--repeat`, from 1.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub iteration: u32,
    /// Milliseconds after which the runner ends it, if it has not ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// The ends of the whole test, and so of its host, that are known here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known_ends: Vec<KnownEnd>,
}

/// A known failure of a whole test: what a host that died cannot look up any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownEnd {
    /// How it ends.
    pub outcome: Outcome,
    /// Why.
    pub reason: String,
    /// Where more is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

/// Where and how a run was made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunInfo {
    /// Version of this program.
    pub version: String,
    /// Seconds since 1970 at the start.
    pub started: u64,
    /// The host.
    #[serde(flatten)]
    pub host: HostFacts,
    /// Arguments of the command line.
    pub arguments: Vec<String>,
    /// Results to come.
    pub tests: usize,
    /// Factor on every deadline.
    pub timeout_scale: f64,
    /// Seed of `--shuffle`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shuffle: Option<u64>,
    /// Whether the kernel's log could be watched.
    pub kernel_log_watched: bool,
}

/// One test's verdict and everything that helps to act on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TestReport {
    /// The test's name.
    pub test: String,
    /// The verdict, after known failures were told apart.
    pub outcome: Outcome,
    /// One sentence; the missing requirement of a skip.
    #[serde(default)]
    pub reason: Option<String>,
    /// Distinct checks evaluated.
    #[serde(default)]
    pub checks: usize,
    /// The ones that did not hold.
    #[serde(default)]
    pub failed_checks: Vec<FailedCheck>,
    /// Names of the ones that held whenever they were evaluated, sorted. Streams of earlier versions
    /// do not have them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed_checks: Vec<String>,
    /// Wall-clock time, isolation included.
    #[serde(default)]
    pub duration_us: u64,
    /// The test's groups.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Guest location, registers, backtrace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
    /// Measured values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<Metric>,
    /// At a deadline, what KVM had counted of the VM and each vCPU.
    #[serde(default, skip_serializing_if = "Stats::is_empty")]
    pub kvm_stats: Stats,
    /// Last log lines, unless the test passed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
    /// The host kernel's complaints while the test ran.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kernel_log: Vec<String>,
    /// Where more is written about a known failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Source file and line of the test.
    #[serde(default)]
    pub location: String,
    /// Which repetition of `--repeat`, from 1.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub iteration: u32,
    /// How often it ran until this verdict, with `--retry`.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub attempts: u32,
    /// Passed, but only when run again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flaky: bool,
}

impl TestReport {
    /// The same with control characters made visible: what a guest says must
    /// neither steer a terminal nor break a format.
    #[must_use]
    pub fn printable(mut self) -> Self {
        make_printable(&mut self.test);
        self.reason.iter_mut().for_each(make_printable);
        for check in &mut self.failed_checks {
            make_printable(&mut check.name);
            make_printable(&mut check.detail);
        }
        let lists =
            [&mut self.passed_checks, &mut self.details, &mut self.log, &mut self.kernel_log];
        lists.into_iter().flatten().for_each(make_printable);
        let printable = |mut text: String| {
            make_printable(&mut text);
            text
        };
        self.kvm_stats = std::mem::take(&mut self.kvm_stats)
            .into_iter()
            .map(|(of, values)| {
                (printable(of), values.into_iter().map(|(name, n)| (printable(name), n)).collect())
            })
            .collect();
        self
    }

    /// The names of all checks that were evaluated; `None` where the stream does not hold them all.
    pub fn check_names(&self) -> Option<impl Iterator<Item = &str>> {
        let failed = self.failed_checks.iter().map(|check| check.name.as_str());
        let complete = self.failed_checks.len() + self.passed_checks.len() == self.checks;
        complete.then(|| failed.chain(self.passed_checks.iter().map(String::as_str)))
    }

    /// A result of which nothing more is known.
    pub fn bare(test: &str, outcome: Outcome) -> Self {
        Self {
            test: test.to_owned(),
            outcome,
            reason: None,
            checks: 0,
            failed_checks: Vec::new(),
            passed_checks: Vec::new(),
            duration_us: 0,
            groups: Vec::new(),
            details: Vec::new(),
            metrics: Vec::new(),
            kvm_stats: Stats::new(),
            log: Vec::new(),
            kernel_log: Vec::new(),
            reference: None,
            location: String::new(),
            iteration: 1,
            attempts: 1,
            flaky: false,
        }
    }
}

fn make_printable(text: &mut String) {
    let breaks = |c: char| {
        (c.is_control() && !matches!(c, '\n' | '\t')) || matches!(c, '\u{fffe}' | '\u{ffff}')
    };
    if text.contains(breaks) {
        *text = text.chars().fold(String::with_capacity(text.len()), |mut clean, c| {
            if breaks(c) {
                clean.extend(c.escape_default())
            } else {
                clean.push(c)
            }
            clean
        });
    }
}

fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_one(n: &u32) -> bool {
    *n == 1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// Counts, and how the run ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// Results by outcome.
    #[serde(flatten)]
    pub counts: Counts,
    /// Results in all.
    pub total: usize,
    /// Tests that passed only when run again, or not in every repetition.
    pub flaky: usize,
    /// Named checks evaluated in all.
    pub checks: usize,
    /// Wall-clock time of the run.
    pub duration_us: u64,
    /// The signal that cut the run short.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interrupted: Option<String>,
    /// Why the run ended early, where no signal asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut_short: Option<String>,
    /// Results that were to come and did not.
    #[serde(skip_serializing_if = "is_zero")]
    pub not_run: usize,
    /// Exit status of the runner.
    pub exit: u8,
}

/// A count for each outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Every check held.
    pub pass: usize,
    /// KVM is wrong.
    pub fail: usize,
    /// The test or its environment is wrong.
    pub error: usize,
    /// No verdict before the deadline.
    pub timeout: usize,
    /// A requirement is missing.
    pub skip: usize,
    /// Failed as listed.
    pub known_fail: usize,
    /// Passed though listed as failing.
    pub xpass: usize,
    /// The host kernel complained.
    pub host_bug: usize,
}

impl Counts {
    fn slot(&mut self, outcome: Outcome) -> &mut usize {
        match outcome {
            Outcome::Pass => &mut self.pass,
            Outcome::Fail => &mut self.fail,
            Outcome::Error => &mut self.error,
            Outcome::Timeout => &mut self.timeout,
            Outcome::Skip => &mut self.skip,
            Outcome::KnownFail => &mut self.known_fail,
            Outcome::Xpass => &mut self.xpass,
            Outcome::HostBug => &mut self.host_bug,
        }
    }

    /// Counts one more.
    pub fn add(&mut self, outcome: Outcome) {
        *self.slot(outcome) += 1;
    }

    /// The count of one outcome.
    pub fn of(&self, outcome: Outcome) -> usize {
        *self.clone().slot(outcome)
    }
}

impl Summary {
    /// Adds results up.
    pub fn of(results: &[TestReport]) -> Self {
        let mut summary = Self { total: results.len(), ..Self::default() };
        let mut passes: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        let mut flaky: BTreeMap<&str, bool> = BTreeMap::new();
        for result in results {
            summary.counts.add(result.outcome);
            summary.checks += result.checks;
            let seen = passes.entry(&result.test).or_default();
            seen.0 += usize::from(result.outcome == Outcome::Pass);
            seen.1 += 1;
            *flaky.entry(&result.test).or_default() |= result.flaky;
        }
        for (test, (passed, of)) in &passes {
            if *passed > 0 && passed < of {
                flaky.insert(test, true);
            }
        }
        summary.flaky = flaky.values().filter(|f| **f).count();
        summary.exit = exit_status(&summary.counts, false);
        summary
    }

    /// Why the run is not whole and how much of it is missing, in a sentence; `None` for a whole one.
    pub fn shortfall(&self) -> Option<String> {
        let why = match (&self.interrupted, &self.cut_short) {
            (Some(signal), _) => format!("cut short by {signal}"),
            (None, Some(why)) => format!("cut short: {why}"),
            (None, None) if self.not_run > 0 => "cut short".to_owned(),
            (None, None) => return None,
        };
        let all = self.total + self.not_run;
        Some(match self.not_run {
            0 => why,
            1 => format!("{why}; 1 test of {all} did not run"),
            missing => format!("{why}; {missing} tests of {all} did not run"),
        })
    }
}

/// 0 all expected, 1 something about KVM is wrong, 2 something about us is, 3 nothing ran. A known failure
/// that passes says that the list is old, and nothing against KVM: it counts as wrong if `strict`.
pub fn exit_status(counts: &Counts, strict: bool) -> u8 {
    let old = if strict { counts.xpass } else { 0 };
    if counts.fail + counts.host_bug + counts.timeout + old > 0 {
        1
    } else if counts.error > 0 {
        2
    } else if counts.pass + counts.known_fail + counts.xpass == 0 {
        3
    } else {
        0
    }
}

/// A run as read back from its stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    /// Its first line.
    pub info: RunInfo,
    /// Its results in order.
    pub results: Vec<TestReport>,
    /// Its last line, if it came to that.
    pub summary: Option<Summary>,
    /// A test that was started and told no result.
    pub unfinished: Option<String>,
}

impl Run {
    /// Makes up for what a stream without its end lacks: the test that ran has a result, and the summary
    /// says how many have none.
    pub fn complete(&mut self) {
        if self.summary.is_some() {
            return;
        }
        if let Some(test) = self.unfinished.take() {
            self.results.push(TestReport {
                reason: Some("the run ended while this test ran".to_owned()),
                ..TestReport::bare(&test, Outcome::Error)
            });
        }
        self.summary = Some(Summary {
            cut_short: Some("the stream has no summary".to_owned()),
            not_run: self.info.tests.saturating_sub(self.results.len()),
            ..Summary::of(&self.results)
        });
    }

    /// Why it is not whole, in a sentence.
    pub fn shortfall(&self) -> Option<String> {
        self.summary.as_ref().and_then(Summary::shortfall)
    }
}

/// Why a stream cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be read.
    #[error("{0}: {1}")]
    Read(String, #[source] io::Error),
    /// A line is not of the stream.
    #[error("{name}:{line}: {message}")]
    Line {
        /// The file.
        name: String,
        /// The line's number.
        line: usize,
        /// What is wrong with it.
        message: String,
    },
}

/// Whether there is such a file and a whole line in it.
pub fn holds_lines(path: &Path) -> bool {
    match fs::read(path) {
        Ok(bytes) => bytes.contains(&b'\n'),
        // What cannot be read is the reader's to report.
        Err(e) => e.kind() != io::ErrorKind::NotFound,
    }
}

/// Reads every run in a file.
pub fn read(path: &Path) -> Result<Vec<Run>, JournalError> {
    let name = path.display().to_string();
    let bytes = fs::read(path).map_err(|e| JournalError::Read(name.clone(), e))?;
    parse(&name, &bytes)
}

/// Parses streams, one after the other. A last line without its end is what a
/// crash leaves: it is passed over.
pub fn parse(name: &str, bytes: &[u8]) -> Result<Vec<Run>, JournalError> {
    let wrong = |line: usize, message: String| JournalError::Line {
        name: name.to_owned(),
        line: line + 1,
        message,
    };
    let mut runs: Vec<Run> = Vec::new();
    let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    for (number, line) in bytes[..whole].split(|b| *b == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let line: Line = serde_json::from_slice(line)
            .map_err(|e| wrong(number, format!("no result line: {e}")))?;
        let run = match line {
            Line::Run(info) => {
                runs.push(Run { info, ..Run::default() });
                continue;
            }
            _ => runs.last_mut().ok_or_else(|| {
                wrong(number, "a result stream begins with a run line".to_owned())
            })?,
        };
        match line {
            Line::Start(start) => run.unfinished = Some(start.test),
            Line::Result(result) => {
                // The run went on after it had been cut short.
                run.summary = None;
                if run.unfinished.as_ref() == Some(&result.test) {
                    run.unfinished = None;
                }
                run.results.push(result.printable());
            }
            Line::Summary(summary) => run.summary = Some(summary),
            Line::Run(_) => {}
        }
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_last_line_is_passed_over() {
        let text = "{\"type\":\"run\",\"arch\":\"x86_64\"}\n{\"type\":\"result\",\"test\":\"a\",\"outcome\":\"pass\"}\n{\"type\":\"resu";
        let runs = parse("j", text.as_bytes()).unwrap();
        assert_eq!(runs.len(), 1);
        assert_eq!(runs[0].results.len(), 1);
        assert_eq!(runs[0].summary, None);
    }

    #[test]
    fn a_stream_without_its_end_says_how_much_is_missing() {
        let head = "{\"type\":\"run\",\"tests\":5}\n";
        let result = "{\"type\":\"result\",\"test\":\"a\",\"outcome\":\"pass\"}\n";
        let start = "{\"type\":\"start\",\"test\":\"b\"}\n";
        let end = "{\"type\":\"summary\",\"interrupted\":\"SIGINT\",\"total\":1,\"not_run\":4}\n";
        let shortfall = |text: &str| {
            let mut run = parse("j", text.as_bytes()).unwrap().pop().unwrap();
            run.complete();
            (run.results.len(), run.shortfall().unwrap_or_default())
        };
        let cut = |missing| {
            format!("cut short: the stream has no summary; {missing} tests of 5 did not run")
        };
        assert_eq!(shortfall(&format!("{head}{result}")), (1, cut(4)));
        assert_eq!(shortfall(&format!("{head}{result}{start}")), (2, cut(3)));
        let interrupted = "cut short by SIGINT; 4 tests of 5 did not run".to_owned();
        assert_eq!(shortfall(&format!("{head}{result}{end}")), (1, interrupted));
        assert_eq!(shortfall(&format!("{head}{result}{end}{result}")), (2, cut(3)));
    }

    #[test]
    fn a_wrong_line_is_told_with_its_number() {
        let text = "{\"type\":\"run\"}\nhello\n";
        let message = parse("j", text.as_bytes()).unwrap_err().to_string();
        assert!(message.starts_with("j:2: no result line"), "{message}");
        let message = parse("j", b"{\"type\":\"summary\"}\n").unwrap_err().to_string();
        assert_eq!(message, "j:1: a result stream begins with a run line");
    }

    #[test]
    fn exit_status_follows_the_worst_news() {
        let counts = |fail, error, pass| Counts { fail, error, pass, ..Counts::default() };
        assert_eq!(exit_status(&counts(1, 1, 1), false), 1);
        assert_eq!(exit_status(&counts(0, 1, 1), true), 2);
        assert_eq!(exit_status(&counts(0, 0, 1), true), 0);
        assert_eq!(exit_status(&counts(0, 0, 0), false), 3);
        let passes_though_known = Counts { xpass: 1, ..Counts::default() };
        assert_eq!(exit_status(&passes_though_known, false), 0);
        assert_eq!(exit_status(&passes_though_known, true), 1);
    }
}
