//! What the user is told when a guest misbehaves (`suites/src/selftest.rs`), word for word.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How a test of `selftest` must end.
struct Expected {
    test: &'static str,
    outcome: &'static str,
    /// Empty: whatever it is.
    reason: &'static str,
    /// A line that must be among the details (empty: none asked for).
    detail: &'static str,
    /// What the host may lack, so that the test is skipped (empty: nothing).
    needs: &'static str,
}

const fn expect(
    test: &'static str,
    outcome: &'static str,
    reason: &'static str,
    detail: &'static str,
) -> Expected {
    Expected { test, outcome, reason, detail, needs: "" }
}

/// A test of a guest's guest.
#[cfg(target_arch = "x86_64")]
const fn expect_nested(
    test: &'static str,
    outcome: &'static str,
    reason: &'static str,
    detail: &'static str,
) -> Expected {
    Expected { test, outcome, reason, detail, needs: "needs CPUID feature SVM" }
}

const EXPECTED: &[Expected] = &[
    expect("both_guests_loop_for_ever", "timeout", "", "loops_for_ever at suites/src/selftest.rs"),
    expect(
        "guest_ends_early",
        "fail",
        "vCPU 0: the end of the guest function instead of sync(1) (after 1 exit)",
        "",
    ),
    expect("guest_fails_a_check", "fail", "check failed: two and two are five", ""),
    expect(
        "guest_halts_in_the_kernel",
        "timeout",
        "vCPU 0: the deadline has passed (after 1 exit)",
        "halts_for_ever at suites/src/selftest.rs",
    ),
    // KVM waits for arm64's WFI in the kernel, with an interrupt controller and without.
    #[cfg(target_arch = "aarch64")]
    expect(
        "guest_halts_in_userspace",
        "timeout",
        "vCPU 0: the deadline has passed (after 1 exits)",
        "halts_for_ever at suites/src/selftest.rs",
    ),
    #[cfg(not(target_arch = "aarch64"))]
    expect(
        "guest_halts_in_userspace",
        "fail",
        "vCPU 0: Hlt instead of the end of the guest function (after 1 exit)",
        "halts_for_ever at suites/src/selftest.rs",
    ),
    expect(
        "guest_loops_for_ever",
        "timeout",
        "vCPU 0: the deadline has passed (after 1 exit)",
        "loops_for_ever at suites/src/selftest.rs",
    ),
    expect(
        "guest_panics",
        "fail",
        "guest panicked at suites/src/selftest.rs:17: the argument is 7",
        "panics at suites/src/selftest.rs:17",
    ),
    expect(
        "guest_rings_with_a_wild_address::null",
        "error",
        "vCPU 0: garbage from the guest: doorbell with 0x0, its message page is 0x100000 (after 1 exit)",
        "rings_wildly at suites/src/selftest.rs",
    ),
    expect(
        "guest_rings_with_a_wild_address::unaligned",
        "error",
        "vCPU 0: garbage from the guest: doorbell with 0x100001, its message page is 0x100000 (after 1 exit)",
        "",
    ),
    expect(
        "guest_rings_with_a_wild_address::another_vcpu",
        "error",
        "vCPU 0: garbage from the guest: doorbell with 0x110000, its message page is 0x100000 (after 1 exit)",
        "",
    ),
    expect(
        "guest_rings_with_a_wild_address::no_guests_area",
        "error",
        "vCPU 0: garbage from the guest: doorbell with 0xf00000, where vCPU 0 runs no guest (after 1 exit)",
        "",
    ),
    expect(
        "guest_rings_with_a_wild_address::beyond_ram",
        "error",
        "vCPU 0: garbage from the guest: doorbell with 0xfffff000, its message page is 0x100000 (after 1 exit)",
        "",
    ),
    expect(
        "guest_rings_with_a_wild_address::broken_guest",
        "error",
        "vCPU 0: the guest runtime does not know this start info: payload and harness are of different builds (after 1 exit)",
        "",
    ),
    expect(
        "guest_scribbles_over_its_message::magic",
        "error",
        "vCPU 0: garbage from the guest: bad magic 0x62616463, first bytes [63, 64, 61, 62, 01, 00, 00, 00, 00, 00, 00, 00, 01, 00, 00, 00] (after 2 exits)",
        "last log line: a good message first",
    ),
    expect(
        "guest_scribbles_over_its_message::verb",
        "error",
        "vCPU 0: garbage from the guest: unknown verb 99, first bytes [4b, 56, 4d, 43, 63, 00, 00, 00, 00, 00, 00, 00, 01, 00, 00, 00] (after 2 exits)",
        "",
    ),
    expect(
        "guest_scribbles_over_its_message::vcpu",
        "error",
        "vCPU 0: garbage from the guest: message of vCPU 3 from vCPU 0, first bytes [4b, 56, 4d, 43, 01, 00, 00, 00, 03, 00, 00, 00, 01, 00, 00, 00] (after 2 exits)",
        "",
    ),
    expect(
        "guest_scribbles_over_its_message::level",
        "error",
        "vCPU 0: garbage from the guest: message of level 2 from level 1, first bytes [4b, 56, 4d, 43, 01, 00, 00, 00, 00, 00, 00, 00, 02, 00, 00, 00] (after 2 exits)",
        "",
    ),
    expect(
        "guest_scribbles_over_its_message::text_length",
        "error",
        "vCPU 0: garbage from the guest: text of 65535 bytes at 0, first bytes [4b, 56, 4d, 43, 01, 00, 00, 00, 00, 00, 00, 00, 01, 00, 00, 00] (after 2 exits)",
        "",
    ),
    expect(
        "host_half_never_returns",
        "timeout",
        "no verdict within 0.5 s: the host half did not return, killed",
        "vCPU 0: 1 exit, stands at 0x",
    ),
    expect("host_panics", "skip", "needs an emulated host (--host PROFILE)", ""),
    expect("vm_is_left_open", "error", "", ""),
    expect("late_skip", "skip", "a host with a flux capacitor", ""),
    expect(
        "payload_lacks_the_guest_function",
        "error",
        "the payload has no guest function suites::selftest::gone",
        "",
    ),
    #[cfg(target_arch = "x86_64")]
    expect(
        "guest_overflows_its_stack",
        "fail",
        "unexpected trap in the guest: #PF (vector 14), error code 0x2, on vCPU 0, in the guard page below the stack: stack overflow",
        "deeper at suites/src/selftest.rs",
    ),
    #[cfg(target_arch = "aarch64")]
    expect(
        "guest_overflows_its_stack",
        "fail",
        "unexpected trap in the guest: data abort on a write, translation fault at level 3, ESR 0x96000047, on vCPU 0, in the guard page below the stack: stack overflow",
        "deeper at suites/src/selftest.rs",
    ),
    #[cfg(target_arch = "aarch64")]
    expect(
        "aarch64::selftest::guest_traps",
        "fail",
        "unexpected trap in the guest: undefined instruction or unknown reason, ESR 0x2000000, on vCPU 0",
        "takes_an_unexpected_trap at suites/src/aarch64/selftest.rs",
    ),
    #[cfg(target_arch = "aarch64")]
    expect(
        "aarch64::selftest::guest_traps_at_el0",
        "fail",
        "unexpected trap in the guest: instruction abort in EL0, permission fault at level 2, ESR 0x8200000e, on vCPU 0",
        "(EL0t) far bfff0000",
    ),
    #[cfg(target_arch = "x86_64")]
    expect(
        "x86_64::selftest::guest_traps",
        "fail",
        "unexpected trap in the guest: #GP (vector 13), error code 0x0, on vCPU 0",
        "takes_an_unexpected_trap at suites/src/x86_64/selftest.rs",
    ),
    #[cfg(target_arch = "x86_64")]
    expect(
        "x86_64::selftest::guest_triple_faults",
        "fail",
        "vCPU 0: Shutdown instead of the end of the guest function (after 1 exit)",
        "triple_faults at suites/src/x86_64/",
    ),
    #[cfg(target_arch = "x86_64")]
    expect_nested(
        "x86_64::selftest::nested_guest::panics",
        "fail",
        "guest panicked at suites/src/x86_64/selftest.rs:19: level 2 has the argument 8",
        "vCPU 0 in L2, stack pointer",
    ),
    #[cfg(target_arch = "x86_64")]
    expect_nested(
        "x86_64::selftest::nested_guest::traps",
        "fail",
        "unexpected trap in the guest: #GP (vector 13), error code 0x0, on vCPU 0 in L2",
        "takes_an_unexpected_trap at suites/src/x86_64/selftest.rs",
    ),
    #[cfg(target_arch = "x86_64")]
    expect_nested(
        "x86_64::selftest::nested_guest::loops_for_ever",
        "timeout",
        "vCPU 0 in L2: the deadline has passed (after 1 exit)",
        "runs_a_guest::{closure_env#1}",
    ),
    #[cfg(target_arch = "x86_64")]
    expect_nested(
        "x86_64::selftest::nested_guest::overflows_its_stack",
        "fail",
        "unexpected trap in the guest: #PF (vector 14), error code 0x2, on vCPU 0 in L2, in the guard page below the stack: stack overflow",
        "deeper at suites/src/selftest.rs",
    ),
    #[cfg(target_arch = "x86_64")]
    expect_nested(
        "x86_64::selftest::nested_guest::sends_another_level",
        "error",
        "vCPU 0 in L2: garbage from the guest: message of level 1 from level 2, first bytes [4b, 56, 4d, 43, 01, 00, 00, 00, 00, 00, 00, 00, 01, 00, 00, 00] (after 2 exits)",
        "last log line: a good message of level 2 first",
    ),
    #[cfg(target_arch = "x86_64")]
    expect_nested(
        "x86_64::selftest::nested_guest::is_done",
        "error",
        "vCPU 0 in L2: garbage from the guest: end of the guest function at level 2, first bytes [4b, 56, 4d, 43, 08, 00, 00, 00, 00, 00, 00, 00, 02, 00, 00, 00] (after 2 exits)",
        "",
    ),
    #[cfg(target_arch = "x86_64")]
    expect_nested(
        "x86_64::selftest::nested_guest::rings_wildly",
        "error",
        "vCPU 0 in L2: garbage from the guest: doorbell with 0x100001, its message page is 0x100000 (after 1 exit)",
        "",
    ),
    #[cfg(target_arch = "x86_64")]
    expect_nested(
        "x86_64::selftest::hypervisor_loops_for_ever",
        "timeout",
        "vCPU 0 in L1: the deadline has passed (after 1 exit)",
        "loops_after_a_guest at suites/src/x86_64/selftest.rs",
    ),
];

