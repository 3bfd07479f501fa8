//! The Supervisor Binary Interface (RISC-V SBI specification).
#![expect(missing_docs, reason = "the specification's names")]

/// Extension ids.
pub mod extension {
    pub const BASE: u64 = 0x10;
    pub const TIME: u64 = 0x5449_4d45;
    pub const IPI: u64 = 0x0073_5049;
    pub const RFENCE: u64 = 0x5246_4e43;
    pub const HSM: u64 = 0x0048_534d;
    pub const SRST: u64 = 0x5352_5354;
    /// Experimental extensions.
    pub const EXPERIMENTAL: u64 = 0x0800_0000;
    /// The vendors' extensions, and the last of them.
    pub const VENDOR: u64 = 0x0900_0000;
    pub const VENDOR_END: u64 = 0x09ff_ffff;
}

/// Functions of the base extension.
pub mod base {
    pub const GET_SPEC_VERSION: u64 = 0;
    pub const GET_IMPL_ID: u64 = 1;
    pub const PROBE_EXTENSION: u64 = 3;
    pub const GET_MVENDORID: u64 = 4;
    /// GET_SPEC_VERSION: where the major version is.
    pub const SPEC_MAJOR_SHIFT: u32 = 24;
    /// GET_IMPL_ID: KVM.
    pub const IMPL_KVM: u64 = 3;
}

/// Functions of hart state management, and states.
pub mod hsm {
    pub const HART_START: u64 = 0;
    pub const HART_GET_STATUS: u64 = 2;
    pub const STARTED: u64 = 0;
    pub const STOPPED: u64 = 1;
}

/// Functions of the remote fence extension.
pub mod rfence {
    pub const REMOTE_SFENCE_VMA: u64 = 1;
}

/// Types of system reset.
pub mod srst {
    pub const SHUTDOWN: u64 = 0;
    pub const COLD_REBOOT: u64 = 1;
    pub const WARM_REBOOT: u64 = 2;
}

/// Error codes.
pub mod error {
    pub const SUCCESS: i64 = 0;
    pub const ERR_FAILED: i64 = -1;
    pub const ERR_NOT_SUPPORTED: i64 = -2;
    pub const ERR_INVALID_PARAM: i64 = -3;
    pub const ERR_DENIED: i64 = -4;
    pub const ERR_INVALID_ADDRESS: i64 = -5;
    pub const ERR_ALREADY_AVAILABLE: i64 = -6;
    pub const ERR_ALREADY_STARTED: i64 = -7;
    pub const ERR_ALREADY_STOPPED: i64 = -8;
}

/// A hart mask base that means all harts.
pub const ALL_HARTS: u64 = u64::MAX;
