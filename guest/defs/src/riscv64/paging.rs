//! Page table entries (privileged manual, "Sv39: Page-Based 39-bit Virtual-Memory System").
#![expect(missing_docs, reason = "the manual's names")]

use bitflags::bitflags;

use crate::Field;

bitflags! {
    /// An entry beside its page number. One that has none of R, W and X refers to a table.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Pte: u64 {
        const V = 1 << 0;
        const R = 1 << 1;
        const W = 1 << 2;
        const X = 1 << 3;
        const U = 1 << 4;
        const G = 1 << 5;
        const A = 1 << 6;
        const D = 1 << 7;
    }
}

/// The physical page number.
pub const PPN: Field = Field::new(10, 44);

/// Entries of a table.
pub const ENTRIES: u64 = 512;

/// Bytes of a page that an entry of the second level maps.
pub const LARGE_PAGE: u64 = 2 << 20;

/// The entry for `gpa`.
pub const fn entry(gpa: u64, flags: Pte) -> u64 {
    PPN.of(gpa >> 12) | flags.bits()
}

/// The guest-physical address in an entry.
pub const fn address(entry: u64) -> u64 {
    PPN.get(entry) << 12
}
