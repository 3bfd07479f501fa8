//! Single instructions. `*_safe` gives a fault as a value; without it, a fault ends the test.
#![expect(unsafe_code, reason = "privileged instructions; the guest's registers are its own")]

use core::arch::asm;

use defs::riscv64::csr::Sstatus;

use super::trap::{Trap, catching};

/// The stack pointer.
#[inline(always)]
pub fn stack_pointer() -> u64 {
    let sp: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mv {}, sp", out(reg) sp, options(nomem, nostack, preserves_flags)) };
    sp
}

/// Program counter, stack pointer and frame pointer of the caller.
#[inline(always)]
pub fn here() -> [u64; 3] {
    let (pc, sp, fp): (u64, u64, u64);
    // SAFETY: reads registers.
    unsafe {
        asm!("auipc {}, 0", "mv {}, sp", "mv {}, s0", out(reg) pc, out(reg) sp, out(reg) fp, options(nomem, nostack, preserves_flags));
    }
    [pc, sp, fp]
}

/// `PAUSE`, a hint that older harts take as a FENCE.
pub fn relax() {
    // SAFETY: a hint.
    unsafe { asm!(".4byte 0x0100000f", options(nomem, nostack, preserves_flags)) };
}

/// Stops this vCPU for good.
pub fn halt_forever() -> ! {
    loop {
        // SAFETY: stops the vCPU.
        unsafe { asm!("csrw sie, zero", "wfi") };
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
    /// `FENCE IORW, IORW`.
    fence: "fence iorw, iorw";
    /// `EBREAK`, 4 bytes.
    ebreak: ".4byte 0x00100073";
}

/// Runs `f` with interrupts off, and puts sstatus.SIE back.
pub fn without_interrupts<R>(f: impl FnOnce() -> R) -> R {
    let before: u64;
    // SAFETY: the guest's own mask.
    unsafe { asm!("csrrc {}, sstatus, {}", out(reg) before, in(reg) Sstatus::SIE.bits()) };
    let result = f();
    // SAFETY: as above.
    unsafe { asm!("csrs sstatus, {}", in(reg) before & Sstatus::SIE.bits()) };
    result
}

/// `EBREAK`, as a value: shows that the fault path itself works.
pub fn ebreak_safe() -> Result<(), Trap> {
    // SAFETY: the fault resumes behind the instruction.
    unsafe { catching!("ebreak") }
}

/// The 4-byte instruction of all ones, which is no instruction, as a value.
pub fn illegal_safe() -> Result<(), Trap> {
    // SAFETY: the fault resumes behind the instruction.
    unsafe { catching!(".4byte 0xffffffff") }
}

/// A load from null in 4 bytes: a fault that a handler takes.
pub fn load_from_null() {
    // SAFETY: the handler goes on behind the load.
    unsafe { asm!(".option push", ".option norvc", "ld zero, 0(zero)", ".option pop") };
}
