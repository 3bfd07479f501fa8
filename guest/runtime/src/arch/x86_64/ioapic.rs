//! The I/O APIC at its usual address (82093AA data sheet).

pub use defs::x86::ioapic::*;

use super::memory::{peek, poke};

/// Reads a register.
pub fn read(index: u32) -> u32 {
    poke(BASE + IOREGSEL, index);
    peek(BASE + IOWIN)
}

/// Writes a register.
pub fn write(index: u32, value: u32) {
    poke(BASE + IOREGSEL, index);
    poke(BASE + IOWIN, value);
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

/// Routes `pin` to `vector` on the CPU with APIC ID `destination`; `flags` such as
/// [`LEVEL`].
pub fn route(pin: u32, vector: u8, destination: u32, flags: u64) {
    set_entry(pin, u64::from(destination) << DESTINATION_SHIFT | flags | u64::from(vector));
}
