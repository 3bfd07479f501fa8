//! Known failures: told apart from news, and gone from the list once they pass.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;

use super::version::KernelRange;
use crate::pattern::Glob;
use crate::verdict::Finished;
use crate::yaml::Scalar;
use cli::nearest::nearest;
use results::HostFacts;
use results::journal::KnownEnd;
use results::outcome::Outcome;

/// One entry of `known_failures`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownFailure {
    /// Where it stands.
    #[serde(skip)]
    pub(super) place: Place,
    /// Name or glob.
    pub test: String,
    /// The checks that may fail; without any, the whole test may.
    #[serde(default)]
    pub checks: Vec<String>,
    /// How it fails.
    #[serde(default)]
    pub outcome: HowItFails,
    /// Fails now and then: a race that KVM loses sometimes. A pass stays a pass.
    #[serde(default)]
    pub intermittent: bool,
    /// Where it fails; everywhere if empty.
    #[serde(default)]
    pub when: When,
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// Where more is written.
    #[serde(default)]
    pub reference: Option<String>,
}

/// Where a known failure stands.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The file's name.
    pub file: Arc<str>,
    /// Which of the policy's files that is.
    pub nth_file: usize,
    /// Which of the file's known failures, from 0.
    pub nth: usize,
}

impl Default for Place {
    fn default() -> Self {
        Self { file: "".into(), nth_file: 0, nth: 0 }
    }
}

/// The outcome that a known failure has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HowItFails {
    /// A check or the test fails.
    #[default]
    Fail,
    /// The deadline passes.
    Timeout,
    /// The host half cannot go on.
    Error,
    /// The host kernel complains.
    HostBug,
}

impl HowItFails {
    fn outcome(self) -> Outcome {
        match self {
            Self::Fail => Outcome::Fail,
            Self::Timeout => Outcome::Timeout,
            Self::Error => Outcome::Error,
            Self::HostBug => Outcome::HostBug,
        }
    }
}

/// The hosts that a known failure is known on: every key given must match.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct When {
    /// `kvm_amd`, `kvm_pvm`, …
    pub backend: Option<String>,
    /// `x86_64`, …
    pub arch: Option<String>,
    /// `>=5.10, <6.1`
    pub kernel: Option<KernelRange>,
    /// Host profile of the lab, or a glob of some: what one emulator does wrong.
    pub profile: Option<String>,
    /// Module parameters, `kvm_amd.nested: 0`.
    #[serde(default)]
    pub module_params: BTreeMap<String, Scalar>,
}

impl When {
    /// Whether `facts` are of such a host.
    pub fn matches(&self, facts: &HostFacts) -> bool {
        let same = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|w| w == is);
        same(&self.backend, &facts.backend)
            && same(&self.arch, &facts.arch)
            && self.profile.as_ref().is_none_or(|wanted| {
                let spellings = [&facts.profile, facts.base_profile()];
                Glob::new(wanted).is_ok_and(|wanted| spellings.iter().any(|s| wanted.is_match(s)))
            })
            && self.kernel.as_ref().is_none_or(|range| range.contains(&facts.kernel))
            && self.module_params.iter().all(|(name, wanted)| {
                facts.module_params.get(name).is_some_and(|is| truth(is) == truth(&wanted.0))
            })
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> =
            [("backend", &self.backend), ("arch", &self.arch), ("profile", &self.profile)]
                .into_iter()
                .filter_map(|(key, value)| Some(format!("{key} is {}", value.as_ref()?)))
                .collect();
        parts.extend(self.kernel.as_ref().map(|range| format!("kernel {range}")));
        parts
            .extend(self.module_params.iter().map(|(name, value)| format!("{name} = {}", value.0)));
        f.write_str(&parts.join(" and "))
    }
}

/// Module parameters say `Y`, `1` and `true` for the same thing.
fn truth(value: &str) -> &str {
    match value {
        "Y" | "y" | "1" | "true" => "1",
        "N" | "n" | "0" | "false" => "0",
        other => other,
    }
}

/// The known failures that hold on one host, ready to be looked up by test.
#[derive(Debug, Default)]
pub struct KnownHere<'a> {
    entries: Vec<(Glob, &'a KnownFailure)>,
}

impl<'a> KnownHere<'a> {
    /// Those of `all` that hold where `facts` were found.
    pub fn new(all: &'a [KnownFailure], facts: &HostFacts) -> Self {
        let here = all.iter().filter(|known| known.when.matches(facts));
        Self { entries: here.filter_map(|k| Some((Glob::new(&k.test).ok()?, k))).collect() }
    }

    /// All of them, wherever they hold.
    pub fn everywhere(all: &'a [KnownFailure]) -> Self {
        Self { entries: all.iter().filter_map(|k| Some((Glob::new(&k.test).ok()?, k))).collect() }
    }

    /// Whether the test is known to run into its deadline.
    pub fn times_out(&self, test: &str) -> bool {
        let mut entries = self.entries.iter();
        entries
            .any(|(glob, known)| known.outcome == HowItFails::Timeout && is_of(glob, known, test))
    }

    /// The ends that the test as a whole is known for.
    pub fn ends(&self, test: &str) -> Vec<KnownEnd> {
        let whole = self.of(test).into_iter().filter(|known| known.checks.is_empty());
        let end = |known: &KnownFailure| KnownEnd {
            outcome: known.outcome.outcome(),
            reason: known.reason.clone(),
            reference: known.reference.clone(),
        };
        whole.map(end).collect()
    }

