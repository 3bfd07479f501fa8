//! The doorbell: a 32-bit port write.

use guest_protocol::layout::x86_64::DOORBELL_PORT;

use super::port::outl;

/// Hands the host the message at guest-physical address `gpa`.
pub fn ring_doorbell(gpa: u32) {
    outl(DOORBELL_PORT, gpa);
}
