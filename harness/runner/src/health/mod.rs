//! The host kernel's health: its taint flags and the complaints in its log.

mod complaint;

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use results::trouble;

pub use complaint::Complaint;

/// Names of the taint bits, from bit 0.
const TAINT_LETTERS: &[u8] = b"PFSRMBUDAWCIOELKXTNJ";
/// What the kernel taints itself with when it finds itself in the wrong: a bad page, a death, a warning, a
/// lockup. The others tell what modules, tools and firmware do.
const TROUBLE: u64 = 1 << 5 | 1 << 7 | 1 << 9 | 1 << 14;

/// What is looked at after each test. Its descriptors stay open for the run.
#[derive(Debug)]
pub struct Health {
    taint: Option<File>,
    tainted: u64,
    kmsg: Option<File>,
    /// On the heap, where it costs the forks nothing.
    record: Vec<u8>,
    /// What was read and not asked for yet; the last may go on.
    read: Vec<Complaint>,
}

impl Health {
    /// Starts from the kernel's state of now.
    pub fn open() -> Self {
        let kmsg = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")
            .and_then(|mut file| file.seek(SeekFrom::End(0)).map(|_| file))
            .ok();
        Self::of(File::open("/proc/sys/kernel/tainted").ok(), kmsg)
    }

    /// Looks at these instead: a file with the taint, and a log that gives one
    /// record a read and never blocks.
    pub fn of(taint: Option<File>, kmsg: Option<File>) -> Self {
        let mut health = Self { taint, tainted: 0, kmsg, record: vec![0; 8192], read: Vec::new() };
        health.tainted = health.read_taint().unwrap_or(0);
        health
    }

    /// Whether the kernel's log can be read here.
    pub fn sees_log(&self) -> bool {
        self.kmsg.is_some()
    }

    /// Readable when [`Health::listen`] has something to hear.
    pub fn log(&self) -> Option<BorrowedFd<'_>> {
        self.kmsg.as_ref().map(File::as_fd)
    }

    /// The kernel's complaints since the last look; empty when all is well.
    pub fn look(&mut self) -> Vec<Complaint> {
        self.listen();
        let mut complaints = std::mem::take(&mut self.read);
        complaints.retain(Complaint::has_begun);
        let now = self.read_taint().unwrap_or(self.tainted);
        let new = now & !self.tainted;
        if new & TROUBLE != 0 {
            let line = format!(
                "kernel taint went from {} to {now} ({})",
                self.tainted,
                taint_letters(new)
            );
            // Each complaint may be the one that taints. A taint alone is of one that nobody could read.
            match complaints.is_empty() {
                true => complaints.push(Complaint::unsigned(line)),
                false => complaints.iter_mut().for_each(|c| c.lines.push(line.clone())),
            }
        }
        self.tainted = now;
        complaints
    }

    fn read_taint(&self) -> Option<u64> {
        let mut text = [0; 32];
        let got = self.taint.as_ref()?.read_at(&mut text, 0).ok()?;
        std::str::from_utf8(&text[..got]).ok()?.trim().parse().ok()
    }

    /// Reads what is new in the log: soon after it was written, when its threads are there still.
    pub fn listen(&mut self) {
        let Some(kmsg) = &mut self.kmsg else { return };
        loop {
            match kmsg.read(&mut self.record) {
                Ok(0) => break,
                Ok(got) => {
                    let Some(line) = message(&self.record[..got]) else { continue };
                    match self.read.last_mut() {
                        // The line above a complaint's first begins it; more signs may follow.
                        Some(last) if !last.has_ended() && !line.contains(trouble::CUT_HERE) => {
                            last.push(line);
                        }
                        _ if trouble::begins(&line) => self.read.push(Complaint::new(line)),
                        _ => {}
                    }
                }
                // EPIPE: the ring went over us; the next read starts at its oldest record.
                Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::Interrupted) => {}
                Err(_) => break,
            }
        }
    }
}

/// The text of one kmsg record (`prefix;text\n KEY=value…`) that the kernel itself wrote.
fn message(record: &[u8]) -> Option<String> {
    let record = String::from_utf8_lossy(record);
    let (prefix, rest) = record.split_once(';')?;
    let priority: u32 = prefix.split(',').next()?.parse().ok()?;
    // The facility is 0 for the kernel; userspace that writes to /dev/kmsg is told apart by it.
    (priority >> 3 == 0).then(|| rest.lines().next().unwrap_or_default().to_owned())
}

