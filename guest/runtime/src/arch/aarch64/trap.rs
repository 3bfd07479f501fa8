//! Traps and interrupts: vectors, frames, scoped handlers, and faults as values.
//!
//! A guest function runs on SP_EL0 and every trap starts on SP_EL1, the vCPU's trap stack; a trap in a
//! handler goes on below. The payload is compiled without vector instructions, so that trap entry
//! leaves the vector state alone: it is the test's. (`Formatter::pad` of the prebuilt `core` keeps a few;
//! it runs inside messages only, between which a test's vector registers must not live.)
#![cfg_attr(kvm_guest, expect(unsafe_code, reason = "trap entry and exit are assembly"))]

use defs::aarch64::esr;
use guest_protocol::{NR_ARGS, trap as arg};

use crate::{handlers, ucall};

/// A trap as a value: what an instruction that was allowed to fault came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap {
    /// The exception class of a synchronous exception ([`vector`]).
    pub vector: u8,
    /// ESR_EL1.
    pub esr: u64,
    /// FAR_EL1 where the class has one, else 0.
    pub addr: u64,
}

impl Trap {
    /// ESR_EL1.ISS.
    pub fn iss(&self) -> u64 {
        self.esr & esr::ISS
    }
}

/// What handlers are installed for: exception classes with short names (ARM ARM, ESR_EL1.EC), and
/// behind them the asynchronous exceptions.
pub mod vector {
    #![expect(missing_docs, reason = "the manual's names say it")]
    pub use defs::aarch64::esr::class::*;

    // SERROR, among them, is the one that is not a class.
    pub const IRQ: u8 = 0x40;
    pub const FIQ: u8 = 0x41;
    pub const SERROR: u8 = 0x42;
    /// Any synchronous exception from a lower exception level, before the handler of its class.
    pub const FROM_LOWER: u8 = 0x43;
}

/// Entry of the vector table for a synchronous exception from AArch64 at a lower level.
const SYNC_FROM_LOWER: u64 = 8;

/// The interrupted state. A handler may change it; it is restored on return (`sp` only where a guest
/// function was interrupted).
#[derive(Debug)]
#[repr(C)]
#[expect(missing_docs, reason = "the manual's register names")]
pub struct TrapFrame {
    pub x: [u64; 31],
    pub sp: u64,
    pub elr: u64,
    pub spsr: u64,
    pub esr: u64,
    pub far: u64,
    /// Index of the entry in the vector table: 0 to 15.
    pub entry: u64,
    reserved: u64,
}

/// Bytes of a frame.
const FRAME: usize = size_of::<TrapFrame>();
const _: () = assert!(FRAME.is_multiple_of(16));

impl TrapFrame {
    /// What the handler was installed for.
    pub fn vector(&self) -> u8 {
        match self.entry % 4 {
            0 => esr::EC.get(self.esr) as u8,
            1 => vector::IRQ,
            2 => vector::FIQ,
            _ => vector::SERROR,
        }
    }

    /// The trap as a value.
    pub fn trap(&self) -> Trap {
        let vector = self.vector();
        let has_address = matches!(
            vector,
            vector::INSTRUCTION_ABORT_LOWER
                | vector::INSTRUCTION_ABORT
                | vector::PC_ALIGNMENT
                | vector::DATA_ABORT_LOWER
                | vector::DATA_ABORT
                | vector::WATCHPOINT_LOWER
                | vector::WATCHPOINT
        );
        Trap { vector, esr: self.esr, addr: if has_address { self.far } else { 0 } }
    }

    /// As `Verb::Trap` wants it; general registers X0 to X30.
    pub(crate) fn to_args(&self) -> [u64; NR_ARGS] {
        let mut args = [0; NR_ARGS];
        args[arg::VECTOR] = self.vector().into();
        args[arg::CODE] = self.esr;
        args[arg::PC] = self.elr;
        args[arg::ADDR] = self.far;
        args[arg::SP] = self.sp;
        args[arg::FP] = self.x[29];
        args[arg::FLAGS] = self.spsr;
        args[arg::REGS..arg::REGS + self.x.len()].copy_from_slice(&self.x);
        args
    }
}

