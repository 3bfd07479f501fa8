//! The doorbell: a 32-bit store to an address that nobody else answers.

use guest_protocol::layout::aarch64::DOORBELL;

use super::memory::mmio_write;

/// Hands the host the message at guest-physical address `gpa`.
pub fn ring_doorbell(gpa: u32) {
    mmio_write(DOORBELL, gpa);
}
