//! `unittests.yaml`: its errors, and what known failures make of a verdict.

use crate::door::{Door, Named, text};

pub const TESTS: &[Named] = &[
    ("policy::a_wrong_name_is_told_with_the_right_one", wrong_names),
    ("policy::known_failures_are_told_from_news", known_failures),
    ("policy::conditions_choose_the_host", conditions),
    ("policy::values_reach_the_test", values),
    ("policy::a_file_includes_known_failures", includes),
    ("policy::options_are_those_that_tests_declare", options),
    ("policy::groups_come_from_the_file_and_the_test", groups),
];

fn wrong_names() {
    for (yaml, message) in [
        (
            "tests:\n  ends::pas: {}\n",
            "p.yaml:2: unknown test `ends::pas`; did you mean `ends::pass`?",
        ),
        (
            "groups:\n  smoke:\n  - ends::pass\n  - ends::zzz*\n",
            "p.yaml:4: unknown test `ends::zzz*`",
        ),
        (
            "tests:\n  ends::pass: { timout: 3s }\n",
            "p.yaml:2: unknown key `timout`; did you mean `timeout`?",
        ),
        (
            "known_failure: []\n",
            "p.yaml:1: unknown key `known_failure`; did you mean `known_failures`?",
        ),
        (
            "tests:\n  ends::pass:\n    groups: [fakes, nodefalt]\n",
            "p.yaml:3: unknown group `nodefalt`; did you mean `nodefault`?",
        ),
        (
            "tests:\n  ends::pass:\n    requires: [KVM_CAP_THRE]\n",
            "p.yaml:3: unknown capability `KVM_CAP_THRE`; did you mean `KVM_CAP_THERE`?",
        ),
        (
            "known_failures:\n- test: ends::pass\n  reason: x\n- test: ends::panik\n  reason: x\n",
            "p.yaml:4: unknown test `ends::panik`; did you mean `ends::panic`?",
        ),
        (
            "known_failures:\n- test: ends::pass\n    - one is two\n  reason: x\n",
            "p.yaml:2: unknown test `ends::pass - one is two`; did you mean `ends::pass`?",
        ),
        (
            "known_failures:\n- test: ends::pass\n",
            "p.yaml:2: the known failure of `ends::pass` has no reason",
        ),
        (
            "known_failures:\n- test: ends::pass\n  reason: x\n  when: { arch: amd64 }\n",
            "p.yaml:4: unknown architecture `amd64`",
        ),
        (
            "known_failures:\n- test: ends::pass\n  reason: x\n  when: { kernel: \"5.10\" }\n",
            "`5.10` is no kernel range; one looks like `>=5.10, <6.1`",
        ),
        (
            "tests:\n  ends::parameter:\n    parameters: { iteratoins: 3 }\n",
            "p.yaml:3: unknown option `iteratoins`; did you mean `iterations`?",
        ),
        (
            "known_failures:\n- test: ends::pass\n  reason: x\n  when: { backend: kvm_amb }\n",
            "p.yaml:4: unknown backend `kvm_amb`; did you mean `kvm_amd`?",
        ),
        (
            "known_failures:\n- test: ends::pass\n  reason: x\n  when:\n    profile: amd64-smv*\n",
            "p.yaml:5: unknown profile `amd64-smv*`; did you mean `amd64-svm`?",
        ),
        (
            "known_failures:\n- test: ends::pass\n  reason: x\n  when: { kernel: '>=7, <6' }\n",
            "p.yaml:4: no kernel is in `>=7, <6`",
        ),
        (
            "known_failures:\n- test: ends::pass\n  reason: x\n- test: ends::pass\n  reason: y\n",
            "p.yaml:4: the known failure of `ends::pass` is listed twice",
        ),
        ("groups:\n  a,b: [ends::pass]\n", "p.yaml:2: no `-g` can name a group `a,b`"),
        ("tests:\n  nosuchtest: {}\n", "p.yaml:2: unknown test `nosuchtest`\n"),
        ("- a\n", "p.yaml:1: invalid type: sequence, expected a mapping"),
        ("", "there is nothing in it"),
        ("# Later.\n", "there is nothing in it"),
        ("defaults: { timeout: soon }\n", "`soon` is no time; one looks like `10s`"),
        ("tests: [\n", "p.yaml:"),
        ("tests:\n  ends::pass: {}\n  ends::pass: {}\n", "`ends::pass` is listed twice"),
    ] {
        let door = Door::new();
        door.file("p.yaml", yaml);
        let output = door.run(&["--config", "p.yaml", "ends::pass"]);
        let told = text(&output.stderr);
        assert!(told.starts_with("error: p.yaml:"), "{yaml}: {told}");
        assert!(told.contains(message), "{yaml}: {told}");
        assert_eq!(output.status.code(), Some(2), "{yaml}");
    }
    let output = Door::new().run(&["--config", "nowhere.yaml"]);
    assert_eq!(
        text(&output.stderr),
        "error: nowhere.yaml: No such file or directory (os error 2)\n"
    );
    // Names of an architecture that this binary has no test of are not ours to check.
    let door = Door::new();
    door.file("p.yaml", "tests:\n  riscv64::aia::route: { timeout: 3s }\n");
    assert!(door.run(&["--config", "p.yaml", "ends::pass"]).status.success());
}

