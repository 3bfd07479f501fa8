//! The front doors: the command line program and the one for `cargo test`.

pub mod args;
mod explain;
mod libtest;
mod list;
mod outputs;
pub mod remote;
mod reports;
mod run;
mod session;

use std::fmt::Display;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

pub use libtest::libtest_main;

use crate::case::TestCase;
use crate::facts::HostFacts;
use crate::registry::mutants::{self, Sources};
use crate::registry::{self, Policy, Registry};
use args::{Command, CommandLine};

/// Exit status of an error or misuse.
pub(crate) const MISUSE: u8 = 2;
/// Exit status that makes `git bisect run` pass a commit over.
pub(crate) const BISECT_SKIP: u8 = 125;

/// Why the program cannot do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refusal(pub String);

impl Refusal {
    fn of(e: impl Display) -> Self {
        Self(e.to_string())
    }
}

/// The tests and the policy of a front door.
#[derive(Clone, Copy, Debug)]
pub struct Suite<'a> {
    tests: &'a [&'static TestCase],
    built_in: Option<&'a str>,
    mutants: Sources<'a>,
}

impl<'a> Suite<'a> {
    /// These tests under the repository's `unittests.yaml`.
    pub fn new(tests: &'a [&'static TestCase]) -> Self {
        Self { tests, built_in: None, mutants: mutants::BUILT_IN }
    }

    /// The same tests under another policy than the built-in one.
    #[must_use]
    pub fn with_policy(self, built_in: &'a str) -> Self {
        Self { built_in: Some(built_in), ..self }
    }

    /// The same tests with other mutants than the built-in ones.
    #[must_use]
    pub fn with_mutants(self, mutants: Sources<'a>) -> Self {
        Self { mutants, ..self }
    }

    /// See [`libtest_main`].
    pub fn libtest_main<E: Display>(self, probe: impl Fn() -> Result<HostFacts, E>) -> ExitCode {
        libtest::start(&self, probe)
    }

    /// See [`main`].
    pub fn main<E: Display>(self, probe: impl Fn() -> Result<HostFacts, E>) -> ExitCode {
        crate::runner::job::become_worker_if_asked(self.tests);
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
        let policy = match (config, self.built_in) {
            (None, None) => Policy::built_in(),
            (None, Some(text)) => Policy::parse(registry::BUILT_IN_NAME, text),
            (Some(path), _) => {
                let name = path.display().to_string();
                let text =
                    std::fs::read_to_string(path).map_err(|e| Refusal(format!("{name}: {e}")))?;
                Policy::parse(&name, &text)
            }
        };
        Registry::new(self.tests, policy.map_err(Refusal::of)?).map_err(Refusal::of)
    }
}

/// The command line program. Must be called before the process has a second thread.
///
/// `probe` finds the host's facts; it is called only where they are needed.
pub fn main<E: Display>(
    tests: &[&'static TestCase],
    probe: impl Fn() -> Result<HostFacts, E>,
) -> ExitCode {
    Suite::new(tests).main(probe)
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
