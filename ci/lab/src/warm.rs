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

/// Makes the checkpoint, unless there is one.
pub fn park(cache: &Cache, request: &Request, base: &Base, plan: &Plan) -> Result<PathBuf> {
    let profile = &request.profile;
    let mut hasher = DefaultHasher::new();
    let emulator = emulator::identity(profile)?;
    (&base.archive, &request.kernel.image, emulator, format!("{profile:?}")).hash(&mut hasher);
    let place = format!("warm/{}-{:016x}", profile.name, hasher.finish());
    cache.once(&place, |fresh| {
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
        let disk = File::create(&feed).at(&feed)?;
        disk.set_len(FEED_DISK_BYTES).at(&feed)?;
        let started = Instant::now();
        let machine =
            emulator::start(&start(request, &initramfs, run_dir.path(), Mode::Park(fresh), &feed))?;
        Session::new(machine, started, None)?.park(fresh)
    })
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
    write_feed(&feed, plan, files)?;
    let initramfs = parked.join(INITRAMFS);
    let started = Instant::now();
    let mut machine =
        emulator::start(&start(request, &initramfs, run_dir.path(), Mode::Restore(parked), &feed))?;
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

/// Writes the raw disk that the restored host reads.
fn write_feed(path: &Path, plan: &Plan, files: &[GuestFile]) -> Result<()> {
    let wrong = |error: lab_init::PlanError| LabError::Other(error.to_string());
    let plan = plan.encode();
    let mut contents = vec![plan.into_bytes()];
    let mut header = FeedHeader { plan_bytes: contents[0].len(), files: Vec::new() };
    for file in files {
        let content = fs::read(&file.source).at(&file.source)?;
        header.files.push(FeedFile {
            path: file.path.clone(),
            bytes: content.len(),
            executable: file.executable,
        });
        contents.push(content);
    }
    let mut disk = File::create(path).at(path)?;
    disk.write_all(&header.encode().map_err(wrong)?).at(path)?;
    for content in &contents {
        disk.write_all(content).at(path)?;
        let end = disk.stream_position().at(path)?;
        let block = u64::try_from(FEED_BLOCK).unwrap_or(u64::MAX);
        disk.seek(SeekFrom::Start(end.next_multiple_of(block))).at(path)?;
    }
    if disk.stream_position().at(path)? > FEED_DISK_BYTES {
        return Err(LabError::Other("the runner is too long for the feed disk".into()));
    }
    disk.set_len(FEED_DISK_BYTES).at(path)
}
