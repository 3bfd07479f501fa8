//! The front doors: the command line program and the one for `cargo test`.

mod explain;
mod libtest;
mod list;
mod run;
mod session;

use std::fmt::Display;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use crate::registry::mutants::Sources;
use crate::registry::{self, Policy, Registry};
use cli::args::{Command, CommandLine};
use cli::{BISECT_SKIP, MISUSE, Refusal, reports};
use results::HostFacts;
use vm::case::TestCase;

/// What a front door knows beside its tests.
#[derive(Clone, Copy, Debug)]
pub struct Data {
    /// The policy's text, `unittests.yaml`.
    pub policy: &'static str,
    /// What it says of this architecture, as JSON, which is read many times as fast; may be empty.
    pub prepared: &'static str,
    /// Kernels that are broken on purpose, for `explain`.
    pub mutants: Sources<'static>,
}

/// The tests and the data of a front door.
#[derive(Clone, Copy, Debug)]
pub struct Suite<'a> {
    tests: &'a [&'static TestCase],
    data: Data,
}

impl<'a> Suite<'a> {
    /// These tests under that policy.
    pub fn new(tests: &'a [&'static TestCase], data: Data) -> Self {
        Self { tests, data }
    }

    /// The front door for `cargo test`: runs the tests as libtest-mimic trials, in workers of their own as
    /// ever. Trials run in threads, so workers are started by exec of this program: it must call this
    /// function first thing.
    pub fn libtest_main<E: Display>(self, probe: impl Fn() -> Result<HostFacts, E>) -> ExitCode {
        libtest::start(&self, probe)
    }

    /// The command line program. Must be called before the process has a second thread.
    ///
    /// `probe` finds the host's facts; it is called only where they are needed.
    pub fn main<E: Display>(self, probe: impl Fn() -> Result<HostFacts, E>) -> ExitCode {
        crate::job::become_worker_if_asked(self.tests);
        let line = CommandLine::parse();
        let bisect = line.run.bisect;
        let probe = || probe().map_err(Refusal::of);
        let status = match line.command {
            None if line.run.list => list::list(&self, &line.run, &probe),
            None => run::run(&self, &line.run, &probe),
            Some(Command::Report(args)) => reports::report(&args),
            Some(Command::Compare(args)) => reports::compare(&args),
            Some(Command::Explain(args)) => explain::explain(&self, &args, &probe),
        };
        let status = status.unwrap_or_else(|refusal| {
            let _ = writeln!(std::io::stderr(), "error: {refusal}");
            if bisect { BISECT_SKIP } else { MISUSE }
        });
        ExitCode::from(status)
    }

    /// The tests with the policy in `config`, or the built-in one.
    pub(crate) fn registry(&self, config: Option<&std::path::Path>) -> Result<Registry, Refusal> {
        let policy = match config {
            None => Policy::built_in(self.data.policy, self.data.prepared),
            Some(path) => {
                let name = path.display().to_string();
                let text =
                    std::fs::read_to_string(path).map_err(|e| Refusal(format!("{name}: {e}")))?;
                Policy::parse(&name, &text)
            }
        };
        Registry::new(self.tests, policy.map_err(Refusal::of)?).map_err(Refusal::of)
    }
}

/// This machine's architecture, as tests name it.
pub(crate) fn native_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// Whether a test can run on this architecture.
pub(crate) fn is_native(entry: &registry::Entry) -> bool {
    registry::architecture(entry.name()).is_none_or(|arch| arch == native_architecture())
}
