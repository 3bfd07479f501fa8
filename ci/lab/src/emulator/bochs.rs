//! Bochs, the emulator with VMX. It boots from a CD image and speaks through serial ports.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::machine::{Control, Emulator, Machine, Start};
use crate::error::{At as _, LabError, Result};
use crate::process::{self, pipe};
use crate::profile::Profile;

/// Files of Debian's packages.
const BIOS: (&str, &str) = ("/usr/share/bochs/BIOS-bochs-latest", "bochsbios");
const VGA_BIOS: (&str, &str) = ("/usr/share/bochs/VGABIOS-lgpl-latest", "vgabios");
const ISOLINUX: (&str, &str) = ("/usr/lib/ISOLINUX/isolinux.bin", "isolinux");
const LDLINUX: (&str, &str) = ("/usr/lib/syslinux/modules/bios/ldlinux.c32", "syslinux-common");
/// What the debugger is asked about a hanging host.
const STATE_COMMANDS: &str = "r\nsreg\ncreg\n";
/// What it prints after the answers.
const END_MARK: &str = "end of the state";
/// How long it may take to answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// How often its output is read.
const ANSWER_PERIOD: Duration = Duration::from_millis(50);
const PROGRAMS: [(&str, &str); 2] = [("bochs", "bochs"), ("xorriso", "xorriso")];

/// Bochs, for VMX.
#[derive(Debug)]
pub struct Bochs;

impl Emulator for Bochs {
    fn check(&self, _: &Profile) -> Result<()> {
        match missing().next() {
            Some((name, package)) => {
                Err(LabError::Missing { program: name.into(), package: package.into() })
            }
            None => Ok(()),
        }
    }

    fn start(&self, start: &Start<'_>) -> Result<Machine> {
        start_bochs(start)
    }

    fn missing_packages(&self, _: &Profile) -> Result<Vec<String>> {
        Ok(missing().map(|(_, package)| package.to_owned()).collect())
    }

    fn result_device(&self) -> Option<&'static str> {
        Some("/dev/ttyS1")
    }
}

/// What is not there, and the packages that hold it.
fn missing() -> impl Iterator<Item = (&'static str, &'static str)> {
    let programs =
        PROGRAMS.into_iter().filter(|(program, _)| process::find_program(program).is_none());
    let files = [BIOS, VGA_BIOS, ISOLINUX, LDLINUX];
    programs.chain(files.into_iter().filter(|(file, _)| !Path::new(file).exists()))
}

fn start_bochs(start: &Start<'_>) -> Result<Machine> {
    let image = make_image(start)?;
    let (console, console_end) = pipe()?;
    let (results, results_end) = pipe()?;
    let log = start.scratch.join("bochs.log");
    let rc = start.scratch.join("bochsrc");
    fs::write(&rc, configuration(start, &image, &log, &console_end, &results_end)).at(&rc)?;
    let debugger = has_debugger()?;
    // Builds with the debugger wait for a command; others do not know the option's file.
    let script = start.scratch.join("debugger");
    fs::write(&script, "c\n").at(&script)?;

    let mut command = Command::new("bochs");
    command.arg("-q").arg("-f").arg(&rc);
    command.current_dir(start.scratch);
    command.stderr(Stdio::null());
    let output = start.scratch.join("debugger.out");
    match debugger {
        true => {
            let output = File::create(&output).at(&output)?;
            command.arg("-rc").arg(&script).stdin(Stdio::piped()).stdout(output);
        }
        false => {
            command.stdin(Stdio::null()).stdout(Stdio::null());
        }
    }
    let mut child = process::spawn(&mut command, &[console_end, results_end], false).at("bochs")?;
    let pid = Pid::from_raw(i32::try_from(child.id()).map_err(std::io::Error::other).at("bochs")?);
    let input = child.stdin.take();
    let control = input.map(|input| Box::new(Debugger { pid, input, output }) as Box<dyn Control>);
    Ok(Machine {
        child,
        console: Some(console),
        results: Some(results),
        stderr: None,
        control,
        log: Some(log),
    })
}

