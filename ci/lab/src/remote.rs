//! The remote run: the suite on a host of the lab, with the runner's own command line and reports.

use std::path::PathBuf;
use std::time::Duration;

use cli::args::RunArgs;
use cli::given::Given;
use cli::remote::Remote;
use results::outcome;

use crate::emulator;
use crate::error::{LabError, Result};
use crate::interrupt;
use crate::kernel::Kernel;
use crate::lab::Lab;
use crate::run::{Event, Outcome, Request};
use crate::toolchain;
use crate::{Arch, Cache, Profile};

/// Exit status of a run without tests.
const NOTHING_RAN: u8 = 3;
/// Boots after a crash of the host, at most.
const MOST_BOOTS: usize = 20;
/// No run on one boot takes longer.
const LONGEST_RUN: Duration = Duration::from_secs(4 * 3600);

/// Where and what to run.
#[derive(Clone, Debug, clap::Args)]
pub struct Test {
    /// Static runner of the host's architecture [default: built from this workspace].
    #[arg(long)]
    pub runner: Option<PathBuf>,
    /// Start the host from a snapshot of itself, taken by the first such run.
    #[arg(long)]
    pub warm: bool,
    /// Seconds that the host may be silent, beyond what the deadline of the running test explains,
    /// before it counts as hanging.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub patience: u64,
    /// The runner's own command line.
    #[command(flatten)]
    pub run: Given,
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
    Profile::load(Profile::default_for(arch))
}

/// Boots the host, runs the tests, boots again after a crash, and reports. Returns the exit status.
///
/// # Errors
///
/// The host cannot be started, or an output cannot be written.
pub fn test(test: &Test) -> Result<u8> {
    let profile = profile(&test.run.args)?;
    if let Some(why) = &profile.no_kvm {
        eprintln!("skip: {}: {why}", profile.name);
        return Ok(NOTHING_RAN);
    }
    // Before anything is fetched or built for it.
    emulator::of(&profile)?.check(&profile)?;
    let cache = Cache::open()?;
    let spec = test.run.args.kernel.as_ref().unwrap_or(&profile.kernel);
    let kernel = Kernel::resolve(&spec.parse()?, profile.arch, &cache)?;
    let runner = match &test.runner {
        Some(runner) => runner.clone(),
        None => toolchain::runner(&cache, profile.arch)?,
    };
    interrupt::take()?;
    let lab = Lab::new(cache);
    let mut remote = Remote::new(&test.run.args).map_err(LabError::Other)?;
    for _ in 0..MOST_BOOTS {
        let order = remote.order(&test.run).map_err(|e| LabError::Other(e.to_string()))?;
        let request = Request {
            profile: profile.clone(),
            kernel: kernel.clone(),
            runner: runner.clone(),
            argv: order.arguments.clone(),
            env: vec![
                ("KVM_CONFORMANCE_PROFILE".into(), profile.name.clone()),
                ("KVM_CONFORMANCE_KERNEL_SPEC".into(), spec.to_string()),
            ],
            files: order.files.clone(),
            timeout: LONGEST_RUN,
            patience: Duration::from_secs(test.patience),
            console_log: None,
            kvm_optional: false,
            warm: test.warm,
        };
        let mut errors = Vec::new();
        let end = lab.run(&request, &mut |event| match event {
            Event::Line(line) => remote.line(line),
            // The inner console; its errors are printed below if there is no summary.
            Event::Stderr(line) => errors.push(line.to_owned()),
            _ => {}
        })?;
        if remote.is_complete() {
            break;
        }
        if let Outcome::Interrupted(signal) = end {
            remote.interrupted(signal.as_str());
            break;
        }
        match attribute_crash(&mut remote, end) {
            Some(test) => remote.say(&format!("{test} took the host with it; booting afresh")),
            None => {
                errors.iter().for_each(|line| remote.say(line));
                break;
            }
        }
    }
    Ok(remote.finish())
}

/// Attributes the host's crash to the test that ran, and names that test.
fn attribute_crash(remote: &mut Remote, end: Outcome) -> Option<String> {
    let (verdict, why, log) = match end {
        Outcome::KernelDied { log } => {
            (outcome::Outcome::HostBug, "the host's kernel died".into(), log)
        }
        Outcome::EmulatorDied { why, log } => {
            (outcome::Outcome::Error, format!("the emulator died: {why}"), log)
        }
        Outcome::Hung { why, log } => {
            (outcome::Outcome::HostBug, format!("the host hangs: {why}"), log)
        }
        Outcome::TimedOut { log } => {
            (outcome::Outcome::HostBug, "the host takes too long".into(), log)
        }
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
        Outcome::Interrupted(_) => return None,
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
