//! The front door for `cargo test` and cargo-nextest: libtest's own command line.

use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;

use super::run::job;
use super::session::{Unit, report};
use super::{Suite, is_native};
use crate::health::Health;
use crate::job::{Launch, become_worker_if_asked};
use crate::pool::{Observer, Pool};
use crate::registry::known::{HowItFails, KnownHere};
use crate::registry::{Entry, NODEFAULT, PERF, Policy};
use crate::scale::{self, Scale};
use crate::verdict::Finished;
use cli::MISUSE;
use results::HostFacts;
use results::journal::TestReport;
use results::outcome::Outcome;

pub(super) fn start<E: Display>(
    suite: &Suite<'_>,
    probe: impl Fn() -> Result<HostFacts, E>,
) -> ExitCode {
    become_worker_if_asked(suite.tests);
    let arguments = Arguments::from_args();
    let registry = match suite.registry(None) {
        Ok(registry) => registry,
        Err(refusal) => return refuse(&refusal),
    };
    let shared = if arguments.list {
        Arc::new(Shared { facts: HostFacts::default(), policy: None, scale: Scale::measured(1.0) })
    } else {
        let facts = match probe() {
            Ok(facts) => facts,
            Err(e) => return refuse(&e),
        };
        if let Err(e) = registry.policy.check_capabilities(&facts) {
            return refuse(&e);
        }
        Arc::new(Shared {
            facts,
            policy: Some(registry.policy.clone()),
            scale: Scale::measured(scale::measure_without_fork()),
        })
    };
    let trials = registry
        .entries
        .into_iter()
        .filter(is_native)
        .map(|entry| {
            let ignored = entry.in_group(NODEFAULT) || entry.in_group(PERF);
            let shared = Arc::clone(&shared);
            Trial::ignorable_test(entry.name(), move || trial(&entry, &shared))
                .with_ignored_flag(ignored)
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn refuse(why: &dyn Display) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "error: {why}");
    ExitCode::from(MISUSE)
}

/// What every trial needs.
struct Shared {
    facts: HostFacts,
    policy: Option<Policy>,
    scale: Scale,
}

fn trial(entry: &Entry, shared: &Shared) -> Result<Completion, Failed> {
    let unmet = entry.unmet(&shared.facts);
    if !unmet.is_empty() {
        return Ok(Completion::ignored_with(format!("needs {}", unmet.join(", "))));
    }
    let _turn = turn(entry.exclusive);
    let mut pool =
        Pool { launch: Launch::Exec, capacity: 1, health: &mut Health::open(), signals: None };
    let mut last = Last(None);
    let known = shared
        .policy
        .as_ref()
        .map(|policy| KnownHere::new(&policy.known_failures, &shared.facts).of(entry.name()))
        .unwrap_or_default();
    let known_timeout = known.iter().any(|k| k.outcome == HowItFails::Timeout);
    pool.run(&[job(entry, None, shared.scale, known_timeout)], &mut last);
    let Some(finished) = last.0 else { return Err("the worker has no end".into()) };
    let result = report(Unit { entry, iteration: 1 }, finished, &known, 1);
    let reason = result.reason.clone().unwrap_or_default();
    match result.outcome {
        Outcome::Pass => Ok(Completion::Completed),
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
