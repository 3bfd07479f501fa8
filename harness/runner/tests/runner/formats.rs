//! Every form of report, on results that try to break it.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

use crate::door::{Door, Named, text};

pub const TESTS: &[Named] = &[
    ("formats::tap_is_tap_13", tap),
    ("formats::ktap_is_ktap_1", ktap),
    ("formats::junit_has_no_raw_text", junit),
    ("formats::html_is_self_contained", html),
    ("formats::markdown_tells_hosts_apart", markdown),
    ("formats::report_merges_runs", report),
    ("formats::a_run_that_was_cut_short_says_so_everywhere", cut_short),
    ("formats::compare_tells_what_changed", compare),
    ("formats::compare_misses_checks", compare_checks),
    ("formats::explain_tells_what_there_is_to_know", explain),
    ("formats::the_console_says_what_to_do_next", console),
];

const YAML: &str = "known_failures:\n- test: ends::fail_by_body\n  reason: known for long\n  \
                    when: { kernel: \">=6.1\" }\n  reference: docs/findings.md#x\n";
const TESTS_OF_EVERY_KIND: &[&str] = &[
    "ends::pass",
    "ends::fail_by_check",
    "ends::fail_by_body",
    "ends::error",
    "ends::skip_late",
    "ends::odd_text",
    "ends::told_to_stop",
];

/// One run over every outcome; gives what `option` wrote.
pub fn written(door: &Door, option: &str) -> String {
    door.file("p.yaml", YAML);
    let out = door.path("out");
    let mut arguments =
        vec!["--config", "p.yaml", "--timeout", "0.2", option, out.to_str().unwrap()];
    arguments.extend(TESTS_OF_EVERY_KIND);
    assert_eq!(door.run(&arguments).status.code(), Some(1));
    std::fs::read_to_string(&out).unwrap()
}

fn tap() {
    let all = written(&Door::new(), "--tap");
    let mut lines = all.lines();
    assert_eq!(lines.next(), Some("TAP version 13"));
    assert_eq!(lines.next(), Some("1..7"));
    assert_eq!(lines.next(), Some("# x86_64 6.12.3-fake kvm_fake"));
    let point = Regex::new(r"^(not )?ok (\d+) - ([^#]*[^# ])( # (SKIP|TODO) .*)?$").unwrap();
    let mut seen = BTreeMap::new();
    let mut in_yaml = false;
    for line in lines {
        match line {
            "  ---" => in_yaml = true,
            "  ..." => in_yaml = false,
            _ if in_yaml => assert!(line.starts_with("  "), "{line}"),
            _ => {
                let parts = point.captures(line).unwrap_or_else(|| panic!("{line}"));
                let directive = parts.get(5).map_or("", |m| m.as_str()).to_owned();
                seen.insert(parts[3].to_owned(), (parts.get(1).is_none(), directive));
                assert_eq!(parts[2].parse::<usize>().unwrap(), seen.len());
            }
        }
    }
    assert!(!in_yaml);
    for (name, ok, directive) in [
        ("pass", true, ""),
        ("fail_by_check", false, ""),
        ("fail_by_body", false, "TODO"),
        ("error", false, ""),
        ("skip_late", true, "SKIP"),
        ("odd_text", false, ""),
        ("told_to_stop", false, ""),
    ] {
        assert_eq!(seen[&format!("ends::{name}")], (ok, directive.to_owned()), "{name}");
    }
    // The diagnostics are YAML, whatever the text.
    let block = Regex::new(r"(?s)\n  ---\n(.*?)\n  \.\.\.").unwrap();
    for found in block.captures_iter(&all) {
        let value: Result<BTreeMap<String, Value>, _> = serde_yaml::from_str(&found[1]);
        assert!(value.is_ok(), "{value:?} in {}", &found[1]);
    }
}

