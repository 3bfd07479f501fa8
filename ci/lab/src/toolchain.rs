//! Building static programs for every architecture.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::arch::Arch;
use crate::cache::Cache;
use crate::error::{At as _, LabError, Result};

/// Everything that the init is made of.
const INIT_SOURCES: [&str; 8] = [
    include_str!("../init/Cargo.toml"),
    include_str!("../init/src/host.rs"),
    include_str!("../init/src/lib.rs"),
    include_str!("../init/src/main.rs"),
    include_str!("../init/src/plan.rs"),
    include_str!("../init/src/ports.rs"),
    include_str!("../init/src/program.rs"),
    include_str!("../init/src/report.rs"),
];

/// What to build.
#[derive(Clone, Debug)]
pub struct Build<'a> {
    /// The cargo package.
    pub package: &'a str,
    /// The program in it.
    pub bin: &'a str,
    /// For which architecture.
    pub arch: Arch,
    /// Without debug information.
    pub strip: bool,
}

/// Builds a static program of this workspace and gives back its path.
///
/// # Errors
/// The build fails, or the architecture's toolchain is not there.
pub fn build(cache: &Cache, build: &Build<'_>) -> Result<PathBuf> {
    let _ = cache;
    let target = build.arch.rust_target();
    let variable = target.to_uppercase().replace('-', "_");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["build", "--release", "--package", build.package, "--bin", build.bin])
        .args(["--target", target, "--message-format", "json-render-diagnostics"])
        .current_dir(workspace())
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env(format!("CARGO_TARGET_{variable}_RUSTFLAGS"), "-C target-feature=+crt-static")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    if build.strip {
        command.env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    }
    let output = command.output().at("cargo")?;
    let failed = |why: &str| LabError::Program {
        program: format!("cargo build -p {} --target {target}", build.package),
        status: output.status.to_string(),
        output: why.to_owned(),
    };
    if !output.status.success() {
        return Err(failed("see above"));
    }
    executable(&output.stdout, build.bin).ok_or_else(|| failed("cargo named no executable"))
}

/// The init for emulated hosts of an architecture, built when its sources have changed.
pub(crate) fn lab_init(cache: &Cache, arch: Arch) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    INIT_SOURCES.hash(&mut hasher);
    let dir = cache.once(format!("init/{arch}-{:016x}", hasher.finish()), |fresh| {
        let what = Build { package: "lab-init", bin: "lab-init", arch, strip: true };
        let built = build(cache, &what)?;
        fs::copy(&built, fresh.join("lab-init")).at(&built).map(|_| ())
    })?;
    Ok(dir.join("lab-init"))
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The path that cargo's messages name for the program.
fn executable(messages: &[u8], bin: &str) -> Option<PathBuf> {
    let text = String::from_utf8_lossy(messages);
    text.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == bin)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
}
