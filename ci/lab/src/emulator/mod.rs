//! The emulators: how each is started, and which sockets come out of it.

mod bochs;
mod hercules;
mod qemu;
mod qmp;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Child;

pub use qemu::ram;
pub use qmp::Qmp;

use crate::arch::Arch;
use crate::error::{LabError, Result};
use crate::kernel::Kernel;
use crate::profile::{Emulator, Profile};

/// How a host comes to life.
#[derive(Clone, Copy, Debug)]
pub enum Mode<'a> {
    /// It boots, and is used once.
    Cold,
    /// It boots with its memory in the directory, to be checkpointed there.
    Park(&'a Path),
    /// It is restored from the directory.
    Restore(&'a Path),
}

/// What every emulator is started with.
#[derive(Debug)]
pub struct Start<'a> {
    /// The host.
    pub profile: &'a Profile,
    /// Its kernel.
    pub kernel: &'a Kernel,
    /// Its initramfs.
    pub initramfs: &'a Path,
    /// A directory for what the emulator needs while it runs.
    pub scratch: &'a Path,
    /// How it comes to life.
    pub mode: Mode<'a>,
    /// Whether the console is this terminal.
    pub interactive: bool,
}

/// A running emulator and its ends.
#[derive(Debug)]
pub struct Machine {
    /// The process.
    pub child: Child,
    /// The kernel's console.
    pub console: Option<File>,
    /// Reports and the runner's lines.
    pub results: Option<File>,
    /// The runner's standard error.
    pub stderr: Option<File>,
    /// The emulator's control channel.
    pub control: Option<Qmp>,
    /// Where the emulator logs, if not on its standard error.
    pub log: Option<PathBuf>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether hosts of this kind can be checkpointed and restored.
pub fn can_park(profile: &Profile) -> bool {
    // QEMU does not restore what it knows of POWER's nested guests: no guest would run.
    profile.emulator == Emulator::Qemu && !matches!(profile.arch, Arch::S390x | Arch::Ppc64le)
}

/// Which emulator there is: another one does not understand this one's checkpoints.
pub fn identity(profile: &Profile) -> Result<String> {
    match profile.emulator {
        Emulator::Qemu => qemu::identity(profile),
        other => Err(unknown(profile, other)),
    }
}

/// Checks that the profile's emulator is there and new enough.
pub fn check(profile: &Profile) -> Result<()> {
    match profile.emulator {
        Emulator::Qemu => qemu::check(profile),
        Emulator::Bochs => bochs::check(),
        Emulator::Hercules => hercules::check(),
        other => Err(unknown(profile, other)),
    }
}

/// The packages that the profile's emulator needs and this machine lacks.
///
/// # Errors
/// An emulator that is there is too old.
pub fn missing_packages(profile: &Profile) -> Result<Vec<String>> {
    if profile.emulator == Emulator::Bochs {
        return Ok(bochs::missing().map(|(_, package)| package.to_owned()).collect());
    }
    match check(profile) {
        Err(LabError::Missing { package, .. }) => Ok(vec![package]),
        Err(error @ LabError::TooOld { .. }) => Err(error),
        _ => Ok(Vec::new()),
    }
}

/// Modules that the way of starting needs, besides those of KVM.
pub fn transport_modules(profile: &Profile) -> &'static [&'static str] {
    match profile.emulator {
        Emulator::Qemu => &["virtio_pci", "virtio_console"],
        Emulator::Hercules => &["tape_34xx"],
        _ => &[],
    }
}

/// The device for results where there are no virtio ports.
pub fn result_device(profile: &Profile) -> Option<&'static str> {
    match profile.emulator {
        Emulator::Bochs => Some("/dev/ttyS1"),
        Emulator::Hercules => Some("/dev/ntibm0"),
        _ => None,
    }
}

/// Starts the emulator.
pub fn start(start: &Start<'_>) -> Result<Machine> {
    match start.profile.emulator {
        Emulator::Qemu => qemu::start(start),
        Emulator::Bochs => bochs::start(start),
        Emulator::Hercules => hercules::start(start),
        other => Err(unknown(start.profile, other)),
    }
}

fn unknown(profile: &Profile, emulator: Emulator) -> LabError {
    LabError::Other(format!("profile {}: the lab does not start {emulator:?} hosts", profile.name))
}
