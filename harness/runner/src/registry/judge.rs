//! What the known failures of a test make of its raw verdict.

use cli::nearest::nearest;
use results::outcome::Outcome;

use super::known::{HowItFails, Known, KnownFailure};
use crate::verdict::Finished;

/// What the list makes of a raw verdict.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// The outcome in the end.
    pub outcome: Outcome,
    /// The reason in the end.
    pub reason: Option<String>,
    /// Where more is written about a known failure.
    pub reference: Option<String>,
    /// A remark for the details.
    pub note: Option<String>,
}

/// Applies the known failures of a test to its raw verdict.
pub fn judge(finished: &Finished, of_test: &Known<'_>) -> Judged {
    let known = &of_test.here;
    let unchanged = |note| Judged {
        outcome: finished.outcome,
        reason: finished.reason.clone(),
        reference: None,
        note,
    };
    if finished.outcome == Outcome::Skip || (known.is_empty() && finished.outcome == Outcome::Pass)
    {
        return unchanged(None);
    }
    if known.is_empty() {
        return with_other_kernels(unchanged(None), finished, of_test);
    }
    if finished.outcome == Outcome::Pass {
        return match known.iter().all(|k| of_test.may_pass(k)) {
            true => unchanged(Some(match known.iter().any(|k| k.intermittent) {
                true => format!("fails now and then: {}", known[0].reason),
                false => format!("fixed by this kernel's vendor: {}", known[0].reason),
            })),
            false => passes_though_known(finished, known),
        };
    }
    let whole =
        known.iter().find(|k| k.checks.is_empty() && k.outcome.outcome() == finished.outcome);
    if let Some(whole) = whole {
        return as_known(whole, finished, of_test);
    }
    let listed: Vec<(&str, &KnownFailure)> = known
        .iter()
        .filter(|k| k.outcome == HowItFails::Fail)
        .flat_map(|k| k.checks.iter().map(|check| (check.as_str(), *k)))
        .collect();
    if finished.outcome != Outcome::Fail || listed.is_empty() {
        let expected = known[0].outcome.outcome();
        return unchanged(Some(format!(
            "listed as a known failure, but of another kind ({expected})"
        )));
    }
    let tally = &finished.tally;
    let unlisted: Vec<&String> =
        tally.failed.iter().filter(|name| !listed.iter().any(|(l, _)| l == name)).collect();
    if let Some(first) = unlisted.first() {
        let mut judged = unchanged(Some("other checks of this test are known failures".to_owned()));
        judged.reason = Some(match unlisted.len() {
            1 => format!("check failed: {first}"),
            n => format!("{n} checks failed, first: {first}"),
        });
        return with_other_kernels(judged, finished, of_test);
    }
    if tally.failed.is_empty() {
        return unchanged(Some("failed outside the checks that are known to fail".to_owned()));
    }
    let passing: Vec<&str> = listed
        .iter()
        .filter(|(_, entry)| !of_test.may_pass(entry))
        .map(|(name, _)| *name)
        .filter(|name| matches!(tally.checks.get(*name), Some(None)))
        .collect();
    if !passing.is_empty() {
        return Judged {
            outcome: Outcome::Xpass,
            reason: Some(format!("listed as known failure, but passed: {}", passing.join("; "))),
            reference: None,
            note: None,
        };
    }
    let (_, entry) = listed
        .iter()
        .find(|(name, _)| tally.failed.iter().any(|f| f == name))
        .unwrap_or(&listed[0]);
    as_known(entry, finished, of_test)
}

/// A failure that is not listed here, but is with other kernels: whoever reads it knows at once what it
/// may be.
fn with_other_kernels(judged: Judged, finished: &Finished, of_test: &Known<'_>) -> Judged {
    let explains = |known: &KnownFailure| match known.checks.is_empty() {
        true => known.outcome.outcome() == finished.outcome,
        false => known.checks.iter().any(|check| finished.tally.failed.contains(check)),
    };
    let Some(known) = of_test.other_kernels.iter().find(|known| explains(known)) else {
        return judged;
    };
    let range = known.when.kernel.as_ref().map_or_else(String::new, ToString::to_string);
    let why = format!("known with kernel {range}: {}", known.reason);
    let reason = judged.reason.unwrap_or_default();
    let reference = judged.reference.or(known.reference.clone());
    Judged { reason: Some(format!("{reason} ({why})")), reference, ..judged }
}

fn as_known(entry: &KnownFailure, finished: &Finished, of_test: &Known<'_>) -> Judged {
    let vendor = if of_test.may_be_fixed(entry) { " (unless fixed by the vendor)" } else { "" };
    Judged {
        outcome: Outcome::KnownFail,
        reason: Some(format!("{}{vendor}", entry.reason)),
        reference: entry.reference.clone(),
        note: finished.reason.as_ref().map(|seen| format!("seen: {seen}")),
    }
}

fn passes_though_known(finished: &Finished, known: &[&KnownFailure]) -> Judged {
    let checks = &finished.tally.checks;
    let never: Vec<&String> =
        known.iter().flat_map(|k| &k.checks).filter(|name| !checks.contains_key(*name)).collect();
    let reason = match never.first() {
        Some(name) => {
            let near = nearest(name, checks.keys().map(String::as_str))
                .map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            format!("listed as known failure, but this run has no check `{name}`{near}")
        }
        None => format!("listed as known failure ({}), but passed", known[0].reason),
    };
    Judged {
        outcome: Outcome::Xpass,
        reason: Some(reason),
        reference: known[0].reference.clone(),
        note: Some(format!("correct known_failures in {}", known[0].place.file)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::known::KnownHere;
    use results::HostFacts;

    const CHECK: &str = "the rule in words";

    /// What a list of one entry with this `kernel` makes of an end on a host with this release.
    fn judged(range: &str, release: &str, passes: bool) -> Judged {
        let entry =
            format!("{{ test: a, checks: [{CHECK}], when: {{ kernel: \"{range}\" }}, reason: r }}");
        let all = [serde_yaml::from_str::<KnownFailure>(&entry).unwrap()];
        let facts = HostFacts { kernel: release.to_owned(), ..HostFacts::default() };
        let outcome = if passes { Outcome::Pass } else { Outcome::Fail };
        let mut finished = Finished::without_worker(outcome, "seen".to_owned());
        let event = vm::record::Event::Check {
            name: CHECK.to_owned(),
            pass: passes,
            detail: String::new(),
        };
        finished.tally.add(event);
        judge(&finished, &KnownHere::new(&all, &facts).of("a"))
    }

    #[test]
    fn a_listed_failure_that_passes_is_no_news_on_a_vendors_kernel() {
        assert_eq!(judged("<6.1", "5.15.201", true).outcome, Outcome::Xpass);
        let fixed = judged("<6.1", "5.15.0-122-generic", true);
        assert_eq!(fixed.outcome, Outcome::Pass);
        assert_eq!(fixed.note.unwrap(), "fixed by this kernel's vendor: r");
        let known = judged("<6.1", "5.15.0-122-generic", false);
        assert_eq!(known.outcome, Outcome::KnownFail);
        assert_eq!(known.reason.unwrap(), "r (unless fixed by the vendor)");
    }

    #[test]
    fn a_failure_that_is_listed_for_other_kernels_says_so() {
        for release in ["6.12.44", "6.8.0-45-generic"] {
            let failed = judged("<6.1", release, false);
            assert_eq!(failed.outcome, Outcome::Fail);
            assert_eq!(failed.reason.unwrap(), "seen (known with kernel <6.1: r)");
            assert_eq!(judged("<6.1", release, true).outcome, Outcome::Pass);
        }
    }
}
