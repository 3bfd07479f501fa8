//! The I/O APIC (82093AA data sheet).

/// Where the first one of a PC is.
pub const BASE: u64 = 0xfec0_0000;

/// Offset of the register that selects one of those below.
pub const IOREGSEL: u64 = 0;

/// Offset of the selected register.
pub const IOWIN: u64 = 0x10;

/// Register: identification.
pub const ID: u32 = 0;

/// Register: version, and the number of the last pin.
pub const VERSION: u32 = 1;

/// Register: arbitration identification.
pub const ARBITRATION: u32 = 2;

/// Pins, each with a redirection entry.
pub const PINS: u32 = 24;

/// Register of the lower half of the redirection entry of `pin`; the upper half is behind it.
pub const fn redirection(pin: u32) -> u32 {
    0x10 + 2 * pin
}

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
/// Redirection entry, read-only: level interrupt accepted and not yet ended.
pub const REMOTE_IRR: u64 = 1 << 14;
/// Redirection entry: level-triggered.
pub const LEVEL: u64 = 1 << 15;
/// Redirection entry: masked.
pub const MASKED: u64 = 1 << 16;
/// Redirection entry: where the destination's APIC ID begins.
pub const DESTINATION_SHIFT: u32 = 56;
/// Redirection entry: everything that can be written.
pub const WRITABLE: u64 = 0xff00_0000_0001_afff;
