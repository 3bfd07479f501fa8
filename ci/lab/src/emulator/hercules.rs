//! Hercules, the emulator with SIE. It loads a kernel by a list of files and addresses. Its console
//! loses lines, so results come on a tape, whose file grows block by block.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::process::{Command, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::machine::{Emulator, Machine, Start};
use crate::error::{At as _, LabError, Result};
use crate::process::{self, pipe};
use crate::profile::Profile;

/// Names another build of Hercules.
const PROGRAM: &str = "KVM_LAB_HERCULES";
/// Where the kernel finds the address and size of its initramfs, and its command line.
const INITRAMFS_WORDS: u64 = 0x1_0408;
const COMMAND_LINE: u64 = 0x1_0480;
/// Bytes of a command line that every kernel takes.
const COMMAND_LINE_BYTES: usize = 895;
/// Where the initramfs goes, behind every kernel.
const INITRAMFS: u64 = 0x400_0000;
/// Bytes of a tape block's header (AWSTAPE): length, length of the one before, flags.
const BLOCK_HEADER: usize = 6;
/// How often the tape is looked at.
const TAPE_PERIOD_MS: u16 = 5;

fn program() -> String {
    std::env::var(PROGRAM).unwrap_or_else(|_| "hercules".into())
}

/// Hercules, for SIE.
#[derive(Debug)]
pub struct Hercules;

impl Emulator for Hercules {
    fn check(&self, _: &Profile) -> Result<()> {
        let program = program();
        match process::find_program(&program) {
            Some(_) => Ok(()),
            None => Err(LabError::Missing { program, package: "hercules".into() }),
        }
    }

    fn start(&self, start: &Start<'_>) -> Result<Machine> {
        start_hercules(start)
    }

    fn transport_modules(&self) -> &'static [&'static str] {
        &["tape_34xx"]
    }

    fn result_device(&self) -> Option<&'static str> {
        Some("/dev/ntibm0")
    }
}

fn start_hercules(start: &Start<'_>) -> Result<Machine> {
    let put = |name: &str, content: &[u8]| {
        let path = start.scratch.join(name);
        fs::write(&path, content).at(&path).map(|()| path)
    };
    let command_line = start.profile.kernel_command_line();
    if command_line.len() > COMMAND_LINE_BYTES {
        return Err(LabError::Other(format!("the command line is too long: {command_line}")));
    }
    let mut parm = command_line.into_bytes();
    parm.resize(COMMAND_LINE_BYTES + 1, 0);
    put("parm", &parm)?;
    let size = fs::metadata(start.initramfs).at(start.initramfs)?.len();
    put("initramfs.words", &[INITRAMFS.to_be_bytes(), size.to_be_bytes()].concat())?;
    // It follows no links.
    fs::copy(&start.kernel.image, start.scratch.join("kernel")).at(&start.kernel.image)?;
    let initramfs = start.initramfs.file_name().unwrap_or_default().to_string_lossy();
    let list = format!(
        "kernel 0\ninitramfs.words {INITRAMFS_WORDS:#x}\nparm {COMMAND_LINE:#x}\n{initramfs} {INITRAMFS:#x}\n"
    );
    put("lab.ins", list.as_bytes())?;
    let tape = put("results.aws", &[])?;
    let rc = put("rc", b"ipl lab.ins\n")?;
    let conf = put("conf", configuration(start).as_bytes())?;

    let (console, console_end) = pipe()?;
    let (results, results_end) = pipe()?;
    let program = program();
    let mut command = Command::new(&program);
    command.arg("-d").arg("-f").arg(&conf).env("HERCULES_RC", &rc).current_dir(start.scratch);
    command.stdin(Stdio::null());
    command.stdout(console_end.try_clone().at("pipe")?).stderr(console_end);
    let child = process::spawn(&mut command, &[], false).at(&program)?;
    // Or our own copies would keep the pipe open when the emulator is gone.
    drop(command);
    let tape = File::open(&tape).at(&tape)?;
    std::thread::spawn(move || follow(&tape, &File::from(results_end)));
    Ok(Machine {
        child,
        console: Some(console),
        results: Some(results),
        stderr: None,
        control: None,
        log: None,
    })
}

fn configuration(start: &Start<'_>) -> String {
    let profile = start.profile;
    let mut lines = vec![
        "CPUSERIAL 012345".to_owned(),
        format!("CPUMODEL {}", profile.cpu),
        format!("MAINSIZE {}", profile.memory_mib),
        format!("NUMCPU {0}\nMAXCPU {0}", profile.smp),
        "ARCHMODE z/Arch".to_owned(),
        "OSTAILOR QUIET".to_owned(),
        // A console is needed where there is no other device, and not used.
        "0009 3215-C / noprompt".to_owned(),
        "0181 3480 results.aws".to_owned(),
    ];
    lines.extend(profile.emulator_args.iter().cloned());
    lines.join("\n") + "\n"
}

/// Passes the tape's blocks on as they are written, until nobody wants them.
fn follow(tape: &File, mut out: &File) {
    let mut offset = 0;
    loop {
        while let Some(block) = next_block(tape, &mut offset) {
            if out.write_all(&block).is_err() {
                return;
            }
        }
        let mut closed = [PollFd::new(out.as_fd(), PollFlags::empty())];
        if poll(&mut closed, PollTimeout::from(TAPE_PERIOD_MS)) != Ok(0) {
            return;
        }
    }
}

/// The block at `offset`, if all of it is there; a tape mark is an empty one.
fn next_block(tape: &File, offset: &mut u64) -> Option<Vec<u8>> {
    let mut header = [0; BLOCK_HEADER];
    tape.read_exact_at(&mut header, *offset).ok()?;
    let length = u16::from_le_bytes([header[0], header[1]]);
    let mut block = vec![0; length.into()];
    tape.read_exact_at(&mut block, *offset + BLOCK_HEADER as u64).ok()?;
    *offset += BLOCK_HEADER as u64 + u64::from(length);
    Some(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_whole_blocks_from_a_growing_tape() {
        let path = tempfile::NamedTempFile::new().expect("a file");
        let tape = File::open(path.path()).expect("the file");
        let mut offset = 0;
        assert_eq!(next_block(&tape, &mut offset), None);
        fs::write(&path, [2, 0, 0, 0, 0xa0, 0, b'h']).expect("a write");
        assert_eq!(next_block(&tape, &mut offset), None);
        fs::write(&path, [2, 0, 0, 0, 0xa0, 0, b'h', b'i', 0, 0, 2, 0, 0x40, 0]).expect("a write");
        assert_eq!(next_block(&tape, &mut offset), Some(b"hi".to_vec()));
        assert_eq!(next_block(&tape, &mut offset), Some(vec![]));
        assert_eq!(next_block(&tape, &mut offset), None);
    }
}
