//! The doorbell: an SBI call that KVM leaves to userspace.

use guest_protocol::layout::riscv64::DOORBELL_EXTENSION;

use super::sbi;

/// Hands the host the message at guest-physical address `gpa`.
pub fn ring_doorbell(gpa: u32) {
    sbi::call(DOORBELL_EXTENSION, 0, [gpa.into(), 0, 0, 0, 0, 0]);
}
