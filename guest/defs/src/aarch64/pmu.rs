//! The performance monitors (ARM ARM, "The Performance Monitors Extension").
#![expect(missing_docs, reason = "the manual's names")]

/// PMCR_EL0.
pub mod pmcr {
    use crate::Field;

    pub const E: u64 = 1 << 0;
    pub const P: u64 = 1 << 1;
    pub const C: u64 = 1 << 2;
    pub const LC: u64 = 1 << 6;
    pub const LP: u64 = 1 << 7;
    /// How many event counters there are.
    pub const N: Field = Field::new(11, 5);
}

/// Event numbers.
pub mod event {
    pub const SW_INCR: u64 = 0x00;
    pub const INST_RETIRED: u64 = 0x08;
    pub const CPU_CYCLES: u64 = 0x11;
    pub const MEM_ACCESS: u64 = 0x13;
    pub const INST_SPEC: u64 = 0x1b;
    pub const CHAIN: u64 = 0x1e;
    pub const STALL_FRONTEND: u64 = 0x23;
    pub const STALL_BACKEND: u64 = 0x24;
    pub const STALL_SLOT_BACKEND: u64 = 0x3d;
    pub const STALL_SLOT_FRONTEND: u64 = 0x3e;
    pub const STALL_SLOT: u64 = 0x3f;
    /// Events below this one are in PMCEID0_EL0 and PMCEID1_EL0.
    pub const COMMON_END: u64 = 0x40;
    /// The last event with FEAT_PMUv3p1, and without.
    pub const LAST_V3P1: u64 = 0xffff;
    pub const LAST: u64 = 0x3ff;
}

/// Bits of `PMEVTYPER<n>_EL0` and PMCCFILTR_EL0 that exclude an exception level.
pub mod filter {
    /// EL1.
    pub const P: u64 = 1 << 31;
    /// EL0.
    pub const U: u64 = 1 << 30;
}

/// PMUSERENR_EL0.
pub mod userenr {
    /// EL0 may do everything.
    pub const EN: u64 = 1 << 0;
    /// EL0 may write PMSWINC_EL0.
    pub const SW: u64 = 1 << 1;
    /// EL0 may read PMCCNTR_EL0.
    pub const CR: u64 = 1 << 2;
    /// EL0 may read event counters, and select them.
    pub const ER: u64 = 1 << 3;
    pub const ALL: u64 = EN | SW | CR | ER;
}

/// Bit of the cycle counter in PMCNTENSET, PMOVSCLR and PMINTENSET.
pub const CYCLES: u64 = 1 << 31;

/// Where a counter of 32 bits wraps.
pub const WRAP: u64 = 1 << 32;

/// PMSELR_EL0.SEL of the cycle counter, where PMXEVTYPER_EL0 is PMCCFILTR_EL0.
pub const SELECT_CYCLES: u64 = 31;

/// The PPI of the overflow interrupt (DEN0029, "PPI assignments").
pub const INTID: u32 = 23;
