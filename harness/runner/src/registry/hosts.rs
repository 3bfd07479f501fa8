//! Names in a policy that say on which hosts something is so: each must mean something, or what is said
//! there never holds and nobody notices.

use std::collections::BTreeSet;

use super::Policy;
use super::known::KnownFailure;
use crate::pattern::Glob;
use crate::yaml::FileError;
use crate::yaml::Step::{Key, Nth};
use cli::nearest::unknown;
use results::HostFacts;

/// The modules that supply KVM's back half; `kvm` where it has no module of its own.
const BACKENDS: [&str; 6] = ["kvm", "kvm_amd", "kvm_hv", "kvm_intel", "kvm_pr", "kvm_pvm"];

impl Policy {
    /// Whether every host that a known failure names can be; `profiles` are the lab's, and this host's
    /// own names are good whatever they are.
    ///
    /// # Errors
    ///
    /// One of them means nothing.
    pub fn check_hosts(
        &self,
        facts: Option<&HostFacts>,
        profiles: &[&str],
    ) -> Result<(), FileError> {
        let mut said = BTreeSet::new();
        for known in &self.known_failures {
            let wrong = |key: Option<&str>, message| {
                let item = [Key("known_failures"), Nth(known.place.nth)];
                let key = key.map(|key| [Key("when"), Key(key)]);
                let place = [&item[..], key.as_ref().map_or(&[], |key| &key[..])].concat();
                self.error(known.place.nth_file, &place, message)
            };
            check_backend(known, facts).map_err(|m| wrong(Some("backend"), m))?;
            check_profile(known, facts, profiles).map_err(|m| wrong(Some("profile"), m))?;
            if let Some(range) = known.when.kernel.as_ref().filter(|range| range.is_empty()) {
                return Err(wrong(Some("kernel"), format!("no kernel is in `{range}`")));
            }
            let what = (&known.checks[..], known.outcome, known.when.to_string());
            if !said.insert((known.test.as_str(), what)) {
                let test = &known.test;
                return Err(wrong(None, format!("the known failure of `{test}` is listed twice")));
            }
        }
        Ok(())
    }
}

fn check_backend(known: &KnownFailure, facts: Option<&HostFacts>) -> Result<(), String> {
    let Some(backend) = known.when.backend.as_deref() else { return Ok(()) };
    let is_own = facts.is_some_and(|facts| facts.backend == backend);
    match is_own || BACKENDS.contains(&backend) {
        true => Ok(()),
        false => Err(unknown("backend", backend, BACKENDS)),
    }
}

fn check_profile(
    known: &KnownFailure,
    facts: Option<&HostFacts>,
    profiles: &[&str],
) -> Result<(), String> {
    let Some(profile) = known.when.profile.as_deref() else { return Ok(()) };
    let glob = Glob::new(profile).map_err(|e| format!("`{profile}`: {e}"))?;
    let own = facts.map(|facts| [facts.profile.as_str(), facts.base_profile()]);
    let own = own.iter().flatten().copied();
    match profiles.iter().copied().chain(own).any(|name| glob.is_match(name)) {
        true => Ok(()),
        false => Err(unknown("profile", profile, profiles.iter().copied())),
    }
}
