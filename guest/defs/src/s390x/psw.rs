//! The program-status word (PoP, "Program-Status-Word Format"): its mask half.

use bitflags::bitflags;

bitflags! {
    /// The mask half. The manual counts bits from the left.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Psw: u64 {
        /// Bit 5: dynamic address translation.
        const DAT = 1 << (63 - 5);
        /// Bit 14: the CPU waits.
        const WAIT = 1 << (63 - 14);
        /// Bit 31: extended addressing.
        const EA = 1 << (63 - 31);
        /// Bit 32: basic addressing.
        const BA = 1 << (63 - 32);
        /// Both: addresses of 64 bits.
        const AMODE_64 = Self::EA.bits() | Self::BA.bits();
    }
}
