//! Calls of the supervisor binary interface, which KVM implements for its guests (SBI specification).
#![expect(unsafe_code, reason = "the ecall instruction")]

use core::arch::asm;

/// Extension ids, with the specification's names.
pub mod extension {
    #![expect(missing_docs, reason = "the specification's names")]
    pub const BASE: u64 = 0x10;
    pub const TIME: u64 = 0x5449_4d45;
    pub const IPI: u64 = 0x0073_5049;
    pub const RFENCE: u64 = 0x5246_4e43;
    pub const HSM: u64 = 0x0048_534d;
    pub const SRST: u64 = 0x5352_5354;
}

/// Error codes, with the specification's names.
pub mod error {
    #![expect(missing_docs, reason = "the specification's names")]
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

/// What a call gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ret {
    /// a0: an [`error`] code.
    pub error: i64,
    /// a1.
    pub value: u64,
}

/// `ecall`: function a6 of extension a7 with a0 to a5.
pub fn call(extension: u64, function: u64, args: [u64; 6]) -> Ret {
    let (error, value);
    // SAFETY: an SBI call keeps every register but a0 and a1.
    unsafe {
        asm!("ecall", in("a7") extension, in("a6") function,
            inout("a0") args[0] => error, inout("a1") args[1] => value,
            in("a2") args[2], in("a3") args[3], in("a4") args[4], in("a5") args[5]);
    }
    Ret { error, value }
}

/// `sbi_remote_sfence_vma` for one page on all harts.
pub fn remote_sfence_vma(gva: u64, size: u64) -> Ret {
    const REMOTE_SFENCE_VMA: u64 = 1;
    call(extension::RFENCE, REMOTE_SFENCE_VMA, [0, ALL_HARTS, gva, size, 0, 0])
}
