//! Our reports as readers see them that others wrote. KTAP has no reader but the kernel's own script:
//! its rules (Documentation/dev-tools/ktap.rst) are checked here, without the leniency that it has.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use junit_parser::TestStatus;
use scraper::{Html, Selector};
use tap_parser::{DirectiveKind, TapParser, TapStatement};

use crate::door::{Door, Named, text};
use crate::formats::written;

pub const TESTS: &[Named] = &[
    ("foreign::tap_parser_reads_our_tap", tap_crate),
    ("foreign::prove_reads_our_tap", tap_perl),
    ("foreign::ktap_keeps_the_kernels_rules", ktap),
    ("foreign::ktap_rules_are_told_apart", ktap_rules),
    ("foreign::junit_parser_reads_our_xml", junit),
    ("foreign::a_flaky_pass_is_one_in_junit", junit_flaky),
    ("foreign::html5ever_finds_no_error_in_our_page", html),
];

/// The tests of [`written`] in their order: whether `ok` in TAP, and the directive.
const TAP: [(&str, bool, &str); 7] = [
    ("ends::error", false, ""),
    ("ends::fail_by_body", false, "TODO"),
    ("ends::fail_by_check", false, ""),
    ("ends::odd_text", false, ""),
    ("ends::pass", true, ""),
    ("ends::skip_late", true, "SKIP"),
    ("ends::told_to_stop", false, ""),
];

fn tap_crate() {
    // This reader knows version 14 only, which takes everything that 13 has.
    let document = written(&Door::new(), "--tap").replacen("version 13", "version 14", 1);
    let statements = TapParser::new().parse(&document).unwrap();
    let mut points = Vec::new();
    for statement in &statements {
        match statement {
            TapStatement::Plan(plan) => assert_eq!(plan.count, TAP.len()),
            TapStatement::TestPoint(point) => {
                assert_eq!(point.number, Some(points.len() + 1));
                let directive = match point.directive.as_ref().map(|d| &d.kind) {
                    Some(DirectiveKind::Skip) => "SKIP",
                    Some(DirectiveKind::Todo) => "TODO",
                    None => "",
                };
                assert_eq!(point.yaml.is_empty(), point.result, "{point:?}");
                points.push((point.desc.unwrap(), point.result, directive));
            }
            TapStatement::Comment(_) => {}
            TapStatement::Subtest(subtest) => panic!("no subtest was told: {subtest:?}"),
        }
    }
    assert_eq!(points, TAP);
}

/// Perl's TAP::Parser, the oldest reader there is.
fn tap_perl() {
    let door = Door::new();
    let document = written(&door, "--tap");
    let file = door.file("all.tap", &document);
    let Ok(output) = Command::new("prove").args(["--exec", "cat", &file]).output() else {
        eprintln!("skipped: prove, which is part of Debian's perl");
        return;
    };
    let told = text(&output.stdout);
    assert!(told.contains("Failed tests:  1, 3-4, 7\n"), "{told}");
    assert!(told.contains("Tests: 7 Failed: 4"), "{told}");
    for wrong in ["Parse errors", "TODO passed", "Bad plan", "Unknown TAP"] {
        assert!(!told.contains(wrong), "{told}");
    }
}

/// A test as KTAP tells it.
#[derive(Debug, PartialEq)]
struct Case {
    name: String,
    ok: bool,
    directive: String,
    subtests: Vec<Case>,
}

/// Reads the tests of one level; `lines` begins with its version line.
fn level(lines: &mut &[&str], depth: usize) -> Result<Vec<Case>, String> {
    let indent = "  ".repeat(depth);
    let mut next = || -> Option<String> {
        let (line, rest) = lines.split_first()?;
        let own = line.strip_prefix(&indent)?.to_owned();
        *lines = rest;
        Some(own)
    };
    if next().as_deref() != Some("KTAP version 1") {
        return Err("results begin with the version".to_owned());
    }
    let mut cases = Vec::new();
    let mut plan: Option<usize> = None;
    let mut subtests = Vec::new();
    loop {
        if lines.first().is_some_and(|line| *line == format!("{indent}  KTAP version 1")) {
            subtests = level(lines, depth + 1)?;
            continue;
        }
        let Some((line, rest)) = lines.split_first() else { break };
        let Some(own) = line.strip_prefix(&indent) else { break };
        if own.starts_with(' ') {
            return Err(format!("a line of no level: {line}"));
        }
        *lines = rest;
        if let Some(count) = own.strip_prefix("1..") {
            let count = count.parse().map_err(|_| format!("no plan: {line}"))?;
            if plan.replace(count).is_some() || !cases.is_empty() {
                return Err("one plan, before the results".to_owned());
            }
        } else if own.starts_with("ok ") || own.starts_with("not ok ") {
            let case = result(own, cases.len() + 1, std::mem::take(&mut subtests))?;
            cases.push(case);
        } else if !own.starts_with("# ") {
            return Err(format!("neither plan nor result nor diagnostic: {line}"));
        }
    }
    match plan {
        Some(planned) if planned == cases.len() => Ok(cases),
        _ => Err(format!("{plan:?} planned, {} told", cases.len())),
    }
}

