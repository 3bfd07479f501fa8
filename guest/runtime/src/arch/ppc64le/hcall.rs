//! Hypercalls (PAPR).
#![expect(unsafe_code, reason = "the sc instruction")]

use core::arch::asm;

pub use defs::ppc64le::hcall::*;

/// `sc 1` with the number in R3 and arguments in R4 to R7; returns R3.
pub fn call(number: u64, args: [u64; 4]) -> i64 {
    let result: i64;
    // SAFETY: a hypercall may change the volatile registers.
    unsafe {
        asm!(
            "sc 1",
            inout("r3") number => result,
            inout("r4") args[0] => _, inout("r5") args[1] => _,
            inout("r6") args[2] => _, inout("r7") args[3] => _,
            out("r0") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _, out("r12") _,
            out("ctr") _, out("xer") _,
            out("cr0") _, out("cr1") _, out("cr5") _, out("cr6") _, out("cr7") _,
        );
    }
    result
}
