//! The doorbell: a DIAGNOSE that KVM leaves to userspace.
#![expect(unsafe_code, reason = "the instruction itself")]

use core::arch::asm;

use guest_protocol::layout::s390x::DOORBELL;

/// Hands the host the message at guest-physical address `gpa`.
pub fn ring_doorbell(gpa: u32) {
    // SAFETY: the host reads the message, and may answer in it.
    unsafe {
        asm!(".short {}", ".short {}", const DOORBELL.0, const DOORBELL.1, in("r2") u64::from(gpa), options(nostack));
    }
}