/// Reads a result line.
fn result(line: &str, number: usize, subtests: Vec<Case>) -> Result<Case, String> {
    let (ok, rest) = match line.strip_prefix("not ok ") {
        Some(rest) => (false, rest),
        None => (true, line.strip_prefix("ok ").unwrap_or_default()),
    };
    let (told, rest) = rest.split_once(' ').ok_or_else(|| format!("no number: {line}"))?;
    if told != number.to_string() {
        return Err(format!("result {number} has another number: {line}"));
    }
    let (name, rest) = rest.split_once(" # ").unwrap_or((rest, ""));
    if name.contains('#') {
        return Err(format!("a description without #: {line}"));
    }
    let directive = rest.split(' ').next().unwrap_or_default().to_owned();
    let fits = match directive.as_str() {
        "" | "SKIP" => true,
        "XFAIL" => ok,
        "TIMEOUT" | "ERROR" => !ok,
        _ => false,
    };
    if !fits {
        return Err(format!("no directive of such a result: {line}"));
    }
    if ok && subtests.iter().any(|subtest| !subtest.ok) {
        return Err(format!("a test fails if a subtest does: {line}"));
    }
    Ok(Case { name: name.to_owned(), ok, directive, subtests })
}

fn read_ktap(document: &str) -> Result<Vec<Case>, String> {
    let lines: Vec<&str> = document.lines().collect();
    let mut rest = lines.as_slice();
    let cases = level(&mut rest, 0)?;
    rest.first().map_or(Ok(cases), |line| Err(format!("left over: {line}")))
}

fn ktap() {
    let cases = read_ktap(&written(&Door::new(), "--ktap")).unwrap();
    let [suite] = cases.as_slice() else { panic!("{cases:?}") };
    assert_eq!((suite.name.as_str(), suite.ok), ("kvm-conformance", false));
    let wanted = [
        (false, "ERROR"),
        (true, "XFAIL"),
        (false, ""),
        (false, ""),
        (true, ""),
        (true, "SKIP"),
        (false, "TIMEOUT"),
    ];
    let told: Vec<_> =
        suite.subtests.iter().map(|c| (c.name.as_str(), c.ok, c.directive.as_str())).collect();
    let wanted: Vec<_> = TAP.iter().zip(wanted).map(|(t, (ok, d))| (t.0, ok, d)).collect();
    assert_eq!(told, wanted);
    // Whatever becomes of a run, a reader can tell: here one in which nothing ran.
    let door = Door::new();
    let output = door.run(&["--ktap", "-", "skip_late"]);
    let cases = read_ktap(&text(&output.stdout)).unwrap();
    assert_eq!((cases[0].ok, cases[0].directive.as_str()), (true, "SKIP"));
}

/// The rules are no decoration: each broken one is noticed.
fn ktap_rules() {
    let good = "KTAP version 1\n1..1\n  KTAP version 1\n  1..2\n  # why\n  ok 1 a # SKIP x\n  not ok 2 b\nnot ok 1 c\n";
    read_ktap(good).unwrap();
    for (from, to) in [
        ("KTAP version 1\n1", "1"),
        ("1..2", "1..3"),
        ("ok 1 a", "ok 2 a"),
        ("ok 1 a", "    ok 1 a"),
        ("# SKIP", "# skip"),
        ("ok 1 a # SKIP", "ok 1 a # TIMEOUT"),
        ("b\n", "b # XFAIL\n"),
        ("  # why", "  why"),
        ("\nnot ok 1 c", "\nok 1 c"),
        ("  KTAP version 1\n", ""),
        ("not ok 1 c\n", ""),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good);
        assert!(read_ktap(&bad).is_err(), "{bad}");
    }
}

fn junit() {
    let document = written(&Door::new(), "--junit");
    let report = junit_parser::from_reader(document.as_bytes()).unwrap();
    assert_eq!((report.tests, report.failures, report.errors), (7, 2, 2));
    let [suite] = report.suites.as_slice() else { panic!("one run is one suite") };
    assert_eq!((suite.tests, suite.skipped), (7, 2));
    let of: BTreeMap<&str, &TestStatus> =
        suite.cases.iter().map(|case| (case.original_name.as_str(), &case.status)).collect();
    assert_eq!(of.len(), 7);
    assert!(of["pass"].is_success());
    assert!(of["skip_late"].is_skipped() && of["fail_by_body"].is_skipped());
    assert!(of["error"].is_error() && of["told_to_stop"].is_error());
    let TestStatus::Failure(failure) = of["odd_text"] else { panic!("{:?}", of["odd_text"]) };
    assert!(failure.message.contains("</script><script>alert(1)</script> # SKIP"), "{failure:?}");
    assert!(failure.text.starts_with("check failed: a # in a name, and"), "{failure:?}");
}

fn junit_flaky() {
    let door = Door::new();
    let marker = door.path("marker");
    let door = door.with("FAKE_MARKER", marker.display());
    let output = door.run(&["--retry", "1", "--junit", "-", "flaky"]);
    let report = junit_parser::from_reader(output.stdout.as_slice()).unwrap();
    let case = &report.suites[0].cases[0];
    assert!(case.status.is_success());
    assert_eq!(case.reruns.len(), 1, "{case:?}");
}

fn html() {
    let page = Html::parse_document(&written(&Door::new(), "--html"));
    assert_eq!(page.errors, Vec::<String>::new());
    let all = |css: &str| page.select(&Selector::parse(css).unwrap()).collect::<Vec<_>>();
    assert_eq!(all("html[lang] title").len(), 1);
    let ids: Vec<&str> = all("[id]").iter().filter_map(|e| e.attr("id")).collect();
    let unique: BTreeSet<&str> = ids.iter().copied().collect();
    assert_eq!(unique.len(), ids.len(), "{ids:?}");
    for element in all("[aria-labelledby]") {
        assert!(unique.contains(element.attr("aria-labelledby").unwrap()));
    }
    // Nobody has to guess what a field is for.
    assert_eq!(all("label input, label select").len(), all("input, select").len());
    assert!(all("button").iter().all(|button| button.text().any(|t| !t.trim().is_empty())));
}
