//! Results of runs: outcomes, the stream of them, comparisons and every form of report. Knows neither KVM
//! nor command lines: the runner, the lab and the mutants all speak of results through this crate.

mod facts;
pub mod journal;
pub mod outcome;
pub mod report;
pub mod trouble;

pub use facts::HostFacts;

/// Group of tests that measure, which only run with `--perf`.
pub const PERF: &str = "perf";
