//! What became of the mutants, for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;

use crate::peers::{PeerFinding, Verdict};
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
    let run = json!({
        "type": "run", "arch": arch, "kernel": format!("{kernel} with mutants"),
        "backend": "mutants", "profile": profile, "tests": findings.len(),
    });
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut lines = vec![run];
    for finding in findings {
        let outcome = match finding.fate {
            Fate::Killed => "pass",
            Fate::Survived => "fail",
            Fate::Broken | Fate::Untested => "error",
            Fate::Equivalent => "skip",
        };
        *counts.entry(outcome).or_default() += 1;
        let killers = finding.red.iter().map(|(test, rule)| format!("killed by {test}: {rule}"));
        lines.push(json!({
            "type": "result", "test": format!("mutants::{}", finding.mutant), "outcome": outcome,
            "reason": Some(&finding.note).filter(|note| !note.is_empty()), "groups": ["mutants"],
            "checks": finding.red.len(), "details": killers.collect::<Vec<_>>(),
            "duration_us": Duration::from_secs_f64(finding.seconds).as_micros() as u64,
        }));
    }
    let seconds: f64 = findings.iter().map(|finding| finding.seconds).sum();
    lines.push(json!({
        "type": "summary", "counts": counts, "total": findings.len(),
        "duration_us": Duration::from_secs_f64(seconds).as_micros() as u64,
        "exit": u8::from(!all_dead(findings)),
    }));
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// What other suites made of a mutant, in a word or with the tests that saw it.
fn theirs(finding: &PeerFinding, of_unit_tests: bool) -> String {
    let of_suite = |name: &str| name.starts_with("unit:") == of_unit_tests;
    let caught: Vec<_> =
        finding.caught_by().map(|end| end.test.as_str()).filter(|name| of_suite(name)).collect();
    let ran = finding.ends.iter().filter(|end| of_suite(&end.test) && end.verdict == Verdict::Pass);
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
    fn a_table_cell_holds_its_bars() {
        assert!(markdown(&[finding(Fate::Killed)]).contains("| m | killed | 1.0 | t | a \\| b |"));
    }
}
