//! The emulators: how each is started, and which sockets come out of it.

mod bochs;
mod qemu;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Child;

use crate::error::{LabError, Result};
use crate::kernel::Kernel;
use crate::profile::{Emulator, Profile};

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
    /// Where the emulator logs, if not on its standard error.
    pub log: Option<PathBuf>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Checks that the profile's emulator is there and new enough.
pub fn check(profile: &Profile) -> Result<()> {
    match profile.emulator {
        Emulator::Qemu => qemu::check(profile),
        Emulator::Bochs => bochs::check(),
        other => Err(unknown(profile, other)),
    }
}

/// Modules that the way of starting needs, besides those of KVM.
pub fn transport_modules(profile: &Profile) -> &'static [&'static str] {
    match profile.emulator {
        Emulator::Qemu => &["virtio_pci", "virtio_console"],
        _ => &[],
    }
}

/// The serial device for results where there are no virtio ports.
pub fn result_device(profile: &Profile) -> Option<&'static str> {
    match profile.emulator {
        Emulator::Bochs => Some("/dev/ttyS1"),
        _ => None,
    }
}

/// Starts the emulator.
pub fn start(start: &Start<'_>) -> Result<Machine> {
    match start.profile.emulator {
        Emulator::Qemu => qemu::start(start),
        Emulator::Bochs => bochs::start(start),
        other => Err(unknown(start.profile, other)),
    }
}

fn unknown(profile: &Profile, emulator: Emulator) -> LabError {
    LabError::Other(format!("profile {}: the lab does not start {emulator:?} hosts", profile.name))
}
