//! Synthetic interrupt sources (TLFS, "SINTx Registers"): bits of HV_X64_MSR_SINTx beside the vector in the low
//! eight.

/// The source raises no interrupt.
pub const MASKED: u64 = 1 << 16;

/// The interrupt ends as it is delivered.
pub const AUTO_EOI: u64 = 1 << 17;

/// Sources of a virtual processor.
pub const COUNT: u32 = 16;

/// The lowest vector that a source may have.
pub const FIRST_VALID_VECTOR: u64 = 16;
