//! Descriptors of translation tables (ARM ARM, "VMSAv8-64 descriptor formats").
#![expect(missing_docs, reason = "the manual's names")]

use bitflags::bitflags;

bitflags! {
    /// A descriptor beside its address. Without an attribute's index it is of index 0.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Descriptor: u64 {
        const VALID = 1 << 0;
        /// Of levels 0 to 2: it refers to a table.
        const TABLE = 1 << 1;
        /// Of level 3: it maps a page.
        const PAGE = 1 << 1;
        const ATTR_1 = 1 << 2;
        const ATTR_2 = 2 << 2;
        const AP_EL0 = 1 << 6;
        const AP_READ_ONLY = 1 << 7;
        const SH_INNER = 3 << 8;
        const AF = 1 << 10;
        const NG = 1 << 11;
        const PXN = 1 << 53;
        const UXN = 1 << 54;
    }
}

/// The output address in a descriptor.
pub const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// Entries of a table of 4 KiB.
pub const ENTRIES: u64 = 512;

/// Bytes of a block of level 2 with a granule of 4 KiB.
pub const BLOCK: u64 = 2 << 20;
