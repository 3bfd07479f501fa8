//! A run in progress: from raw ends of workers to results in order.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::pool::Observer;
use crate::registry::judge::judge;
use crate::registry::known::{Known, KnownHere};
use crate::test::Test;
use crate::verdict::Finished;
use cli::args::RunArgs;
use results::journal::{RunInfo, Start, Summary, TestReport, exit_status};
use results::outcome::Outcome;
use results::report::Reporter;
use results::report::console::Console;

/// One test in one repetition.
#[derive(Clone, Copy, Debug)]
pub struct Unit<'a> {
    /// The test.
    pub test: &'a Test,
    /// From 1.
    pub iteration: u32,
}

/// Collects results, applies policy and tells the reporters.
pub struct Session<'a> {
    info: RunInfo,
    known: KnownHere<'a>,
    retries: u32,
    keep_logs: bool,
    console: Console,
    reporters: Vec<Box<dyn Reporter>>,
    strict: bool,
    mark: bool,
    kernel_mark: Option<File>,
    /// Results of an earlier part of the run.
    earlier: Vec<TestReport>,
    units: Vec<Unit<'a>>,
    /// What has ended so far, by unit.
    ended: Vec<Option<TestReport>>,
    /// Units below this were told in order.
    told: usize,
    /// Units without a worker below this were told at once.
    told_at_once: usize,
    /// Job index → unit index.
    jobs: Vec<usize>,
    /// How long each job may take.
    deadlines: Vec<Duration>,
    /// What failed before, by unit.
    attempts: Vec<Vec<String>>,
}

impl<'a> Session<'a> {
    /// A session that has planned nothing yet.
    pub fn new(
        info: RunInfo,
        known: KnownHere<'a>,
        args: &RunArgs,
        console: Console,
        reporters: Vec<Box<dyn Reporter>>,
    ) -> Self {
        let kernel_mark =
            args.mark.then(|| OpenOptions::new().write(true).open("/dev/kmsg").ok()).flatten();
        Self {
            info,
            known,
            retries: args.retry,
            keep_logs: args.verbose,
            console,
            reporters,
            strict: args.strict,
            mark: args.mark,
            kernel_mark,
            earlier: Vec::new(),
            units: Vec::new(),
            ended: Vec::new(),
            told: 0,
            told_at_once: 0,
            jobs: Vec::new(),
            deadlines: Vec::new(),
            attempts: Vec::new(),
        }
    }

    /// Adds a unit that the pool's next job is for, and how long that may take.
    pub fn plan(&mut self, unit: Unit<'a>, deadline: Duration) {
        self.jobs.push(self.units.len());
        self.deadlines.push(deadline);
        self.units.push(unit);
        self.ended.push(None);
        self.attempts.push(Vec::new());
    }

    /// Adds a unit whose end is known without running it.
    pub fn plan_ended(&mut self, unit: Unit<'a>, finished: Finished) {
        let report = report(unit, finished, &Known::default(), 1);
        self.units.push(unit);
        self.ended.push(Some(report));
        self.attempts.push(Vec::new());
    }

    /// Tells the reporters that the run begins, and what an earlier part of it gave.
    pub fn begin(&mut self, earlier: Vec<TestReport>) {
        self.info.tests = earlier.len() + self.units.len();
        self.console.start(&self.info);
        if !earlier.is_empty() {
            self.console.say(&format!("going on after {} earlier results", earlier.len()));
        }
        for reporter in &mut self.reporters {
            reporter.start(&self.info);
            // A stream holds its earlier results already.
            if !reporter.unordered() {
                earlier.iter().for_each(|result| reporter.result(result));
            }
        }
        self.earlier = earlier;
    }

    /// Ends the run. Gives the summary, and whether an output lost results.
    pub fn end(mut self, cut: Option<Signal>, duration: Duration) -> (Summary, bool) {
        self.tell_at_once(self.units.len());
        for unit in self.told..self.units.len() {
            self.tell_in_order(unit);
        }
        let mut results = self.earlier;
        results.extend(self.units.iter().zip(self.ended).filter_map(|(unit, ended)| {
            let mut result = ended?;
            identify(&mut result, unit.test);
            Some(result)
        }));
        let mut summary = Summary::of(&results);
        summary.exit = exit_status(&summary.counts, self.strict);
        summary.duration_us = duration.as_micros() as u64;
        if let Some(signal) = cut {
            summary.interrupted = Some(signal.as_str().to_owned());
            summary.exit = 128 + signal as u8;
        }
        summary.not_run = self.info.tests.saturating_sub(results.len());
        for reporter in &mut self.reporters {
            reporter.finish(&self.info, &results, &summary);
        }
        self.console.finish(&self.info, &results, &summary);
        let broken = self.reporters.iter().any(|r| r.broken().is_some());
        (summary, broken || self.console.lost().is_some())
    }

