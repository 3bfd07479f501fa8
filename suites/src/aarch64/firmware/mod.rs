//! Firmware calls that KVM answers.

pub mod psci;
pub mod psci_power;
pub mod smccc;
pub mod smccc_filter;
