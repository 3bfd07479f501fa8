//! Building static programs for every architecture.

mod sysroot;

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub use sysroot::Sysroot;

use crate::arch::Arch;
use crate::cache::Cache;
use crate::error::{At as _, LabError, Result};
use crate::process;
use crate::waiting::{self, Waiting};

/// The environment variable that names cargo's profile for programs that run on hosts: `dev` builds
/// faster, for the author of a test.
const CARGO_PROFILE: &str = "KVM_LAB_CARGO_PROFILE";
/// Everything that the init is made of, in the workspace.
const INIT_SOURCES: [&str; 2] = ["ci/lab/init/Cargo.toml", "ci/lab/init/src"];

/// Lines of a failed build that are shown where none says what is wrong.
const NR_LAST_LINES: usize = 20;

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
    /// More environment for cargo.
    pub env: &'a [(&'a str, &'a str)],
}

/// Builds a static program of this workspace and returns its path. Where the compiler at hand
/// has no standard library for the architecture, Debian's is fetched into a private sysroot.
///
/// # Errors
/// The build fails, or the architecture's toolchain is not to be had.
pub fn build(cache: &Cache, build: &Build<'_>) -> Result<PathBuf> {
    let target = build.arch.names().rust_target;
    let profile = std::env::var(CARGO_PROFILE).unwrap_or_else(|_| "release".into());
    let variable = target.to_uppercase().replace('-', "_");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["build", "--profile", &profile, "--package", build.package, "--bin", build.bin])
        .args(["--target", target, "--message-format", "json-render-diagnostics"])
        .current_dir(workspace())
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTC")
        .env_remove("LD_LIBRARY_PATH")
        .env(format!("CARGO_TARGET_{variable}_RUSTFLAGS"), rust_flags(build.arch))
        .envs(build.env.iter().copied())
        .stdin(Stdio::null());
    if Some(build.arch) != Arch::native() {
        let linker = format!("{}-gcc", build.arch.names().gnu_triple);
        if process::find_program(&linker).is_none() {
            return Err(LabError::Missing { package: cross_gcc(build.arch), program: linker });
        }
        command.env(format!("CARGO_TARGET_{variable}_LINKER"), &linker);
        command.env(format!("CC_{}", target.replace('-', "_")), &linker);
        if !has_target(build.arch) {
            Sysroot::prepare(cache, build.arch)?.apply(&mut command, &workspace());
        }
    }
    if build.strip {
        command.env(format!("CARGO_PROFILE_{}_STRIP", profile.to_uppercase()), "symbols");
    }
    let log = cache.dir("logs")?.join(format!("build-{}-{}.log", build.bin, build.arch));
    command.stderr(File::create(&log).at(&log)?);
    let waiting = Waiting::new(format!("building {} for {}", build.bin, build.arch));
    let output = process::output(&mut command, waiting, || waiting::last_line(&log)).at("cargo")?;
    let failed = |why: &str| LabError::Program {
        program: format!("cargo build -p {} --target {target}", build.package),
        status: output.status.to_string(),
        output: format!("{why}\nall of it: {}", log.display()),
    };
    if !output.status.success() {
        let text = fs::read_to_string(&log).unwrap_or_default();
        return Err(failed(&errors(&text)));
    }
    executable(&output.stdout, build.bin).ok_or_else(|| failed("cargo named no executable"))
}

/// The paragraphs of cargo's output that say what is wrong, or its end where none does; a build in a
/// build indents its own.
fn errors(text: &str) -> String {
    const NO_NEWS: [&str; 3] = ["could not compile", "failed to run custom build", "aborting"];
    let is_error = |paragraph: &&str| {
        let rest = paragraph.trim_start().strip_prefix("error");
        rest.is_some_and(|rest| {
            !NO_NEWS.iter().any(|no_news| rest.starts_with(&format!(": {no_news}")))
        })
    };
    let paragraphs = text.split("\n\n").map(|paragraph| {
        paragraph.rsplit_once("--- stderr\n").map_or(paragraph, |(_, nested)| nested)
    });
    let errors: Vec<&str> = paragraphs.filter(is_error).collect();
    if !errors.is_empty() {
        return errors.join("\n\n");
    }
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(NR_LAST_LINES)..].join("\n")
}

