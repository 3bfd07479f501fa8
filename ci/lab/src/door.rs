//! The suite on a host of the lab, with the runner's own command line and reports.

use std::path::PathBuf;
use std::time::Duration;

use harness::cli::args::RunArgs;
use harness::cli::remote::Remote;
use harness::outcome;

use crate::error::{LabError, Result};
use crate::kernel::Kernel;
use crate::lab::{Event, Lab, Outcome, Request};
use crate::toolchain::{self, Build};
use crate::{Arch, Cache, Profile};

/// Boots after a host's death, at most.
const MOST_BOOTS: usize = 20;
/// A host that says nothing for ever is given up after this.
const LONGEST_RUN: Duration = Duration::from_secs(4 * 3600);

/// Where and what to run.
#[derive(Clone, Debug, clap::Args)]
pub struct Test {
    /// Static runner of the host's architecture [default: built from this workspace].
    #[arg(long)]
    pub runner: Option<PathBuf>,
    /// Start the host from a checkpoint of itself, made by the first such run.
    #[arg(long)]
    pub warm: bool,
    /// The runner's own command line.
    #[command(flatten)]
    pub run: RunArgs,
}

/// The profile that a command line means.
///
/// # Errors
///
/// There is no such profile or architecture.
pub fn profile(run: &RunArgs) -> Result<Profile> {
    if let Some(name) = &run.host {
        return Profile::load(name);
    }
    let arch = match &run.arch {
        Some(arch) => arch.parse().map_err(|e| LabError::Other(format!("--arch {arch}: {e}")))?,
        None => Arch::X86_64,
    };
    Profile::load(default_host(arch))
}

fn default_host(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "amd64-svm",
        Arch::Aarch64 => "arm64-gicv3-vhe",
        Arch::Riscv64 => "riscv64",
        Arch::Ppc64le => "ppc64le-p10",
        Arch::S390x => "s390x-hercules",
    }
}

/// The runner for `arch`: this machine's own as it is built anyway, others without their own debug
/// information (the payload inside keeps its).
fn build(cache: &Cache, arch: Arch) -> Result<PathBuf> {
    let strip = Arch::native() != Some(arch);
    let runner = Build { package: "suites", bin: "kvm-conformance", arch, strip, env: &[] };
    toolchain::build(cache, &runner)
}

/// Boots the host, runs the tests, boots again after a death, and reports. Gives the exit status.
///
/// # Errors
///
/// The host cannot be started, or an output cannot be written.
pub fn test(test: &Test) -> Result<u8> {
    let profile = profile(&test.run)?;
    let cache = Cache::open()?;
    let spec = test.run.kernel.as_ref().unwrap_or(&profile.kernel).parse()?;
    let kernel = Kernel::resolve(&spec, profile.arch, &cache)?;
    let runner = match &test.runner {
        Some(runner) => runner.clone(),
        None => build(&cache, profile.arch)?,
    };
    let lab = Lab::new(cache);
    let mut remote = Remote::new(&test.run).map_err(LabError::Other)?;
    for _ in 0..MOST_BOOTS {
        let request = Request {
            profile: profile.clone(),
            kernel: kernel.clone(),
            runner: runner.clone(),
            argv: remote.inner_arguments(&test.run),
            env: vec![("KVM_CONFORMANCE_PROFILE".into(), profile.name.clone())],
            files: Vec::new(),
            timeout: LONGEST_RUN,
            console_log: None,
            kvm_optional: false,
            warm: test.warm,
        };
        let mut errors = Vec::new();
        let end = lab.run(&request, &mut |event| match event {
            Event::Line(line) => remote.line(line),
            // The inner console; its errors are told below if there is no summary.
            Event::Stderr(line) => errors.push(line.to_owned()),
            _ => {}
        })?;
        if remote.is_complete() {
            break;
        }
        match took_a_test(&mut remote, end) {
            Some(test) => remote.say(&format!("{test} took the host with it; booting afresh")),
            None => {
                errors.iter().for_each(|line| remote.say(line));
                break;
            }
        }
    }
    Ok(remote.finish())
}

/// Attaches the host's death to the test that ran, and names it.
fn took_a_test(remote: &mut Remote, end: Outcome) -> Option<String> {
    let (verdict, why, log) = match end {
        Outcome::KernelDied { log } => {
            (outcome::Outcome::HostBug, "the host's kernel died".into(), log)
        }
        Outcome::EmulatorDied { why, log } => {
            (outcome::Outcome::Error, format!("the emulator died: {why}"), log)
        }
        Outcome::TimedOut { log } => (outcome::Outcome::HostBug, "the host hangs".into(), log),
        Outcome::Killed(signal) => {
            (outcome::Outcome::Error, format!("signal {signal} killed the runner"), String::new())
        }
        Outcome::NoKvm(why) => {
            remote.say(&format!("no KVM in this host: {why}"));
            return None;
        }
        Outcome::HostFailed(why) => {
            remote.say(&format!("the host's init failed: {why}"));
            return None;
        }
        Outcome::Exited(code) => {
            remote.say(&format!("the runner in the host ended with {code} and without a summary"));
            return None;
        }
    };
    let test = remote.died(verdict, &why, &log);
    if test.is_none() {
        remote.say(&format!("{why}\n{log}"));
    }
    test
}
