//! Vectors of exceptions and their error codes (SDM vol. 3, "Interrupt and Exception Handling").
#![expect(missing_docs, reason = "the manual's names")]

use bitflags::bitflags;

/// Vectors of exceptions.
pub mod vector {
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BP: u8 = 3;
    pub const OF: u8 = 4;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const MF: u8 = 16;
    pub const AC: u8 = 17;
    pub const MC: u8 = 18;
    pub const XM: u8 = 19;
    pub const VE: u8 = 20;
    pub const CP: u8 = 21;
}

/// The name of an exception's vector, such as `#GP`; without one, its number.
pub const fn name(vector: u64) -> Option<&'static str> {
    const NAMES: [&str; 22] = [
        "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "9", "#TS", "#NP", "#SS",
        "#GP", "#PF", "15", "#MF", "#AC", "#MC", "#XM", "#VE", "#CP",
    ];
    if vector < NAMES.len() as u64 { Some(NAMES[vector as usize]) } else { None }
}

bitflags! {
    /// The error code of a page fault.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PageFaultError: u32 {
        const P = 1 << 0;
        const WR = 1 << 1;
        const US = 1 << 2;
        const RSVD = 1 << 3;
        const ID = 1 << 4;
        const PK = 1 << 5;
    }
}
