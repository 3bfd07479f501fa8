//! The front doors: the command line program and the one for `cargo test`.

mod explain;
mod libtest;
mod list;
mod run;
mod session;

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;

use crate::host::Host;
use crate::registry::mutants::Sources;
use crate::registry::{self, Policy, Registry};
use crate::source::{Source, native_architecture, unprobed};
use cli::args::{Command, CommandLine};
use cli::{BISECT_SKIP, MISUSE, Refusal, reports};
use results::HostFacts;

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
#[derive(Clone, Copy)]
pub struct Suite<'a> {
    sources: &'a [&'a dyn Source],
    host: &'static dyn Host,
    data: Data,
}

impl<'a> Suite<'a> {
    /// The tests of these sources on that host, under that policy.
    pub fn new(sources: &'a [&'a dyn Source], host: &'static dyn Host, data: Data) -> Self {
        Self { sources, host, data }
    }

    /// The front door for `cargo test`: runs the tests as libtest-mimic trials, in workers of their own as
    /// ever. Trials run in threads, so workers are started by exec of this program: it must call this
    /// function first thing.
    pub fn libtest_main(self) -> ExitCode {
        libtest::start(&self)
    }

    /// The command line program. Must be called before the process has a second thread.
    pub fn main(self) -> ExitCode {
        crate::job::become_worker_if_asked(self.sources);
        let line = CommandLine::parse();
        let bisect = line.run.bisect;
        let status = match line.command {
            None if line.run.list => list::list(&self, &line.run),
            None => run::run(&self, &line.run),
            Some(Command::Report(args)) => reports::report(&args),
            Some(Command::Compare(args)) => reports::compare(&args),
            Some(Command::Explain(args)) => explain::explain(&self, &args),
        };
        let status = status.unwrap_or_else(|refusal| {
            let _ = writeln!(std::io::stderr(), "error: {refusal}");
            if bisect { BISECT_SKIP } else { MISUSE }
        });
        ExitCode::from(status)
    }

    /// What is known of the host.
    pub(crate) fn facts(&self) -> Result<HostFacts, Refusal> {
        self.host.facts().map_err(Refusal)
    }

    /// The tests with the policy in `config`, or the built-in one, on a host of which `facts` are known.
    pub(crate) fn registry(
        &self,
        config: Option<&Path>,
        facts: Option<&HostFacts>,
    ) -> Result<Registry, Refusal> {
        let policy = match config {
            None => Policy::built_in(self.data.policy, self.data.prepared),
            Some(path) => {
                let name = path.display().to_string();
                let text =
                    std::fs::read_to_string(path).map_err(|e| Refusal(format!("{name}: {e}")))?;
                Policy::parse(&name, &text)
            }
        };
        let facts = facts.cloned().unwrap_or_else(unprobed);
        let mut tests = Vec::new();
        for source in self.sources {
            tests.extend(source.tests(&facts).map_err(Refusal::of)?);
        }
        Registry::new(tests, policy.map_err(Refusal::of)?).map_err(Refusal::of)
    }
}

/// Whether a test can run on this architecture.
pub(crate) fn is_native(entry: &registry::Entry) -> bool {
    registry::architecture(entry.name()).is_none_or(|arch| arch == native_architecture())
}
