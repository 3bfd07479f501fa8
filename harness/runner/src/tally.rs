//! What a worker reported, added up.

use std::collections::BTreeMap;

use results::outcome::{FailedCheck, Metric, Outcome, Stats};
use vm::record::Event;

/// What the events of one test add up to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Check name → the detail of its first failure, `None` while it holds.
    pub checks: BTreeMap<String, Option<String>>,
    /// Names in the order in which they first failed.
    pub failed: Vec<String>,
    /// Measured values, in order.
    pub metrics: Vec<Metric>,
    /// What KVM had counted at the deadline: of the VM or a vCPU, by name.
    pub kvm_stats: Stats,
    /// Where vCPUs stood when their host half had to be killed: index, exits, program counter.
    pub vcpus: Vec<(u32, u64, Option<u64>)>,
    /// Log lines, in order.
    pub log: Vec<String>,
    /// The verdict, reason and details, once told.
    pub verdict: Option<(Outcome, Option<String>, Vec<String>)>,
}

impl Tally {
    /// Log lines kept per test: the last ones matter.
    const MAX_LOG: usize = 1000;

    /// Takes one event in.
    pub fn add(&mut self, event: Event) {
        match event {
            Event::Check { name, pass, detail } => {
                let seen = self.checks.entry(name.clone()).or_default();
                if !pass && seen.is_none() {
                    *seen = Some(detail);
                    self.failed.push(name);
                }
            }
            Event::Metric { name, unit, value, spread } => {
                self.metrics.push(Metric { name, unit, value, spread });
            }
            Event::Stats { of, values } => {
                self.kvm_stats.insert(of, values);
            }
            Event::Vcpu { index, exits, pc } => self.vcpus.push((index, exits, pc)),
            Event::Log { line } => {
                if self.log.len() == Self::MAX_LOG {
                    self.log.remove(0);
                }
                self.log.push(line);
            }
            Event::Verdict { outcome, reason, details } => {
                self.verdict = Some((outcome, reason, details));
            }
        }
    }

    /// Names of the checks that never failed, sorted.
    pub fn passed_checks(&self) -> Vec<String> {
        let held = self.checks.iter().filter(|(_, failure)| failure.is_none());
        held.map(|(name, _)| name.clone()).collect()
    }

    /// The checks that failed, in the order in which they first did.
    pub fn failed_checks(&self) -> Vec<FailedCheck> {
        self.failed
            .iter()
            .map(|name| FailedCheck {
                name: name.clone(),
                detail: self.checks[name].clone().unwrap_or_default(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, pass: bool, detail: &str) -> Event {
        Event::Check { name: name.into(), pass, detail: detail.into() }
    }

    #[test]
    fn a_check_is_red_if_any_evaluation_was() {
        let mut tally = Tally::default();
        for (pass, detail) in [(true, ""), (false, "first"), (false, "second"), (true, "")] {
            tally.add(check("rule", pass, detail));
        }
        tally.add(check("other", true, ""));
        assert_eq!(tally.checks.len(), 2);
        assert_eq!(
            tally.failed_checks(),
            [FailedCheck { name: "rule".into(), detail: "first".into() }]
        );
        assert_eq!(tally.passed_checks(), ["other"]);
    }
}
