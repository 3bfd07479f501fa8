//! The doorbell: a hypercall that KVM leaves to userspace.

use guest_protocol::layout::ppc64le::DOORBELL_HCALL;

use super::hcall;

/// Hands the host the message at guest-physical address `gpa`.
pub fn ring_doorbell(gpa: u32) {
    hcall::call(DOORBELL_HCALL, [gpa.into(), 0, 0, 0]);
}
