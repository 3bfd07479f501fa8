//! Debug registers (SDM vol. 3, "Debug Registers").
#![expect(missing_docs, reason = "the manual's names")]

use bitflags::bitflags;

bitflags! {
    /// DR6.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Dr6: u64 {
        const B0 = 1 << 0;
        const B1 = 1 << 1;
        const B2 = 1 << 2;
        const B3 = 1 << 3;
        const BLD = 1 << 11;
        const BD = 1 << 13;
        const BS = 1 << 14;
        const BT = 1 << 15;
        const RTM = 1 << 16;
        /// Bits that are set on a CPU without [`Dr6::BLD`] and [`Dr6::RTM`] events.
        const FIXED = 0xffff_0ff0;
    }

    /// DR7.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Dr7: u64 {
        const L0 = 1 << 0;
        const G0 = 1 << 1;
        const L1 = 1 << 2;
        const G1 = 1 << 3;
        const L2 = 1 << 4;
        const G2 = 1 << 5;
        const L3 = 1 << 6;
        const G3 = 1 << 7;
        const LE = 1 << 8;
        const GE = 1 << 9;
        /// Bit 10, which is always set.
        const FIXED = 1 << 10;
        const GD = 1 << 13;
        /// R/W3: a write of data.
        const RW3_WRITE = 0b01 << 28;
        /// LEN3: eight bytes.
        const LEN3_8 = 0b10 << 30;
    }
}
