//! Single instructions. `*_safe` gives a fault as a value; without it, a fault ends the test.
#![expect(unsafe_code, reason = "privileged instructions; the guest's registers are its own")]

use core::arch::asm;

use super::sysreg::DAIF;
use super::trap::{Trap, catching};

/// The stack pointer.
#[inline(always)]
pub fn stack_pointer() -> u64 {
    let sp: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, sp", out(reg) sp, options(nomem, nostack, preserves_flags)) };
    sp
}

/// Program counter, stack pointer and frame pointer of the caller.
#[inline(always)]
pub fn here() -> [u64; 3] {
    let (pc, sp, fp): (u64, u64, u64);
    // SAFETY: reads registers.
    unsafe {
        asm!("adr {}, .", "mov {}, sp", "mov {}, x29", out(reg) pc, out(reg) sp, out(reg) fp, options(nomem, nostack, preserves_flags));
    }
    [pc, sp, fp]
}

/// `YIELD`.
pub fn relax() {
    // SAFETY: a hint.
    unsafe { asm!("yield", options(nomem, nostack, preserves_flags)) };
}

/// Stops this vCPU for good.
pub fn halt_forever() -> ! {
    loop {
        // SAFETY: stops the vCPU.
        unsafe { asm!("msr daifset, #15", "wfi") };
    }
}

macro_rules! plain_instructions {
    ($($(#[$doc:meta])* $name:ident: $insn:literal;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name() {
            // SAFETY: the guest's own CPU state.
            unsafe { asm!($insn) };
        }
    )*};
}

plain_instructions! {
    /// `WFI`.
    wfi: "wfi";
    /// `WFE`.
    wfe: "wfe";
    /// `SEV`.
    sev: "sev";
    /// `ISB`.
    isb: "isb";
    /// `DSB SY`.
    dsb: "dsb sy";
    /// `TLBI ALLE1`: drops what the TLB has of EL1 and EL0, of every guest. For EL2.
    tlbi_alle1: "dsb ishst; tlbi alle1; dsb nsh; isb";
    /// Unmasks IRQ.
    irq_enable: "msr daifclr, #2; isb";
    /// Masks IRQ.
    irq_disable: "msr daifset, #2; isb";
    /// Unmasks FIQ.
    fiq_enable: "msr daifclr, #1; isb";
    /// Masks FIQ.
    fiq_disable: "msr daifset, #1; isb";
    /// Unmasks SError.
    serror_enable: "msr daifclr, #4; isb";
    /// Masks SError.
    serror_disable: "msr daifset, #4; isb";
    /// Unmasks debug exceptions.
    debug_enable: "msr daifclr, #8; isb";
    /// Masks debug exceptions.
    debug_disable: "msr daifset, #8; isb";
    /// `BRK #0`: its preferred return address is its own.
    brk: "brk #0";
    /// `SVC #0x123`.
    svc: "svc #0x123";
}

/// Runs `f` with IRQ and FIQ masked, and puts the masks back.
pub fn without_interrupts<R>(f: impl FnOnce() -> R) -> R {
    let masks = DAIF.read();
    // SAFETY: the guest's own masks.
    unsafe { asm!("msr daifset, #3") };
    let result = f();
    DAIF.write(masks);
    result
}

/// `BRK #0x42`, as a value: shows that the fault path itself works.
pub fn brk_safe() -> Result<(), Trap> {
    // SAFETY: the fault resumes behind the instruction.
    unsafe { catching!("brk #0x42") }
}

/// `UDF #0`, as a value.
pub fn udf_safe() -> Result<(), Trap> {
    // SAFETY: the fault resumes behind the instruction.
    unsafe { catching!(".inst 0") }
}

/// `PSB CSYNC`, as a value.
pub fn psb_csync_safe() -> Result<(), Trap> {
    // SAFETY: a hint.
    unsafe { catching!("hint #17") }
}

macro_rules! smccc_conduits {
    ($($(#[$doc:meta])* $name:ident: $insn:literal;)*) => {$(
        $(#[$doc])*
        pub fn $name(function: u32, args: [u64; 3]) -> [u64; 4] {
            let mut x0 = u64::from(function);
            let [mut x1, mut x2, mut x3] = args;
            // SAFETY: SMCCC keeps everything but X0 to X17.
            unsafe {
                asm!($insn, inout("x0") x0, inout("x1") x1, inout("x2") x2, inout("x3") x3,
                    out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _,
                    out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _,
                    out("x15") _, out("x16") _, out("x17") _);
            }
            [x0, x1, x2, x3]
        }
    )*};
}

smccc_conduits! {
    /// `HVC #0` after SMCCC: function in W0, arguments in X1 to X3; returns X0 to X3.
    hvc: "hvc #0";
    /// `SMC #0` in the same way.
    smc: "smc #0";
    /// `SMC #1`: SMCCC has no such call.
    smc_1: "smc #1";
}

/// X4 to X17 as they are after an `HVC #0` of `function` that found 4 to 17 in them.
pub fn registers_after_hvc(function: u32) -> [u64; 14] {
    let mut x = [0; 14];
    for (value, n) in x.iter_mut().zip(4..) {
        *value = n;
    }
    // SAFETY: the registers are loaded from the array, stored to it, and told to the compiler.
    unsafe {
        asm!(
            "ldp x4, x5, [x19]", "ldp x6, x7, [x19, #16]", "ldp x8, x9, [x19, #32]",
            "ldp x10, x11, [x19, #48]", "ldp x12, x13, [x19, #64]", "ldp x14, x15, [x19, #80]",
            "ldp x16, x17, [x19, #96]",
            "hvc #0",
            "stp x4, x5, [x19]", "stp x6, x7, [x19, #16]", "stp x8, x9, [x19, #32]",
            "stp x10, x11, [x19, #48]", "stp x12, x13, [x19, #64]", "stp x14, x15, [x19, #80]",
            "stp x16, x17, [x19, #96]",
            inout("x0") u64::from(function) => _, inout("x1") 0_u64 => _, inout("x2") 0_u64 => _,
            inout("x3") 0_u64 => _,
            out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _,
            out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _, out("x15") _,
            out("x16") _, out("x17") _,
            options(raw),
        );
    }
    x
}
