//! Getting a host ready for its snapshot, and waking up from it.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::time::Duration;

use anyhow::Context as _;
use lab_init::{
    Plan, RESERVE_BYTES, RESERVE_PAGE, RUNNER_PATH, Resume, STORE, StoredFile, Wire as _, is_whole,
    mark,
};
use nix::mount::{MsFlags, mount};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::unistd::Pid;

use crate::clock;

/// How often the restored host's tick is tried.
const NR_TICK_TESTS: u32 = 2;
/// A time that no run reaches (seconds).
const FAR_AWAY_S: u64 = 1 << 33;

/// What a host is saved with: everything that the restored one need not do.
#[derive(Debug)]
pub struct Prepared {
    _timers: Vec<TimerFd>,
}

impl Prepared {
    /// Reserves memory for files, and arms what revives the tick.
    pub fn new() -> anyhow::Result<Self> {
        mount_store();
        reserve_memory().context(RUNNER_PATH)?;
        Ok(Self { _timers: arm_every_cpu()? })
    }

    /// Waits for the lab that has restored the host, sets the clock, and gives every file its path.
    pub fn wait(self, results: &mut File) -> anyhow::Result<Plan> {
        let resume = receive(results)?;
        clock::set(resume.now)?;
        // Where the tick is dead all the same, this never ends, and the lab boots the host cold.
        for _ in 0..NR_TICK_TESTS {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut offset = 0;
        for file in &resume.files {
            place(file, offset).with_context(|| file.path.clone())?;
            offset += file.span();
        }
        Ok(resume.plan)
    }
}

fn receive(results: &mut File) -> anyhow::Result<Resume> {
    let mut text = Vec::new();
    let mut bytes = [0u8; 4096];
    while !is_whole(&text) {
        match results.read(&mut bytes)? {
            // Nobody holds the other end now.
            0 => std::thread::sleep(Duration::from_millis(5)),
            count => text.extend_from_slice(&bytes[..count]),
        }
    }
    Ok(Resume::decode(std::str::from_utf8(&text)?)?)
}

/// The reserved memory is the runner's file: what the runner needs is in its place already, and what
/// is behind a program's end does it no harm. Other files are copied out.
fn place(file: &StoredFile, offset: usize) -> anyhow::Result<()> {
    if file.path == RUNNER_PATH && offset == 0 {
        return Ok(());
    }
    if let Some((parent, _)) = file.path.rsplit_once('/') {
        fs::create_dir_all(format!("{parent}/"))?;
    }
    let mut bytes = vec![0; file.bytes];
    File::open(RUNNER_PATH)?.read_exact_at(&mut bytes, u64::try_from(offset)?)?;
    let mut options = OpenOptions::new();
    let mut copy = options.write(true).create(true).truncate(true).mode(0o755).open(&file.path)?;
    Ok(copy.write_all(&bytes)?)
}

fn reserve_memory() -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o755).open(RUNNER_PATH)?;
    file.set_len(RESERVE_BYTES as u64)?;
    let mut pages = (0..RESERVE_BYTES).step_by(RESERVE_PAGE).enumerate();
    pages.try_for_each(|(index, at)| file.write_all_at(&mark(index), at as u64))
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

/// Mounts a file system with huge pages for the files: most of their way into a restored host is one
/// page fault after the other. Without it they are in small pages.
fn mount_store() {
    let _ = fs::create_dir_all(STORE);
    let _ = mount(Some("tmpfs"), STORE, Some("tmpfs"), MsFlags::empty(), Some("huge=always"));
}
