//! Every way in which a test can end.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::door::{Door, Named, results, text};

pub const TESTS: &[Named] = &[
    ("ends::ordinary_ends_have_their_outcome", ordinary),
    ("ends::details_reach_the_result", details),
    ("ends::a_killed_worker_is_an_error", crash),
    ("ends::a_host_half_that_never_returns_is_a_timeout", never_returns),
    ("ends::the_watchdog_tells_the_guests_state", watchdog),
    ("ends::what_a_test_leaves_is_its_error", leaves),
    ("ends::a_fork_bomb_is_cut", fork_bomb),
    ("ends::output_is_kept_in_bounds", output),
    ("ends::limits_hold", limits),
];

fn reason(result: &Value) -> &str {
    result["reason"].as_str().unwrap_or("")
}

fn ordinary() {
    let door = Door::new();
    for (test, outcome, status, why) in [
        ("pass", "pass", 0, ""),
        ("fail_by_check", "fail", 1, "check failed: one is two"),
        ("fail_by_body", "fail", 1, "KVM_RUN gave EFAULT"),
        ("error", "error", 2, "no memory"),
        ("checks_nothing", "error", 2, "the test ended without evaluating a check"),
        ("skip_late", "skip", 3, "nested paging"),
        ("skip_early", "skip", 3, "needs KVM_CAP_MISSING"),
    ] {
        let (code, result) = door.one(&[test]);
        assert_eq!(result["outcome"], outcome, "{test}");
        assert_eq!(reason(&result), why, "{test}");
        assert_eq!(code, status, "{test}");
    }
}

fn details() {
    let door = Door::new();
    let (_, lines) = door.json(&["pass", "fail_by_check", "fail_by_body"]);
    assert_eq!(lines[0]["type"], "run");
    assert_eq!(lines[0]["arch"], "x86_64");
    assert_eq!(lines[0]["kernel"], "6.12.3-fake");
    let all = results(&lines);
    let of = |name: &str| all.iter().find(|r| r["test"] == format!("ends::{name}")).unwrap();
    assert_eq!(of("pass")["checks"], 2);
    assert_eq!(of("pass")["passed_checks"], serde_json::json!(["three is three", "two is two"]));
    assert_eq!(of("fail_by_check")["passed_checks"], serde_json::json!(["one is one"]));
    assert_eq!(of("pass")["metrics"][0]["value"], 3.0);
    assert_eq!(of("pass")["groups"], serde_json::json!(["common", "fake", "fakes"]));
    assert_eq!(of("pass")["reason"], Value::Null);
    let check = &of("fail_by_check")["failed_checks"][0];
    assert_eq!(check["name"], "one is two");
    assert_eq!(check["detail"], "at guest.rs:12: 1 != 2");
    assert_eq!(of("fail_by_body")["details"][0], "rip 0x1000");
    assert!(of("pass")["duration_us"].as_u64().unwrap() > 0);
    let summary = lines.last().unwrap();
    assert_eq!(summary["type"], "summary");
    assert_eq!(
        (&summary["pass"], &summary["fail"], &summary["error"]),
        (&1.into(), &2.into(), &0.into())
    );
}

fn crash() {
    let door = Door::new();
    for (test, why) in [
        ("sigkill", "the worker was ended by SIGKILL before its verdict"),
        ("sigsegv", "the worker was ended by SIGSEGV before its verdict"),
        ("exit_zero", "the worker exited with status 0 before its verdict"),
    ] {
        let (code, result) = door.one(&[test]);
        assert_eq!((result["outcome"].as_str(), reason(&result), code), (Some("error"), why, 2));
    }
    let (_, result) = door.one(&["sigsegv"]);
    assert_eq!(result["log"][0], "about to crash");
    let (_, result) = door.one(&["panic"]);
    assert_eq!(result["outcome"], "error");
    assert!(reason(&result).starts_with("host half panicked at "), "{result}");
    assert!(reason(&result).ends_with(": out of cheese"), "{result}");
}

