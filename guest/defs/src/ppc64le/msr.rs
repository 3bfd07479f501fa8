//! The machine state register and the logical partitioning control register (Power ISA, Book III).
#![expect(missing_docs, reason = "the manual's names")]

use bitflags::bitflags;

bitflags! {
    /// MSR.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Msr: u64 {
        const LE = 1 << 0;
        const RI = 1 << 1;
        const ME = 1 << 12;
        const FP = 1 << 13;
        const PR = 1 << 14;
        const EE = 1 << 15;
        const VSX = 1 << 23;
        const VEC = 1 << 25;
        const SF = 1 << 63;
    }

    /// LPCR.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Lpcr: u64 {
        /// Interrupts are taken in little-endian mode.
        const ILE = 1 << 25;
    }
}