/// Bochs's debugger, where it has one.
#[derive(Debug)]
struct Debugger {
    pid: Pid,
    input: ChildStdin,
    output: PathBuf,
}

impl Control for Debugger {
    fn vcpu_states(&mut self) -> Result<String> {
        let before = fs::metadata(&self.output).at(&self.output)?.len();
        // It stops the host and reads commands.
        kill(self.pid, Signal::SIGINT).map_err(std::io::Error::from).at("bochs")?;
        let commands = format!("{STATE_COMMANDS}print-string \"{END_MARK}\"\n");
        self.input.write_all(commands.as_bytes()).at("bochs")?;
        let deadline = Instant::now() + ANSWER_PATIENCE;
        loop {
            let output = fs::read(&self.output).at(&self.output)?;
            let fresh = &output[usize::try_from(before).unwrap_or(0).min(output.len())..];
            let text = String::from_utf8_lossy(fresh);
            match text.split_once(END_MARK) {
                Some((state, _)) => return Ok(state.to_owned()),
                None if Instant::now() < deadline => std::thread::sleep(ANSWER_PERIOD),
                None => return Err(LabError::Other("Bochs's debugger does not answer".into())),
            }
        }
    }
}

fn has_debugger() -> Result<bool> {
    let output = Command::new("bochs").arg("--help").stdin(Stdio::null()).output().at("bochs")?;
    let text = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&text).lines().any(|line| line.trim_start().starts_with("-rc ")))
}

fn make_image(start: &Start<'_>) -> Result<PathBuf> {
    let tree = start.scratch.join("cd");
    fs::create_dir_all(&tree).at(&tree)?;
    let put = |source: &Path, name: &str| fs::copy(source, tree.join(name)).at(source);
    put(Path::new(ISOLINUX.0), "isolinux.bin")?;
    put(Path::new(LDLINUX.0), "ldlinux.c32")?;
    put(&start.kernel.image, "kernel")?;
    fs::rename(start.initramfs, tree.join("initrd")).at(start.initramfs)?;
    let append = start.profile.kernel_command_line();
    let menu = format!(
        "DEFAULT lab\nPROMPT 0\nLABEL lab\n KERNEL /kernel\n INITRD /initrd\n APPEND {append}\n"
    );
    fs::write(tree.join("isolinux.cfg"), menu).at(&tree)?;
    let image = start.scratch.join("cd.iso");
    let mut command = Command::new("xorriso");
    command.args(["-as", "mkisofs", "-quiet", "-b", "isolinux.bin", "-c", "boot.cat"]);
    command.args(["-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", "-o"]);
    process::run(command.arg(&image).arg(&tree), "xorriso")?;
    Ok(image)
}

fn configuration(
    start: &Start<'_>,
    image: &Path,
    log: &Path,
    console: &OwnedFd,
    results: &OwnedFd,
) -> String {
    let profile = start.profile;
    let (cpu, image, log) = (&profile.cpu, image.display(), log.display());
    let mut text = format!(
        "config_interface: textconfig\n\
         display_library: {}\n\
         romimage: file={}\n\
         vgaromimage: file={}\n\
         megs: {}\n\
         cpu: model={cpu}, count={}, ips=10000000, reset_on_triple_fault=0, ignore_bad_msrs=1\n\
         clock: sync=none, time0=utc\n\
         ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14\n\
         ata0-master: type=cdrom, path={image}, status=inserted\n\
         boot: cdrom\n\
         sound: driver=dummy\n\
         panic: action=fatal\n\
         log: {log}\n",
        profile.machine, BIOS.0, VGA_BIOS.0, profile.memory_mib, profile.smp,
    );
    for (port, end) in [("com1", console), ("com2", results)] {
        let _ = writeln!(text, "{port}: enabled=1, mode=file, dev=/dev/fd/{}", end.as_raw_fd());
    }
    for line in &profile.emulator_args {
        let _ = writeln!(text, "{line}");
    }
    text
}
