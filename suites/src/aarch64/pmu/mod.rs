//! Performance counters.

pub mod pmu;
pub mod pmu_chain;
pub mod pmu_cycles;
pub mod pmu_events;
pub mod pmu_filter;
pub mod pmu_migration;
pub mod pmu_overflow;
pub mod pmu_restored;
pub mod pmu_uapi;
