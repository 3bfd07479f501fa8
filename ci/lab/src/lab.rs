//! Starting hosts: a snapshot restored, or a cold boot.

use std::time::{Duration, Instant};

use lab_init::{Plan, RUNNER_PATH};

use crate::cache::Cache;
use crate::emulator::{self, Mode, Start};
use crate::error::{LabError, Result};
use crate::initramfs::{Base, GuestFile};
use crate::kernel::Kernel;
use crate::profile::{EmulatorKind, Profile};
use crate::run::{Event, Outcome, Request};
use crate::session::Session;
use crate::{reserve, snapshot, toolchain};

/// How long a restored host may take to its first report, on a busy machine too.
const WAKE_PATIENCE: Duration = Duration::from_secs(5);

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
        if profile.emulator == EmulatorKind::Native {
            return Err(LabError::Other("the native host needs no lab".into()));
        }
        let emulator = emulator::of(profile)?;
        let files = guest_files(request);
        let warm = request.warm && emulator.can_save(profile);
        let fits = reserve::holds(&reserve::contents(&files)?);
        if warm && !fits {
            eprintln!("lab: the runner is too large for a restored host; starting cold");
        }
        let warm = warm && fits;
        if !warm {
            emulator.check(profile)?; // A snapshot was taken by an emulator that was good enough.
        }
        let base = self.base(profile, &request.kernel)?;
        let plan = plan(request, &base, emulator.result_device());
        if warm && let Some(session) = self.wake(request, &base, &plan, &files)? {
            return session.follow(request, on_event);
        }
        let run_dir = self.cache.run_dir()?;
        let initramfs = run_dir.path().join("initramfs");
        base.complete(&initramfs, &plan, &files)?;
        let started = Instant::now();
        let machine = emulator.start(&Start {
            profile,
            kernel: &request.kernel,
            initramfs: &initramfs,
            scratch: run_dir.path(),
            mode: Mode::Cold,
            interactive: false,
        })?;
        Session::new(machine, started, request.console_log.as_deref())?.follow(request, on_event)
    }

    /// A restored host that runs; `None` where the host has to boot cold.
    fn wake(
        &self,
        request: &Request,
        base: &Base,
        plan: &Plan,
        files: &[GuestFile],
    ) -> Result<Option<Session>> {
        let saved = match snapshot::save(&self.cache, request, base, plan) {
            Ok(Some(saved)) => saved,
            Ok(None) => return Ok(None),
            Err(error) => {
                eprintln!("lab: no snapshot can be taken; starting cold: {error}");
                return Ok(None);
            }
        };
        match snapshot::restore(&self.cache, request, &saved, plan, files) {
            Ok(mut session) => match session.wakes(WAKE_PATIENCE) {
                true => return Ok(Some(session)),
                false => eprintln!("lab: the restored host does not run; starting cold"),
            },
            Err(error) => eprintln!("lab: a snapshot is bad; starting cold: {error}"),
        }
        snapshot::discard(&saved)?;
        Ok(None)
    }

    pub(crate) fn base(&self, profile: &Profile, kernel: &Kernel) -> Result<Base> {
        let init = toolchain::lab_init(&self.cache, profile.arch)?;
        let mut wanted = emulator::of(profile)?.transport_modules().to_vec();
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

fn plan(request: &Request, base: &Base, result_device: Option<&str>) -> Plan {
    let mut argv = vec![RUNNER_PATH.to_owned()];
    argv.extend(request.argv.iter().cloned());
    Plan {
        modules: base.modules_of(&request.profile),
        argv,
        env: environment(request),
        kvm_optional: request.kvm_optional,
        clocksource: request.profile.clocksource.clone(),
        result_device: result_device.map(str::to_owned),
        ..Plan::default()
    }
}

/// The runner's environment: what the request says, and the profile's quirks.
fn environment(request: &Request) -> Vec<(String, String)> {
    let quirks = ("KVM_CONFORMANCE_QUIRKS".to_owned(), request.profile.quirks.join(","));
    request.env.iter().cloned().chain([quirks]).collect()
}
