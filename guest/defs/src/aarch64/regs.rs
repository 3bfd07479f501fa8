//! Bits of system registers (ARM ARM, "AArch64 System Register Descriptions", "Process state, PSTATE").
#![expect(missing_docs, reason = "the manual's names")]

use bitflags::bitflags;

use crate::Field;

bitflags! {
    /// SCTLR_EL1, and SCTLR_EL2 with E2H.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Sctlr: u64 {
        const M = 1 << 0;
        const C = 1 << 2;
        const SA = 1 << 3;
        const SA0 = 1 << 4;
        const I = 1 << 12;
        const DZE = 1 << 14;
        const UCT = 1 << 15;
        const NTWI = 1 << 16;
        const NTWE = 1 << 18;
        const UCI = 1 << 26;
        /// The bits that ARMv8.0 has RES1.
        const RES1 = 0x30d0_0800;
    }

    /// HCR_EL2.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Hcr: u64 {
        const VM = 1 << 0;
        const TWI = 1 << 13;
        const TVM = 1 << 26;
        const TGE = 1 << 27;
        const RW = 1 << 31;
        const E2H = 1 << 34;
    }

    /// SPSR_ELx and PSTATE beside the mode in the low four bits.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Spsr: u64 {
        const F = 1 << 6;
        const I = 1 << 7;
        const A = 1 << 8;
        const D = 1 << 9;
        /// All exceptions are masked.
        const DAIF = 0xf << 6;
        const SS = 1 << 21;
    }

    /// CNTKCTL_EL1: what EL0 may reach of the timers.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Cntkctl: u64 {
        const EL0PCTEN = 1 << 0;
        const EL0VCTEN = 1 << 1;
        const EL0VTEN = 1 << 8;
        const EL0PTEN = 1 << 9;
    }
}

/// The mode in SPSR_ELx and PSTATE: exception level and stack pointer.
pub mod mode {
    pub const EL0T: u64 = 0b0000;
    pub const EL1T: u64 = 0b0100;
    pub const EL1H: u64 = 0b0101;
    pub const EL2T: u64 = 0b1000;
    pub const EL2H: u64 = 0b1001;
    /// M: the bits of all these, and that it is AArch64's.
    pub const MASK: u64 = 0b1_1111;
}

/// CPACR_EL1, and CPTR_EL2 with E2H.
pub mod cpacr {
    use super::Field;

    pub const ZEN: Field = Field::new(16, 2);
    pub const FPEN: Field = Field::new(20, 2);
    /// ZEN, FPEN: nothing traps.
    pub const NO_TRAP: u64 = 0b11;
}

/// Offsets in the vector table (ARM ARM, "Exception vectors").
pub mod vectors {
    /// Synchronous, from the current level with SP_ELx.
    pub const CURRENT_SPX_SYNC: u64 = 0x200;
    /// Synchronous, from AArch64 of a lower level.
    pub const LOWER_AARCH64_SYNC: u64 = 0x400;
    /// Bytes of an entry.
    pub const SIZE: u64 = 0x80;
}

/// VBAR_ELx: the bits that are always 0.
pub const VBAR_RES0: u64 = 0x7ff;

/// CurrentEL.
pub const CURRENTEL_EL: Field = Field::new(2, 2);

/// MPIDR_EL1.
pub mod mpidr {
    use super::Field;

    pub const AFF0: Field = Field::new(0, 8);
    /// Bit 31, which is always set.
    pub const RES1: u64 = 1 << 31;
}

/// TCR_EL1, and TCR_EL2 with E2H.
pub mod tcr {
    use super::Field;

    pub const T0SZ: Field = Field::new(0, 6);
    /// IRGN0, ORGN0: walks are of memory that is Normal, write-back.
    pub const IRGN0_WRITE_BACK: u64 = 1 << 8;
    pub const ORGN0_WRITE_BACK: u64 = 1 << 10;
    pub const SH0_INNER: u64 = 3 << 12;
    pub const TG0: Field = Field::new(14, 2);
    pub const TG0_4K: u64 = 0;
    pub const TG0_64K: u64 = 1;
    /// There is no TTBR1.
    pub const EPD1: u64 = 1 << 23;
    pub const IPS: Field = Field::new(32, 3);
    /// IPS, PS: 40 bits of output address.
    pub const IPS_40_BITS: u64 = 2;
}

/// VTCR_EL2, where it differs from TCR_EL1.
pub mod vtcr {
    use super::Field;

    /// The level at which walks start.
    pub const SL0: Field = Field::new(6, 2);
    /// SL0 with a granule of 4 KiB: level 1.
    pub const SL0_LEVEL_1: u64 = 1;
    pub const PS: Field = Field::new(16, 3);
    pub const RES1: u64 = 1 << 31;
}

/// Attributes in MAIR_EL1.
pub mod mair {
    pub const NORMAL_WRITE_BACK: u64 = 0xff;
    pub const DEVICE_NGNRNE: u64 = 0x00;
    pub const NORMAL_NON_CACHEABLE: u64 = 0x44;

    /// An attribute at its index.
    pub const fn at(index: u32, attribute: u64) -> u64 {
        attribute << (8 * index)
    }
}

/// HPFAR_EL2: the faulting address from bit 12 on.
pub const HPFAR_FIPA: Field = Field::new(4, 40);
