//! Hosts that start from a checkpoint: booted once, restored for every run.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use lab_init::{FEED_BLOCK, FeedFile, FeedHeader, Plan};

use crate::cache::Cache;
use crate::emulator::{self, FEED_DEVICE, Mode, Start};
use crate::error::{At as _, LabError, Result};
use crate::initramfs::{Base, GuestFile};
use crate::lab::Request;
use crate::session::Session;

/// Size of the feed disk: the checkpoint remembers it, so it is always the same.
const FEED_DISK_BYTES: u64 = 1 << 30;
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
            feed_device: Some(FEED_DEVICE.to_owned()),
            ..Plan::default()
        };
        base.complete(&initramfs, &plan, &[])?;
        let run_dir = cache.run_dir()?;
        let feed = run_dir.path().join("feed");
        make_disk(&feed)?;
        let started = Instant::now();
        let machine =
            emulator::start(&start(request, &initramfs, run_dir.path(), Mode::Park(fresh), &feed))?;
        Session::new(machine, started, None)?.park(fresh)
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
    let feed = run_dir.path().join("feed");
    make_disk(&feed)?;
    let initramfs = parked.join(INITRAMFS);
    let started = Instant::now();
    let start = start(request, &initramfs, run_dir.path(), Mode::Restore(parked), &feed);
    // The host does not run before it is restored: the disk is filled while the emulator gets ready.
    let (machine, fed) = std::thread::scope(|scope| {
        let feeder = scope.spawn(|| write_feed(&feed, plan, files));
        (emulator::start(&start), feeder.join())
    });
    fed.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let mut machine = machine?;
    if let Some(control) = &mut machine.control {
        control.restore(parked)?;
    }
    if let Some(results) = &mut machine.results {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_err(|error| LabError::Other(error.to_string()))?;
        let order = format!("{}\n", now.as_nanos());
        results.write_all(order.as_bytes()).at("result port")?;
    }
    Session::new(machine, started, request.console_log.as_deref())
}

fn start<'a>(
    request: &'a Request,
    initramfs: &'a Path,
    scratch: &'a Path,
    mode: Mode<'a>,
    feed: &'a Path,
) -> Start<'a> {
    Start {
        profile: &request.profile,
        kernel: &request.kernel,
        initramfs,
        scratch,
        mode,
        feed: Some(feed),
        interactive: false,
    }
}

/// Makes an empty disk.
fn make_disk(path: &Path) -> Result<()> {
    File::create(path).and_then(|disk| disk.set_len(FEED_DISK_BYTES)).at(path)
}

/// Fills the raw disk that the restored host reads.
fn write_feed(path: &Path, plan: &Plan, files: &[GuestFile]) -> Result<()> {
    let wrong = |error: lab_init::PlanError| LabError::Other(error.to_string());
    let plan = plan.encode();
    let mut header = FeedHeader { plan_bytes: plan.len(), files: Vec::new() };
    let mut sources = Vec::new();
    for file in files {
        let source = File::open(&file.source).at(&file.source)?;
        let bytes = source.metadata().at(&file.source)?.len();
        header.files.push(FeedFile {
            path: file.path.clone(),
            bytes: usize::try_from(bytes).unwrap_or(usize::MAX),
            executable: file.executable,
        });
        sources.push(source);
    }
    let mut disk = File::options().write(true).open(path).at(path)?;
    disk.write_all(&header.encode().map_err(wrong)?).at(path)?;
    disk.write_all(plan.as_bytes()).at(path)?;
    for source in &mut sources {
        to_next_block(&mut disk).at(path)?;
        // By the kernel alone: this process is about to fork, and has no pages to spare.
        std::io::copy(source, &mut disk).at(path)?;
    }
    if disk.stream_position().at(path)? > FEED_DISK_BYTES {
        return Err(LabError::Other("the runner is too long for the feed disk".into()));
    }
    Ok(())
}

fn to_next_block(disk: &mut File) -> std::io::Result<u64> {
    let block = u64::try_from(FEED_BLOCK).unwrap_or(u64::MAX);
    let end = disk.stream_position()?;
    disk.seek(SeekFrom::Start(end.next_multiple_of(block)))
}
