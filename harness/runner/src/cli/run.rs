//! Running the selected tests.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cli::nearest::unknown;
use nix::sys::prctl;

use super::session::{Session, Unit};
use super::{Suite, check_host, is_native};
use crate::health::Health;
use crate::job::{Job, Launch};
use crate::pool::{Pool, take_signals};
use crate::registry::known::{KnownFailure, KnownHere};
use crate::scale::{self, Scale};
use crate::select::Selection;
use crate::test::Test;
use crate::verdict::Finished;
use cli::args::RunArgs;
use cli::given::Given;
use cli::{MISUSE, Refusal, exit_status, finished, outputs, process};
use results::journal::{self, Run, RunInfo};
use results::outcome::Outcome;
use results::report::console::Console;

/// Time between a worker's being told to stop and its end, before scaling.
pub(super) const GRACE: Duration = Duration::from_secs(1);
/// Grace of the slowest host.
const MOST_GRACE: Duration = Duration::from_secs(10);

/// Runs the selected tests; gives the exit status.
pub fn run(suite: &Suite<'_>, given: &Given) -> Result<u8, Refusal> {
    let begin = Instant::now();
    let args = &given.args;
    check_host(args)?;
    // A wrong word on the command line is told before a KVM that cannot be used.
    let facts = suite.facts();
    let mut registry = suite.registry(args.into(), facts.as_ref().ok())?;
    let selection = Selection::new(args).map_err(Refusal::of)?;
    registry.add_variants(&selection.variant_sets().map_err(Refusal::of)?);
    let mut tests = selection.apply(&registry).map_err(Refusal::of)?;
    tests.retain(|test| is_native(test));
    if tests.is_empty() {
        let wider = Selection { all: true, perf: true, ..selection };
        if !wider.apply(&registry).map_err(Refusal::of)?.is_empty() {
            eprintln!(
                "all that matches runs on request only: `-a` adds it, and `--perf` what measures"
            );
        }
    }
    check_options(&args.set, &tests)?;
    let stdout_taken = args.formats.use_stdout().map_err(Refusal)?;
    let facts = facts?;

    let scale = args.timeout_scale.map_or_else(|| Scale::measured(scale::measure()), Scale::given);
    let health = &mut Health::open();
    let info = RunInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs()),
        host: facts.clone(),
        arguments: process::arguments(),
        tests: tests.len() * args.repeat as usize,
        timeout_scale: scale.usual,
        shuffle: args.shuffle,
        kernel_log_watched: health.sees_log(),
    };
    let earlier = earlier_results(args, &info)?;
    let reporters = outputs::open(&args.formats, args.resume.as_deref(), args.mark)?;
    let console = Console::new(stdout_taken, args.detail(), &given.again()).map_err(Refusal::of)?;
    let console = console.with_stream(args.stream());

    let known = KnownHere::new(&registry.policy.known_failures, &facts);
    let known_timeouts: HashMap<&str, &KnownFailure> =
        tests.iter().filter_map(|t| Some((t.name(), known.of(t.name()).timeout()?))).collect();
    let mut session = Session::new(info, known, args, console, reporters);
    let mut jobs = Vec::new();
    let finished = args.finished.as_deref().map(finished::read).transpose()?.unwrap_or_default();
    let earlier_units = earlier.results.iter().map(|r| (r.test.as_str(), r.iteration));
    let finished_units = finished.iter().map(|(test, iteration)| (test.as_str(), *iteration));
    let done: HashSet<(&str, u32)> = earlier_units.chain(finished_units).collect();
    for iteration in 1..=args.repeat {
        for test in &tests {
            let unit = Unit { test, iteration };
            if done.contains(&(test.name(), iteration)) {
                continue;
            }
            let unmet = test.unmet(&facts);
            if unmet.is_empty() {
                let known_timeout = known_timeouts.get(test.name()).copied();
                let mut job = job(test, args.timeout, scale, known_timeout);
                let has = |name: &str| test.options.iter().any(|o| o.name == name);
                job.parameters.extend(args.set.iter().filter(|(name, _)| has(name)).cloned());
                session.plan(unit, job.timeout);
                jobs.push(job);
            } else {
                let reason = format!("needs {}", unmet.join(", "));
                session.plan_ended(unit, Finished::without_worker(Outcome::Skip, reason));
            }
        }
    }
    session.begin(earlier.results);

    // Whatever a test leaves running comes back to this process, which ends it.
    let _ = prctl::set_child_subreaper(true);
    let signals = take_signals().map_err(|e| Refusal(format!("signals: {e}")))?;
    let mut pool = Pool {
        launch: Launch::Fork,
        capacity: args.jobs,
        health,
        signals: Some(signals),
        host: suite.host,
    };
    let cut = pool.run(&jobs, &mut session);
    let (summary, broken) = session.end(cut, begin.elapsed());
    let status = if summary.exit == 0 && broken { MISUSE } else { summary.exit };
    Ok(exit_status(status, args.bisect))
}

