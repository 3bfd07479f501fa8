//! What every emulator is: how it is started, what comes out of it, what it can be asked.

use std::fmt::Debug;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Child;

use crate::error::{LabError, Result};
use crate::kernel::Kernel;
use crate::profile::Profile;

/// The saved host's memory.
const RAM_FILE: &str = "ram";

/// The memory in a snapshot.
pub fn ram(snapshot: &Path) -> PathBuf {
    snapshot.join(RAM_FILE)
}

/// A program that emulates hosts.
pub trait Emulator {
    /// Checks that it is installed and new enough for the profile.
    fn check(&self, profile: &Profile) -> Result<()>;

    /// Starts a host.
    fn start(&self, start: &Start<'_>) -> Result<Machine>;

    /// The packages that it needs for the profile and this machine lacks.
    ///
    /// # Errors
    /// What is installed is too old.
    fn missing_packages(&self, profile: &Profile) -> Result<Vec<String>> {
        match self.check(profile) {
            Err(LabError::Missing { package, .. }) => Ok(vec![package]),
            Err(error @ LabError::TooOld { .. }) => Err(error),
            _ => Ok(Vec::new()),
        }
    }

    /// Kernel modules that its devices need, besides those of KVM.
    fn transport_modules(&self) -> &'static [&'static str] {
        &[]
    }

    /// The host's device for results where there are no virtio ports.
    fn result_device(&self) -> Option<&'static str> {
        None
    }

    /// Whether it can save and restore the profile's hosts.
    fn can_save(&self, _: &Profile) -> bool {
        false
    }

    /// Which build of it this is: another one does not understand its snapshots.
    fn identity(&self, profile: &Profile) -> Result<String> {
        Err(unsupported(&format!("profile {}: snapshots", profile.name)))
    }
}

/// How a host comes to life.
#[derive(Clone, Copy, Debug)]
pub enum Mode<'a> {
    /// It boots, and is used once.
    Cold,
    /// It boots with its memory in the directory, to be saved there.
    Save(&'a Path),
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
    /// The emulator's monitor.
    pub control: Option<Box<dyn Control>>,
    /// Where the emulator logs, if not on its standard error.
    pub log: Option<PathBuf>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a running emulator can be asked to do.
pub trait Control: Debug {
    /// Writes a snapshot of the host into the directory; the host is stopped from then on.
    fn save(&mut self, _: &Path) -> Result<()> {
        Err(unsupported("snapshots"))
    }

    /// Restores the snapshot and lets the host run.
    fn restore(&mut self, _: &Path) -> Result<()> {
        Err(unsupported("snapshots"))
    }

    /// Every vCPU's registers, as the emulator prints them.
    fn vcpu_states(&mut self) -> Result<String>;
}

fn unsupported(what: &str) -> LabError {
    LabError::Other(format!("{what} are not supported by this emulator"))
}
