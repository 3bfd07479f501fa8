//! The Statistical Profiling Extension (ARM ARM, "The Statistical Profiling Extension").
#![expect(missing_docs, reason = "the manual's names")]

/// PMBSR_EL1.
pub mod pmbsr {
    use crate::Field;

    /// MSS of a buffer event: the buffer is full.
    pub const BUFFER_FULL: u64 = 1;
    /// MSS of a buffer event: its status code.
    pub const BSC: u64 = 0x3f;
    pub const S: u64 = 1 << 17;
    pub const EA: u64 = 1 << 18;
    pub const EC: Field = Field::new(26, 6);
    /// EC: a fault of stage 1.
    pub const EC_STAGE_1: u64 = 0x24;
    /// Bits that keep what is written.
    pub const WRITABLE: u64 = 0xfc0f_ffff;
}

/// PMBLIMITR_EL1.E: the buffer is enabled.
pub const PMBLIMITR_E: u64 = 1 << 0;

/// PMSCR_EL1.
pub mod pmscr {
    pub const E1SPE: u64 = 1 << 1;
    pub const PA: u64 = 1 << 4;
    pub const TS: u64 = 1 << 5;
}

/// PMSFCR_EL1.
pub mod pmsfcr {
    /// Filtering by type.
    pub const FT: u64 = 1 << 1;
    pub const B: u64 = 1 << 16;
    pub const LD: u64 = 1 << 17;
    pub const ST: u64 = 1 << 18;
}

/// PMBIDR_EL1.
pub mod pmbidr {
    use crate::Field;

    pub const ALIGN: Field = Field::new(0, 4);
    /// The buffer belongs to a higher exception level.
    pub const P: Field = Field::new(4, 1);
}

/// PMSIDR_EL1.
pub mod pmsidr {
    use crate::Field;

    pub const INTERVAL: Field = Field::new(8, 4);
    pub const MAX_SIZE: Field = Field::new(12, 4);
    pub const COUNT_SIZE: Field = Field::new(16, 4);
}

/// The PPI of the buffer management interrupt (DEN0029, "PPI assignments").
pub const INTID: u32 = 21;
