//! Outputs that fail, and outputs that must not.

use std::os::unix::fs::FileTypeExt as _;
use std::process::Stdio;

use crate::door::{Door, Named, lines, results, text};

pub const TESTS: &[Named] = &[
    ("outputs::a_full_disk_loses_no_other_output", full_disk),
    ("outputs::a_file_that_fills_up_keeps_whole_lines", fills_up),
    ("outputs::a_console_that_is_full_is_an_error", full_console),
    ("outputs::closed_stdout_is_no_error", closed_stdout),
];

fn full_disk() {
    let door = Door::new();
    let json = door.path("j.json");
    let output =
        door.run(&["--tap", "/dev/full", "--json", json.to_str().unwrap(), "pass", "skip_late"]);
    let told = text(&output.stderr);
    assert!(told.contains("/dev/full: No space left on device"), "{told}");
    assert_eq!(told.matches("/dev/full").count(), 1, "told once: {told}");
    assert_eq!(output.status.code(), Some(2), "results were lost");
    assert_eq!(results(&lines(&json)).len(), 2);
    assert!(text(&output.stdout).contains("SKIP ends::skip_late"));
    let (tap, junit) = (door.path("tap"), door.path("junit"));
    let output = door.run(&[
        "--json",
        "/dev/full",
        "--tap",
        tap.to_str().unwrap(),
        "--junit",
        junit.to_str().unwrap(),
        "--html",
        "/dev/full",
        "pass",
    ]);
    assert_eq!(output.status.code(), Some(2));
    assert!(std::fs::read_to_string(tap).unwrap().contains("ok 1 - ends::pass"));
    assert!(std::fs::read_to_string(junit).unwrap().contains(r#"name="pass" classname="ends""#));
    let full = std::fs::metadata("/dev/full").unwrap();
    assert!(full.file_type().is_char_device(), "the device must still be one");
}

fn fills_up() {
    // RLIMIT_FSIZE stands in for a disk that is full in the middle of a line.
    let door = Door::new();
    let json = door.path("j.json");
    let program = std::env::current_exe().unwrap();
    let script = format!(
        "ulimit -f 1; exec {} -v --json {} --repeat 20 pass",
        program.display(),
        json.display()
    );
    let output = std::process::Command::new("bash")
        .args(["-c", &script])
        .env("FAKE_DOOR", "cli")
        .output()
        .unwrap();
    assert!(text(&output.stderr).contains("File too large"), "{}", text(&output.stderr));
    assert_eq!(output.status.code(), Some(2));
    let kept = lines(&json);
    assert!(kept.len() > 1 && kept.len() < 20, "{}", kept.len());
    assert!(text(&output.stdout).contains("20 pass"));
}

/// Where nothing else holds the results, a console that lost them is an error.
fn full_console() {
    let door = Door::new();
    for arguments in [&["pass", "skip_late"][..], &["--json", "j", "pass"], &["--help"], &["-l"]] {
        let mut command = door.command("cli", arguments);
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = command.stdout(full).stderr(Stdio::piped()).output().unwrap();
        let told = text(&output.stderr);
        assert!(told.contains("standard output: No space left on device"), "{arguments:?}: {told}");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
    assert_eq!(results(&lines(&door.path("j"))).len(), 1);
}

fn closed_stdout() {
    let door = Door::new();
    let program = std::env::current_exe().unwrap();
    // What was asked for there would be lost without a word.
    let script = format!("exec {} --json - pass >&-", program.display());
    let output = std::process::Command::new("bash")
        .args(["-c", &script])
        .env("FAKE_DOOR", "cli")
        .output()
        .unwrap();
    let told = "error: standard output is closed: --json cannot go there\n";
    assert_eq!((text(&output.stderr).as_str(), output.status.code()), (told, Some(2)));
    for redirection in [">&-", "| true"] {
        let json = door.path("j.json");
        let script = format!(
            "set -o pipefail; sleep 0.1; {} --json {} pass {redirection}",
            program.display(),
            json.display()
        );
        let output = std::process::Command::new("bash")
            .args(["-c", &script])
            .env("FAKE_DOOR", "cli")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{redirection}: {}", text(&output.stderr));
        assert_eq!(text(&output.stderr), "", "{redirection}");
        assert_eq!(lines(&json).last().unwrap()["pass"], 1);
    }
}
