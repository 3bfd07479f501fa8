//! Single instructions. `*_safe` gives a fault as a value; without it, a fault ends the test.
#![expect(unsafe_code, reason = "privileged instructions; the guest's registers are its own")]

use core::arch::asm;

use defs::ppc64le::msr::Msr;

use super::trap::{Trap, catching};

/// The stack pointer.
#[inline(always)]
pub fn stack_pointer() -> u64 {
    let sp: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mr {}, 1", out(reg) sp, options(nomem, nostack, preserves_flags)) };
    sp
}

/// Address of the instruction, and twice the stack pointer: its back chain is the frame record.
#[inline(always)]
pub fn here() -> [u64; 3] {
    let (pc, sp): (u64, u64);
    // SAFETY: reads registers.
    unsafe {
        asm!("bcl 20, 31, 1f", "1: mflr {}", "mr {}, 1", out(reg) pc, out(reg) sp, out("lr") _, options(nomem, nostack));
    }
    [pc, sp, sp]
}

/// Low priority for a moment.
pub fn relax() {
    // SAFETY: hints.
    unsafe { asm!("or 1, 1, 1", "or 2, 2, 2", options(nomem, nostack, preserves_flags)) };
}

/// Stops this vCPU for good: it spins, since every way of sleeping lets interrupts in.
pub fn halt_forever() -> ! {
    loop {
        relax();
    }
}

/// Runs `f` with external interrupts off, and puts MSR.EE back.
pub fn without_interrupts<R>(f: impl FnOnce() -> R) -> R {
    let before: u64;
    // SAFETY: the guest's own mask.
    unsafe { asm!("mfmsr {0}", "mtmsrd {1}, 1", out(reg) before, in(reg) Msr::RI.bits()) };
    let result = f();
    // SAFETY: as above.
    unsafe { asm!("mtmsrd {0}, 1", in(reg) before & Msr::EE.bits() | Msr::RI.bits()) };
    result
}

/// The MSR.
pub fn msr() -> u64 {
    let value;
    // SAFETY: reads a register.
    unsafe { asm!("mfmsr {}", out(reg) value, options(nomem, nostack)) };
    value
}

/// `TRAP`, for a handler.
pub fn trap() {
    // SAFETY: a handler takes it.
    unsafe { asm!("trap") };
}

/// `SC`, for a handler, which goes on behind it.
pub fn sc() {
    // SAFETY: a handler takes it.
    unsafe { asm!("sc") };
}

/// `TRAP`, as a value: shows that the fault path itself works.
pub fn trap_safe() -> Result<(), Trap> {
    // SAFETY: the fault resumes behind the instruction.
    unsafe { catching!("trap") }
}

/// An instruction of zeroes, which is none, as a value.
pub fn zero_instruction_safe() -> Result<(), Trap> {
    // SAFETY: as above.
    unsafe { catching!(".long 0") }
}
