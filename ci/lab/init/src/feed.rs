//! Waiting in a checkpoint, and taking a program from a raw disk after the restore.

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::time::Duration;

use anyhow::Context as _;
use lab_init::{FEED_BLOCK, FeedHeader, Plan};
use nix::fcntl::OFlag;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::unistd::Pid;

use crate::clock;

/// How much is read from the disk at once.
const CHUNK_BYTES: usize = 256 * FEED_BLOCK;
/// A time that no run reaches (seconds).
const FAR_AWAY_S: u64 = 1 << 33;

/// Waits until the lab says that the host was restored, and puts the clock right.
pub fn wait(results: &mut File) -> anyhow::Result<()> {
    let _timers = arm_every_cpu()?;
    let mut line = Vec::new();
    let mut byte = [0u8];
    while byte != [b'\n'] {
        match results.read(&mut byte)? {
            // Nobody holds the other end now.
            0 => std::thread::sleep(Duration::from_millis(5)),
            _ => line.push(byte[0]),
        }
    }
    let text = String::from_utf8_lossy(&line);
    let nanoseconds = text.trim().parse().with_context(|| format!("odd order: {text}"))?;
    clock::set(Duration::from_nanos(nanoseconds))?;
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

/// Reads the plan and the files from the disk, past every cache.
pub fn take(device: &str) -> anyhow::Result<Plan> {
    let disk = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_DIRECT.bits())
        .open(device)
        .with_context(|| device.to_owned())?;
    let mut disk = Disk { disk, offset: 0, buffer: vec![0; CHUNK_BYTES + FEED_BLOCK] };
    let header = FeedHeader::decode(disk.read(FEED_BLOCK)?)?;
    let plan = disk.read_all(header.plan_bytes)?;
    let plan = Plan::decode(&String::from_utf8(plan)?)?;
    for file in &header.files {
        if let Some((parent, _)) = file.path.rsplit_once('/') {
            fs::create_dir_all(format!("{parent}/"))?;
        }
        let content = disk.read_all(file.bytes)?;
        fs::write(&file.path, content).with_context(|| file.path.clone())?;
        let mode = if file.executable { 0o755 } else { 0o644 };
        fs::set_permissions(&file.path, fs::Permissions::from_mode(mode))?;
    }
    Ok(plan)
}

struct Disk {
    disk: File,
    offset: u64,
    buffer: Vec<u8>,
}

impl Disk {
    /// Reads whole blocks into a part of the buffer that is aligned as `O_DIRECT` wants it.
    fn read(&mut self, bytes: usize) -> anyhow::Result<&[u8]> {
        let start = self.buffer.as_ptr().align_offset(FEED_BLOCK);
        let part = &mut self.buffer[start..start + bytes];
        self.disk.read_exact_at(part, self.offset)?;
        self.offset += u64::try_from(bytes)?;
        Ok(part)
    }

    fn read_all(&mut self, bytes: usize) -> anyhow::Result<Vec<u8>> {
        let mut content = Vec::with_capacity(bytes);
        while content.len() < bytes {
            let rest = bytes - content.len();
            let chunk = rest.next_multiple_of(FEED_BLOCK).min(CHUNK_BYTES);
            let read = self.read(chunk)?;
            content.extend_from_slice(&read[..rest.min(chunk)]);
        }
        Ok(content)
    }
}