fn ktap() {
    let all = written(&Door::new(), "--ktap");
    let lines: Vec<&str> = all.lines().collect();
    assert_eq!(
        lines[..5],
        ["KTAP version 1", "1..1", "  KTAP version 1", "  # Subtest: kvm-conformance", "  1..7"]
    );
    assert_eq!(lines.last(), Some(&"not ok 1 kvm-conformance"));
    let result = Regex::new(r"^  (ok|not ok) (\d+) ([^#]+?)( # (\w+) .*)?$").unwrap();
    let mut seen = Vec::new();
    for line in &lines[5..lines.len() - 1] {
        if let Some(parts) = result.captures(line) {
            seen.push((
                parts[3].trim_start_matches("ends::").to_owned(),
                parts[1].to_owned(),
                parts.get(5).map_or("", |m| m.as_str()).to_owned(),
            ));
            assert_eq!(parts[2].parse::<usize>().unwrap(), seen.len());
        } else {
            assert!(line.starts_with("  # "), "{line}");
        }
    }
    let wanted = [
        ("error", "not ok", "ERROR"),
        ("fail_by_body", "ok", "XFAIL"),
        ("fail_by_check", "not ok", ""),
        ("odd_text", "not ok", ""),
        ("pass", "ok", ""),
        ("skip_late", "ok", "SKIP"),
        ("told_to_stop", "not ok", "TIMEOUT"),
    ];
    let wanted: Vec<_> = wanted.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned())).into();
    assert_eq!(seen, wanted);
}

fn junit() {
    let all = written(&Door::new(), "--junit");
    assert!(all.starts_with("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites "));
    assert!(all.contains("tests=\"7\" failures=\"2\" errors=\"2\""), "{all}");
    assert!(
        all.contains(
            "<skipped message=\"known failure: known for long (unless fixed by the vendor)\"/>"
        ),
        "{all}"
    );
    // No character that XML forbids, and no text that ends an element early.
    assert!(!all.chars().any(|c| c < ' ' && !matches!(c, '\n' | '\t' | '\r')), "{all}");
    assert!(!all.contains("<script>"));
}

fn html() {
    let all = written(&Door::new(), "--html");
    for outside in ["http:", "https:", "src=", "href=", "@import", "url(", "fetch(", "XMLHttp"] {
        assert!(!all.contains(outside), "the page must not load {outside}");
    }
    assert_eq!(all.matches("<script").count(), 2, "no text of a test becomes markup");
    assert_eq!(all.matches("</script>").count(), 2);
    let from = all.find("id=\"data\">").unwrap() + 10;
    let to = from + all[from..].find("</script>").unwrap();
    let data: Value = serde_json::from_str(&all[from..to]).unwrap();
    assert_eq!(data["tests"].as_array().unwrap().len(), 7);
    let odd = data["tests"]
        .as_array()
        .unwrap()
        .iter()
        .position(|t| t["name"] == "ends::odd_text")
        .unwrap();
    let host = &data["hosts"][0];
    assert_eq!(host["cells"].as_str().unwrap().chars().nth(odd), Some('f'));
    let failed = &host["more"][odd.to_string()]["failed"];
    assert_eq!(failed[0]["name"], "a # in a name, and </script>");
    assert!(!all.contains("/*STYLE*/") && !all.contains("/*SCRIPT*/") && !all.contains("/*DATA*/"));
}

fn markdown() {
    let all = written(&Door::new(), "--markdown");
    assert!(
        all.contains("| x86\\_64 6.12.3-fake kvm\\_fake | 7 | 1 | 2 | 1 | 1 | 1 | 1 | 0 | 0 |"),
        "{all}"
    );
    assert!(
        all.contains("- known for long (unless fixed by the vendor) (x86\\_64 6.12.3-fake kvm\\_fake): `ends::fail_by_body`")
    );
    assert!(all.contains("## Skipped\n\n- nested paging"));
}