fn runner() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvm-conformance"));
    command.stdin(Stdio::null());
    command
}

fn no_kvm() -> bool {
    let missing = !std::fs::exists("/dev/kvm").unwrap_or(false);
    if missing {
        eprintln!("skipped: /dev/kvm");
    }
    missing
}

#[test]
fn misbehaving_guests_are_told_word_for_word() {
    if no_kvm() {
        return;
    }
    // Only the ones that hang need a short deadline: on a busy machine others would miss it too.
    let hang: Vec<&str> =
        EXPECTED.iter().filter(|e| e.outcome == "timeout").map(|e| e.test).collect();
    let run = |arguments: &[&str]| {
        let output = runner().args(["--json", "-"]).args(arguments).output();
        let output = output.expect("the runner starts");
        assert_eq!(output.status.code(), Some(1), "a failure outweighs errors");
        String::from_utf8(output.stdout).expect("JSON is UTF-8")
    };
    let started = Instant::now();
    let short = ["--timeout", "0.5", "--timeout-scale", "1"];
    let mut text = run(&[&short[..], &hang].concat());
    assert!(started.elapsed() < Duration::from_secs(20), "nothing hangs past its deadline");
    text.push_str(&run(&["-a", "/selftest::/", "-x", &hang.join(",")]));
    let results: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("a JSON line"))
        .filter(|line: &serde_json::Value| line["type"] == "result")
        .collect();
    assert_eq!(results.len(), EXPECTED.len(), "every misbehaving guest is expected here");
    for want in EXPECTED {
        let name = if want.test.contains("selftest::") {
            want.test.to_owned()
        } else {
            format!("selftest::{}", want.test)
        };
        let got = results.iter().find(|r| r["test"] == name.as_str());
        let got = got.unwrap_or_else(|| panic!("no result of {name}"));
        if !want.needs.is_empty() && got["outcome"] == "skip" {
            assert_eq!(got["reason"], want.needs, "{name}: {got}");
            continue;
        }
        assert_eq!(got["outcome"], want.outcome, "{name}: {got}");
        assert!(want.reason.is_empty() || got["reason"] == want.reason, "{name}: {got}");
        assert!(got["details"].to_string().contains(want.detail), "{name}: {}", got["details"]);
    }
    let of = |name: &str| results.iter().find(|r| r["test"] == name).expect("it was run");
    let leak = of("selftest::vm_is_left_open")["reason"].to_string();
    assert!(leak.starts_with("\"the test left open: fd ") && leak.contains("kvm-vm"), "{leak}");
    let both = of("selftest::both_guests_loop_for_ever");
    let told = format!("{} {}", both["reason"], both["details"]);
    for vcpu in 0..2 {
        let line = format!("vCPU {vcpu}: the deadline has passed (after 1 exit)");
        assert!(told.contains(&line), "{both}");
    }
    let one = of("selftest::guest_loops_for_ever");
    assert_eq!(one["details"][0], "exits: 1 INTR");
    let has_stats = text.lines().next().is_some_and(|run| {
        let run: serde_json::Value = serde_json::from_str(run).expect("a JSON line");
        run["caps"]["KVM_CAP_BINARY_STATS_FD"].as_i64() > Some(0)
    });
    if has_stats {
        let exits =
            |result: &serde_json::Value, of: &str| result["kvm_stats"][of]["exits"].as_u64();
        assert!(exits(one, "vCPU 0") >= Some(1), "{one}");
        assert!(one["kvm_stats"]["VM"].as_object().is_some_and(|vm| !vm.is_empty()), "{one}");
        let stuck = of("selftest::host_half_never_returns");
        assert!(exits(stuck, "vCPU 0") >= Some(1), "{stuck}");
        assert!(stuck["kvm_stats"]["VM"].as_object().is_some_and(|vm| !vm.is_empty()), "{stuck}");
        assert!(exits(both, "vCPU 0") >= Some(1) && exits(both, "vCPU 1") >= Some(1), "{both}");
    }
}

