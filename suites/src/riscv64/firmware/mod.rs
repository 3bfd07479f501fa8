//! Firmware calls that KVM answers.

pub mod sbi;
