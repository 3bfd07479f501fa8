//! Known failures: told apart from news, and gone from the list once they pass.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;

use super::lineage;
use super::version::KernelRange;
use crate::pattern::Glob;
use crate::test::VARIANT;
use crate::yaml::{Scalar, Span};
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
    /// Of a timeout: the deadline that is enough to see it, where the test's own would be waited for in
    /// vain.
    #[serde(default)]
    pub timeout: Option<Span>,
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
    pub(super) fn outcome(self) -> Outcome {
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

/// The known failures of one host, ready to be looked up by test.
#[derive(Debug, Default)]
pub struct KnownHere<'a> {
    /// Those that hold here.
    entries: Vec<(Glob, &'a KnownFailure)>,
    /// Those that would hold with another kernel.
    other_kernels: Vec<(Glob, &'a KnownFailure)>,
    /// Whether the kernel's version tells less than it does of an upstream one.
    vendor: bool,
}

/// The known failures of one test on one host.
#[derive(Clone, Debug, Default)]
pub struct Known<'a> {
    /// Those that hold here.
    pub here: Vec<&'a KnownFailure>,
    /// Those that would hold with another kernel.
    pub other_kernels: Vec<&'a KnownFailure>,
    vendor: bool,
}

impl<'a> Known<'a> {
    /// The entry by which the test runs into its deadline, if it is known to.
    pub fn timeout(&self) -> Option<&'a KnownFailure> {
        self.here.iter().copied().find(|known| known.outcome == HowItFails::Timeout)
    }

    /// Whether a pass is no news: now and then, or because a vendor may have brought the fix back.
    pub fn may_pass(&self, entry: &KnownFailure) -> bool {
        entry.intermittent || self.may_be_fixed(entry)
    }

    /// Whether this kernel's vendor may have fixed what its version says is broken.
    pub fn may_be_fixed(&self, entry: &KnownFailure) -> bool {
        self.vendor && entry.when.kernel.is_some()
    }
}

fn with_globs<'a>(
    entries: impl Iterator<Item = &'a KnownFailure>,
) -> Vec<(Glob, &'a KnownFailure)> {
    entries.filter_map(|known| Some((Glob::new(&known.test).ok()?, known))).collect()
}

impl<'a> KnownHere<'a> {
    /// Those of `all` that hold where `facts` were found.
    pub fn new(all: &'a [KnownFailure], facts: &HostFacts) -> Self {
        let (here, elsewhere): (Vec<_>, Vec<_>) =
            all.iter().partition(|known| known.when.matches(facts));
        let other_kernels = elsewhere
            .into_iter()
            .filter(|known| When { kernel: None, ..known.when.clone() }.matches(facts));
        Self {
            entries: with_globs(here.into_iter()),
            other_kernels: with_globs(other_kernels),
            vendor: !lineage::is_known(&facts.kernel),
        }
    }

    /// All of them, wherever they hold.
    pub fn everywhere(all: &'a [KnownFailure]) -> Self {
        Self { entries: with_globs(all.iter()), ..Self::default() }
    }

    /// The ends that the test as a whole is known for.
    pub fn ends(&self, test: &str) -> Vec<KnownEnd> {
        let whole = self.of(test).here.into_iter().filter(|known| known.checks.is_empty());
        let end = |known: &KnownFailure| KnownEnd {
            outcome: known.outcome.outcome(),
            reason: known.reason.clone(),
            reference: known.reference.clone(),
        };
        whole.map(end).collect()
    }

    /// The entries for one test.
    pub fn of(&self, test: &str) -> Known<'a> {
        let of = |entries: &[(Glob, &'a KnownFailure)]| {
            entries.iter().filter(|(glob, k)| is_of(glob, k, test)).map(|(_, k)| *k).collect()
        };
        Known {
            here: of(&self.entries),
            other_kernels: of(&self.other_kernels),
            vendor: self.vendor,
        }
    }

    /// The entries for one test that ended so: a variant may pass where the test itself is known to fail.
    pub fn of_end(&self, test: &str, outcome: Outcome) -> Known<'a> {
        let mut known = self.of(test);
        if outcome == Outcome::Pass && test.contains(VARIANT) {
            known.here.retain(|known| known.test.contains(VARIANT));
        }
        known
    }
}

/// Whether an entry is for `test`: what is known of a test is known of its variants.
fn is_of(glob: &Glob, known: &KnownFailure, test: &str) -> bool {
    let plain = test.split(VARIANT).next().unwrap_or(test);
    glob.is_match(if known.test.contains(VARIANT) { test } else { plain })
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
            timeout: None,
            intermittent: false,
            reference: None,
        }
    }

    #[test]
    fn what_is_known_of_a_test_is_known_of_its_variants_which_may_pass() {
        let all = ["a::x", "a::x@moved", "b::*"].map(|test| known(test, HowItFails::Fail, &[]));
        let here = KnownHere::new(&all, &HostFacts::default());
        let of = |test, outcome| {
            here.of_end(test, outcome).here.into_iter().map(|k| &*k.test).collect::<Vec<_>>()
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
