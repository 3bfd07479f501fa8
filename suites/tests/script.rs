//! `run_tests.sh` in every place and state that a user may call it from, with a cargo that builds
//! nothing.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../run_tests.sh");
/// Somebody who may write nothing here (nobody, in Debian).
const NOBODY: u32 = 65534;

/// Notes where it is called, and names a runner that prints its arguments and ends as `$RUNNER_ENDS`.
const CARGO: &str = r#"#!/bin/sh
pwd >"$CARGO_TARGET_DIR/called-in"
eval "$CARGO_DOES"
case "$*" in *"--bin lab"*) name=lab ;; *) name=kvm-conformance ;; esac
runner=$CARGO_TARGET_DIR/$name
printf '#!/bin/sh\nprintf "<%%s>" "$@"\nexit ${RUNNER_ENDS:-0}\n' >"$runner"
chmod +x "$runner"
printf '{"reason":"compiler-artifact","executable":"%s"}\n' "$runner"
"#;
const RUSTC: &str = "#!/bin/sh\necho 'rustc 1.999.0 (stub)'\n";

/// A checkout that holds no more than the script needs.
struct Checkout {
    folder: TempDir,
}

impl Checkout {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("our folder");
        let checkout = Self { folder };
        fs::create_dir_all(checkout.root()).expect("a folder");
        fs::create_dir(checkout.path("bin")).expect("a folder");
        fs::copy(SCRIPT, checkout.script()).expect("a copy of the script");
        fs::write(checkout.root().join("Cargo.toml"), "rust-version = \"1.91\"\n").expect("a file");
        for (name, text) in [("cargo", CARGO), ("rustc", RUSTC)] {
            let path = checkout.path(name);
            fs::write(&path, text).expect("a stub");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("our file");
            // By another process: what this one has open for writing cannot be started, and a test
            // beside this one that forks meanwhile keeps it open.
            let copied = Command::new("cp").arg("-p").arg(path).arg(checkout.path("bin")).status();
            assert!(copied.expect("cp starts").success());
        }
        checkout
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A folder whose name has a space.
    fn root(&self) -> PathBuf {
        self.path("a checkout")
    }

    fn script(&self) -> PathBuf {
        self.root().join("run_tests.sh")
    }

    /// The script, called from elsewhere with an environment as poor as cron's.
    fn command(&self, script: &Path) -> Command {
        let mut command = self.plain(script);
        command.arg("--host=native");
        command
    }

    fn plain(&self, script: &Path) -> Command {
        let mut command = Command::new("bash");
        command.arg(script).current_dir("/").env_clear();
        command.env("PATH", format!("{}:/usr/bin:/bin", self.path("bin").display()));
        command.env("HOME", self.path(""));
        command
    }