    /// Tells skips before `unit` to those who want everything at once.
    fn tell_at_once(&mut self, unit: usize) {
        while self.told_at_once < unit {
            let at = self.told_at_once;
            self.told_at_once += 1;
            if self.jobs.binary_search(&at).is_ok() {
                continue;
            }
            if let Some(result) = &self.ended[at] {
                let wanting = self.reporters.iter_mut().filter(|r| r.unordered());
                wanting.for_each(|reporter| reporter.result(result));
            }
        }
    }

    fn tell_in_order(&mut self, unit: usize) {
        if let Some(result) = &self.ended[unit] {
            self.console.result(result);
            let wanting = self.reporters.iter_mut().filter(|r| !r.unordered());
            wanting.for_each(|reporter| reporter.result(result));
        }
    }
}

impl Observer for Session<'_> {
    fn started(&mut self, job: usize) {
        let unit = self.jobs[job];
        self.tell_at_once(unit);
        let Unit { test, iteration } = self.units[unit];
        let test = test.name();
        // Only a marked stream holds what starts.
        let known_ends = if self.mark { self.known.ends(test) } else { Vec::new() };
        let deadline_ms = u64::try_from(self.deadlines[job].as_millis()).ok();
        let start = Start { test: test.to_owned(), iteration, deadline_ms, known_ends };
        self.reporters.iter_mut().for_each(|reporter| reporter.started(&start));
        if let Some(kmsg) = &mut self.kernel_mark {
            let _ = kmsg.write_all(format!("kvm-conformance: {test}\n").as_bytes());
        }
    }

    fn finished(&mut self, job: usize, finished: Finished) -> bool {
        let index = self.jobs[job];
        let unit = self.units[index];
        let attempt = self.attempts[index].len() as u32 + 1;
        let known = self.known.of_end(unit.test.name(), finished.outcome);
        let mut result = report(unit, finished, &known, attempt);
        let may_pass_again =
            matches!(result.outcome, Outcome::Fail | Outcome::Error | Outcome::Timeout);
        if may_pass_again && attempt <= self.retries {
            let reason = result.reason.as_deref().unwrap_or("no reason given");
            self.attempts[index].push(format!("attempt {attempt}: {}: {reason}", result.outcome));
            return true;
        }
        result.flaky = attempt > 1 && result.outcome == Outcome::Pass;
        result.details.extend(self.attempts[index].iter().cloned());
        if result.outcome == Outcome::Pass && !self.keep_logs {
            result.log.clear();
        }
        for reporter in self.reporters.iter_mut().filter(|r| r.unordered()) {
            reporter.result(&result);
        }
        self.ended[index] = Some(result);
        while self.told < self.units.len() && self.ended[self.told].is_some() {
            self.tell_in_order(self.told);
            if self.jobs.binary_search(&self.told).is_ok() {
                slim(&mut self.ended[self.told]);
            }
            self.told += 1;
        }
        false
    }

    fn tick(&mut self, running: &[usize]) {
        let names: Vec<&str> =
            running.iter().map(|job| self.units[self.jobs[*job]].test.name()).collect();
        self.console.tick(&names);
    }

    fn stopping(&mut self, signal: Signal, now: bool) {
        let what = if now { "stopping now" } else { "finishing what runs (again to stop now)" };
        self.console.say(&format!("{signal}: {what}"));
    }
}

/// Drops what [`identify`] can bring back, and the names that only the stream holds: the less memory,
/// the cheaper each fork.
fn slim(ended: &mut Option<TestReport>) {
    if let Some(result) = ended {
        result.test = String::new();
        result.groups = Vec::new();
        result.location = String::new();
        result.passed_checks = Vec::new();
    }
}

/// Says of which test a result is.
fn identify(result: &mut TestReport, test: &Test) {
    test.name().clone_into(&mut result.test);
    result.groups = test.groups.iter().map(|group| group.clone().into_owned()).collect();
    result.location = test.location.to_string();
}

/// A result from the raw end of a worker.
pub(super) fn report(
    unit: Unit<'_>,
    finished: Finished,
    known: &Known<'_>,
    attempts: u32,
) -> TestReport {
    let judged = judge(&finished, known);
    let failed_checks = finished.tally.failed_checks();
    let passed_checks = finished.tally.passed_checks();
    let mut details = finished.details;
    details.extend(judged.note);
    let lacks_memory = |reason: &String| reason.contains("ENOMEM");
    if judged.outcome == Outcome::Error && judged.reason.as_ref().is_some_and(lacks_memory) {
        let mib = unit.test.memory_bytes().div_ceil(1 << 20);
        details.push(format!("policy limits the test's address space to {mib} MiB"));
    }
    let mut result = TestReport {
        reason: judged.reason,
        checks: finished.tally.checks.len(),
        failed_checks,
        passed_checks,
        duration_us: finished.duration.as_micros() as u64,
        details,
        metrics: finished.tally.metrics,
        kvm_stats: finished.tally.kvm_stats,
        log: finished.tally.log,
        kernel_log: finished.kernel_log,
        reference: judged.reference,
        iteration: unit.iteration,
        attempts,
        ..TestReport::bare("", judged.outcome)
    };
    identify(&mut result, unit.test);
    result.printable()
}
