//! Installing what the lab needs: emulators, boot loaders, cross compilers, standard libraries.

use std::process::Command;

use crate::apt::{Installer, Suite, codename};
use crate::arch::Arch;
use crate::cache::Cache;
use crate::emulator;
use crate::error::{LabError, Result};
use crate::process::find_program;
use crate::profile::Profile;
use crate::toolchain;

/// The first version of QEMU that runs every profile.
const QEMU_MAJOR: u32 = 10;

/// One package and why it is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// Debian's name.
    pub package: String,
    /// What it is for.
    pub reason: String,
    /// Whether this release's own version is too old.
    pub backports: bool,
}

/// What is missing on this machine for the architectures.
///
/// # Errors
/// A profile cannot be read.
pub fn missing(cache: &Cache, archs: &[Arch]) -> Result<Vec<Want>> {
    let mut wants: Vec<Want> = Vec::new();
    let mut add = |package: String, reason: String, backports: bool| {
        if !wants.iter().any(|want| want.package == package) {
            wants.push(Want { package, reason, backports });
        }
    };
    for name in Profile::list()? {
        let profile = Profile::load(&name)?;
        if !archs.contains(&profile.arch) {
            continue;
        }
        let Ok(emulator) = emulator::of(&profile) else {
            continue; // This machine itself.
        };
        match emulator.missing_packages(&profile) {
            Ok(packages) => {
                for package in packages {
                    add(package, format!("host {name}"), false);
                }
            }
            Err(LabError::TooOld { found, .. }) => {
                let package = profile.arch.names().qemu_package;
                add(package.to_owned(), format!("host {name}; {found} is too old"), true);
            }
            Err(error) => return Err(error),
        }
    }
    for &arch in archs.iter().filter(|arch| Some(**arch) != Arch::native()) {
        let gcc = toolchain::cross_gcc(arch);
        if find_program(&format!("{}-gcc", arch.names().gnu_triple)).is_none() {
            add(gcc, format!("links {arch} programs"), false);
            let headers = format!("libc6-dev-{}-cross", arch.names().debian);
            add(headers, format!("C library for {arch} programs"), false);
        }
    }
    if wants.iter().any(|want| want.package.starts_with("qemu-")) && old_qemu(cache)? {
        for want in wants.iter_mut().filter(|want| want.package.starts_with("qemu-")) {
            want.backports = true;
        }
    }
    Ok(wants)
}

/// Installs packages, through a private list of sources that has the backports suite besides this
/// release's own; the machine's own sources stay as they are.
///
/// # Errors
/// This is not root, or apt fails.
pub fn install(cache: &Cache, wants: &[Want]) -> Result<()> {
    if wants.is_empty() {
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        let names: Vec<_> = wants.iter().map(|want| want.package.as_str()).collect();
        let names = names.join(" ");
        return Err(LabError::Other(format!("only root can install packages: {names}")));
    }
    let installer = Installer::new(cache)?;
    installer.update()?;
    for backports in [true, false] {
        let chosen = wants.iter().filter(|want| want.backports == backports);
        let packages: Vec<_> = chosen.map(|want| want.package.as_str()).collect();
        if !packages.is_empty() {
            installer.install(&packages, backports)?;
        }
    }
    Ok(())
}

/// Fetches the standard libraries that the compiler at hand has not: by rustup where that works,
/// else Debian's.
///
/// # Errors
/// Neither way works.
pub fn standard_library(cache: &Cache, arch: Arch) -> Result<&'static str> {
    if toolchain::has_target(arch) {
        return Ok("there");
    }
    let mut rustup = Command::new("timeout");
    rustup.args(["120", "rustup", "target", "add", arch.names().rust_target]);
    let added = rustup.output().is_ok_and(|output| output.status.success());
    if added && toolchain::has_target(arch) {
        return Ok("added by rustup");
    }
    toolchain::Sysroot::prepare(cache, arch).map(|_| "in a private sysroot, from Debian")
}

/// Whether this release's own QEMU is too old.
fn old_qemu(cache: &Cache) -> Result<bool> {
    let host = Arch::native().unwrap_or(Arch::X86_64);
    let suite = Suite::new(cache, &codename()?, host)?;
    suite.update()?;
    Ok(major(&suite.version_of("qemu-system-x86")?) < QEMU_MAJOR)
}

/// `7` of `1:7.2+dfsg-7`.
fn major(version: &str) -> u32 {
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_major_version_behind_an_epoch() {
        assert_eq!(major("1:7.2+dfsg-7+deb12u18"), 7);
        assert_eq!(major("10.0.2+ds-2"), 10);
    }
}
