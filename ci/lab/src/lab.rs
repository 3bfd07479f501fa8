//! One run: boot, run the runner, pass its lines on, say how it ended.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use lab_init::{Module, Plan, RUNNER_PATH};
use nix::sys::signal::Signal;

use crate::cache::Cache;
use crate::emulator::{self, Mode, Start};
use crate::error::{LabError, Result};
use crate::initramfs::{Base, GuestFile};
use crate::kernel::Kernel;
use crate::profile::{Emulator, Profile};
use crate::session::Session;
use crate::{room, toolchain, warm};

/// How long a restored host may take to its first report, on a busy machine too.
const AWAKENING: Duration = Duration::from_secs(5);

/// What to run, and on what.
#[derive(Clone, Debug)]
pub struct Request {
    /// The host.
    pub profile: Profile,
    /// Its kernel.
    pub kernel: Kernel,
    /// A static program of the host's architecture.
    pub runner: PathBuf,
    /// Its arguments.
    pub argv: Vec<String>,
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// More files to put into the host.
    pub files: Vec<(String, PathBuf)>,
    /// From the runner's start to its end; the host's boot has a limit of its own.
    pub timeout: Duration,
    /// How long the runner may say nothing before the host counts as hanging.
    pub patience: Duration,
    /// Where the kernel's console goes; nowhere if absent.
    pub console_log: Option<PathBuf>,
    /// Run the program without `/dev/kvm` too.
    pub kvm_optional: bool,
    /// Restore a checkpoint of the booted host, which is made when there is none, where the
    /// emulator can.
    pub warm: bool,
}

