//! The front door for `cargo test` and cargo-nextest: libtest's own command line.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;

use super::run::job;
use super::session::{Unit, report};
use super::{Files, Suite, is_native};
use crate::health::Health;
use crate::host::Host;
use crate::job::{Launch, become_worker_if_asked};
use crate::pool::{Observer, Pool};
use crate::registry::known::KnownHere;
use crate::registry::{NODEFAULT, PERF, Policy};
use crate::scale::{self, Scale};
use crate::source::unprobed;
use crate::test::{Test, cpus};
use crate::verdict::Finished;
use cli::{MISUSE, Refusal};
use results::HostFacts;
use results::journal::TestReport;
use results::outcome::Outcome;

pub(super) fn start(suite: &Suite<'_>) -> ExitCode {
    become_worker_if_asked(suite.sources);
    let arguments = Arguments::from_args();
    match trials(suite, arguments.list) {
        Ok(trials) => libtest_mimic::run(&arguments, trials).exit_code(),
        Err(refusal) => {
            let _ = writeln!(std::io::stderr(), "error: {refusal}");
            ExitCode::from(MISUSE)
        }
    }
}

fn trials(suite: &Suite<'_>, only_listed: bool) -> Result<Vec<Trial>, Refusal> {
    let facts = if only_listed { unprobed() } else { suite.facts()? };
    let registry = suite.registry(Files::default(), (!only_listed).then_some(&facts))?;
    let mut shared = Shared { facts, policy: None, scale: Scale::measured(1.0), host: suite.host };
    if !only_listed {
        shared.policy = Some(registry.policy.clone());
        shared.scale = Scale::measured(scale::measure_without_fork());
    }
    let shared = Arc::new(shared);
    let trials = registry
        .tests
        .into_iter()
        .filter(is_native)
        .map(|test| {
            let ignored = test.in_group(NODEFAULT) || test.in_group(PERF);
            let shared = Arc::clone(&shared);
            let name = test.name().to_owned();
            Trial::ignorable_test(name, move || trial(&test, &shared)).with_ignored_flag(ignored)
        })
        .collect();
    Ok(trials)
}

/// What every trial needs.
struct Shared {
    facts: HostFacts,
    policy: Option<Policy>,
    scale: Scale,
    host: &'static dyn Host,
}

fn trial(test: &Test, shared: &Shared) -> Result<Completion, Failed> {
    let unmet = test.unmet(&shared.facts);
    if !unmet.is_empty() {
        return Ok(Completion::ignored_with(format!("needs {}", unmet.join(", "))));
    }
    let _turn = turn(cpus(test.weight).is_none());
    let mut pool = Pool {
        launch: Launch::Exec,
        capacity: 1,
        health: &mut Health::open(),
        signals: None,
        host: shared.host,
    };
    let mut last = Last(None);
    let known = shared
        .policy
        .as_ref()
        .map(|policy| KnownHere::new(&policy.known_failures, &shared.facts).of(test.name()))
        .unwrap_or_default();
    pool.run(&[job(test, None, shared.scale, known.timeout())], &mut last);
    let Some(finished) = last.0 else { return Err("the worker has no end".into()) };
    let result = report(Unit { test, iteration: 1 }, finished, &known, 1);
    let reason = result.reason.clone().unwrap_or_default();
    match result.outcome {
        Outcome::Pass | Outcome::Xpass => Ok(Completion::Completed),
        Outcome::Skip => Ok(Completion::ignored_with(reason)),
        Outcome::KnownFail => Ok(Completion::ignored_with(format!("known failure: {reason}"))),
        _ => Err(failure(&result).into()),
    }
}

/// Takes turns with other trials, in this process or, under cargo-nextest, in
/// others: an exclusive test runs alone. Where no lock can be had, nobody waits.
fn turn(exclusive: bool) -> Option<Flock<File>> {
    let name = format!("kvm-conformance-{}.lock", nix::unistd::getuid());
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(std::env::temp_dir().join(name))
        .ok()?;
    let how = if exclusive { FlockArg::LockExclusive } else { FlockArg::LockShared };
    Flock::lock(file, how).ok()
}

fn failure(result: &TestReport) -> String {
    let reason = result.reason.as_deref().unwrap_or("no reason given");
    let mut lines = vec![format!("{}: {reason}", result.outcome)];
    for check in &result.failed_checks {
        lines.push(format!("check: {}: {}", check.name, check.detail));
    }
    lines.extend(result.details.iter().cloned());
    lines.extend(result.kernel_log.iter().map(|line| format!("kernel: {line}")));
    lines.extend(result.log.iter().map(|line| format!("log: {line}")));
    lines.push(format!("test: {}", result.location));
    lines.join("\n")
}

/// Keeps the one end there is.
struct Last(Option<Finished>);

impl Observer for Last {
    fn started(&mut self, _: usize) {}

    fn finished(&mut self, _: usize, finished: Finished) -> bool {
        self.0 = Some(finished);
        false
    }

    fn tick(&mut self, _: &[usize]) {}

    fn stopping(&mut self, _: Signal, _: bool) {}
}