/// Runs a test under a policy with one known failure of it.
fn under(test: &str, known: &str) -> (i32, String, String) {
    let door = Door::new();
    door.file(
        "p.yaml",
        &format!("known_failures:\n- test: ends::{test}\n  reason: as listed\n{known}"),
    );
    let (code, result) = door.one(&["--config", "p.yaml", "--timeout", "0.2", test]);
    let word = |key: &str| result[key].as_str().unwrap_or("").to_owned();
    (code, word("outcome"), word("reason"))
}

fn known_failures() {
    for (test, known, code, outcome, reason) in [
        ("fail_by_check", "", 0, "known_fail", "as listed"),
        ("fail_by_body", "", 0, "known_fail", "as listed"),
        ("fail_by_check", "  checks: [one is two]\n", 0, "known_fail", "as listed"),
        ("fail_by_check", "  checks: [one is one]\n", 1, "fail", "check failed: one is two"),
        (
            "fail_by_check",
            "  checks: [one is two, one is one]\n",
            0,
            "xpass",
            "listed as known failure, but passed: one is one",
        ),
        ("pass", "", 0, "xpass", "listed as known failure (as listed), but passed"),
        ("fail_by_body", "  intermittent: true\n", 0, "known_fail", "as listed"),
        (
            "fail_by_check",
            "  checks: [one is two, one is one]\n  intermittent: true\n",
            0,
            "known_fail",
            "as listed",
        ),
        (
            "pass",
            "  checks: [two is too]\n",
            0,
            "xpass",
            "listed as known failure, but this run has no check `two is too`; did you mean `two is two`?",
        ),
        ("fail_by_body", "  checks: [two is two]\n", 1, "fail", "KVM_RUN gave EFAULT"),
        ("error", "", 2, "error", "no memory"),
        ("error", "  outcome: error\n", 0, "known_fail", "as listed"),
        ("told_to_stop", "", 1, "timeout", "guest at rip 0x1234 (spin+0x4)"),
        ("told_to_stop", "  outcome: timeout\n", 0, "known_fail", "as listed"),
        ("skip_late", "", 3, "skip", "nested paging"),
    ] {
        let is = under(test, known);
        assert_eq!(is, (code, outcome.to_owned(), reason.to_owned()), "{test} {known}");
    }
    let door = Door::new();
    door.file("p.yaml", "known_failures:\n- test: ends::pass\n  reason: old\n");
    let (code, result) = door.one(&["--config", "p.yaml", "--strict", "ends::pass"]);
    assert_eq!(
        (code, &result["outcome"]),
        (1, &"xpass".into()),
        "an old list is an error to who asks"
    );
    door.file(
        "p.yaml",
        "known_failures:\n- test: ends::fail_*\n  reason: r\n  reference: docs/x.md\n",
    );
    let (_, result) = door.one(&["--config", "p.yaml", "fail_by_body"]);
    assert_eq!(result["reference"], "docs/x.md");
    assert_eq!(result["details"][1], "seen: KVM_RUN gave EFAULT");
}

fn includes() {
    let door = Door::new();
    std::fs::create_dir_all(door.path("deep/known")).unwrap();
    door.file("deep/p.yaml", "include:\n- known/a.yaml\n- known/b.yaml\n");
    door.file("deep/known/a.yaml", "known_failures:\n- test: ends::fail_by_body\n  reason: a\n");
    door.file(
        "deep/known/b.yaml",
        "# Nothing.\nknown_failures:\n- test: ends::pass\n  reason: b\n",
    );
    let config = ["--config", "deep/p.yaml"];
    let (_, result) = door.one(&[&config[..], &["fail_by_body"]].concat());
    assert_eq!((&result["outcome"], &result["reason"]), (&"known_fail".into(), &"a".into()));
    let (_, result) = door.one(&[&config[..], &["ends::pass"]].concat());
    assert_eq!(result["outcome"], "xpass");
    assert_eq!(result["details"][0], "correct known_failures in deep/known/b.yaml");
    for (text_of_a, message) in [
        (
            "known_failures:\n- test: ends::pas\n  reason: a\n",
            "deep/known/a.yaml:2: unknown test `ends::pas`; did you mean `ends::pass`?",
        ),
        (
            "known_failures: []\ntests: {}\n",
            "deep/known/a.yaml:2: unknown key `tests`; the keys here are known_failures",
        ),
        ("known_failures: [\n", "deep/known/a.yaml:2: did not find expected node content"),
    ] {
        door.file("deep/known/a.yaml", text_of_a);
        let told = text(&door.run(&[&config[..], &["-l"]].concat()).stderr);
        assert!(told.starts_with(&format!("error: {message}")), "{told}");
    }
    std::fs::remove_file(door.path("deep/known/b.yaml")).unwrap();
    door.file("deep/known/a.yaml", "");
    let output = door.run(&[&config[..], &["-l"]].concat());
    let missing = "deep/known/b.yaml: No such file or directory (os error 2)";
    assert_eq!(text(&output.stderr), format!("error: deep/p.yaml:3: {missing}\n"));
    assert_eq!(output.status.code(), Some(2));
}

