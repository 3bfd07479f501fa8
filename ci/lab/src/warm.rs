//! Hosts that start from a checkpoint: booted once, restored for every run.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use lab_init::{Order, Plan};

use crate::cache::Cache;
use crate::emulator::{self, Mode, Start};
use crate::error::{At as _, LabError, Result};
use crate::initramfs::{Base, GuestFile};
use crate::lab::Request;
use crate::room::{self, Room};
use crate::session::Session;

/// How long checkpoints and what they are made of are kept: newer kernels and inits replace them.
const KEEP: Duration = Duration::from_secs(14 * 24 * 60 * 60);
const INITRAMFS: &str = "initramfs";
/// A host of which this many checkpoints did not wake boots cold from then on.
const MOST_DEATHS: usize = 2;

/// Makes the checkpoint, unless there is one; `None` where there is no hope.
pub fn park(cache: &Cache, request: &Request, base: &Base, plan: &Plan) -> Result<Option<PathBuf>> {
    let profile = &request.profile;
    let mut hasher = DefaultHasher::new();
    let emulator = emulator::identity(profile)?;
    (&base.archive, &request.kernel.image, emulator, format!("{profile:?}")).hash(&mut hasher);
    let place = format!("warm/{}-{:016x}", profile.name, hasher.finish());
    if deaths(&cache.path(&place)) >= MOST_DEATHS {
        return Ok(None);
    }
    let parked = cache.once(&place, |fresh| {
        emulator::check(profile)?;
        cache.prune("warm", KEEP);
        cache.prune("initramfs", KEEP);
        eprintln!("lab: making a checkpoint of {} with {}", profile.name, request.kernel.name);
        let initramfs = fresh.join(INITRAMFS);
        let plan = Plan {
            modules: plan.modules.clone(),
            clocksource: plan.clocksource.clone(),
            park: true,
            ..Plan::default()
        };
        base.complete(&initramfs, &plan, &[])?;
        let run_dir = cache.run_dir()?;
        let started = Instant::now();
        let machine =
            emulator::start(&start(request, &initramfs, run_dir.path(), Mode::Park(fresh)))?;
        Session::new(machine, started, None)?.park(fresh)?;
        Room::survey(fresh, &emulator::ram(fresh))
    })?;
    Ok(Some(parked))
}

/// Removes a checkpoint that does not wake: what it was taken in the middle of may be chance.
pub fn bury(parked: &Path) -> Result<()> {
    let count = deaths(parked) + 1;
    // Another lab may have been faster.
    let _ = fs::remove_dir_all(parked);
    fs::write(tombstone(parked), count.to_string()).at(parked)
}

fn deaths(parked: &Path) -> usize {
    let text = fs::read_to_string(tombstone(parked)).unwrap_or_default();
    text.parse().unwrap_or(0)
}

fn tombstone(parked: &Path) -> PathBuf {
    parked.with_extension("deaths")
}

/// Restores the checkpoint with a fresh runner, which starts at once.
pub fn restore(
    cache: &Cache,
    request: &Request,
    parked: &Path,
    plan: &Plan,
    files: &[GuestFile],
) -> Result<Session> {
    let run_dir = cache.run_dir()?;
    let room = Room::load(parked)?;
    let contents = room::contents(files)?;
    let started = Instant::now();
    let mode = Mode::Restore(parked);
    let mut machine =
        emulator::start(&start(request, &parked.join(INITRAMFS), run_dir.path(), mode))?;
    let process = machine.child.id();
    // The host looks into its room only when it is told to.
    std::thread::scope(|scope| {
        let filler = scope.spawn(|| room.fill(process, &emulator::ram(parked), files));
        if let Some(control) = &mut machine.control {
            control.restore(parked)?;
        }
        filler.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    if let Some(results) = &mut machine.results {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_err(|error| LabError::Other(error.to_string()))?;
        let order = Order { now, files: contents, plan: plan.clone() };
        results.write_all(order.encode().as_bytes()).at("result port")?;
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
