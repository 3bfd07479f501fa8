//! The Power State Coordination Interface (PSCI, DEN0022).
#![expect(missing_docs, reason = "the specification's names")]

use super::smccc::{SMC64, fast, owner};

/// Function ids, of the 64-bit convention where there is one.
pub mod function {
    use super::{SMC64, fast, owner};

    pub const PSCI_VERSION: u32 = fast(owner::STANDARD, 0);
    pub const CPU_SUSPEND: u32 = fast(owner::STANDARD, 1) | SMC64;
    pub const CPU_OFF: u32 = fast(owner::STANDARD, 2);
    pub const CPU_ON: u32 = fast(owner::STANDARD, 3) | SMC64;
    pub const AFFINITY_INFO: u32 = fast(owner::STANDARD, 4) | SMC64;
    pub const MIGRATE_INFO_TYPE: u32 = fast(owner::STANDARD, 6);
    pub const SYSTEM_OFF: u32 = fast(owner::STANDARD, 8);
    pub const SYSTEM_RESET: u32 = fast(owner::STANDARD, 9);
    pub const PSCI_FEATURES: u32 = fast(owner::STANDARD, 0xa);
    pub const SYSTEM_SUSPEND: u32 = fast(owner::STANDARD, 0xe) | SMC64;
    pub const SYSTEM_RESET2: u32 = fast(owner::STANDARD, 0x12) | SMC64;
    pub const SMCCC_VERSION: u32 = crate::aarch64::smccc::function::VERSION;
    /// Within PSCI's range, and no version has it.
    pub const UNKNOWN: u32 = fast(owner::STANDARD, 0x1f);
}

/// Results.
pub mod status {
    pub const SUCCESS: i32 = 0;
    pub const NOT_SUPPORTED: i32 = -1;
    pub const INVALID_PARAMETERS: i32 = -2;
    pub const DENIED: i32 = -3;
    pub const ALREADY_ON: i32 = -4;
    pub const ON_PENDING: i32 = -5;
    pub const INTERNAL_FAILURE: i32 = -6;
    pub const INVALID_ADDRESS: i32 = -9;
}

/// Results of AFFINITY_INFO.
pub mod affinity {
    pub const ON: i32 = 0;
    pub const OFF: i32 = 1;
}

/// MIGRATE_INFO_TYPE: there is no trusted OS that would have to move.
pub const NO_MIGRATION: i32 = 2;

/// Versions.
pub mod version {
    pub const V0_2: u64 = 0x2;
    pub const V1_0: u64 = 0x1_0000;
    pub const V1_1: u64 = 0x1_0001;
}
