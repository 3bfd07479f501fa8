//! A host for a person: a shell on its console.

use std::path::PathBuf;
use std::time::Instant;

use lab_init::Plan;

use crate::apt::Suite;
use crate::cache::Cache;
use crate::emulator::{self, Mode, Start};
use crate::error::{At as _, LabError, Result};
use crate::initramfs::GuestFile;
use crate::kernel::Kernel;
use crate::lab::Lab;
use crate::profile::{EmulatorKind, Profile};

/// The suite whose busybox is taken.
const BUSYBOX_SUITE: &str = "trixie";
const BUSYBOX_PACKAGE: &str = "busybox-static";
const BUSYBOX_PATH: &str = "/bin/busybox";
/// What the console runs.
const SHELL: &str = "busybox --install -s /bin; exec setsid cttyhack sh";

/// Boots a host with a shell on this terminal, and waits for its end.
///
/// # Errors
/// The host cannot be started.
pub fn shell(
    lab: &Lab,
    profile: &Profile,
    kernel: &Kernel,
    files: &[(String, PathBuf)],
) -> Result<()> {
    if profile.emulator != EmulatorKind::Qemu {
        return Err(LabError::Other(format!(
            "profile {} has no console for a person",
            profile.name
        )));
    }
    let emulator = emulator::of(profile)?;
    emulator.check(profile)?;
    let base = lab.base(profile, kernel)?;
    let mut guest_files = vec![GuestFile {
        path: BUSYBOX_PATH.into(),
        source: busybox(lab.cache(), profile)?,
        executable: true,
    }];
    guest_files.extend(files.iter().map(|(path, source)| GuestFile {
        path: path.clone(),
        source: source.clone(),
        executable: true,
    }));
    let plan = Plan {
        modules: base.modules_of(profile),
        argv: [BUSYBOX_PATH, "sh", "-c", SHELL].map(str::to_owned).to_vec(),
        kvm_optional: true,
        interactive: true,
        ..Plan::default()
    };
    let run_dir = lab.cache().run_dir()?;
    let initramfs = run_dir.path().join("initramfs");
    base.complete(&initramfs, &plan, &guest_files)?;
    let started = Instant::now();
    let mut machine = emulator.start(&Start {
        profile,
        kernel,
        initramfs: &initramfs,
        scratch: run_dir.path(),
        mode: Mode::Cold,
        interactive: true,
    })?;
    machine.child.wait().at("emulator")?;
    eprintln!("lab: the host ran for {:.0?}", started.elapsed());
    Ok(())
}

fn busybox(cache: &Cache, profile: &Profile) -> Result<PathBuf> {
    let dir = cache.once(format!("busybox/{}", profile.arch), |fresh| {
        let suite = Suite::new(cache, BUSYBOX_SUITE, profile.arch)?;
        suite.update()?;
        suite.unpack(&[BUSYBOX_PACKAGE.to_owned()], fresh)
    })?;
    let places = [dir.join("usr/bin/busybox"), dir.join("bin/busybox")];
    let found = places.into_iter().find(|path| path.exists());
    found.ok_or_else(|| LabError::Other(format!("{BUSYBOX_PACKAGE} holds no busybox")))
}