    /// The entries for one test.
    pub fn of(&self, test: &str) -> Vec<&'a KnownFailure> {
        self.entries.iter().filter(|(glob, k)| is_of(glob, k, test)).map(|(_, k)| *k).collect()
    }

    /// The entries for one test that ended so: a variant may pass where the test itself is known to fail.
    pub fn of_end(&self, test: &str, outcome: Outcome) -> Vec<&'a KnownFailure> {
        let mut known = self.of(test);
        if outcome == Outcome::Pass && test.contains(VARIANT) {
            known.retain(|known| known.test.contains(VARIANT));
        }
        known
    }
}

/// What stands between a test's name and its variant's.
const VARIANT: char = '@';

/// Whether an entry is for `test`: what is known of a test is known of its variants.
fn is_of(glob: &Glob, known: &KnownFailure, test: &str) -> bool {
    let plain = test.split(VARIANT).next().unwrap_or(test);
    glob.is_match(if known.test.contains(VARIANT) { test } else { plain })
}

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
pub fn judge(finished: &Finished, known: &[&KnownFailure]) -> Judged {
    let unchanged = |note| Judged {
        outcome: finished.outcome,
        reason: finished.reason.clone(),
        reference: None,
        note,
    };
    if known.is_empty() || finished.outcome == Outcome::Skip {
        return unchanged(None);
    }
    if finished.outcome == Outcome::Pass {
        return match known.iter().all(|k| k.intermittent) {
            true => unchanged(Some(format!("fails now and then: {}", known[0].reason))),
            false => passes_though_known(finished, known),
        };
    }
    let whole =
        known.iter().find(|k| k.checks.is_empty() && k.outcome.outcome() == finished.outcome);
    if let Some(whole) = whole {
        return as_known(whole, finished);
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
        return judged;
    }
    if tally.failed.is_empty() {
        return unchanged(Some("failed outside the checks that are known to fail".to_owned()));
    }
    let passing: Vec<&str> = listed
        .iter()
        .filter(|(_, entry)| !entry.intermittent)
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
    as_known(entry, finished)
}

fn as_known(entry: &KnownFailure, finished: &Finished) -> Judged {
    Judged {
        outcome: Outcome::KnownFail,
        reason: Some(entry.reason.clone()),
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

    #[test]
    fn a_profile_may_be_a_glob() {
        let on = |wanted: &str, profile: &str| {
            let when = When { profile: Some(wanted.to_owned()), ..When::default() };
            when.matches(&HostFacts { profile: profile.to_owned(), ..HostFacts::default() })
        };
        assert!(on("amd64-svm*", "amd64-svm") && on("amd64-svm*", "amd64-svm-smp2"));
        assert!(on("amd64-svm", "amd64-svm") && !on("amd64-svm", "amd64-svm-npt0"));
        assert!(!on("amd64-svm*", "native") && !on("arm64-*", "amd64-svm"));
        assert!(
            on("amd64-svm", "amd64-svm,cpu=EPYC-Rome,smp=2"),
            "what was changed stays such a host"
        );
        assert!(!on("amd64-svm-npt0", "amd64-svm,cpu=EPYC-Rome"));
    }

    fn known(test: &str, outcome: HowItFails, checks: &[&str]) -> KnownFailure {
        KnownFailure {
            place: Place::default(),
            test: test.to_owned(),
            outcome,
            checks: checks.iter().map(|check| (*check).to_owned()).collect(),
            when: When::default(),
            reason: "because".to_owned(),
            intermittent: false,
            reference: None,
        }
    }

    #[test]
    fn what_is_known_of_a_test_is_known_of_its_variants_which_may_pass() {
        let all = ["a::x", "a::x@moved", "b::*"].map(|test| known(test, HowItFails::Fail, &[]));
        let here = KnownHere::new(&all, &HostFacts::default());
        let of = |test, outcome| {
            here.of_end(test, outcome).into_iter().map(|k| &*k.test).collect::<Vec<_>>()
        };
        assert_eq!(of("a::x@moved", Outcome::Fail), ["a::x", "a::x@moved"]);
        assert_eq!(of("a::x@moved", Outcome::Pass), ["a::x@moved"]);
        assert_eq!(of("a::x@other", Outcome::Fail), ["a::x"]);
        assert_eq!(of("b::y@moved", Outcome::Pass), Vec::<&str>::new());
        assert_eq!(of("b::y", Outcome::Pass), ["b::*"]);
        assert_eq!(of("a::x", Outcome::Fail), ["a::x"]);
    }

    #[test]
    fn a_death_is_known_of_whole_tests_only() {
        let all = [
            known("a::*", HowItFails::HostBug, &[]),
            known("b::x", HowItFails::Fail, &[]),
            known("c::x", HowItFails::HostBug, &["the rule"]),
        ];
        let here = KnownHere::new(&all, &HostFacts::default());
        let ends = |test| here.ends(test).into_iter().map(|end| end.outcome).collect::<Vec<_>>();
        assert_eq!(ends("a::x"), [Outcome::HostBug]);
        assert_eq!(ends("b::x"), [Outcome::Fail]);
        assert_eq!((ends("c::x"), ends("d::x")), (vec![], vec![]));
    }
}
