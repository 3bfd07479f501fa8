//! Calls of the supervisor binary interface, which KVM implements for its guests (SBI specification).
#![expect(unsafe_code, reason = "the ecall instruction")]

use core::arch::asm;

pub use defs::riscv64::sbi::*;

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
    call(extension::RFENCE, rfence::REMOTE_SFENCE_VMA, [0, ALL_HARTS, gva, size, 0, 0])
}
