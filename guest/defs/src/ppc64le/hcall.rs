//! Hypercalls (PAPR, "Hypervisor Call Functions").
#![expect(missing_docs, reason = "PAPR's names")]

/// Numbers.
pub mod number {
    pub const H_SET_MODE: u64 = 0x31c;
}

/// Resources of H_SET_MODE.
pub mod set_mode {
    pub const SET_DAWR0: u64 = 2;
    pub const SET_DAWR1: u64 = 5;
}

/// Return codes.
pub mod code {
    pub const H_SUCCESS: i64 = 0;
    pub const H_FUNCTION: i64 = -2;
    pub const H_PARAMETER: i64 = -4;
    pub const H_P2: i64 = -55;
    pub const H_P3: i64 = -56;
    pub const H_P4: i64 = -57;
    pub const H_UNSUPPORTED_FLAG_START: i64 = -256;
}