/// The suite's runner: this machine's own as it is built anyway, others without their own debug
/// information (the payload inside keeps its).
///
/// # Errors
/// As [`build`].
pub fn runner(cache: &Cache, arch: Arch) -> Result<PathBuf> {
    let strip = Arch::native() != Some(arch);
    build(cache, &Build { package: "suites", bin: "kvm-conformance", arch, strip, env: &[] })
}

/// The cross compiler's package: it links, and brings the C library's headers with it.
pub(crate) fn cross_gcc(arch: Arch) -> String {
    format!("gcc-{}", arch.names().gnu_triple)
}

/// The init for emulated hosts of an architecture, built when its sources have changed.
pub(crate) fn lab_init(cache: &Cache, arch: Arch) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    for path in INIT_SOURCES.map(|path| workspace().join(path)) {
        hash_sources(&path, &mut hasher).at(&path)?;
    }
    let dir = cache.checked(format!("init/{arch}-{:016x}", hasher.finish()), |fresh| {
        let what = Build { package: "lab-init", bin: "lab-init", arch, strip: true, env: &[] };
        let built = build(cache, &what)?;
        fs::copy(&built, fresh.join("lab-init")).at(&built).map(|_| ())
    })?;
    Ok(dir.join("lab-init"))
}

/// Feeds a hasher with a file, or with all files of a directory in the order of their names.
fn hash_sources(path: &Path, hasher: &mut impl Hasher) -> std::io::Result<()> {
    if !path.is_dir() {
        fs::read(path)?.hash(hasher);
        return Ok(());
    }
    let mut entries =
        fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    entries.sort();
    entries.iter().try_for_each(|entry| {
        entry.file_name().hash(hasher);
        hash_sources(entry, hasher)
    })
}

/// Flags beside those of the workspace's own configuration, which links statically.
fn rust_flags(arch: Arch) -> &'static str {
    match arch {
        // The oldest machine that runs the kernel: Hercules models little more.
        Arch::S390x => "-C target-cpu=z10",
        _ => "",
    }
}

/// Whether the compiler at hand can build for the target by itself.
pub(crate) fn has_target(arch: Arch) -> bool {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    command
        .args(["--print", "target-libdir", "--target", arch.names().rust_target])
        .current_dir(workspace());
    let dir = process::run(&mut command, "rustc").unwrap_or_default();
    !dir.trim().is_empty() && Path::new(dir.trim()).is_dir()
}

fn workspace() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    path.canonicalize().unwrap_or(path)
}

/// The path that cargo's messages name for the program.
fn executable(messages: &[u8], bin: &str) -> Option<PathBuf> {
    let text = String::from_utf8_lossy(messages);
    text.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == bin)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_a_build_are_shown_alone() {
        let log = "   Compiling suites\nwarning: unused\n --> a.rs:1\n\nerror: failed to run custom build \
                   command\n\nCaused by:\n  --- stderr\n  error[E0425]: no value `PORTT`\n   --> b.rs:9\n\n  \
                   error: could not compile `suites`\n\n  thread 'main' panicked\n";
        assert_eq!(errors(log), "  error[E0425]: no value `PORTT`\n   --> b.rs:9");
        assert_eq!(errors("a\nb\n"), "a\nb");
    }

    #[test]
    fn finds_the_program_among_the_messages() {
        let messages = br#"{"reason":"compiler-artifact","target":{"name":"x"},"executable":null}
not json
{"reason":"compiler-artifact","target":{"name":"y"},"executable":"/t/y"}
"#;
        assert_eq!(executable(messages, "y"), Some(PathBuf::from("/t/y")));
        assert_eq!(executable(messages, "x"), None);
    }
}
