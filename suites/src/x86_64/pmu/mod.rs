//! Performance counters.

pub mod pebs;
pub mod pmu;
