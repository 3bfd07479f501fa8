//! The I/O APIC at its usual address (82093AA data sheet).

use super::memory::{peek, poke};

/// Where KVM's I/O APIC is.
pub const IOAPIC_BASE: u64 = 0xfec0_0000;

/// Register: identification.
pub const ID: u32 = 0;
/// Register: version, and the number of the last pin.
pub const VERSION: u32 = 1;
/// Register: arbitration identification.
pub const ARBITRATION: u32 = 2;
/// Pins, each with a redirection entry.
pub const PINS: u32 = 24;

/// Redirection entry, delivery mode: to the one with the lowest priority.
pub const LOWEST_PRIORITY: u64 = 1 << 8;
/// Redirection entry, delivery mode: SMI.
pub const SMI: u64 = 2 << 8;
/// Redirection entry, delivery mode: NMI.
pub const NMI: u64 = 4 << 8;
/// Redirection entry, delivery mode: INIT.
pub const INIT: u64 = 5 << 8;
/// Redirection entry: the destination is logical.
pub const LOGICAL: u64 = 1 << 11;
/// Redirection entry, read-only: the interrupt is being sent.
pub const SEND_PENDING: u64 = 1 << 12;
/// Redirection entry: the line is active when low.
pub const ACTIVE_LOW: u64 = 1 << 13;
/// Redirection entry: level-triggered.
pub const LEVEL: u64 = 1 << 15;
/// Redirection entry: masked.
pub const MASKED: u64 = 1 << 16;
/// Redirection entry, read-only: level interrupt accepted and not yet ended.
pub const REMOTE_IRR: u64 = 1 << 14;

/// Reads a register.
pub fn read(index: u32) -> u32 {
    poke(IOAPIC_BASE, index);
    peek(IOAPIC_BASE + 0x10)
}

/// Writes a register.
pub fn write(index: u32, value: u32) {
    poke(IOAPIC_BASE, index);
    poke(IOAPIC_BASE + 0x10, value);
}

/// Register of the lower half of the redirection entry of `pin`; the upper half is behind it.
pub const fn redirection(pin: u32) -> u32 {
    0x10 + 2 * pin
}

/// The redirection entry of `pin`.
pub fn entry(pin: u32) -> u64 {
    u64::from(read(redirection(pin) + 1)) << 32 | u64::from(read(redirection(pin)))
}

/// Sets the redirection entry of `pin`: low bits as in the data sheet, destination APIC ID in the
/// top byte.
pub fn set_entry(pin: u32, entry: u64) {
    write(redirection(pin), MASKED as u32);
    write(redirection(pin) + 1, (entry >> 32) as u32);
    write(redirection(pin), entry as u32);
}

/// Routes `pin` to `vector` on the CPU with APIC ID `destination`; `flags` such as [`LEVEL`].
pub fn route(pin: u32, vector: u8, destination: u32, flags: u64) {
    set_entry(pin, u64::from(destination) << 56 | flags | u64::from(vector));
}
