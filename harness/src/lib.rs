//! The host side of kvm-conformance: VMs, the run loop, requirements and outcomes.

pub mod case;
pub mod cli;
pub mod facts;
pub mod journal;
pub mod outcome;
pub mod record;
pub mod registry;
pub mod report;
pub mod requirement;
pub mod runner;
pub mod select;
