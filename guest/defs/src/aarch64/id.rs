//! Fields of ID registers (ARM ARM, ID_AA64*_EL1), and some of their values.
#![expect(missing_docs, reason = "the manual's names")]

use crate::Field;

/// ID_AA64DFR0_EL1.
pub mod dfr0 {
    use super::Field;

    pub const PMUVER: Field = Field::new(8, 4);
    /// PMUVer: FEAT_PMUv3p1.
    pub const PMUV3P1: u64 = 4;
    /// PMUVer: FEAT_PMUv3p5.
    pub const PMUV3P5: u64 = 6;
    /// PMUVer: a PMU that is not the architecture's.
    pub const PMU_IMPLEMENTATION_DEFINED: u64 = 0xf;
    pub const PMSVER: Field = Field::new(32, 4);
}

/// ID_AA64PFR0_EL1.
pub mod pfr0 {
    use super::Field;

    pub const EL0: Field = Field::new(0, 4);
    pub const EL2: Field = Field::new(8, 4);
    pub const SVE: Field = Field::new(32, 4);
    /// EL0 to EL3: AArch64 only.
    pub const AARCH64_ONLY: u64 = 1;
    /// EL0 to EL3: AArch32 too.
    pub const AARCH32_TOO: u64 = 2;
}

/// ID_AA64MMFR0_EL1.
pub mod mmfr0 {
    use super::Field;

    /// Bits of physical address, by a number.
    pub const PARANGE: Field = Field::new(0, 4);
    pub const TGRAN64: Field = Field::new(24, 4);
    /// TGran64: there is none.
    pub const TGRAN64_NONE: u64 = 0xf;
}