/// A journal of these tests on this kernel.
fn journal(door: Door, kernel: &str, name: &str, tests: &[&str]) -> Door {
    let door = door.with("FAKE_KERNEL", kernel);
    let path = door.path(name);
    let mut arguments = vec!["--json", path.to_str().unwrap()];
    arguments.extend(tests);
    door.run(&arguments);
    door
}

fn report() {
    let door = journal(Door::new(), "6.9.1", "old", &["pass", "ends::fail_by_body"]);
    let door = journal(door, "6.12.3", "new", &["pass", "skip_late"]);
    let door = journal(door, "6.12.3", "part2", &["ends::fail_by_check"]);
    let output = door.run(&["report", "new", "old", "part2"]);
    let told = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let old = told.find("| x86\\_64 6.9.1").unwrap();
    let new = told.find("| x86\\_64 6.12.3 kvm\\_fake | 3 | 1 | 1 |").unwrap();
    assert!(old < new, "6.9 is older than 6.12: {told}");
    for format in ["--tap", "--ktap", "--junit", "--json", "--html", "--markdown"] {
        let output = door.run(&["report", format, "-", "old", "new"]);
        assert_eq!(output.status.code(), Some(0), "{format}");
        assert!(text(&output.stdout).contains("6.9.1"), "{format}");
    }
    assert!(text(&door.run(&["report", "--tap", "-", "old", "new"]).stdout).contains("\n1..4\n"));
    std::fs::write(door.path("bad"), "what\n").unwrap();
    let output = door.run(&["report", "bad"]);
    assert!(text(&output.stderr).starts_with("error: bad:1: no result line"));
    assert_eq!(output.status.code(), Some(2));
    // A stream that a dead host left names the test that ran.
    std::fs::write(
        door.path("dead"),
        "{\"type\":\"run\",\"arch\":\"s390x\"}\n{\"type\":\"start\",\"test\":\"a::b\"}\n{\"type",
    )
    .unwrap();
    let told = text(&door.run(&["report", "dead"]).stdout);
    assert!(
        told.contains("### error: `a::b`") && told.contains("the run ended while this test ran")
    );
}

/// The end of a stream that is whole.
const END: &str = "{\"type\":\"summary\"}\n";

/// Every report says that a run was cut short, and how much is missing.
fn cut_short() {
    let door = journal(Door::new(), "6.12.3", "whole", &["pass", "skip_late"]);
    let stream = std::fs::read_to_string(door.path("whole")).unwrap();
    let part: String = stream.lines().take(2).map(|line| format!("{line}\n")).collect();
    std::fs::write(door.path("part"), part).unwrap();
    let why = "cut short: the stream has no summary; 1 test of 2 did not run";
    for format in ["--tap", "--ktap", "--junit", "--html", "--markdown"] {
        let part = text(&door.run(&["report", format, "-", "part"]).stdout);
        assert!(part.contains(why), "{format}: {part}");
        let whole = text(&door.run(&["report", format, "-", "whole"]).stdout);
        assert!(!whole.contains("cut short: "), "{format}: {whole}");
        // A later run that has it all makes up for it.
        let both = text(&door.run(&["report", format, "-", "part", "whole"]).stdout);
        let wanted = !["--html", "--markdown"].contains(&format);
        assert_eq!(both.contains("cut short: "), wanted, "{format}: {both}");
    }
    let lines = crate::door::lines(&door.path("whole"));
    assert_eq!(lines.last().unwrap().get("not_run"), None);
}

