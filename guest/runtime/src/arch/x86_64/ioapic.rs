//! The I/O APIC at its usual address (82093AA data sheet).

use super::memory::{peek, poke};

/// Where KVM's I/O APIC is.
pub const IOAPIC_BASE: u64 = 0xfec0_0000;

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

/// The redirection entry of `pin`.
pub fn entry(pin: u32) -> u64 {
    u64::from(read(0x11 + 2 * pin)) << 32 | u64::from(read(0x10 + 2 * pin))
}

/// Sets the redirection entry of `pin`: low bits as in the data sheet, destination APIC ID in the
/// top byte.
pub fn set_entry(pin: u32, entry: u64) {
    write(0x10 + 2 * pin, MASKED as u32);
    write(0x11 + 2 * pin, (entry >> 32) as u32);
    write(0x10 + 2 * pin, entry as u32);
}

/// Routes `pin` to `vector` on the CPU with APIC ID `destination`; `flags` such as [`LEVEL`].
pub fn route(pin: u32, vector: u8, destination: u32, flags: u64) {
    set_entry(pin, u64::from(destination) << 56 | flags | u64::from(vector));
}
