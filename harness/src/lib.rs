//! The host side of kvm-conformance: VMs, the run loop, requirements and outcomes.

pub mod case;
pub mod facts;
pub mod outcome;
pub mod requirement;
