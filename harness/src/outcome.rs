//! How a test can end, and what a worker tells its runner on the way there.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The verdict on one test, after the policy of `unittests.yaml` was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every check held.
    Pass,
    /// KVM is wrong.
    Fail,
    /// The test or its environment is wrong: it says nothing about KVM.
    Error,
    /// No verdict before the deadline.
    Timeout,
    /// A named requirement is missing on this host.
    Skip,
    /// Failed just as `unittests.yaml` says it would.
    KnownFail,
    /// Listed as a known failure, and passed.
    Xpass,
    /// The host kernel warned, oopsed or was tainted while the test ran.
    HostBug,
}

impl Outcome {
    /// Every outcome, in the order summaries use.
    pub const ALL: [Self; 8] = [
        Self::Pass,
        Self::Fail,
        Self::Error,
        Self::Timeout,
        Self::Skip,
        Self::KnownFail,
        Self::Xpass,
        Self::HostBug,
    ];

    /// The name used in every machine-readable format.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Error => "error",
            Self::Timeout => "timeout",
            Self::Skip => "skip",
            Self::KnownFail => "known_fail",
            Self::Xpass => "xpass",
            Self::HostBug => "host_bug",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Why a test body stopped before its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// KVM broke its contract.
    Fail(String),
    /// We, or the environment, are wrong.
    Error(String),
    /// The deadline passed; the text tells the guest's last known state.
    Timeout(String),
    /// A requirement that only shows late is missing.
    Skip(String),
}

impl Failure {
    /// Adds what was being done when the failure came up.
    #[must_use]
    pub fn context(self, what: impl fmt::Display) -> Self {
        match self {
            Self::Fail(m) => Self::Fail(format!("{what}: {m}")),
            Self::Error(m) => Self::Error(format!("{what}: {m}")),
            Self::Timeout(m) => Self::Timeout(format!("{what}: {m}")),
            skip @ Self::Skip(_) => skip,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fail(m) | Self::Error(m) | Self::Timeout(m) | Self::Skip(m) => f.write_str(m),
        }
    }
}

impl std::error::Error for Failure {}

/// What a test body returns.
pub type TestResult<T = ()> = Result<T, Failure>;

/// One line from a worker to its runner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A named check was evaluated. A name that comes again is the same check.
    Check {
        /// The rule, in words; unique in its test.
        name: String,
        /// Whether the rule held.
        pass: bool,
        /// Where, and what was seen (empty for a pass).
        #[serde(default, skip_serializing_if = "String::is_empty")]
        detail: String,
    },
    /// A measured value.
    Metric {
        /// What was measured.
        name: String,
        /// Its unit, such as `ns` or `cycles`.
        unit: String,
        /// The measured value; the median of several.
        value: f64,
        /// How far several values lie apart.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spread: Option<Spread>,
    },
    /// What KVM has counted of a VM or vCPU, at the deadline.
    Stats {
        /// `VM`, or `vCPU` and its index.
        of: String,
        /// Name → value, as `KVM_GET_STATS_FD` gives them.
        values: BTreeMap<String, u64>,
    },
    /// Where a vCPU stood when its host half had to be killed.
    Vcpu {
        /// Its index.
        index: u32,
        /// How often KVM_RUN came back.
        exits: u64,
        /// Its program counter, where KVM gives it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pc: Option<u64>,
    },
    /// A line of the guest's or the host half's log.
    Log {
        /// The line, without its newline.
        line: String,
    },
    /// The last line of every worker that lived to say it.
    Verdict {
        /// `pass`, `fail`, `error`, `timeout` or `skip`.
        outcome: Outcome,
        /// One sentence for a person; for a skip, the requirement's name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Guest location, registers, backtrace: everything that helps.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        details: Vec<String>,
    },
}

/// A check that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedCheck {
    /// The check's name.
    pub name: String,
    /// Where, and what was seen the first time it failed.
    pub detail: String,
}

/// A measured value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// What was measured.
    pub name: String,
    /// Its unit.
    pub unit: String,
    /// The measured value; the median of several.
    pub value: f64,
    /// How far several values lie apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<Spread>,
}

/// Several measured values of one thing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// All of them, in the order in which they were measured.
    pub samples: Vec<f64>,
}

impl Spread {
    /// The median of `samples`, and their spread; `None` where there are none.
    pub fn of(samples: &[f64]) -> Option<(f64, Self)> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        };
        Some((median, Self { min, max, samples: samples.to_vec() }))
    }
}

impl fmt::Display for Metric {
    /// `name = median unit (min to max, n samples)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {} {}", self.name, Digits(self.value), self.unit)?;
        match &self.spread {
            Some(Spread { min, max, samples }) if samples.len() > 1 => {
                write!(f, " ({} to {}, {} samples)", Digits(*min), Digits(*max), samples.len())
            }
            _ => Ok(()),
        }
    }
}

/// A number with as many digits as mean something.
struct Digits(f64);

impl fmt::Display for Digits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = match self.0.abs() {
            size if size == size.trunc() || size >= 1000.0 => 0,
            size if size >= 10.0 => 1,
            _ => 3,
        };
        write!(f, "{:.digits$}", self.0)
    }
}

/// `VM` or a vCPU → statistic → value.
pub type Stats = BTreeMap<String, BTreeMap<String, u64>>;

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
    }

    #[test]
    fn several_values_have_a_median_and_a_spread() {
        assert_eq!(Spread::of(&[]), None);
        let (median, spread) = Spread::of(&[30.0, 10.0, 20.0]).unwrap();
        assert_eq!((median, spread.min, spread.max), (20.0, 10.0, 30.0));
        assert_eq!(spread.samples, [30.0, 10.0, 20.0]);
        assert_eq!(Spread::of(&[1.0, 2.0, 4.0, 9.0]).unwrap().0, 3.0);
        let metric =
            |value, spread| Metric { name: "exit".into(), unit: "us".into(), value, spread };
        assert_eq!(metric(20.0, Some(spread)).to_string(), "exit = 20 us (10 to 30, 3 samples)");
        assert_eq!(metric(1.25, None).to_string(), "exit = 1.250 us");
    }

    #[test]
    fn events_round_trip_as_json_lines() {
        let event = Event::Verdict { outcome: Outcome::KnownFail, reason: None, details: vec![] };
        let line = serde_json::to_string(&event).unwrap();
        assert_eq!(line, r#"{"event":"verdict","outcome":"known_fail"}"#);
        assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
    }
}
