//! Programs of other suites: every way in which one can end, and that they are tests like others.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::door::{Door, Named, results, text};

pub const TESTS: &[Named] = &[
    ("programs::exit_status_and_signal_have_their_outcome", statuses),
    ("programs::output_gives_the_reason", reasons),
    ("programs::points_of_tap_are_checks", points),
    ("programs::deadline_kills_the_whole_group", deadline),
    ("programs::what_one_leaves_is_its_error", leaves),
    ("programs::one_that_cannot_start_is_an_error", no_program),
    ("programs::isolation_is_that_of_every_test", isolation),
    ("programs::policy_and_selection_hold_for_them", policy),
    ("programs::a_wrong_list_is_told_with_its_line", wrong_lists),
];

/// A list with these lines of YAML for each script.
fn list(scripts: &[(&str, &str, &str)]) -> String {
    let mut text = "suite: other\nprograms:\n".to_owned();
    for (name, script, more) in scripts {
        let args = serde_json::to_string(&["-c", script]).unwrap();
        let _ = writeln!(text, "- name: \"{name}\"\n  path: /bin/sh\n  args: {args}\n{more}");
    }
    text
}

/// Runs one script as a test; gives exit status and result.
fn run(script: &str, more: &str) -> (i32, Value) {
    let door = Door::new();
    door.file("list.yaml", &list(&[("it", script, more)]));
    door.one(&["--programs", "list.yaml", "--timeout-scale", "1", "it"])
}

fn reason(result: &Value) -> &str {
    result["reason"].as_str().unwrap_or("")
}

const STATUS: &str = "the program ends with a status that means success";

fn statuses() {
    for (script, more, outcome, code, why) in [
        ("exit 0", "", "pass", 0, ""),
        ("exit 1", "", "fail", 1, "the program exited with status 1"),
        ("exit 4", "", "skip", 3, "the program exited with status 4"),
        ("exit 4", "  exit: {0: pass}", "fail", 1, "the program exited with status 4"),
        ("echo no nVMX; exit 77", "  exit: {0: pass, 77: skip}", "skip", 3, "no nVMX"),
        ("exit 9", "  exit: {9: pass}", "pass", 0, ""),
        (
            "exit 9",
            "  exit: {0: pass, other: error}",
            "error",
            2,
            "the program exited with status 9",
        ),
        ("kill -SEGV $$", "", "error", 2, "the program was ended by SIGSEGV"),
        ("kill -KILL $$", "  exit: {signal: fail}", "fail", 1, "the program was ended by SIGKILL"),
    ] {
        let (is, result) = run(script, more);
        assert_eq!((result["outcome"].as_str(), is), (Some(outcome), code), "{script} {result}");
        assert_eq!(reason(&result), why, "{script}");
    }
    let (_, result) = run("exit 0", "");
    assert_eq!(result["passed_checks"], json!([STATUS]), "{result}");
    let (_, result) = run("exit 1", "");
    assert_eq!(result["failed_checks"][0]["name"], STATUS);
}

fn reasons() {
    let (_, result) = run("echo first; echo last >&2; echo; exit 1", "");
    assert_eq!(reason(&result), "the program exited with status 1: last");
    assert_eq!(result["log"], json!(["first", "last", ""]));
    // As the kernel's KVM selftests say it.
    let assertion = "echo '==== Test Assertion Failure ===='; echo '  x86/a.c:23: a == b'; \
                     echo '  pid=1 tid=1'; exit 254";
    let (_, result) = run(assertion, "");
    assert_eq!(reason(&result), "the program exited with status 254: x86/a.c:23: a == b");
}

fn points() {
    let tap = |lines: &[&str], status: u8| {
        let echoes: Vec<String> = lines.iter().map(|line| format!("echo '{line}'")).collect();
        run(&format!("{}; exit {status}", echoes.join("; ")), "").1
    };
    let good = ["TAP version 13", "1..3", "ok 1 one", "ok 2 - two # SKIP none", "ok 3 three"];
    let result = tap(&good, 0);
    assert_eq!((&result["outcome"], &result["checks"]), (&"pass".into(), &2.into()), "{result}");
    assert_eq!(result["passed_checks"], json!(["one", "three"]));
    let bad = ["KTAP version 1", "1..2", "# a.c:7: 1 != 2", "not ok 1 one", "ok 2 two"];
    for status in [0, 1] {
        let result = tap(&bad, status);
        assert_eq!((&result["outcome"], reason(&result)), (&"fail".into(), "check failed: one"));
        assert_eq!(result["failed_checks"], json!([{"name": "one", "detail": "a.c:7: 1 != 2"}]));
    }
    // Its word alone is no pass, and neither are its points.
    let result = tap(&good[..3], 0);
    let planned = "the program planned 3 points and printed 1";
    assert_eq!((&result["outcome"], reason(&result)), (&"error".into(), planned));
    let result = tap(&good, 1);
    assert_eq!(
        (&result["outcome"], reason(&result)),
        (&"fail".into(), "the program exited with status 1")
    );
    let result = tap(&["TAP version 13", "1..0 # SKIP no KVM_CAP_X"], 4);
    assert_eq!((&result["outcome"], reason(&result)), (&"skip".into(), "no KVM_CAP_X"));
    let result = tap(&["TAP version 13", "Bail out! no memory"], 1);
    assert_eq!(reason(&result), "the program exited with status 1: Bail out! no memory");
}

