//! What became of the mutants, for people.

use std::fmt::Write as _;
use std::time::Duration;

use results::HostFacts;
use results::journal::{Line, RunInfo, Summary, TestReport};
use results::outcome::Outcome;

use crate::peers::PeerFinding;
use crate::run::{Fate, Finding};

/// One line about a mutant.
#[must_use]
pub fn line(finding: &Finding) -> String {
    let fate = match finding.fate {
        Fate::Killed => "killed",
        Fate::Survived => "SURVIVED",
        Fate::Broken => "BROKEN",
        Fate::Equivalent => "equivalent",
        Fate::Untested => "UNTESTED",
    };
    let mut text = format!("{:<48} {fate:<10} {:>6.1} s", finding.mutant, finding.seconds);
    if let Some((test, rule)) = finding.red.first() {
        let _ = write!(text, "  {test}: {rule}");
    }
    if finding.red.len() > 1 {
        let _ = write!(text, " (and {} more)", finding.red.len() - 1);
    }
    if !finding.note.is_empty() {
        let _ = write!(text, "  [{}]", finding.note);
    }
    text
}

/// The sum of it all.
#[must_use]
pub fn summary(findings: &[Finding]) -> String {
    let count = |fate| findings.iter().filter(|finding| finding.fate == fate).count();
    let seconds: f64 = findings.iter().map(|finding| finding.seconds).sum();
    format!(
        "{} mutants: {} killed, {} survived, {} broken, {} untested, {} equivalent, {seconds:.0} s",
        findings.len(),
        count(Fate::Killed),
        count(Fate::Survived),
        count(Fate::Broken),
        count(Fate::Untested),
        count(Fate::Equivalent),
    )
}

/// Whether every mutant that can be told from the original was.
#[must_use]
pub fn all_dead(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| matches!(finding.fate, Fate::Killed | Fate::Equivalent))
}

/// A table in Markdown.
#[must_use]
pub fn markdown(findings: &[Finding]) -> String {
    let mut text = String::from(
        "| mutant | fate | seconds | first red test | its rule |\n|---|---|---|---|---|\n",
    );
    for finding in findings {
        let (test, rule) = finding.red.first().cloned().unwrap_or_default();
        let rule = if rule.is_empty() { finding.note.clone() } else { rule };
        let fate = format!("{:?}", finding.fate).to_lowercase();
        let _ = writeln!(
            text,
            "| {} | {fate} | {:.1} | {test} | {} |",
            finding.mutant,
            finding.seconds,
            rule.replace('|', "\\|")
        );
    }
    text
}

/// A stream of results as the runner writes them, in which each mutant is a test that passes when it
/// was killed: every report that can be made of the runner's results can be made of these.
#[must_use]
pub fn stream(findings: &[Finding], arch: &str, kernel: &str, profile: &str) -> String {
    let host = HostFacts {
        arch: arch.to_owned(),
        kernel: format!("{kernel} with mutants"),
        backend: "mutants".to_owned(),
        profile: profile.to_owned(),
        ..HostFacts::default()
    };
    let info = RunInfo { host, tests: findings.len(), ..RunInfo::default() };
    let results: Vec<TestReport> = findings.iter().map(result).collect();
    let seconds: f64 = findings.iter().map(|finding| finding.seconds).sum();
    let mut summary = Summary::of(&results);
    summary.duration_us = Duration::from_secs_f64(seconds).as_micros() as u64;
    summary.exit = u8::from(!all_dead(findings));
    let lines = [Line::Run(info)].into_iter();
    let lines = lines.chain(results.into_iter().map(Line::Result));
    lines
        .chain([Line::Summary(summary)])
        .map(|line| serde_json::to_string(&line).expect("plain data serialises") + "\n")
        .collect()
}

fn result(finding: &Finding) -> TestReport {
    let outcome = match finding.fate {
        Fate::Killed => Outcome::Pass,
        Fate::Survived => Outcome::Fail,
        Fate::Broken | Fate::Untested => Outcome::Error,
        Fate::Equivalent => Outcome::Skip,
    };
    let killers = finding.red.iter().map(|(test, rule)| format!("killed by {test}: {rule}"));
    TestReport {
        reason: Some(finding.note.clone()).filter(|note| !note.is_empty()),
        groups: vec!["mutants".to_owned()],
        checks: finding.red.len(),
        details: killers.collect(),
        duration_us: Duration::from_secs_f64(finding.seconds).as_micros() as u64,
        ..TestReport::bare(&format!("mutants::{}", finding.mutant), outcome)
    }
}

