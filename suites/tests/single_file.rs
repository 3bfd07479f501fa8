//! The runner is one file that needs nothing beside it but `/dev/kvm`: no repository, no library, no
//! /proc, no root.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::{Command, Output};

use tempfile::TempDir;

const RUNNER: &str = env!("CARGO_BIN_EXE_kvm-conformance");
/// Somebody without rights (nobody, in Debian).
const NOBODY: &str = "65534:65534";

/// A root directory with the runner, and `/dev/kvm` where this machine has one.
struct EmptyRoot {
    folder: TempDir,
    has_kvm: bool,
}

impl EmptyRoot {
    /// `None`, with the reason told, where this process may not make one.
    fn new() -> Option<Self> {
        if fs::metadata("/proc/self").map_or(1, |me| me.uid()) != 0 {
            eprintln!("skipped: only root may chroot");
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("our folder");
        // By another process: a program that this one has open for writing cannot be started, and a
        // test beside this one that forks meanwhile keeps it open.
        let copied = Command::new("cp").arg(RUNNER).arg(folder.path().join("runner")).status();
        assert!(copied.expect("cp starts").success());
        fs::create_dir(folder.path().join("dev")).expect("a folder");
        let device = folder.path().join("dev/kvm");
        let number = fs::metadata("/dev/kvm").map_or(0, |kvm| kvm.rdev());
        let (major, minor) = (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xfff00);
        let node = Command::new("mknod")
            .args(["--mode=666", device.to_str().expect("UTF-8"), "c"])
            .args([major.to_string(), minor.to_string()])
            .output();
        let has_kvm = number != 0
            && node.is_ok_and(|made| made.status.success())
            && fs::File::options().read(true).write(true).open(&device).is_ok();
        Some(Self { folder, has_kvm })
    }

    /// Runs it there, as nobody, with an empty environment.
    fn run(&self, arguments: &[&str]) -> Output {
        Command::new("chroot")
            .arg(format!("--userspec={NOBODY}"))
            .arg(self.folder.path())
            .arg("/runner")
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .output()
            .expect("chroot starts")
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn tests_run_in_an_empty_root_as_nobody() {
    let Some(root) = EmptyRoot::new() else { return };
    let listed = root.run(&["-l"]);
    assert!(listed.status.success(), "{}", text(&listed.stderr));
    assert!(text(&listed.stdout).contains("memslots::new_backing_shows_on_every_vcpu\n"));
    if !root.has_kvm {
        eprintln!("skipped: no /dev/kvm to put there");
        return;
    }
    let output = root.run(&["--json", "/j", "--html", "/h", "--timeout", "5", "-g", "smoke"]);
    let journal = fs::read_to_string(root.folder.path().join("j")).expect("results");
    let summary: serde_json::Value =
        serde_json::from_str(journal.lines().last().expect("a last line")).expect("JSON");
    // The kernel's version is known there too, or failures of old kernels would be expected.
    assert_eq!(summary["xpass"], 0, "{}", text(&output.stdout));
    assert_eq!(summary["error"], 0, "{}{}", text(&output.stdout), text(&output.stderr));
    assert!(summary["pass"].as_u64() >= Some(5), "{summary}");
    assert!(root.folder.path().join("h").exists());

    // The deadline cuts one off: its state is told with function, file and line, from inside the file.
    let output = root.run(&["-v", "--timeout", "0.3", "selftest::guest_loops_for_ever"]);
    let told = text(&output.stdout);
    assert!(told.contains("loops_for_ever at suites/src/selftest.rs"), "{told}");
}

#[test]
fn explain_knows_the_mutants_without_the_repository() {
    let Some(root) = EmptyRoot::new() else { return };
    let output = root.run(&["explain", "memslots::new_backing_shows_on_every_vcpu"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let told = text(&output.stdout);
    for line in ["  source: suites/src/common/memory/memslots.rs:", "  deadline: "] {
        assert!(told.contains(line), "{told}");
    }
    let mutants = ["  guards against mutant ", "  kills mutant "];
    assert!(mutants.iter().any(|line| told.contains(line)), "{told}");
}
