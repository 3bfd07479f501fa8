//! The snapshot store: hosts booted once, saved, and restored for every run.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use lab_init::{Plan, Resume, Wire as _};

use crate::cache::Cache;
use crate::emulator::{self, Mode, Start};
use crate::error::{At as _, LabError, Result};
use crate::initramfs::{Base, GuestFile};
use crate::reserve::{self, Reserve};
use crate::run::Request;
use crate::session::Session;

/// How long snapshots and what they are made of are kept: newer kernels and inits replace them.
const KEEP: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// The store's directory in the cache.
const STORE: &str = "warm";
const INITRAMFS: &str = "initramfs";
/// A host of which this many snapshots did not run boots cold from then on.
const MAX_FAILURES: usize = 2;

/// The host's snapshot, taken if there is none; `None` where it would not run.
pub fn save(cache: &Cache, request: &Request, base: &Base, plan: &Plan) -> Result<Option<PathBuf>> {
    let profile = &request.profile;
    let emulator = emulator::of(profile)?;
    let mut hasher = DefaultHasher::new();
    let identity = emulator.identity(profile)?;
    (&base.archive, &request.kernel.image, identity, format!("{profile:?}")).hash(&mut hasher);
    let place = format!("{STORE}/{}-{:016x}", profile.file_name(), hasher.finish());
    if failures(&cache.path(&place)) >= MAX_FAILURES {
        let file = failures_file(&cache.path(&place));
        let why = "snapshots of this host did not run; starting cold";
        eprintln!("lab: {why} (to try again: rm {})", file.display());
        return Ok(None);
    }
    let saved = cache.once(&place, |fresh| {
        emulator.check(profile)?;
        cache.prune(STORE, KEEP);
        cache.prune("initramfs", KEEP);
        eprintln!("lab: taking a snapshot of {} with {}", profile.name, request.kernel.name);
        let initramfs = fresh.join(INITRAMFS);
        let plan = Plan {
            modules: plan.modules.clone(),
            clocksource: plan.clocksource.clone(),
            snapshot: true,
            ..Plan::default()
        };
        base.complete(&initramfs, &plan, &[])?;
        let run_dir = cache.run_dir()?;
        let started = Instant::now();
        let machine =
            emulator.start(&start(request, &initramfs, run_dir.path(), Mode::Save(fresh)))?;
        Session::new(machine, started, None)?.save(fresh)?;
        Reserve::locate(fresh, &emulator::ram(fresh))
    })?;
    Ok(Some(saved))
}

/// Removes a snapshot that does not run: the state that it was taken in may be chance.
pub fn discard(saved: &Path) -> Result<()> {
    let count = failures(saved) + 1;
    // Another lab may have been faster.
    let _ = fs::remove_dir_all(saved);
    fs::write(failures_file(saved), count.to_string()).at(saved)
}

fn failures(saved: &Path) -> usize {
    let text = fs::read_to_string(failures_file(saved)).unwrap_or_default();
    text.parse().unwrap_or(0)
}

fn failures_file(saved: &Path) -> PathBuf {
    saved.with_extension("failures")
}

/// Restores the snapshot with a fresh runner, which starts at once.
pub fn restore(
    cache: &Cache,
    request: &Request,
    saved: &Path,
    plan: &Plan,
    files: &[GuestFile],
) -> Result<Session> {
    let run_dir = cache.run_dir()?;
    let reserve = Reserve::load(saved)?;
    let contents = reserve::contents(files)?;
    let started = Instant::now();
    let mode = Mode::Restore(saved);
    let mut machine = emulator::of(&request.profile)?.start(&start(
        request,
        &saved.join(INITRAMFS),
        run_dir.path(),
        mode,
    ))?;
    let process = machine.child.id();
    // The host looks for its files only when it has been resumed.
    std::thread::scope(|scope| {
        let filler = scope.spawn(|| reserve.fill(process, &emulator::ram(saved), files));
        if let Some(control) = &mut machine.control {
            control.restore(saved)?;
        }
        filler.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    if let Some(results) = &mut machine.results {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_err(|error| LabError::Other(error.to_string()))?;
        let resume = Resume { now, files: contents, plan: plan.clone() };
        results.write_all(resume.encode().as_bytes()).at("result port")?;
    }
    Session::new(machine, started, request.console_log.as_deref())
}

fn start<'a>(
    request: &'a Request,
    initramfs: &'a Path,
    scratch: &'a Path,
    mode: Mode<'a>,
) -> Start<'a> {
    Start {
        profile: &request.profile,
        kernel: &request.kernel,
        initramfs,
        scratch,
        mode,
        interactive: false,
    }
}