fn deadline() {
    let begin = Instant::now();
    let (code, result) = run("echo begun; sleep 600", "  timeout: 300ms");
    assert_eq!((&result["outcome"], code), (&"timeout".into(), 1));
    assert_eq!(reason(&result), "no end within 0.3 s, killed");
    assert_eq!(result["log"], json!(["begun"]));
    assert!(result["details"][0].as_str().unwrap().starts_with("thread "), "{result}");
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
}

fn leaves() {
    for script in ["sleep 600 &", "setsid sleep 600 & sleep 0.2"] {
        let (code, result) = run(script, "");
        assert_eq!((&result["outcome"], code), (&"error".into(), 2), "{script}");
        assert_eq!(reason(&result), "the test left 1 process(es) running");
    }
}

fn no_program() {
    let door = Door::new();
    door.file("list.yaml", "suite: other\nprograms: [{name: it, path: bin/none}]\n");
    let (code, result) = door.one(&["--programs", "list.yaml", "it"]);
    assert_eq!((&result["outcome"], code), (&"error".into(), 2));
    assert_eq!(reason(&result), "cannot start bin/none: No such file or directory (os error 2)");
}

fn isolation() {
    let script = "read pid name state parent group rest </proc/self/stat\n\
        test $pid = $group || { echo its group is $group; exit 1; }\n\
        test $(ulimit -c) = 0 && test $(ulimit -v) = 1048576 || { ulimit -a; exit 1; }\n\
        for fd in /proc/self/fd/*; do case ${fd##*/} in [012]) ;; *) test -e $fd && exit 2; esac; done\n\
        read line; test -z \"$line\"";
    let (_, result) = run(script, "  memory: 1GiB");
    assert_eq!(result["outcome"], "pass", "{result}");
}

fn policy() {
    let door = Door::new();
    let tap = "echo TAP version 13; echo 1..1; echo not ok 1 one is two";
    door.file(
        "list.yaml",
        &list(&[
            ("sub/a b", "exit 0", "  groups: [quick]\n  doc: It exits."),
            ("bad", tap, ""),
            ("unit:slow", "sleep 600", ""),
            ("rare", "exit 0", "  groups: [nodefault]"),
        ]),
    );
    door.file(
        "p.yaml",
        "groups: {mine: [\"sub/*\"]}\n\
         tests: {\"unit:slow\": {timeout: 200ms}, bad: {exclusive: true}}\n\
         known_failures:\n- test: bad\n  checks: [one is two]\n  reason: listed\n\
         - test: unit:slow\n  outcome: timeout\n  reason: slow\n",
    );
    let files = ["--programs", "list.yaml", "--config", "p.yaml"];
    let listed =
        |arguments: &[&str]| text(&door.run(&[&["-l"], &files[..], arguments].concat()).stdout);
    assert_eq!(listed(&["-g", "other"]), "bad\nsub/a b\nunit:slow\n");
    assert_eq!(listed(&["-g", "mine,quick"]), "sub/a b\n");
    assert_eq!(listed(&["-g", "other", "-a", "--shard", "2/2"]), "rare\nunit:slow\n");
    let all = [&files[..], &["--timeout-scale", "1", "-g", "other", "-j", "2"]].concat();
    let (code, lines) = door.json(&all);
    let told: Vec<Value> =
        results(&lines).iter().map(|r| json!([r["test"], r["outcome"], r["reason"]])).collect();
    let wanted = [
        json!(["bad", "known_fail", "listed"]),
        json!(["sub/a b", "pass", null]),
        json!(["unit:slow", "known_fail", "slow"]),
    ];
    assert_eq!((code, told), (0, wanted.to_vec()));
    assert_eq!(results(&lines)[1]["location"], "list.yaml:3");
    // The stream goes on like any other.
    let journal = door.path("j.json");
    let resumed = |what: &str| {
        let more = ["--resume", journal.to_str().unwrap(), what];
        text(&door.run(&[&files[..], &more].concat()).stdout)
    };
    resumed("sub/a b");
    assert!(resumed("/^(bad|sub)/").contains("going on after 1 earlier results"));
    let told = text(&door.run(&[&["explain"], &files[..], &["sub/a b"]].concat()).stdout);
    let wanted = "sub/a b\n  It exits.\n  source: list.yaml:3\n  runs: /bin/sh -c exit 0 (other)\n  \
                  groups: mine, other, quick\n";
    assert!(told.starts_with(wanted), "{told}");
}

fn wrong_lists() {
    for (yaml, message) in [
        ("programs: []\n", "missing field `suite`"),
        ("suite: s\nprograms:\n- {name: a, paht: x}\n", "l.yaml:3: unknown key `paht`"),
        (
            "suite: s\nprograms:\n- {name: a, path: x, exit: {256: pass}}\n",
            "l.yaml:3: `256` is no exit status (0 to 255), `other` or `signal`",
        ),
        ("suite: s\nprograms:\n- {name: a, path: x, exit: {0: good}}\n", "l.yaml:3: "),
        ("suite: s\nprograms:\n- {name: ' a', path: x}\n", "l.yaml:3: ` a` cannot be the name"),
        (
            "suite: s\nprograms:\n- {name: ends::pass, path: x}\n",
            "two tests are named `ends::pass`: l.yaml:3 and suites/src/common/fake.rs:7",
        ),
    ] {
        let door = Door::new();
        door.file("l.yaml", yaml);
        let output = door.run(&["--programs", "l.yaml", "-l"]);
        let told = text(&output.stderr);
        assert!(told.starts_with("error: ") && told.contains(message), "{yaml}: {told}");
        assert_eq!(output.status.code(), Some(2));
    }
}
