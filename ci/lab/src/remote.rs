//! The remote run: the suite on a host of the lab, with the runner's own command line and reports.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use cli::args::RunArgs;
use cli::exit_status;
use cli::given::Given;
use cli::remote::Remote;
use results::outcome;

use crate::emulator;
use crate::error::{At as _, LabError, Result};
use crate::interrupt;
use crate::kernel::Kernel;
use crate::lab::Lab;
use crate::run::{Event, Outcome, Request};
use crate::toolchain;
use crate::waiting::Waiting;
use crate::{Arch, Cache, Profile};

/// Exit status of a run without tests.
const NOTHING_RAN: u8 = 3;
/// Exit status of an error or misuse.
const EXIT_ERROR: u8 = cli::MISUSE;
/// Boots one after the other that bring no result, at most.
const MOST_IDLE_BOOTS: usize = 3;
/// What is said of a host that starts.
const BOOTING: &str = "booting";
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
    Profile::load(arch.names().default_host)
}

/// Boots the host, runs the tests, boots again after a crash, and reports. Returns the exit status.
///
/// # Errors
///
/// The host cannot be started, or an output cannot be written.
pub fn test(test: &Test) -> Result<u8> {
    let args = &test.run.args;
    let profile = profile(args)?;
    if let Some(why) = &profile.no_kvm {
        eprintln!("skip: {}: {why}", profile.name);
        return Ok(exit_status(NOTHING_RAN, args.bisect));
    }
    // Before anything is fetched or built for it.
    emulator::of(&profile)?.check(&profile)?;
    let cache = Cache::open()?;
    let spec = args.kernel.as_ref().unwrap_or(&profile.kernel);
    let kernel = Kernel::resolve(&spec.parse()?, profile.arch, &cache)?;
    let runner = match &test.runner {
        Some(runner) => runner.clone(),
        None => toolchain::runner(&cache, profile.arch)?,
    };
    if args.list {
        return list(test, &Lab::new(cache), profile, kernel, runner);
    }
    if let Some(status) = refused_here(&runner, profile.arch, &test.run)? {
        return Ok(exit_status(status, args.bisect));
    }
    interrupt::take()?;
    let lab = Lab::new(cache);
    let mut remote = Remote::new(&test.run).map_err(LabError::Other)?;
    let booting = format!("{BOOTING} {} with {}", profile.name, kernel.name);
    let mut idle_boots = 0;
    while idle_boots < MOST_IDLE_BOOTS {
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
        let before = remote.results();
        let mut started = false;
        let mut errors = Vec::new();
        remote.waiting(&booting, "");
        let end = lab.run(&request, &mut |event| match event {
            Event::Line(line) => remote.line(line),
            // The inner console; its errors are printed below if there is no summary.
            Event::Stderr(line) => errors.push(line.to_owned()),
            Event::Started { .. } => started = true,
            Event::Console(line) if !started => remote.waiting(&booting, line),
            _ => {}
        });
        let end = match end {
            Ok(end) => end,
            Err(error) if remote.results() == 0 => return Err(error),
            // What is known so far is not lost.
            Err(error) => {
                remote.cut_short(&error.to_string());
                break;
            }
        };
        if remote.is_complete() {
            break;
        }
        if let Outcome::Interrupted(signal) = end {
            remote.interrupted(signal.as_str(), signal as u8);
            break;
        }
        let again = match attribute(&mut remote, end, started) {
            Some(again) => again,
            None => {
                errors.iter().for_each(|line| remote.say(line));
                break;
            }
        };
        idle_boots = if remote.results() > before + again.own_results { 0 } else { idle_boots + 1 };
        if idle_boots < MOST_IDLE_BOOTS {
            remote.say(&format!("{}; booting afresh", again.why));
        } else {
            remote.cut_short(&format!("{}, {MOST_IDLE_BOOTS} times without a result", again.why));
        }
    }
    Ok(remote.finish())
}

