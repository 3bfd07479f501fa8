//! Single instructions. `*_safe` gives a fault as a value; without it, a fault ends the test.
#![expect(unsafe_code, reason = "privileged instructions; the guest's registers are its own")]

use core::arch::asm;

use defs::bits;
use defs::s390x::psw::Psw as PswMask;

use super::trap::{Trap, catching};

/// The stack pointer.
#[inline(always)]
pub fn stack_pointer() -> u64 {
    let sp: u64;
    // SAFETY: reads a register.
    unsafe { asm!("lgr {}, %r15", out(reg) sp, options(nomem, nostack, preserves_flags)) };
    sp
}

/// Address of the instruction, and twice the stack pointer: its back chain is the frame record.
#[inline(always)]
pub fn here() -> [u64; 3] {
    let (pc, sp): (u64, u64);
    // SAFETY: reads registers.
    unsafe {
        asm!("larl {}, .", "lgr {}, %r15", out(reg) pc, out(reg) sp, options(nomem, nostack, preserves_flags));
    }
    [pc, sp, sp]
}

/// DIAGNOSE 0x44: gives the rest of the time slice away.
pub fn relax() {
    // SAFETY: a hint to the hypervisor.
    unsafe { asm!(".long 0x83000044", options(nostack, preserves_flags)) };
}

/// A PSW, where LPSWE wants it.
#[repr(C, align(8))]
struct Psw([u64; 2]);

/// Wait state with everything masked.
static DISABLED_WAIT: Psw = Psw([bits!(PswMask::{WAIT | AMODE_64}), 0]);

/// Stops this vCPU for good.
pub fn halt_forever() -> ! {
    loop {
        // SAFETY: stops the vCPU.
        unsafe { asm!("lpswe 0({})", in(reg_addr) &raw const DISABLED_WAIT) };
    }
}

/// Runs `f` with I/O and external interrupts masked, and puts the masks back.
pub fn without_interrupts<R>(f: impl FnOnce() -> R) -> R {
    let mut masks = 0_u8;
    // SAFETY: the guest's own masks.
    unsafe { asm!("stnsm 0({}), 0xfc", in(reg_addr) &raw mut masks) };
    let result = f();
    // SAFETY: as above.
    unsafe { asm!("ssm 0({})", in(reg_addr) &raw const masks) };
    result
}

/// STAP: the CPU address.
pub fn cpu_address() -> u16 {
    let mut address = 0_u16;
    // SAFETY: stores to a variable.
    unsafe { asm!("stap 0({})", in(reg_addr) &raw mut address) };
    address
}

/// SUPERVISOR CALL 42.
pub fn svc() {
    // SAFETY: a handler takes it.
    unsafe { asm!("svc 42") };
}

/// An instruction of zeroes, for a handler.
pub fn zero_instruction() {
    // SAFETY: a handler takes it.
    unsafe { asm!(".short 0") };
}

/// An instruction of zeroes, which is none, as a value.
pub fn zero_instruction_safe() -> Result<(), Trap> {
    // SAFETY: the fault resumes behind the instruction.
    unsafe { catching!(".short 0") }
}

/// LOAD PSW EXTENDED from an address that is not on a doubleword, as a value.
pub fn misaligned_lpswe_safe() -> Result<(), Trap> {
    // SAFETY: as above.
    unsafe { catching!("lpswe 1({psw})", psw = in(reg_addr) &raw const DISABLED_WAIT) }
}