fn conditions() {
    for (when, holds) in [
        ("backend: kvm_fake", true),
        ("backend: kvm_amd", false),
        ("arch: x86_64, kernel: \">=6.1, <7.0\"", true),
        ("arch: x86_64, kernel: \"<6.1\"", false),
        ("arch: riscv64", false),
        ("profile: native", true),
        ("module_params: { kvm_fake.nested: 1 }", true),
        ("module_params: { kvm_fake.nested: false }", false),
        ("module_params: { kvm_fake.other: 1 }", false),
    ] {
        let (_, outcome, _) = under("fail_by_body", &format!("  when: {{ {when} }}\n"));
        assert_eq!(outcome, if holds { "known_fail" } else { "fail" }, "{when}");
    }
}

fn values() {
    let door = Door::new();
    door.file("p.yaml", "tests:\n  ends::parameter: { parameters: { iterations: 42 } }\n");
    assert_eq!(door.one(&["--config", "p.yaml", "parameter"]).1["outcome"], "pass");
    door.file("p.yaml", "tests:\n  ends::never_returns: { timeout: 200ms }\n");
    let (_, result) = door.one(&["--config", "p.yaml", "--timeout-scale", "2", "never_returns"]);
    assert!(result["reason"].as_str().unwrap().contains("within 0.4 s"), "{result}");
    door.file("p.yaml", "defaults: { memory: 200GiB }\n");
    assert_eq!(door.one(&["--config", "p.yaml", "memory_hog"]).1["outcome"], "pass");
}

fn options() {
    let door = Door::new();
    let result = |arguments: &[&str]| {
        let (_, result) = door.one(arguments);
        (result["outcome"].clone(), result["reason"].clone())
    };
    assert_eq!(result(&["--set", "iterations=42", "parameter"]).0, "pass");
    assert_eq!(result(&["--set", "iterations=41", "parameter"]).1, "iterations is 41");
    assert_eq!(
        result(&["undeclared"]),
        ("error".into(), "the test reads option `iterations`, which it does not declare".into())
    );
    for (arguments, message) in [
        (
            ["--set", "iteratoins=42", "parameter"],
            "unknown option `iteratoins`; did you mean `iterations`?",
        ),
        (
            ["--set", "iterations=42", "ends::pass"],
            "no selected test has options; `--set iterations=…` means nothing",
        ),
    ] {
        let output = door.run(&arguments);
        assert_eq!(text(&output.stderr), format!("error: {message}\n"));
        assert_eq!(output.status.code(), Some(2));
    }
    let told = text(&door.run(&["explain", "parameter"]).stdout);
    assert!(told.contains("\n  option: iterations (rounds that are measured)\n"), "{told}");
}

fn groups() {
    let door = Door::new();
    door.file(
        "p.yaml",
        "groups:\n  smoke: [ends::pass, ends::fail_*]\ntests:\n  ends::pass: { groups: [smoke, nodefault] }\n",
    );
    let list = |arguments: &[&str]| {
        let mut all = vec!["-l", "--config", "p.yaml"];
        all.extend(arguments);
        text(&door.run(&all).stdout)
    };
    assert_eq!(list(&["-g", "smoke"]), "ends::fail_by_body\nends::fail_by_check\n");
    assert_eq!(list(&["-g", "smoke", "-a", "-x", "*check"]), "ends::fail_by_body\nends::pass\n");
    assert_eq!(list(&["-g", "perf"]), "rare::measures\n");
    assert_eq!(list(&["-g", "perf,nodefault", "-x", "ends"]), "rare::measures\nrare::on_request\n");
    assert_eq!(list(&["rare"]).lines().count(), 3);
    assert_eq!(list(&["rare::*"]), "rare::alone\n");
    assert_eq!(list(&["/^rare/", "-a", "--perf"]).lines().count(), 3);
}
