//! Entries of translation tables of 4-level paging (SDM vol. 3, "Paging").
#![expect(missing_docs, reason = "the manual's names")]

use bitflags::bitflags;

bitflags! {
    /// Bits of an entry that maps a page or refers to a table.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Pte: u64 {
        const P = 1 << 0;
        const RW = 1 << 1;
        const US = 1 << 2;
        const PWT = 1 << 3;
        const PCD = 1 << 4;
        const A = 1 << 5;
        const D = 1 << 6;
        const PS = 1 << 7;
        const G = 1 << 8;
        const XD = 1 << 63;
        /// What the prebuilt tables give every page.
        const DEFAULT = Self::P.bits() | Self::RW.bits() | Self::US.bits() | Self::A.bits() | Self::D.bits();
        /// What an entry that refers to a table has.
        const TABLE = Self::P.bits() | Self::RW.bits() | Self::US.bits();
    }
}

/// The physical address in an entry.
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Entries of a table.
pub const ENTRIES: u64 = 512;

/// Bytes of a page that an entry of the second level maps.
pub const LARGE_PAGE: u64 = 2 << 20;
