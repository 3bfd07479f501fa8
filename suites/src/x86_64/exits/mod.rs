//! Exits to userspace, and what userspace can have exit.

pub mod disabled_exits;
pub mod exit_latency;
pub mod exits;
pub mod hypercall_exits;
pub mod mmio;
pub mod msr_filter;
pub mod pio;
pub mod userspace_msr;