fn compare() {
    let line = |test: &str, outcome: &str, us: u64| {
        format!(
            "{{\"type\":\"result\",\"test\":\"{test}\",\"outcome\":\"{outcome}\",\"duration_us\":{us}}}\n"
        )
    };
    let run = |kernel: &str, rest: &[String]| {
        format!(
            "{{\"type\":\"run\",\"arch\":\"x86_64\",\"kernel\":\"{kernel}\",\"tests\":8}}\n{}{END}",
            rest.concat()
        )
    };
    let door = Door::new();
    door.file(
        "old",
        &run(
            "6.1",
            &[
                line("a", "pass", 1000),
                line("b", "fail", 1),
                line("c", "pass", 1),
                line("d", "pass", 10_000),
                line("e", "skip", 1),
                line("f", "timeout", 1),
                line("h", "pass", 1),
            ],
        ),
    );
    door.file(
        "new",
        &run(
            "6.2",
            &[
                line("a", "fail", 1000),
                line("b", "pass", 1),
                line("d", "pass", 90_000),
                line("e", "pass", 1),
                line("f", "fail", 1),
                line("g", "pass", 1),
                line("h", "skip", 1),
            ],
        ),
    );
    let output = door.run(&["compare", "old", "new"]);
    assert_eq!(
        text(&output.stdout),
        "x86_64 6.1  → x86_64 6.2 \n\nregressed (1):\n  a: pass → fail\n\nfixed (1):\n  b: fail → pass\n\n\
         still failing (1):\n  f: timeout → fail\n\nnew (1):\n  g: pass\n\ngone (1):\n  c: was pass\n\n\
         now skipped (1):\n  h: pass → skip\n\nno longer skipped (1):\n  e: skip → pass\n\n\
         slower (1):\n  d: 10.0 ms → 90.0 ms\n\n"
    );
    assert_eq!(output.status.code(), Some(1));
    let output = door.run(&["compare", "old", "old"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("still failing (2)"));
    // A part of a run is never fine.
    let part = run("6.1", &[line("d", "pass", 1), line("h", "pass", 1)]).replace(END, "");
    door.file("part", &part);
    let output = door.run(&["compare", "old", "part"]);
    let told = text(&output.stdout);
    let why = "x86_64 6.1 : cut short: the stream has no summary; 6 tests of 8 did not run\n";
    assert!(told.starts_with(&format!("after: {why}")), "{told}");
    assert!(
        told.contains("no result in the run that was cut short (5):\n  a: was pass\n"),
        "{told}"
    );
    assert_eq!(output.status.code(), Some(2));
    let output = door.run(&["compare", "part", "old"]);
    assert!(text(&output.stdout).starts_with(&format!("before: {why}")));
    assert_eq!(output.status.code(), Some(0));
}

fn compare_checks() {
    let door = Door::new();
    let stream = |file: &str, backend: &str, results: &[(&str, &str, &str)]| {
        let end = END;
        let mut lines =
            format!("{{\"type\":\"run\",\"arch\":\"x86_64\",\"backend\":\"{backend}\"}}\n");
        for (test, outcome, checks) in results {
            let names: Vec<&str> = checks.split_terminator(',').collect();
            let result = serde_json::json!({"type": "result", "test": test, "outcome": outcome,
                "checks": names.len(), "passed_checks": names});
            lines.push_str(&format!("{result}\n"));
        }
        door.file(file, &format!("{lines}{end}"));
    };
    let old = [("a", "pass", "one,two"), ("b", "pass", "one"), ("c", "pass", "one")];
    stream("old", "kvm_x", &old);
    stream("new", "kvm_x", &[("a", "pass", "three,two"), ("b", "skip", ""), ("c", "fail", "")]);
    let output = door.run(&["compare", "old", "new"]);
    let told = text(&output.stdout);
    assert!(
        told.contains("\n\npasses without a check that it had (1):\n  a: one\n")
            && told.contains("\n\nhas a new check (1):\n  a: three\n"),
        "{told}"
    );

    // On another backend other checks may be due; repetitions of a run are taken together.
    let one_each = [("a", "pass", "one"), ("a", "pass", "two"), ("b", "pass", "")];
    for (backend, exit, lost) in [("kvm_x", 1, "b: one"), ("kvm_y", 0, "b: one")] {
        stream("new", backend, &one_each);
        let output = door.run(&["compare", "old", "new"]);
        assert!(text(&output.stdout).contains(&format!("it had (1):\n  {lost}\n")));
        assert_eq!(output.status.code(), Some(exit), "{backend}");
    }

    // Streams of earlier versions count checks and do not name those that held.
    door.file(
        "unnamed",
        "{\"type\":\"run\",\"arch\":\"x86_64\",\"backend\":\"kvm_x\"}\n\
         {\"type\":\"result\",\"test\":\"a\",\"outcome\":\"pass\",\"checks\":2}\n",
    );
    for files in [["old", "unnamed"], ["unnamed", "old"]] {
        let told = text(&door.run(&["compare", files[0], files[1]]).stdout);
        assert!(!told.contains("check"), "{told}");
    }
}

fn explain() {
    let door = Door::new();
    door.file("p.yaml", YAML);
    let output = door.run(&["explain", "--config", "p.yaml", "ends::fail_by_body", "skip_early"]);
    assert_eq!(
        text(&output.stdout),
        "ends::fail_by_body\n  The runner tells this end from every other.\n  \
         source: suites/src/common/fake.rs:7\n  groups: common, fake, fakes\n  deadline: 10 s\n  \
         known failure (holds here): known for long; when kernel >=6.1; see docs/findings.md#x\n  \
         guards against mutant no_body: bodies are run\n\n\
         ends::skip_early\n  The runner tells this end from every other.\n  \
         source: suites/src/common/fake.rs:7\n  groups: common, fake, fakes\n  deadline: 10 s\n  \
         needs: KVM_CAP_THERE (met here)\n  needs: KVM_CAP_MISSING (missing here: the test is skipped)\n  \
         kills mutant no_check (checks count) by: one is two\n"
    );
    assert_eq!(door.run(&["explain", "nope"]).status.code(), Some(2));
}

fn console() {
    let output = Door::new().run(&["pass", "ends::fail_by_check", "ends::error", "odd_text"]);
    let told = text(&output.stdout);
    assert!(!told.contains('\x1b'), "no escape sequence reaches a pipe: {told:?}");
    let names = "ends::fail_by_check ends::error ends::odd_text";
    let next = format!(
        "next: ./run_tests.sh -v ends::fail_by_check\nall that failed: ./run_tests.sh {names}\n"
    );
    let sorted = "ends::error ends::fail_by_check ends::odd_text";
    assert!(told.ends_with(&next) || told.ends_with(&next.replace(names, sorted)), "{told}");
    assert!(!told.contains("PASS"), "a plain pass is no news: {told}");
    assert!(told.contains("    check: one is two\n           at guest.rs:12: 1 != 2\n"), "{told}");
    assert!(told.contains("4 tests, 5 checks in "), "{told}");
    assert!(told.contains(": 1 pass, 2 fail, 1 error\n"), "{told}");
    assert_eq!(text(&output.stderr), "");
    let door = Door::new();
    let told = |arguments: &[&str]| text(&door.run(arguments).stdout);
    let all = told(&["-v", "ends::pass", "skip_late", "skip_early"]);
    assert!(
        all.contains("PASS ends::pass (2 checks, ") && all.contains("SKIP ends::skip_late: nested")
    );
    let quiet = told(&["-q", "ends::pass", "skip_late"]);
    assert!(!quiet.contains("PASS") && !quiet.contains("SKIP"), "{quiet}");
    assert!(quiet.contains("2 tests, 2 checks in "), "{quiet}");
    let skipped = told(&["skip_late", "skip_early"]);
    assert!(
        skipped.contains("\ngroups of which nothing ran: common (2), fake (2), fakes (2)\n"),
        "{skipped}"
    );
    // What reproduces a failure names what decided it.
    door.file("p.yaml", YAML);
    let told = told(&["--config", "p.yaml", "--timeout=9", "ends::fail_by_check"]);
    let next = "next: ./run_tests.sh --timeout 9 --config p.yaml -v ends::fail_by_check\n";
    assert!(told.ends_with(next), "{told}");
}
