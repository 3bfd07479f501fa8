//! Debian's Rust with a foreign standard library, in a directory of the cache.
//!
//! Debian builds one version of Rust for its browsers (`rustc-web`) in every suite. The compiler
//! is taken from this machine's own release, since it must run here; the standard library of the
//! foreign architecture from a suite that has it in the same version.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::apt::{Suite, codename};
use crate::arch::Arch;
use crate::cache::Cache;
use crate::error::{At as _, LabError, Result};

/// The suite whose foreign standard libraries are taken.
const LIBRARY_SUITE: &str = "trixie";
/// The package with the standard library.
const LIBRARY: &str = "libstd-rust-web-dev";
/// The package with the compiler.
const COMPILER: &str = "rustc-web";

/// A compiler that builds for one foreign architecture.
#[derive(Debug)]
pub struct Sysroot {
    dir: PathBuf,
}

impl Sysroot {
    /// Fetches what is missing.
    ///
    /// # Errors
    /// The archive cannot be reached, or the versions differ.
    pub fn prepare(cache: &Cache, arch: Arch) -> Result<Self> {
        let dir =
            cache.once(format!("toolchain/rust-{arch}"), |fresh| fetch(cache, arch, fresh))?;
        Ok(Self { dir })
    }

    /// Makes a cargo command use this compiler. Its products stand apart from those of others.
    pub fn apply(&self, command: &mut Command, workspace: &Path) {
        let target_dir = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| workspace.join("target"), PathBuf::from);
        command
            .env("RUSTC", self.dir.join("rustc"))
            .arg("--target-dir")
            .arg(target_dir.join("cross"));
    }
}

fn fetch(cache: &Cache, arch: Arch, fresh: &Path) -> Result<()> {
    let host =
        Arch::native().ok_or_else(|| LabError::Other("not one of our architectures".into()))?;
    eprintln!("lab: fetching Debian's Rust for {arch}");
    let library_suite = Suite::new(cache, LIBRARY_SUITE, arch)?;
    library_suite.update()?;
    let library = library_suite.version_of(LIBRARY)?;
    let compiler_suite = compiler_suite(cache, host, upstream(&library))?;
    let compiler = compiler_suite.version_of(COMPILER)?;
    let driver = format!("libstd-rust-web-{}", minor(upstream(&compiler)));
    let llvm = llvm_package(&compiler_suite, &driver)?;
    let at = |package: &str| format!("{package}={compiler}");
    compiler_suite.unpack(&[at(COMPILER), at(LIBRARY), at(&driver), llvm], fresh)?;
    library_suite.unpack(&[format!("{LIBRARY}={library}")], fresh)?;
    write_wrapper(cache, arch, host, fresh)
}

/// Of this release's suites, the one whose compiler has the library's version.
fn compiler_suite(cache: &Cache, host: Arch, wanted: &str) -> Result<Suite> {
    let release = codename()?;
    let mut seen = Vec::new();
    for suite in [
        Suite::security(cache, &format!("{release}-security"), host)?,
        Suite::new(cache, &release, host)?,
    ] {
        let found = suite.update().and_then(|()| suite.version_of(COMPILER));
        match found {
            Ok(version) if upstream(&version) == wanted => return Ok(suite),
            Ok(version) => seen.push(format!("{version} in {}", suite.name)),
            Err(error) => seen.push(error.to_string()),
        }
    }
    Err(LabError::Other(format!(
        "{LIBRARY_SUITE} has the foreign standard libraries of Rust {wanted}, but this release has \
         {COMPILER} {}; `rustup target add` is the other way",
        seen.join(", ")
    )))
}

/// The LLVM that the compiler's driver depends on.
fn llvm_package(suite: &Suite, driver: &str) -> Result<String> {
    let depends = suite.depends_of(driver)?;
    depends
        .into_iter()
        .find(|package| package.starts_with("libllvm"))
        .ok_or_else(|| LabError::Other(format!("{driver} of {} depends on no LLVM", suite.name)))
}

fn write_wrapper(cache: &Cache, arch: Arch, host: Arch, fresh: &Path) -> Result<()> {
    let home = cache.path(format!("toolchain/rust-{arch}"));
    let home = home.display();
    let libraries = format!("{home}/usr/lib/{}", host.names().gnu_triple);
    let script = format!(
        "#!/bin/sh\nLD_LIBRARY_PATH='{libraries}' exec '{home}/usr/bin/rustc' --sysroot '{home}/usr' \"$@\"\n"
    );
    let path = fresh.join("rustc");
    fs::write(&path, script).at(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).at(&path)
}

/// `1.96.0` of `1.96.0+dfsg1-1~deb12u2`.
fn upstream(version: &str) -> &str {
    version.split(['+', '-', '~']).next().unwrap_or(version)
}

/// `1.96` of `1.96.0`.
fn minor(upstream: &str) -> &str {
    upstream.rsplit_once('.').map_or(upstream, |(minor, _)| minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_versions() {
        assert_eq!(upstream("1.96.0+dfsg1-1~deb12u2"), "1.96.0");
        assert_eq!(minor("1.96.0"), "1.96");
    }
}
