//! The life of a worker: one test, in a process of its own.

use std::any::Any;
use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::Mutex;
use vm::failure::{Failure, TestResult};
use vm::record::{self, Event, Settings};
use vm::variant::Set;

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::unistd::{Pid, getppid, setpgid};

use super::sys;
use crate::body::{Body, Program};
use crate::test::Test;
use results::outcome::Outcome;

/// Descriptors that a test may have open at a time.
const MAX_FDS: u64 = 4096;
/// Descriptor numbers that are looked at for leaks.
const LEAK_SCAN: RawFd = 128;

/// What a worker is given.
pub struct Assignment<'a> {
    /// The test.
    pub test: &'a Test,
    /// Where events go.
    pub events: OwnedFd,
    /// Where stdout and stderr go.
    pub output: Option<OwnedFd>,
    /// Address space limit.
    pub memory_bytes: u64,
    /// Processes and threads that the user may have, for users that the kernel limits.
    pub processes: u64,
    /// Values of `unittests.yaml` for the test.
    pub parameters: BTreeMap<String, String>,
    /// The runner's process.
    pub runner: Pid,
}

/// Runs the test and ends the process.
pub fn run(assignment: Assignment<'_>) -> ! {
    isolate(assignment.runner);
    limit(assignment.memory_bytes, assignment.processes);
    if let Some(output) = &assignment.output {
        if let Ok(null) = std::fs::File::open("/dev/null") {
            sys::dup_onto(&null, 0);
        }
        sys::dup_onto(output, 1);
        sys::dup_onto(output, 2);
    }
    let options = assignment.test.options.iter().map(|option| option.name).collect();
    let settings = Settings { options, values: assignment.parameters };
    match &assignment.test.body {
        Body::Native(function) => {
            call(*function, assignment.test.variant, assignment.events, settings)
        }
        Body::Program(program) => become_program(program, assignment.events, settings),
    }
}

/// Runs a function of this program.
fn call(function: fn() -> TestResult, variant: Set, events: OwnedFd, settings: Settings) -> ! {
    vm::install_watchdog();
    take_signals();
    let mut keep = vm::kept();
    keep.push(events.as_raw_fd());
    sys::close_all_but(&keep);
    vm::install_last_words(events.as_raw_fd());
    record::open(events, settings);

    let before = sys::open_fds(LEAK_SCAN);
    let result = guarded(|| vm::variant::under(variant, function));
    let leaked = leaked_since(&before);
    let _ = std::io::stdout().flush();
    record::close(&verdict(result, &leaked));
    sys::exit_now(0)
}

/// Makes this process the program's. The event pipe, which is closed by that, tells if it cannot be.
fn become_program(program: &Program, events: OwnedFd, settings: Settings) -> ! {
    take_signals();
    sys::close_all_but(&[events.as_raw_fd()]);
    let error = Command::new(&program.path).args(&program.args).exec();
    record::open(events, settings);
    let reason = format!("cannot start {}: {error}", program.path.display());
    let verdict =
        Event::Verdict { outcome: Outcome::Error, reason: Some(reason), details: Vec::new() };
    record::close(&verdict);
    sys::exit_now(0)
}

/// A process group of its own that dies with the runner.
fn isolate(runner: Pid) {
    let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    if getppid() != runner {
        sys::exit_now(1);
    }
}

/// From here on signals may come, and may have come already.
fn take_signals() {
    let _ = nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

fn limit(memory_bytes: u64, processes: u64) {
    for (resource, most) in [
        (Resource::RLIMIT_AS, memory_bytes),
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_NOFILE, MAX_FDS),
        (Resource::RLIMIT_NPROC, processes),
    ] {
        // Only root may raise a hard limit that is lower already.
        if setrlimit(resource, most, most).is_err()
            && let Ok((_, hard)) = getrlimit(resource)
        {
            let _ = setrlimit(resource, most.min(hard), hard);
        }
    }
}

/// Where the last panic of this process was, and its words.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

fn guarded(function: impl FnOnce() -> TestResult) -> TestResult {
    let body_thread = std::thread::current().id();
    std::panic::set_hook(Box::new(move |info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let message = payload_text(info.payload());
        let told = format!("host half panicked at {place}: {message}");
        if std::thread::current().id() == body_thread {
            if let Ok(mut last) = PANIC.lock() {
                *last = Some(told);
            }
        } else {
            let thread = std::thread::current();
            record::log(format_args!("thread {:?}: {told}", thread.name().unwrap_or("?")));
        }
    }));
    catch_unwind(AssertUnwindSafe(function)).unwrap_or_else(|payload| {
        let told = PANIC.lock().ok().and_then(|mut last| last.take());
        Err(Failure::Error(told.unwrap_or_else(|| payload_text(&*payload).to_owned())))
    })
}

fn payload_text(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}

/// What the test left open, by the kernel's name for it. `/dev/kvm` itself may stay.
fn leaked_since(before: &[RawFd]) -> Vec<String> {
    sys::open_fds(LEAK_SCAN)
        .into_iter()
        .filter(|fd| !before.contains(fd))
        .filter_map(|fd| {
            let target = std::fs::read_link(format!("/proc/self/fd/{fd}"))
                .map_or_else(|_| "?".to_owned(), |path| path.display().to_string());
            (target != "/dev/kvm").then(|| format!("fd {fd} ({target})"))
        })
        .collect()
}

fn verdict(result: Result<(), Failure>, leaked: &[String]) -> Event {
    let mut details = Vec::new();
    let failed = record::failed_checks();
    let (outcome, reason) = match result {
        Ok(()) if failed > 0 => (Outcome::Fail, None),
        Ok(()) if !leaked.is_empty() => {
            (Outcome::Error, Some(format!("the test left open: {}", leaked.join(", "))))
        }
        Ok(()) if !record::has_checked() => {
            (Outcome::Error, Some("the test ended without evaluating a check".to_owned()))
        }
        Ok(()) => (Outcome::Pass, None),
        Err(failure) => {
            let text = failure.to_string();
            let mut lines = text.lines();
            let reason = lines.next().map(ToOwned::to_owned);
            details.extend(lines.map(ToOwned::to_owned));
            let others = vm::told_at_deadline();
            let others = others.iter().filter(|other| !text.contains(other.as_str()));
            details.extend(others.flat_map(|other| other.lines()).map(ToOwned::to_owned));
            let outcome = match failure {
                Failure::Fail(_) => Outcome::Fail,
                // A check that failed before says that KVM is wrong: that is the news.
                Failure::Error(_) | Failure::Skip(_) if failed > 0 => Outcome::Fail,
                Failure::Error(_) => Outcome::Error,
                Failure::Timeout(_) => Outcome::Timeout,
                Failure::Skip(_) => Outcome::Skip,
            };
            (outcome, reason)
        }
    };
    Event::Verdict { outcome, reason, details }
}
