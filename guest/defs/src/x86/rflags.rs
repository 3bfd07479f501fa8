//! RFLAGS (SDM vol. 1, "EFLAGS Register").
#![expect(missing_docs, reason = "the manual's names")]

use bitflags::bitflags;

bitflags! {
    /// RFLAGS.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Rflags: u64 {
        const CF = 1 << 0;
        /// Bit 1, which is always set.
        const FIXED = 1 << 1;
        const PF = 1 << 2;
        const AF = 1 << 4;
        const ZF = 1 << 6;
        const SF = 1 << 7;
        const TF = 1 << 8;
        const IF = 1 << 9;
        const DF = 1 << 10;
        const OF = 1 << 11;
        /// Privilege level 3 may use ports.
        const IOPL_3 = 3 << 12;
        const IOPL_2 = 2 << 12;
        const NT = 1 << 14;
        const RF = 1 << 16;
        const VM = 1 << 17;
        const AC = 1 << 18;
        const VIF = 1 << 19;
        const VIP = 1 << 20;
        const ID = 1 << 21;
    }
}
