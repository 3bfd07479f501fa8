//! KVM_RUN and the registers of the thread that calls it.
#![expect(unsafe_code, reason = "a system call by its instruction, with registers of our choice")]

use std::arch::asm;
use std::os::fd::AsRawFd as _;

use crate::Vcpu;
use crate::quirks::Quirk;
use crate::request::KVM_RUN;

/// VSX registers that a system call must keep: VS14 to VS31, whose first halves are F14 to F31, and VS52
/// to VS63, which are V20 to V31.
pub const NR_KEPT: usize = 30;
/// Of them, those that are floating-point registers: only their first halves are kept.
pub const NR_FLOATING: usize = 18;

const SYS_IOCTL: u64 = 54;

macro_rules! all {
    ($instruction:literal, $base:literal) => {
        all!(
            $instruction, $base, 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31
            52 53 54 55 56 57 58 59 60 61 62 63
        )
    };
    ($instruction:literal, $base:literal, $($register:literal)*) => {
        concat!($($instruction, " ", $register, ", 0, ", $base, "\n", "addi ", $base, ", ", $base, ", 16\n"),*)
    };
}

/// One KVM_RUN with these values in the registers; gives what is in them behind it. Whatever the exit is,
/// `kvm_run` tells it.
pub fn kvm_run_with(vcpu: &Vcpu, before: &[[u64; 2]; NR_KEPT]) -> [[u64; 2]; NR_KEPT] {
    let mut after = [[0; 2]; NR_KEPT];
    // SAFETY: the instructions read `before`, write `after` and make a system call without pointers; all
    // that they or the kernel may change is named.
    unsafe {
        asm!(
            all!("lxvd2x", "{before}"),
            "sc",
            all!("stxvd2x", "{after}"),
            before = inout(reg_nonzero) before.as_ptr() => _,
            after = inout(reg_nonzero) after.as_mut_ptr() => _,
            inout("r0") SYS_IOCTL => _,
            inout("r3") vcpu.as_raw_fd() as u64 => _,
            inout("r4") KVM_RUN => _,
            inout("r5") 0_u64 => _,
            out("r6") _, out("r7") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("r12") _, out("ctr") _, out("xer") _, out("cr0") _, out("cr1") _, out("cr5") _,
            out("cr6") _, out("cr7") _,
            out("f14") _, out("f15") _, out("f16") _, out("f17") _, out("f18") _, out("f19") _,
            out("f20") _, out("f21") _, out("f22") _, out("f23") _, out("f24") _, out("f25") _,
            out("f26") _, out("f27") _, out("f28") _, out("f29") _, out("f30") _, out("f31") _,
            out("v20") _, out("v21") _, out("v22") _, out("v23") _, out("v24") _, out("v25") _,
            out("v26") _, out("v27") _, out("v28") _, out("v29") _, out("v30") _, out("v31") _,
        );
    }
    after
}

/// Calls KVM_RUN by `run`. On a host whose KVM_RUN loses these registers a test of its own says so, and the
/// others go on.
pub(crate) fn around_kvm_run(run: impl FnOnce() -> i32) -> i32 {
    if Quirk::KvmRunLosesRegisters.is_here() { distrustful(run) } else { run() }
}

/// In a frame of its own, which keeps the registers from before `run` on.
#[inline(never)]
fn distrustful(run: impl FnOnce() -> i32) -> i32 {
    let result = run();
    distrust();
    result
}

/// Keeps the compiler from trusting that these registers are what they were.
fn distrust() {
    // SAFETY: does nothing.
    unsafe {
        asm!(
            "",
            out("f14") _, out("f15") _, out("f16") _, out("f17") _, out("f18") _, out("f19") _,
            out("f20") _, out("f21") _, out("f22") _, out("f23") _, out("f24") _, out("f25") _,
            out("f26") _, out("f27") _, out("f28") _, out("f29") _, out("f30") _, out("f31") _,
            out("v20") _, out("v21") _, out("v22") _, out("v23") _, out("v24") _, out("v25") _,
            out("v26") _, out("v27") _, out("v28") _, out("v29") _, out("v30") _, out("v31") _,
            options(nomem, nostack, preserves_flags),
        );
    }
}