/// Every option of `--set` must be one that a selected test declares.
fn check_options(set: &[(String, String)], tests: &[&Test]) -> Result<(), Refusal> {
    let declared = tests.iter().flat_map(|test| &test.options).map(|option| option.name);
    let declared: BTreeSet<&str> = declared.collect();
    match set.iter().find(|(name, _)| !declared.contains(name.as_str())) {
        Some((name, _)) if declared.is_empty() => {
            Err(Refusal(format!("no selected test has options; `--set {name}=…` means nothing")))
        }
        Some((name, _)) => Err(Refusal(unknown("option", name, declared))),
        None => Ok(()),
    }
}

/// A worker's orders.
pub(super) fn job<'t>(
    test: &'t Test,
    timeout: Option<Duration>,
    scale: Scale,
    known_timeout: Option<&KnownFailure>,
) -> Job<'t> {
    let factor = if known_timeout.is_some() { scale.known_timeout } else { scale.usual };
    let own = known_timeout.and_then(|known| known.timeout).map_or(test.timeout(), |span| span.0);
    Job {
        test,
        timeout: timeout.unwrap_or_else(|| own.mul_f64(factor)),
        grace: GRACE.mul_f64(scale.usual.max(1.0)).min(MOST_GRACE),
        memory_bytes: test.memory_bytes(),
        weight: test.weight,
        parameters: test.parameters().map(|(name, value)| (name.clone(), value.clone())).collect(),
    }
}

/// What the stream to go on with holds already.
fn earlier_results(args: &RunArgs, info: &RunInfo) -> Result<Run, Refusal> {
    let Some(path) = args.resume.as_ref().filter(|p| journal::holds_lines(p)) else {
        return Ok(Run::default());
    };
    let mut runs = journal::read(path).map_err(Refusal::of)?;
    let Some(run) = runs.pop().filter(|_| runs.is_empty()) else {
        let why = "does not hold exactly one run to go on with";
        return Err(Refusal(format!("{}: {why}", path.display())));
    };
    let (was, is) = (&run.info.host, &info.host);
    if (&was.arch, &was.kernel, &was.backend) != (&is.arch, &is.kernel, &is.backend) {
        return Err(Refusal(format!(
            "{} was made on {} {} {}, this is {} {} {}",
            path.display(),
            was.arch,
            was.kernel,
            was.backend,
            is.arch,
            is.kernel,
            is.backend
        )));
    }
    Ok(run)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Policy, Registry};
    use crate::test::Test;
    use vm::case::{TestCase, Weight};

    static CASE: TestCase = TestCase {
        path: "suites::common::slow::test",
        file: "slow.rs",
        line: 1,
        doc: "",
        requires: &[],
        groups: &[],
        weight: Weight::Cpus(1),
        options: &[],
        sees: &[],
        run: || Ok(()),
    };

    #[test]
    fn a_slow_host_stretches_deadlines_but_those_that_are_known_to_pass_only_twice() {
        let include = |_: &str| unreachable!("nothing is included");
        let policy =
            Policy::parse(("p".into(), "defaults: { timeout: 3s }".into()), include).unwrap();
        let registry = Registry::new(vec![Test::from(&CASE)], policy).unwrap();
        let known = |timeout: &str| -> KnownFailure {
            let entry = format!("{{ test: a, outcome: timeout, reason: r{timeout} }}");
            serde_yaml::from_str(&entry).unwrap()
        };
        let (known, known_soon) = (known(""), known(", timeout: 1s"));
        let seconds = |given, scale, known_timeout| {
            job(&registry.tests[0], given, scale, known_timeout).timeout.as_secs()
        };
        let slow = Scale::measured(10.0);
        assert_eq!(seconds(None, slow, None), 30);
        assert_eq!(seconds(None, slow, Some(&known)), 6);
        assert_eq!(seconds(None, slow, Some(&known_soon)), 2);
        assert_eq!(seconds(None, Scale::measured(1.0), Some(&known)), 3);
        assert_eq!(seconds(None, Scale::given(10.0), Some(&known)), 30);
        assert_eq!(seconds(Some(Duration::from_secs(5)), slow, Some(&known)), 5);
    }
}