fn taint_letters(bits: u64) -> String {
    TAINT_LETTERS
        .iter()
        .enumerate()
        .filter(|(bit, _)| bits & (1 << bit) != 0)
        .map(|(_, letter)| char::from(*letter))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn only_the_kernels_own_records_count() {
        assert_eq!(message(b"4,1,2,-;BUG: x\n SUBSYSTEM=y\n").as_deref(), Some("BUG: x"));
        assert_eq!(message(b"12,1,2,-;BUG: x\n"), None);
    }

    #[test]
    fn taint_bits_have_letters() {
        assert_eq!(taint_letters(1 << 9 | 1 << 7), "DW");
    }

    fn lines(complaints: Vec<Complaint>) -> Vec<String> {
        complaints.into_iter().flat_map(|complaint| complaint.lines).collect()
    }

    /// A log of whole records, as /dev/kmsg gives them.
    fn log() -> (UnixDatagram, Health, File) {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut taint = tempfile::tempfile().unwrap();
        taint.write_all(b"4096\n").unwrap();
        let health =
            Health::of(Some(taint.try_clone().unwrap()), Some(OwnedFd::from(theirs).into()));
        (ours, health, taint)
    }

    #[test]
    fn a_complaint_is_kept_from_its_first_line_on() {
        let (log, mut health, _taint) = log();
        for line in [
            "6,1,10,-;kvm: chatter",
            "4,2,11,-;WARNING: CPU: 0 PID: 7 at arch/x86/kvm/mmu.c:5 f+0x1/0x2 [kvm]",
            "4,3,12,c;Modules linked in: kvm",
            "12,4,13,-;userspace says BUG: too",
            "4,5,14,-;---[ end trace ]---\n SUBSYSTEM=cpu",
        ] {
            log.send(line.as_bytes()).unwrap();
        }
        assert_eq!(
            lines(health.look()),
            [
                "WARNING: CPU: 0 PID: 7 at arch/x86/kvm/mmu.c:5 f+0x1/0x2 [kvm]",
                "Modules linked in: kvm",
                "---[ end trace ]---"
            ]
        );
        assert_eq!(health.look(), [], "told once");
    }

    #[test]
    fn new_taint_is_told_once() {
        let (_log, mut health, taint) = log();
        assert_eq!(health.look(), [], "old taint is no news");
        taint.write_all_at(b"4608\n", 0).unwrap();
        let complaints = health.look();
        assert!(complaints[0].is_of_kvm(), "nobody could read whose it is");
        assert_eq!(lines(complaints), ["kernel taint went from 4096 to 4608 (W)"]);
        assert_eq!(health.look(), []);
    }

    #[test]
    fn taints_by_modules_tools_and_firmware_are_no_complaints() {
        let (_log, mut health, taint) = log();
        // P, S, M, O, E, K, J.
        let bits = 1 | 1 << 2 | 1 << 4 | 1 << 12 | 1 << 13 | 1 << 15 | 1 << 19;
        taint.write_all_at(format!("{bits}\n").as_bytes(), 0).unwrap();
        assert_eq!(health.look(), []);
        assert_eq!(taint_letters(1 << 19), "J");
    }

    #[test]
    fn complaints_end_where_the_next_begins() {
        let (log, mut health, taint) = log();
        taint.write_all_at(b"4608\n", 0).unwrap();
        for line in [
            "4,1,10,-;------------[ cut here ]------------",
            "4,2,11,-;WARNING: CPU: 0 PID: 7 at drivers/usb/x.c:5 f+0x1/0x2 [usb]",
            "4,3,12,-;---[ end trace 0000 ]---",
            "6,4,13,-;usb: chatter",
            "4,5,14,-;------------[ cut here ]------------",
            "4,6,15,-;WARNING: CPU: 0 PID: 7 at arch/x86/kvm/mmu.c:5 f+0x1/0x2 [kvm]",
        ] {
            log.send(line.as_bytes()).unwrap();
        }
        let [usb, kvm] = health.look().try_into().unwrap();
        assert!(!usb.is_of_kvm() && kvm.is_of_kvm(), "{usb:?} {kvm:?}");
        assert_eq!(usb.lines.len(), 4, "{usb:?}");
        assert_eq!(kvm.lines.last().unwrap(), "kernel taint went from 4096 to 4608 (W)");
    }

    #[test]
    fn a_quiet_host_has_no_complaints() {
        assert_eq!(Health::open().look(), []);
    }
}
