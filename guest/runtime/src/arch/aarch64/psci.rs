//! PSCI calls (DEN0022) by HVC.

use super::cpu::hvc;

/// Function ids, with the specification's names.
pub mod function {
    #![expect(missing_docs, reason = "the specification's names")]
    pub const PSCI_VERSION: u32 = 0x8400_0000;
    pub const CPU_SUSPEND: u32 = 0xc400_0001;
    pub const CPU_OFF: u32 = 0x8400_0002;
    pub const CPU_ON: u32 = 0xc400_0003;
    pub const AFFINITY_INFO: u32 = 0xc400_0004;
    pub const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
    pub const SYSTEM_OFF: u32 = 0x8400_0008;
    pub const SYSTEM_RESET: u32 = 0x8400_0009;
    pub const PSCI_FEATURES: u32 = 0x8400_000a;
    pub const SYSTEM_SUSPEND: u32 = 0xc400_000e;
    pub const SYSTEM_RESET2: u32 = 0xc400_0012;
    pub const SMCCC_VERSION: u32 = 0x8000_0000;
}

/// Return values.
pub mod status {
    #![expect(missing_docs, reason = "the specification's names")]
    pub const SUCCESS: i32 = 0;
    pub const NOT_SUPPORTED: i32 = -1;
    pub const INVALID_PARAMETERS: i32 = -2;
    pub const DENIED: i32 = -3;
    pub const ALREADY_ON: i32 = -4;
    pub const ON_PENDING: i32 = -5;
    pub const INTERNAL_FAILURE: i32 = -6;
    pub const INVALID_ADDRESS: i32 = -9;
}

/// Calls `function`; the low 32 bits of X0.
pub fn call(function: u32, args: [u64; 3]) -> i32 {
    hvc(function, args)[0] as i32
}