/// Lists the tests of the host's architecture: by the runner on this machine or, where that cannot run it,
/// by the runner in the host.
fn list(test: &Test, lab: &Lab, profile: Profile, kernel: Kernel, runner: PathBuf) -> Result<u8> {
    let status = |code: i32| u8::try_from(code).unwrap_or(EXIT_ERROR);
    if Arch::native() == Some(profile.arch) {
        let mut command = Command::new(&runner);
        command.args(["--host=native", "--list"]).args(test.run.local());
        let ended = command.status().at(&runner)?;
        return Ok(status(ended.code().unwrap_or(-1)));
    }
    let (mut argv, files) = test.run.inner().map_err(|e| LabError::Other(e.to_string()))?;
    argv.splice(0..0, ["--host=native", "--list"].map(str::to_owned));
    let mut waiting = Waiting::new(format!("{BOOTING} {}", profile.name));
    let request = Request {
        profile,
        kernel,
        runner,
        argv,
        env: Vec::new(),
        files,
        timeout: LONGEST_RUN,
        patience: Duration::from_secs(test.patience),
        console_log: None,
        kvm_optional: true,
        warm: test.warm,
    };
    interrupt::take()?;
    let end = lab.run(&request, &mut |event| match event {
        // A reader that went away has seen enough.
        Event::Line(line) => drop(writeln!(std::io::stdout(), "{line}")),
        Event::Stderr(line) => eprintln!("{line}"),
        Event::Console(line) => waiting.tick(|| line.to_owned()),
        _ => {}
    })?;
    match end {
        Outcome::Exited(code) => Ok(status(code)),
        Outcome::Interrupted(signal) => Ok(cli::SIGNALLED + signal as u8),
        other => Err(LabError::Other(format!("the host gave no list: {other:?}"))),
    }
}

/// The exit status where the runner itself, on this machine, already refuses the command line: a wrong
/// word is not worth a boot. Only a runner of this machine's architecture can be asked.
fn refused_here(runner: &Path, arch: Arch, run: &Given) -> Result<Option<u8>> {
    if Arch::native() != Some(arch) {
        return Ok(None);
    }
    let mut command = Command::new(runner);
    command.args(["--host=native", "--list"]).args(run.local()).stdin(Stdio::null());
    let output = command.output().at(runner)?;
    let status = output.status.code().and_then(|code| u8::try_from(code).ok());
    Ok(match status {
        Some(0) => None,
        Some(NOTHING_RAN) => {
            eprintln!("no test is selected");
            status
        }
        _ => {
            eprint!("{}", String::from_utf8_lossy(&output.stderr));
            status.or(Some(EXIT_ERROR))
        }
    })
}

/// Why the host is booted again.
struct Again {
    why: String,
    /// Results that stand for the death itself.
    own_results: usize,
}

/// Attributes the host's end to the test that ran, or to a result of its own; `None` where another boot
/// would end in the same way.
fn attribute(remote: &mut Remote, end: Outcome, started: bool) -> Option<Again> {
    use outcome::Outcome::{Error, HostBug};
    let (verdict, why, log) = match end {
        Outcome::KernelDied { log } => (HostBug, "the host's kernel died".into(), log),
        Outcome::EmulatorDied { why, log } => (Error, format!("the emulator died: {why}"), log),
        Outcome::Hung { why, log } => (HostBug, format!("the host hangs: {why}"), log),
        Outcome::TimedOut { log } => (HostBug, "the host takes too long".into(), log),
        Outcome::Killed(signal) => {
            (Error, format!("signal {signal} killed the runner"), String::new())
        }
        Outcome::NoKvm(why) => {
            remote.cut_short(&format!("no KVM in this host: {why}"));
            return None;
        }
        Outcome::HostFailed(why) => {
            remote.cut_short(&format!("the host's init failed: {why}"));
            return None;
        }
        Outcome::Interrupted(_) => return None,
        Outcome::Exited(code) => {
            let why = format!("the runner in the host ended with {code} and without a summary");
            remote.cut_short(&why);
            return None;
        }
    };
    if let Some(test) = remote.died(verdict, &why, &log) {
        return Some(Again { why: format!("{test} took the host with it"), own_results: 0 });
    }
    if !started {
        remote.say(&log);
        remote.cut_short(&format!("{why} before the runner started"));
        return None;
    }
    remote.died_between_tests(verdict, &why, &log);
    Some(Again { why: format!("{why} between two tests"), own_results: 1 })
}