fn never_returns() {
    let door = Door::new();
    for test in ["never_returns", "spins"] {
        let begin = Instant::now();
        let (code, result) = door.one(&["--timeout", "0.3", "--timeout-scale", "1", test]);
        assert_eq!(result["outcome"], "timeout");
        assert_eq!(
            reason(&result),
            "no verdict within 0.3 s: the host half did not return, killed"
        );
        assert_eq!(code, 1);
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    }
    let (_, result) = door.one(&["--timeout", "0.1", "never_returns"]);
    assert_eq!(result["log"][0], "last words");
    // Where it hangs, as far as the kernel tells.
    let thread = result["details"][0].as_str().unwrap_or_default();
    assert!(thread.starts_with("thread runner") && thread.contains(": S "), "{result}");
}

fn watchdog() {
    let (code, result) = Door::new().one(&["--timeout", "0.2", "told_to_stop"]);
    assert_eq!(result["outcome"], "timeout");
    assert_eq!(reason(&result), "guest at rip 0x1234 (spin+0x4)");
    assert_eq!(code, 1);
    assert!(result["duration_us"].as_u64().unwrap() < 1_000_000, "{result}");
    let wanted =
        serde_json::json!({"VM": {"exits": 3, "odd\\u{1b}[0m": 1}, "vCPU 0": {"halt_exits": 2}});
    assert_eq!(result["kvm_stats"], wanted);
    let door = Door::new();
    let told = |verbose: &[&str]| {
        let arguments =
            [&["--timeout", "0.2", "--html", "h", "--tap", "t", "told_to_stop"], verbose];
        text(&door.run(&arguments.concat()).stdout)
    };
    let stats = "KVM statistics:\n      VM: exits 3, odd\\u{1b}[0m 1\n      vCPU 0: halt_exits 2\n";
    assert!(!told(&[]).contains("KVM statistics"));
    assert!(told(&["-v"]).contains(stats), "{}", told(&["-v"]));
    let page = std::fs::read_to_string(door.path("h")).unwrap();
    assert!(page.contains("\"stats\":[\"VM: exits 3, odd"), "{page}");
    let tap = std::fs::read_to_string(door.path("t")).unwrap();
    assert!(tap.contains("  kvm_stats:\n    - \"VM\\x3a exits 3, odd"), "{tap}");
}

fn leaves() {
    let door = Door::new();
    for (test, why) in [
        ("leaves_a_process", "the test left 1 process(es) running"),
        ("leaves_a_session", "the test left 1 process(es) running"),
        ("leaks_an_fd", "the test left open: fd 3 (/proc/version)"),
    ] {
        let (code, result) = door.one(&[test]);
        assert_eq!((result["outcome"].as_str(), reason(&result), code), (Some("error"), why, 2));
    }
}

fn fork_bomb() {
    let begin = Instant::now();
    let (_, result) = Door::new().one(&["--timeout", "15", "many_processes"]);
    assert_eq!(result["outcome"], "error");
    assert!(reason(&result).starts_with("the test started "), "{result}");
    assert!(reason(&result).ends_with(" processes, killed"), "{result}");
    assert!(begin.elapsed() < Duration::from_secs(14), "cut only after {:?}", begin.elapsed());
}

fn output() {
    let door = Door::new();
    let (_, result) = door.one(&["prints"]);
    assert_eq!(result["log"], serde_json::json!(["to stdout", "to stderr"]));
    let (code, result) = door.one(&["floods"]);
    assert_eq!((result["outcome"].as_str(), code), (Some("pass"), 0));
    let (_, result) = door.one(&["garbage"]);
    assert_eq!(result["outcome"], "error");
    assert_eq!(reason(&result), "the test wrote to the runner's event pipe: \"{scribble\"");
}

fn limits() {
    let (_, result) = Door::new().one(&["isolation"]);
    assert_eq!((&result["outcome"], &result["checks"]), (&"pass".into(), &7.into()), "{result}");
    let (_, result) = Door::new().one(&["many_files"]);
    assert!(reason(&result).contains("Too many open files"), "{result}");
    let (_, result) = Door::new().one(&["memory_hog"]);
    assert_eq!(result["outcome"], "error");
    assert!(reason(&result).contains("memory"), "{result}");
}
