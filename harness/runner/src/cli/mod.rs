//! The front doors: the command line program and the one for `cargo test`.

mod explain;
mod libtest;
mod list;
mod run;
mod session;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::host::Host;
use crate::registry::mutants::Sources;
use crate::registry::{self, Policy, Registry};
use crate::source::{Programs, Source, native_architecture, unprobed};
use crate::test::Test;
use cli::args::{Command, CommandLine, ExplainArgs, RunArgs};
use cli::{MISUSE, Refusal, exit_status, process, reports};
use results::HostFacts;

/// What a front door knows beside its tests.
#[derive(Clone, Copy, Debug)]
pub struct Data {
    /// Name and text of the policy, `unittests.yaml`, and of the files that it includes.
    pub policy: &'static [(&'static str, &'static str)],
    /// What they say of this architecture, as JSON, which is read many times as fast; may be empty.
    pub prepared: &'static str,
    /// Names of the lab's host profiles.
    pub profiles: &'static [&'static str],
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
        let line: CommandLine = match process::parse() {
            Ok(line) => line,
            Err(status) => return ExitCode::from(status),
        };
        let bisect = line.run.args.bisect;
        let status = match line.command {
            None if line.run.args.list => list::list(&self, &line.run.args),
            None => run::run(&self, &line.run),
            Some(Command::Report(args)) => reports::report(&args),
            Some(Command::Compare(args)) => reports::compare(&args),
            Some(Command::Explain(args)) => explain::explain(&self, &args),
        };
        let status = status.unwrap_or_else(|refusal| {
            let _ = writeln!(std::io::stderr(), "error: {refusal}");
            exit_status(MISUSE, bisect)
        });
        ExitCode::from(status)
    }

    /// What is known of the host.
    pub(crate) fn facts(&self) -> Result<HostFacts, Refusal> {
        self.host.facts().map_err(Refusal)
    }

    /// The tests and the policy that these files say, on a host of which `facts` are known.
    pub(crate) fn registry(
        &self,
        files: Files<'_>,
        facts: Option<&HostFacts>,
    ) -> Result<Registry, Refusal> {
        let policy = match files.config {
            None => Policy::built_in(self.data.policy, self.data.prepared),
            Some(path) => Policy::read(path),
        };
        let policy = policy.map_err(Refusal::of)?;
        policy.check_hosts(facts, self.data.profiles).map_err(Refusal::of)?;
        if let Some(facts) = facts {
            policy.check_capabilities(facts).map_err(Refusal::of)?;
        }
        Registry::new(self.tests(files.programs, facts)?, policy).map_err(Refusal::of)
    }

    fn tests(&self, lists: &[PathBuf], facts: Option<&HostFacts>) -> Result<Vec<Test>, Refusal> {
        let (unprobed, mut tests) = (unprobed(), Vec::new());
        let lists: Vec<Programs> =
            lists.iter().map(|file| Programs { file: file.clone() }).collect();
        let others = lists.iter().map(|list| list as &dyn Source);
        for source in self.sources.iter().copied().chain(others) {
            let mut more = source.tests(facts.unwrap_or(&unprobed)).map_err(Refusal::of)?;
            // Most often one source has all of them, and they stay where they are.
            if tests.is_empty() {
                tests = more;
            } else {
                tests.append(&mut more);
            }
        }
        Ok(tests)
    }
}

/// Files beside the built-in data.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Files<'a> {
    /// A policy instead of the built-in one.
    config: Option<&'a Path>,
    /// Lists of programs.
    programs: &'a [PathBuf],
}

impl<'a> From<&'a RunArgs> for Files<'a> {
    fn from(args: &'a RunArgs) -> Self {
        Self { config: args.config.as_deref(), programs: &args.programs }
    }
}

impl<'a> From<&'a ExplainArgs> for Files<'a> {
    fn from(args: &'a ExplainArgs) -> Self {
        Self { config: args.config.as_deref(), programs: &args.programs }
    }
}

/// What means another host than this one is refused: this program has but the one.
pub(crate) fn check_host(args: &RunArgs) -> Result<(), Refusal> {
    let is_native = args.host.as_deref() == Some("native");
    if let Some(host) = args.host.as_ref().filter(|_| !is_native) {
        let why = "is booted by the lab, which `./run_tests.sh` starts and this program does not";
        return Err(Refusal(format!("host `{host}` {why}")));
    }
    if args.kernel.is_some() {
        let why = "names the kernel of an emulated host; this machine runs its own";
        return Err(Refusal(format!("--kernel {why}")));
    }
    match &args.arch {
        Some(arch) if arch != native_architecture() => {
            let own = native_architecture();
            Err(Refusal(match is_native {
                true => format!("--arch {arch} with --host native: this machine is {own}"),
                false => format!("this program has the tests of {own}, not those of {arch}"),
            }))
        }
        _ => Ok(()),
    }
}

/// Whether a test can run on this architecture.
pub(crate) fn is_native(test: &Test) -> bool {
    registry::architecture(test.name()).is_none_or(|arch| arch == native_architecture())
}
