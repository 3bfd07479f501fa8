//! QEMU with TCG.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use defs::arch::Names;
use lab_init::{RESULT_PORT, STDERR_PORT};

use super::machine::{Control, Emulator, Machine, Mode, Start, ram};
use super::qmp::Qmp;
use crate::arch::Arch;
use crate::error::{At as _, LabError, Result};
use crate::process;
use crate::profile::Profile;

/// QEMU, for everything that TCG models.
#[derive(Debug)]
pub struct Qemu;

impl Emulator for Qemu {
    fn check(&self, profile: &Profile) -> Result<()> {
        let Names { qemu: program, qemu_package: package, .. } = *profile.arch.names();
        if process::find_program(program).is_none() {
            return Err(LabError::Missing { program: program.into(), package: package.into() });
        }
        let Some(needed) = &profile.emulator_version else {
            return Ok(());
        };
        let found = version(profile)?;
        if numbers(&found) < numbers(needed) {
            return Err(LabError::TooOld {
                program: program.into(),
                found,
                profile: profile.name.clone(),
                needed: needed.clone(),
            });
        }
        Ok(())
    }

    fn start(&self, start: &Start<'_>) -> Result<Machine> {
        start_qemu(start)
    }

    fn transport_modules(&self) -> &'static [&'static str] {
        &["virtio_pci", "virtio_console"]
    }

    fn can_save(&self, profile: &Profile) -> bool {
        // QEMU does not restore what it knows of POWER's nested guests: no guest would run.
        !matches!(profile.arch, Arch::S390x | Arch::Ppc64le)
    }

    fn identity(&self, profile: &Profile) -> Result<String> {
        let Names { qemu: program, qemu_package: package, .. } = *profile.arch.names();
        let missing = || LabError::Missing { program: program.into(), package: package.into() };
        let path = process::find_program(program).ok_or_else(missing)?;
        let file = fs::metadata(&path).at(&path)?;
        Ok(format!("{} {} {}", path.display(), file.len(), file.mtime()))
    }
}

/// QEMU's version. Its start takes a part of a restored host's, so it is asked once.
fn version(profile: &Profile) -> Result<String> {
    static KNOWN: Mutex<BTreeMap<&str, String>> = Mutex::new(BTreeMap::new());
    let Names { qemu: program, qemu_package: package, .. } = *profile.arch.names();
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(version) = known.get(program) {
        return Ok(version.clone());
    }
    let text = process::run(Command::new(program).arg("--version"), package)?;
    let version = parse_version(&text).unwrap_or("unknown").to_owned();
    known.insert(program, version.clone());
    Ok(version)
}

/// `QEMU emulator version 10.0.2 (Debian …)`.
fn parse_version(text: &str) -> Option<&str> {
    text.split_whitespace().skip_while(|word| *word != "version").nth(1)
}

fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map_while(|part| part.parse().ok()).collect()
}

fn start_qemu(start: &Start<'_>) -> Result<Machine> {
    let profile = start.profile;
    let program = profile.arch.names().qemu;
    let mut command = Command::new(program);
    command
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .args(["-name", "lab,debug-threads=on"])
        .args(["-accel", &profile.accel])
        .args(["-M", &machine(start), "-cpu", &profile.cpu])
        .args(["-smp", &profile.smp.to_string(), "-m", &profile.memory_mib.to_string()])
        .args(&profile.emulator_args);
    // A restored host has its kernel in memory.
    if !matches!(start.mode, Mode::Restore(_)) {
        command.arg("-kernel").arg(&start.kernel.image).arg("-initrd").arg(start.initramfs);
        command.args(["-append", &profile.kernel_command_line()]);
    }

    let mut inherit = Vec::new();
    let mut channel = |name: &str, command: &mut Command| -> Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair().at("socket pair")?;
        let theirs = OwnedFd::from(theirs);
        let chardev = format!("socket,id={name},fd={}", theirs.as_raw_fd());
        command.args(["-chardev", &chardev]);
        inherit.push(theirs);
        Ok(ours)
    };
    let console = if start.interactive {
        command.args(["-serial", "mon:stdio"]);
        None
    } else {
        let console = channel("console", &mut command)?;
        command.args(["-serial", "chardev:console"]).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        Some(console)
    };
    command.args(["-device", bus(profile.arch)]);
    let results = channel("results", &mut command)?;
    command.args(["-device", &format!("virtserialport,chardev=results,name={RESULT_PORT}")]);
    let stderr = channel("stderr", &mut command)?;
    command.args(["-device", &format!("virtserialport,chardev=stderr,name={STDERR_PORT}")]);

    if let Mode::Save(dir) | Mode::Restore(dir) = start.mode {
        let share = if matches!(start.mode, Mode::Save(_)) { "on" } else { "off" };
        let (path, size) = (ram(dir), profile.memory_mib);
        let backend = format!(
            "memory-backend-file,id=mem,size={size}M,mem-path={},share={share}",
            path.display()
        );
        command.args(["-object", &backend]);
    }
    if matches!(start.mode, Mode::Restore(_)) {
        command.args(["-incoming", "defer"]);
    }
    let mut control = Qmp::new(channel("control", &mut command)?)?;
    command.args(["-mon", "chardev=control,mode=control"]);

    let child = process::spawn(&mut command, &inherit, start.interactive).at(program)?;
    drop(inherit);
    if !matches!(start.mode, Mode::Cold) {
        control.prepare_snapshot()?;
    }
    let file = |stream: UnixStream| Some(File::from(OwnedFd::from(stream)));
    let control: Option<Box<dyn Control>> = Some(Box::new(control));
    Ok(Machine {
        child,
        console: console.and_then(file),
        results: file(results),
        stderr: file(stderr),
        control,
        log: None,
    })
}

fn machine(start: &Start<'_>) -> String {
    let machine = &start.profile.machine;
    match start.mode {
        Mode::Cold => machine.clone(),
        Mode::Save(_) | Mode::Restore(_) => format!("{machine},memory-backend=mem"),
    }
}

fn bus(arch: Arch) -> &'static str {
    match arch {
        Arch::S390x => "virtio-serial-ccw",
        _ => "virtio-serial-pci",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_versions_by_number() {
        let text = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright";
        assert_eq!(parse_version(text), Some("10.0.2"));
        assert!(numbers("10.0.2") >= numbers("10.0"));
        assert!(numbers("7.2.1") < numbers("10.0"));
    }
}
