//! Waiting in a checkpoint, and taking a program from a raw disk after the restore.

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::num::NonZeroUsize;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::time::Duration;

use anyhow::Context as _;
use lab_init::{FEED_BLOCK, FeedFile, FeedHeader, Plan, RUNNER_PATH, STORE};
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::unistd::Pid;

use crate::clock;
use crate::mapping::Mapping;

/// What is read of the disk at once: with luck the header and the whole plan.
const HEAD: usize = 4 * FEED_BLOCK;
/// Room that a runner finds prepared, zeroed and mapped. It leaves the rest as it is: a program may have
/// anything behind its end, and cutting a huge page takes long.
const ROOM: NonZeroUsize = NonZeroUsize::new(16 << 20).unwrap();
/// How often the restored host's tick is tried.
const NR_TICK_TESTS: u32 = 2;
/// A time that no run reaches (seconds).
const FAR_AWAY_S: u64 = 1 << 33;

/// What a checkpointed host waits with: all that the restored one need not do.
#[derive(Debug)]
pub struct Feed {
    disk: File,
    room: Option<Stored>,
    _timers: Vec<TimerFd>,
}

impl Feed {
    /// Opens the disk, whose contents are of no interest yet.
    pub fn open(device: &str) -> anyhow::Result<Self> {
        mount_store();
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(OFlag::O_DIRECT.bits());
        let disk = options.open(device).with_context(|| device.to_owned())?;
        let mut room = Stored::make(RUNNER_PATH, true, ROOM)?;
        room.memory.bytes().fill(0);
        Ok(Self { disk, room: Some(room), _timers: arm_every_cpu()? })
    }

    /// Waits until the lab says that the host was restored, puts the clock right, and reads the plan and
    /// the files from the disk, past every cache.
    pub fn take(mut self, results: &mut File) -> anyhow::Result<Plan> {
        wait(results)?;
        let mut head = Mapping::anonymous(HEAD)?;
        self.disk.read_exact_at(head.bytes(), 0)?;
        let header = FeedHeader::decode(&head.bytes()[..FEED_BLOCK])?;
        let end = FEED_BLOCK + header.plan_bytes;
        let mut offset = end.next_multiple_of(FEED_BLOCK);
        if offset > HEAD {
            head = Mapping::anonymous(offset)?;
            self.disk.read_exact_at(head.bytes(), 0)?;
        }
        let plan = Plan::decode(std::str::from_utf8(&head.bytes()[FEED_BLOCK..end])?)?;
        for file in &header.files {
            self.take_file(file, offset).with_context(|| file.path.clone())?;
            offset += file.bytes.next_multiple_of(FEED_BLOCK);
        }
        Ok(plan)
    }

    /// Reads a file's blocks to where they stay: an emulated processor copies slowly.
    fn take_file(&mut self, file: &FeedFile, offset: usize) -> anyhow::Result<()> {
        let blocks = file.bytes.next_multiple_of(FEED_BLOCK);
        let bytes = NonZeroUsize::new(blocks).unwrap_or(NonZeroUsize::MIN);
        let offset_on_disk = u64::try_from(offset)?;
        if let Some(mut room) = self.room.take_if(|_| file.path == RUNNER_PATH) {
            if bytes > ROOM {
                room = Stored::of(room.file, bytes)?;
            }
            self.disk.read_exact_at(&mut room.memory.bytes()[..blocks], offset_on_disk)?;
            return Ok(());
        }
        if let Some((parent, _)) = file.path.rsplit_once('/') {
            fs::create_dir_all(format!("{parent}/"))?;
        }
        let path = format!("{STORE}/{offset}");
        symlink(&path, &file.path)?;
        let mut stored = Stored::make(&path, file.executable, bytes)?;
        self.disk.read_exact_at(&mut stored.memory.bytes()[..blocks], offset_on_disk)?;
        stored.file.set_len(u64::try_from(file.bytes)?)?;
        Ok(())
    }
}

/// Takes the lab's order, which is the time.
fn wait(results: &mut File) -> anyhow::Result<()> {
    let mut line = Vec::new();
    let mut bytes = [0u8; 64];
    while !line.ends_with(b"\n") {
        match results.read(&mut bytes)? {
            // Nobody holds the other end now.
            0 => std::thread::sleep(Duration::from_millis(5)),
            count => line.extend_from_slice(&bytes[..count]),
        }
    }
    let text = String::from_utf8_lossy(&line);
    let nanoseconds = text.trim().parse().with_context(|| format!("odd order: {text}"))?;
    clock::set(Duration::from_nanos(nanoseconds))?;
    // Where the tick is dead all the same, this never ends, and the lab boots the host cold.
    for _ in 0..NR_TICK_TESTS {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Queues a wall-clock timer on every processor. Setting the clock then makes each of them program
/// its event device anew, which brings back a tick that an emulator did not restore (the EL2
/// physical timer under QEMU).
fn arm_every_cpu() -> anyhow::Result<Vec<TimerFd>> {
    let mut timers = Vec::new();
    let mut everywhere = CpuSet::new();
    for cpu in 0..std::thread::available_parallelism().map_or(1, usize::from) {
        let mut here = CpuSet::new();
        here.set(cpu)?;
        everywhere.set(cpu)?;
        sched_setaffinity(Pid::from_raw(0), &here)?;
        let timer = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_CLOEXEC)?;
        let when = Expiration::OneShot(TimeSpec::from_duration(Duration::from_secs(FAR_AWAY_S)));
        timer.set(when, TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
        timers.push(timer);
    }
    sched_setaffinity(Pid::from_raw(0), &everywhere)?;
    Ok(timers)
}

/// Puts a file system of huge pages under the files: a fault a page is what an emulated processor spends
/// most of their way here with. Without it they are in small pages.
fn mount_store() {
    let _ = fs::create_dir_all(STORE);
    let _ = mount(Some("tmpfs"), STORE, Some("tmpfs"), MsFlags::empty(), Some("huge=always"));
}

/// A file in the store, mapped.
#[derive(Debug)]
struct Stored {
    file: File,
    memory: Mapping,
}

impl Stored {
    fn make(path: &str, executable: bool, bytes: NonZeroUsize) -> anyhow::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        let file = options.mode(if executable { 0o755 } else { 0o644 }).open(path)?;
        Self::of(file, bytes)
    }

    fn of(file: File, bytes: NonZeroUsize) -> anyhow::Result<Self> {
        file.set_len(u64::try_from(bytes.get())?)?;
        let memory = Mapping::of(&file, bytes)?;
        Ok(Self { file, memory })
    }
}