/// What other suites made of a mutant, in a word or with the tests that saw it.
fn theirs(finding: &PeerFinding, of_unit_tests: bool) -> String {
    let of_suite = |name: &str| name.starts_with("unit:") == of_unit_tests;
    let caught: Vec<_> =
        finding.caught_by().map(|end| end.test.as_str()).filter(|name| of_suite(name)).collect();
    let ran = finding.ends.iter().filter(|end| of_suite(&end.test) && end.verdict == Outcome::Pass);
    match (caught.is_empty(), ran.count()) {
        (false, _) => format!("caught by {}", caught.join(", ")),
        (true, 0) if finding.claimed.iter().any(|name| of_suite(name)) => "could not run".into(),
        (true, 0) => "no test claims it".into(),
        (true, _) => "not seen".into(),
    }
}

/// One line about what other suites made of a mutant.
#[must_use]
pub fn peer_line(finding: &PeerFinding) -> String {
    let ours = finding.ours.as_deref().unwrap_or("-");
    let mut text = format!(
        "{:<48} ours: {ours:<10} selftests: {}; unit tests: {} {:>6.1} s",
        finding.mutant,
        theirs(finding, false),
        theirs(finding, true),
        finding.seconds
    );
    if let Some(end) = finding.caught_by().next() {
        let _ = write!(text, "  {}", end.why);
    }
    text
}

/// The score of the suites.
#[must_use]
pub fn peer_summary(findings: &[PeerFinding]) -> String {
    let caught = |of_unit_tests: bool| {
        let seen = |finding: &&PeerFinding| {
            finding.caught_by().any(|end| end.test.starts_with("unit:") == of_unit_tests)
        };
        findings.iter().filter(seen).count()
    };
    let ours = findings.iter().filter(|f| f.ours.as_deref() == Some("killed")).count();
    format!(
        "{} mutants: ours see {ours}, selftests see {}, unit tests see {}",
        findings.len(),
        caught(false),
        caught(true)
    )
}

/// A table in Markdown of who saw what.
#[must_use]
pub fn peer_markdown(findings: &[PeerFinding]) -> String {
    let mut text =
        String::from("| mutant | ours | KVM selftests | kvm-unit-tests |\n|---|---|---|---|\n");
    for finding in findings {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            finding.mutant,
            finding.ours.as_deref().unwrap_or("not run"),
            theirs(finding, false),
            theirs(finding, true)
        );
    }
    let _ = writeln!(text, "\n{}", peer_summary(findings));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(fate: Fate) -> Finding {
        let red = vec![("t".to_owned(), "a | b".to_owned())];
        Finding { mutant: "m".into(), fate, red, note: String::new(), seconds: 1.0 }
    }

    #[test]
    fn counts_and_judges() {
        let findings = [finding(Fate::Killed), finding(Fate::Equivalent)];
        assert!(all_dead(&findings));
        assert!(!all_dead(&[finding(Fate::Survived)]) && !all_dead(&[finding(Fate::Untested)]));
        assert!(summary(&findings).starts_with("2 mutants: 1 killed, 0 survived"));
    }

    #[test]
    fn a_stream_has_a_test_for_each_mutant() {
        let stream =
            stream(&[finding(Fate::Killed), finding(Fate::Survived)], "x86_64", "6.12", "p");
        let lines: Vec<serde_json::Value> =
            stream.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let outcomes: Vec<_> = lines[1..3].iter().map(|line| line["outcome"].clone()).collect();
        assert_eq!(outcomes, ["pass", "fail"]);
        assert_eq!(lines[1]["test"], "mutants::m");
        assert_eq!((&lines[0]["type"], &lines[3]["exit"]), (&"run".into(), &1.into()));
    }

    #[test]
    fn the_table_of_the_suites_says_who_saw_it() {
        let end =
            |test: &str, verdict| crate::peers::End { test: test.into(), verdict, why: "w".into() };
        let peer = |ends, claimed: &[&str]| PeerFinding {
            mutant: "m".into(),
            ours: Some("killed".into()),
            claimed: claimed.iter().map(|name| (*name).to_owned()).collect(),
            ends,
            seconds: 1.0,
        };
        let seen =
            peer(vec![end("a", Outcome::Fail), end("unit:b", Outcome::Pass)], &["a", "unit:b"]);
        let row = "| m | killed | caught by a | not seen |";
        assert!(peer_markdown(std::slice::from_ref(&seen)).contains(row));
        let absent = peer(Vec::new(), &["a"]);
        assert!(peer_markdown(&[absent]).contains("| could not run | no test claims it |"));
        assert_eq!(
            peer_summary(&[seen]),
            "1 mutants: ours see 1, selftests see 1, unit tests see 0"
        );
    }

    #[test]
    fn a_table_cell_holds_its_bars() {
        assert!(markdown(&[finding(Fate::Killed)]).contains("| m | killed | 1.0 | t | a \\| b |"));
    }
}
