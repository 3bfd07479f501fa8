//! How a test can end, and what it measured.

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

/// A check that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedCheck {
    /// The check's name.
    pub name: String,
    /// Where, and what was seen the first time it failed.
    #[serde(default)]
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