/// The deadline may come before the worker is ready, and between two KVM_RUNs: it is never missed.
#[test]
fn a_deadline_finds_the_guest_at_any_moment() {
    if no_kvm() {
        return;
    }
    for timeout in ["0.002", "0.005", "0.02"] {
        // The factor gives a busy machine ten seconds to take the VM down.
        let output = runner()
            .args(["--timeout", timeout, "--timeout-scale", "10", "--repeat", "15", "--json", "-"])
            .arg("selftest::both_guests_loop_for_ever")
            .output()
            .expect("the runner starts");
        let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
        let ends = text.lines().filter(|line| line.contains(r#""type":"result""#));
        let told = ends.filter(|line| line.contains("the deadline has passed"));
        assert_eq!(told.count(), 15, "with {timeout} s: {text}");
    }
}

/// Each way in which `/dev/kvm` can be unusable ends in exit code 2 and says what to do.
#[test]
fn an_unusable_device_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let forbidden = dir.path().join("kvm");
    std::fs::write(&forbidden, "").expect("a file");
    for (device, want) in [
        ("/nonexistent/kvm", "/nonexistent/kvm does not exist: load the module for this CPU"),
        ("/dev/null", "cannot use /dev/null: it is not a KVM device"),
        (forbidden.to_str().expect("UTF-8"), "it is not a KVM device"),
    ] {
        let output = runner()
            .args(["--host", "native", "-a", "/selftest/"])
            .env("KVM_CONFORMANCE_DEVICE", device)
            .output()
            .expect("the runner starts");
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{device}: {told}");
        assert!(told.contains(want), "{device}: {told}");
    }
}

#[test]
fn every_guest_function_is_in_the_payload() {
    let payload = vm::payload::Payload::load(suites::PAYLOAD).expect("our own payload");
    let functions: Vec<&str> = payload.entries().collect();
    assert!(functions.contains(&"suites::selftest::panics"), "{functions:?}");
    for garbage in [&b""[..], b"\x7fELF", &suites::PAYLOAD[..100], &suites::PAYLOAD[..5000]] {
        assert!(vm::payload::Payload::load(garbage).is_err(), "{} bytes", garbage.len());
    }
}