/// What happens while the host runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The host's init runs.
    Booted {
        /// From the start of the emulator, here.
        after: Duration,
        /// By the host's own clock.
        guest_ms: u64,
        /// `uname -r` of the host.
        release: &'a str,
    },
    /// A fact of the host, such as a module parameter.
    Fact(&'a str, &'a str),
    /// The runner starts now.
    Started {
        /// From the start of the emulator.
        after: Duration,
    },
    /// A line of the runner's standard output, without its newline.
    Line(&'a str),
    /// A line of the runner's standard error.
    Stderr(&'a str),
    /// A line of the kernel's console.
    Console(&'a str),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The runner ended by itself.
    Exited(i32),
    /// A signal ended the runner.
    Killed(i32),
    /// The host has no usable `/dev/kvm`.
    NoKvm(String),
    /// The host's kernel died; the lines so far are good.
    KernelDied {
        /// The console from the first sign of trouble.
        log: String,
    },
    /// The emulator died under a living host.
    EmulatorDied {
        /// Its exit status and what it said.
        why: String,
        /// The end of the console.
        log: String,
    },
    /// The time was up.
    TimedOut {
        /// The end of the console.
        log: String,
    },
    /// The host's init could not do its work.
    HostFailed(String),
    /// A signal told the lab to stop; the lines so far are good.
    Interrupted(Signal),
}

/// Starts hosts.
#[derive(Debug)]
pub struct Lab {
    cache: Cache,
}

impl Lab {
    /// A lab that keeps its things in the cache.
    #[must_use]
    pub fn new(cache: Cache) -> Self {
        Self { cache }
    }

    /// The cache.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Boots the host, runs the runner, and blocks until one of them has ended. The emulator dies
    /// with the calling thread.
    ///
    /// # Errors
    /// The host could not even be started.
    pub fn run(&self, request: &Request, on_event: &mut dyn FnMut(Event<'_>)) -> Result<Outcome> {
        let profile = &request.profile;
        if let Some(why) = profile.no_kvm.as_ref().filter(|_| !request.kvm_optional) {
            return Ok(Outcome::NoKvm(why.clone()));
        }
        if profile.emulator == Emulator::Native {
            return Err(LabError::Other("the native host needs no lab".into()));
        }
        let files = guest_files(request);
        let warm = request.warm && emulator::can_park(profile);
        let fits = room::holds(&room::contents(&files)?);
        if warm && !fits {
            eprintln!("lab: the runner is too large for a restored host; starting cold");
        }
        let warm = warm && fits;
        if !warm {
            emulator::check(profile)?; // A checkpoint was made by an emulator that was good enough.
        }
        let base = self.base(profile, &request.kernel)?;
        let plan = plan(request, &base);
        let parked = match warm.then(|| warm::park(&self.cache, request, &base, &plan)) {
            Some(Ok(parked)) => parked,
            Some(Err(error)) => {
                eprintln!("lab: no checkpoint can be made; starting cold: {error}");
                None
            }
            None => None,
        };
        if let Some(parked) = parked {
            match warm::restore(&self.cache, request, &parked, &plan, &files) {
                Ok(mut session) => match session.awakes(AWAKENING) {
                    true => return session.follow(request, on_event),
                    false => eprintln!("lab: the restored host stands still; starting cold"),
                },
                Err(error) => eprintln!("lab: a checkpoint is bad; starting cold: {error}"),
            }
            warm::bury(&parked)?;
        }
        let run_dir = self.cache.run_dir()?;
        let initramfs = run_dir.path().join("initramfs");
        base.complete(&initramfs, &plan, &files)?;
        let started = Instant::now();
        let machine = emulator::start(&Start {
            profile,
            kernel: &request.kernel,
            initramfs: &initramfs,
            scratch: run_dir.path(),
            mode: Mode::Cold,
            interactive: false,
        })?;
        Session::new(machine, started, request.console_log.as_deref())?.follow(request, on_event)
    }

    pub(crate) fn base(&self, profile: &Profile, kernel: &Kernel) -> Result<Base> {
        let init = toolchain::lab_init(&self.cache, profile.arch)?;
        let mut wanted = emulator::transport_modules(profile).to_vec();
        wanted.extend(profile.modules.keys().map(String::as_str));
        Base::prepare(&self.cache, kernel, &init, &wanted)
    }
}

fn guest_files(request: &Request) -> Vec<GuestFile> {
    let runner =
        GuestFile { path: RUNNER_PATH.into(), source: request.runner.clone(), executable: true };
    let others = request.files.iter().map(|(path, source)| GuestFile {
        path: path.clone(),
        source: source.clone(),
        executable: true,
    });
    std::iter::once(runner).chain(others).collect()
}

fn plan(request: &Request, base: &Base) -> Plan {
    let profile = &request.profile;
    let mut argv = vec![RUNNER_PATH.to_owned()];
    argv.extend(request.argv.iter().cloned());
    Plan {
        modules: base.modules.iter().map(|module| with_params(module, profile)).collect(),
        argv,
        env: environment(request),
        kvm_optional: request.kvm_optional,
        clocksource: profile.clocksource.clone(),
        result_device: emulator::result_device(profile).map(str::to_owned),
        ..Plan::default()
    }
}

/// The runner's environment: what the request says, and the profile's quirks.
fn environment(request: &Request) -> Vec<(String, String)> {
    let quirks = ("KVM_CONFORMANCE_QUIRKS".to_owned(), request.profile.quirks.join(","));
    request.env.iter().cloned().chain([quirks]).collect()
}

pub(crate) fn with_params(module: &Module, profile: &Profile) -> Module {
    let of_profile = profile.modules.iter().find(|(name, _)| name.replace('-', "_") == module.name);
    let mut module = module.clone();
    if let Some((_, params)) = of_profile {
        let params: Vec<_> = params.iter().map(|(name, value)| format!("{name}={value}")).collect();
        module.params = params.join(" ");
        module.needed = true;
    }
    module
}

/// A kernel that has oopsed may hold locks for ever: later tests would stand still for it.
const DIE_AT_ONCE: &str = "oops=panic";

/// The kernel's command line; it carries the module parameters too, for what is built in.
pub(crate) fn command_line(profile: &Profile) -> String {
    let mut words = profile.cmdline.clone();
    words.push(DIE_AT_ONCE.to_owned());
    for (module, params) in &profile.modules {
        let module = module.replace('-', "_");
        words.extend(params.iter().map(|(name, value)| format!("{module}.{name}={value}")));
    }
    words.join(" ")
}