    fn called_in(&self) -> String {
        let path = self.root().join("target/called-in");
        fs::read_to_string(path).unwrap_or_default().trim_end().to_owned()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("bash starts");
    (status.code(), text(&stdout), text(&stderr))
}

#[test]
fn cargo_is_called_in_the_checkout_from_wherever_the_script_is_called() {
    let checkout = Checkout::new();
    let end = run(checkout.command(&checkout.script()).arg("a b"));
    assert_eq!(end, (Some(0), "<--host=native><a b>".into(), String::new()));
    assert_eq!(checkout.called_in(), checkout.root().display().to_string());
}

#[test]
fn a_symbolic_link_to_the_script_is_as_good_as_the_script() {
    let checkout = Checkout::new();
    symlink(checkout.script(), checkout.path("link")).expect("a link");
    let (status, _, stderr) = run(&mut checkout.command(&checkout.path("link")));
    assert_eq!((status, stderr.as_str()), (Some(0), ""));
    assert_eq!(checkout.called_in(), checkout.root().display().to_string());
}

#[test]
fn a_home_that_is_not_there_hinders_nothing() {
    for home in [None, Some("/nonexistent")] {
        let checkout = Checkout::new();
        let mut command = checkout.command(&checkout.script());
        command.env_remove("HOME").envs(home.map(|home| ("HOME", home)));
        let (status, _, stderr) = run(&mut command);
        assert_eq!((status, stderr.as_str()), (Some(0), ""), "{home:?}");
    }
}

#[test]
fn the_target_folder_may_be_named_relative_to_the_callers_folder() {
    let checkout = Checkout::new();
    let mut command = checkout.command(&checkout.script());
    command.current_dir(checkout.path("")).env("CARGO_TARGET_DIR", "elsewhere");
    let (status, _, stderr) = run(&mut command);
    assert_eq!((status, stderr.as_str()), (Some(0), ""));
    assert!(checkout.path("elsewhere/kvm-conformance").exists());
}

#[test]
fn a_checkout_that_may_not_be_written_is_built_in_the_users_cache() {
    let checkout = Checkout::new();
    let cache = checkout.path("cache");
    fs::create_dir(&cache).expect("a folder");
    fs::set_permissions(checkout.root(), fs::Permissions::from_mode(0o555)).expect("our folder");
    let mut command = checkout.command(&checkout.script());
    command.env("XDG_CACHE_HOME", &cache);
    if fs::metadata(&cache).expect("our folder").uid() == 0 {
        std::os::unix::fs::chown(&cache, Some(NOBODY), Some(NOBODY)).expect("root may");
        command.uid(NOBODY).gid(NOBODY);
    }
    let (status, stdout, stderr) = run(&mut command);
    assert_eq!((status, stdout.as_str()), (Some(0), "<--host=native>"), "{stderr}");
    assert!(cache.join("kvm-conformance/target/kvm-conformance").exists());
    assert!(stderr.contains("building in "), "{stderr}");
    fs::set_permissions(checkout.root(), fs::Permissions::from_mode(0o755)).expect("our folder");
}

#[test]
fn only_the_runner_ends_with_1_and_a_bisection_never_sees_2() {
    let cases = [
        ("exit 101", "0", &[] as &[&str], 2),
        ("exit 101", "0", &["--bisect"], 125),
        ("", "1", &[], 1),
        ("", "1", &["--bisect"], 1),
        ("", "125", &["--bisect"], 125),
        ("", "3", &[], 3),
        // No runner is named.
        ("exit 0", "0", &[], 2),
        ("exit 0", "0", &["--bisect"], 125),
        // That word is not the script's.
        ("exit 101", "0", &["--", "--bisect"], 2),
    ];
    for (cargo, runner, arguments, wanted) in cases {
        let checkout = Checkout::new();
        let mut command = checkout.command(&checkout.script());
        command.args(arguments).env("CARGO_DOES", cargo).env("RUNNER_ENDS", runner);
        let (status, _, stderr) = run(&mut command);
        assert_eq!(status, Some(wanted), "{cargo} {runner} {arguments:?}: {stderr}");
    }
}

/// The lab has the tests of other architectures; this machine's own list needs no `/dev/kvm`.
#[test]
fn a_list_comes_from_whoever_has_the_tests() {
    let cases = [
        (&["-l"][..], "<-l>"),
        (&["-l", "--arch", "aarch64"], "<test><-l><--arch><aarch64>"),
        (&["--host=riscv64", "-l"], "<test><--host=riscv64><-l>"),
        (&["report", "--arch"], "<report><--arch>"),
    ];
    for (arguments, wanted) in cases {
        let checkout = Checkout::new();
        let mut command = checkout.plain(&checkout.script());
        let (status, stdout, stderr) = run(command.args(arguments));
        assert_eq!((status, stdout.as_str()), (Some(0), wanted), "{stderr}");
    }
}

#[test]
fn an_interrupt_during_the_build_ends_a_bisection() {
    let checkout = Checkout::new();
    let mut command = checkout.command(&checkout.script());
    // As a terminal does: the signal goes to the whole process group.
    command.arg("--bisect").env("CARGO_DOES", "kill -INT 0; sleep 10").process_group(0);
    let status = command.output().expect("bash starts").status;
    assert!(status.code() == Some(130) || status.code().is_none(), "{status}");
}

#[test]
fn errors_of_the_compiler_are_shown_alone() {
    let checkout = Checkout::new();
    let log = "   Compiling suites v0.1.0\nwarning: unused `x`\n --> suites/src/a.rs:1\n\n\
        error: failed to run custom build command for `suites`\n\nCaused by:\n  process didn't exit\n  \
        --- stderr\n  error[E0425]: cannot find value `PORTT`\n   --> suites/src/my.rs:9\n\n  \
        error: could not compile `suites`\n\n  \
        thread 'main' panicked at suites/build.rs:1\n  the payload does not build\n";
    fs::write(checkout.path("log"), log).expect("a file");
    let mut command = checkout.command(&checkout.script());
    command.env("CARGO_DOES", format!("cat '{}' >&2; exit 101", checkout.path("log").display()));
    let (_, _, stderr) = run(&mut command);
    let wanted = "  error[E0425]: cannot find value `PORTT`\n   --> suites/src/my.rs:9\n";
    assert!(stderr.starts_with(wanted), "{stderr}");
    let last = stderr.trim_end().lines().last().unwrap_or_default();
    assert!(last.starts_with("error: it does not build (all of it: /"), "{stderr}");
    assert_eq!(stderr.trim_end().lines().count(), 3, "{stderr}");
}

#[test]
fn a_build_that_takes_time_shows_what_it_does() {
    let checkout = Checkout::new();
    let mut command = checkout.command(&checkout.script());
    command.env("CARGO_DOES", "echo '   Compiling vm v0.1.0' >&2; sleep 4");
    let (status, _, stderr) = run(&mut command);
    assert_eq!(status, Some(0), "{stderr}");
    assert!(stderr.starts_with("building kvm-conformance: "), "{stderr}");
    assert!(stderr.contains("(Compiling vm v0.1.0)"), "{stderr}");
}

#[test]
fn an_argument_that_is_not_utf8_reaches_the_runner() {
    let checkout = Checkout::new();
    let mut command = checkout.command(&checkout.script());
    let output = command.arg(OsStr::from_bytes(b"\xff")).output().expect("bash starts");
    assert_eq!(output.stdout, b"<--host=native><\xff>");
}