#[cfg(kvm_guest)]
core::arch::global_asm!(
    ".pushsection .text.trap, \"ax\"",
    ".balign 2048",
    ".global trap_vectors",
    "trap_vectors:",
    ".set entry, 0",
    ".rept 16",
    ".balign 128",
    "sub sp, sp, #{frame}",
    ".if (entry >= 4) && (entry < 8)",
    // A trap in a handler: the stack lies where bits 15 and 14 are set, and what is below is its end.
    "add sp, sp, x0",
    "sub x0, sp, x0",
    "tbz x0, #15, trap_no_stack",
    "tbz x0, #14, trap_no_stack",
    "sub x0, sp, x0",
    "sub sp, sp, x0",
    ".endif",
    "stp x0, x1, [sp]",
    "mov x0, #entry",
    "b trap_save",
    ".set entry, entry + 1",
    ".endr",
    //
    ".balign 128",
    "trap_save:",
    "stp x2, x3, [sp, #16]",
    "stp x4, x5, [sp, #32]",
    "stp x6, x7, [sp, #48]",
    "stp x8, x9, [sp, #64]",
    "stp x10, x11, [sp, #80]",
    "stp x12, x13, [sp, #96]",
    "stp x14, x15, [sp, #112]",
    "stp x16, x17, [sp, #128]",
    "stp x18, x19, [sp, #144]",
    "stp x20, x21, [sp, #160]",
    "stp x22, x23, [sp, #176]",
    "stp x24, x25, [sp, #192]",
    "stp x26, x27, [sp, #208]",
    "stp x28, x29, [sp, #224]",
    "mrs x1, sp_el0",
    "mrs x2, elr_el1",
    "mrs x3, spsr_el1",
    "mrs x4, esr_el1",
    "mrs x5, far_el1",
    "add x6, sp, #{frame}",
    // Entries 4 to 7: a handler was interrupted, on this very stack.
    "sub x7, x0, #4",
    "cmp x7, #4",
    "csel x1, x6, x1, lo",
    "stp x30, x1, [sp, #240]",
    "stp x2, x3, [sp, #256]",
    "stp x4, x5, [sp, #272]",
    "stp x0, xzr, [sp, #288]",
    "mov x0, sp",
    "bl {dispatch}",
    //
    "ldp x30, x1, [sp, #240]",
    "ldp x2, x3, [sp, #256]",
    "msr elr_el1, x2",
    "msr spsr_el1, x3",
    "ldr x0, [sp, #288]",
    "sub x0, x0, #4",
    "cmp x0, #4",
    "b.lo 1f",
    "msr sp_el0, x1",
    "1:",
    "ldp x2, x3, [sp, #16]",
    "ldp x4, x5, [sp, #32]",
    "ldp x6, x7, [sp, #48]",
    "ldp x8, x9, [sp, #64]",
    "ldp x10, x11, [sp, #80]",
    "ldp x12, x13, [sp, #96]",
    "ldp x14, x15, [sp, #112]",
    "ldp x16, x17, [sp, #128]",
    "ldp x18, x19, [sp, #144]",
    "ldp x20, x21, [sp, #160]",
    "ldp x22, x23, [sp, #176]",
    "ldp x24, x25, [sp, #192]",
    "ldp x26, x27, [sp, #208]",
    "ldp x28, x29, [sp, #224]",
    "ldp x0, x1, [sp]",
    "add sp, sp, #{frame}",
    "eret",
    //
    // X0 is the stack pointer, and the stack pointer that plus X0: report from a good stack.
    "trap_no_stack:",
    "mov x1, x0",
    "and x0, x0, #-{area}",
    "add x0, x0, #{fatal_stack_end}",
    "mov sp, x0",
    "mov x0, x1",
    "mrs x1, elr_el1",
    "mrs x2, spsr_el1",
    "mrs x3, esr_el1",
    "mrs x4, far_el1",
    "mov x5, x29",
    "mov x29, xzr",
    "bl {no_stack}",
    "brk #0",
    ".popsection",
    frame = const FRAME,
    area = const guest_protocol::layout::VCPU_AREA_SIZE,
    fatal_stack_end = const guest_protocol::layout::aarch64::FATAL_STACK_END,
    dispatch = sym dispatch,
    no_stack = sym no_stack,
);

/// The trap stack is used up: says where it ended.
#[cfg_attr(not(kvm_guest), expect(dead_code, reason = "called from the vectors"))]
extern "C" fn no_stack(sp: u64, elr: u64, spsr: u64, esr: u64, far: u64, fp: u64) -> ! {
    let mut x = [0; 31];
    x[29] = fp;
    ucall::unexpected_trap(&TrapFrame { x, sp, elr, spsr, esr, far, entry: 4, reserved: 0 })
}

#[cfg_attr(not(kvm_guest), expect(dead_code, reason = "called from the vectors"))]
extern "C" fn dispatch(frame: &mut TrapFrame) {
    let vector = frame.vector();
    // At a lower level the same instructions are somebody else's.
    if vector < vector::IRQ
        && frame.entry < SYNC_FROM_LOWER
        && let Some(resume) = handlers::fixup(frame.elr)
    {
        let trap = frame.trap();
        frame.x[9] = u64::from(trap.vector) + 1;
        frame.x[10] = trap.esr;
        frame.x[11] = trap.addr;
        frame.elr = resume;
        return;
    }
    let is_from_lower = frame.entry == SYNC_FROM_LOWER && handlers::is_handled(vector::FROM_LOWER);
    handlers::call(if is_from_lower { vector::FROM_LOWER } else { vector }, frame);
}

/// Runs one instruction that may fault: `Result<(), Trap>`. X9, X10 and X11 carry the trap. An SVC
/// or HVC is not for here: its return address is the next instruction.
macro_rules! catching {
    ($insn:expr $(, $($operands:tt)+)?) => {{
        let (vector, esr, addr): (u64, u64, u64);
        core::arch::asm!(
            "mov x9, xzr",
            "770:",
            $insn,
            "771:",
            ".pushsection guest_fixups, \"a\", @progbits",
            ".long 770b - .",
            ".long 771b - .",
            ".popsection",
            $($($operands)+,)?
            out("x9") vector, out("x10") esr, out("x11") addr,
        );
        match vector {
            0 => Ok(()),
            _ => Err($crate::Trap { vector: (vector - 1) as u8, esr, addr }),
        }
    }};
}
pub(crate) use catching;
