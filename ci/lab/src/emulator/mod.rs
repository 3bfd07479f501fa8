//! The emulators.

mod bochs;
mod hercules;
mod machine;
mod qemu;
mod qmp;

pub use machine::{Emulator, Machine, Mode, Start, ram};

use crate::error::{LabError, Result};
use crate::profile::{EmulatorKind, Profile};

/// The profile's emulator.
///
/// # Errors
/// The host is this machine.
pub fn of(profile: &Profile) -> Result<&'static dyn Emulator> {
    match profile.emulator {
        EmulatorKind::Qemu => Ok(&qemu::Qemu),
        EmulatorKind::Bochs => Ok(&bochs::Bochs),
        EmulatorKind::Hercules => Ok(&hercules::Hercules),
        EmulatorKind::Native => Err(LabError::Other(format!(
            "profile {}: the lab starts no native hosts",
            profile.name
        ))),
    }
}
