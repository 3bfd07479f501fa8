//! What a system, a VM and a vCPU are to userspace.

pub mod hello;
pub mod stats_fd;
pub mod system;
