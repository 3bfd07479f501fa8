//! What became of the mutants, for people.

use std::fmt::Write as _;

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
