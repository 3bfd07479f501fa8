//! Traps and interrupts: the vector, frames, and faults as values.
//!
//! sscratch holds the vCPU's state area ([`vcpu_area::STATE`]), which lends trap entry its first
//! registers. A trap in a handler goes on below on the trap stack; one that comes when the stack
//! pointer is anywhere else (in the guard page below that stack too) starts at its top. Trap entry
//! leaves the floating-point registers alone: they are the test's, and the payload's own code has no
//! use for them.
//!
//! [`vcpu_area::STATE`]: guest_protocol::layout::vcpu_area::STATE
#![cfg_attr(kvm_guest, expect(unsafe_code, reason = "the vector is assembly"))]

use defs::riscv64::cause;
use guest_protocol::{NR_ARGS, trap as arg};

use crate::handlers;

/// A trap as a value: what an instruction that was allowed to fault came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap {
    /// The exception code ([`vector`]).
    pub vector: u8,
    /// stval.
    pub stval: u64,
}

/// What handlers are installed for: exception codes, and behind them interrupts (privileged manual,
/// scause).
pub mod vector {
    #![expect(missing_docs, reason = "the manual's names say it")]
    use defs::riscv64::cause::interrupt;

    pub use defs::riscv64::cause::exception::*;

    /// The first interrupt.
    pub const INTERRUPT: u8 = 0x40;
    pub const SOFTWARE_INTERRUPT: u8 = INTERRUPT + interrupt::SUPERVISOR_SOFTWARE;
    pub const TIMER_INTERRUPT: u8 = INTERRUPT + interrupt::SUPERVISOR_TIMER;
    pub const EXTERNAL_INTERRUPT: u8 = INTERRUPT + interrupt::SUPERVISOR_EXTERNAL;
}

/// The interrupted state. A handler may change it; it is restored on return.
#[derive(Debug)]
#[repr(C)]
#[expect(missing_docs, reason = "the manual's register names")]
pub struct TrapFrame {
    /// Entry 0 is unused.
    pub x: [u64; 32],
    pub sepc: u64,
    pub sstatus: u64,
    pub scause: u64,
    pub stval: u64,
}

/// Bytes of a frame.
const FRAME: usize = size_of::<TrapFrame>();
const _: () = assert!(FRAME.is_multiple_of(16));

impl TrapFrame {
    /// What the handler was installed for.
    pub fn vector(&self) -> u8 {
        match self.scause & cause::INTERRUPT {
            0 => (self.scause & 0x3f) as u8,
            _ => vector::INTERRUPT + (self.scause & 0x3f) as u8,
        }
    }

    /// The trap as a value.
    pub fn trap(&self) -> Trap {
        Trap { vector: self.vector(), stval: self.stval }
    }

    /// As `Verb::Trap` wants it; general registers x1 to x31.
    pub(crate) fn to_args(&self) -> [u64; NR_ARGS] {
        let mut args = [0; NR_ARGS];
        args[arg::VECTOR] = self.vector().into();
        args[arg::CODE] = self.scause;
        args[arg::PC] = self.sepc;
        args[arg::ADDR] = self.stval;
        args[arg::SP] = self.x[2];
        args[arg::FP] = self.x[8];
        args[arg::FLAGS] = self.sstatus;
        args[arg::REGS..arg::REGS + 31].copy_from_slice(&self.x[1..]);
        args
    }
}

#[cfg(kvm_guest)]
core::arch::global_asm!(
    ".macro each_plain_register insn",
    // All but zero, sp and t0, and t1 that goes last.
    ".irp n, 1, 3, 4, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
    "\\insn x\\n, 8*\\n(sp)",
    ".endr",
    ".endm",
    ".pushsection .text.trap, \"ax\"",
    ".balign 4",
    ".global trap_vector",
    "trap_vector:",
    "csrrw t0, sscratch, t0",
    "sd sp, 0(t0)",
    "sd t1, 8(t0)",
    // Where the stack pointer is in the vCPU's area, which begins {state} before t0.
    "li t1, {state}",
    "sub t1, t0, t1",
    "sub sp, sp, t1",
    "addi sp, sp, -1",
    "srli sp, sp, {shift}",
    "addi sp, sp, -{number}",
    "beqz sp, 1f",
    "li sp, {end}",
    "add sp, sp, t1",
    "j 2f",
    "1: ld sp, 0(t0)",
    "2: addi sp, sp, -{frame}",
    "each_plain_register sd",
    "ld t1, 8(t0)",
    "sd t1, 8*6(sp)",
    "ld t1, 0(t0)",
    "sd t1, 8*2(sp)",
    "csrrw t1, sscratch, t0",
    "sd t1, 8*5(sp)",
    "sd zero, 0(sp)",
    "csrr t0, sepc",
    "csrr t1, sstatus",
    "csrr t2, scause",
    "csrr t3, stval",
    "sd t0, 8*32(sp)",
    "sd t1, 8*33(sp)",
    "sd t2, 8*34(sp)",
    "sd t3, 8*35(sp)",
    "mv a0, sp",
    "call {dispatch}",
    "ld t0, 8*32(sp)",
    "ld t1, 8*33(sp)",
    "csrw sepc, t0",
    "csrw sstatus, t1",
    "each_plain_register ld",
    "ld t0, 8*5(sp)",
    "ld t1, 8*6(sp)",
    "ld sp, 8*2(sp)",
    "sret",
    ".popsection",
    state = const guest_protocol::layout::vcpu_area::STATE,
    shift = const guest_protocol::layout::trap_stack::SHIFT,
    number = const guest_protocol::layout::trap_stack::NUMBER,
    end = const guest_protocol::layout::trap_stack::END,
    frame = const FRAME,
    dispatch = sym dispatch,
);

#[cfg_attr(not(kvm_guest), expect(dead_code, reason = "called from the vector"))]
extern "C" fn dispatch(frame: &mut TrapFrame) {
    let vector = frame.vector();
    if vector < vector::INTERRUPT
        && let Some(resume) = handlers::fixup(frame.sepc)
    {
        // t0 and t1.
        frame.x[5] = u64::from(vector) + 1;
        frame.x[6] = frame.stval;
        frame.sepc = resume;
        return;
    }
    handlers::call(vector, frame);
}

/// Runs one instruction that may fault: `Result<(), Trap>`. t0 and t1 carry the trap.
macro_rules! catching {
    ($insn:expr $(, $($operands:tt)+)?) => {{
        let (vector, stval): (u64, u64);
        core::arch::asm!(
            "li t0, 0",
            "770:",
            $insn,
            "771:",
            ".pushsection guest_fixups, \"a\", @progbits",
            ".long 770b - .",
            ".long 771b - .",
            ".popsection",
            $($($operands)+,)?
            out("t0") vector, out("t1") stval,
        );
        match vector {
            0 => Ok(()),
            _ => Err($crate::Trap { vector: (vector - 1) as u8, stval }),
        }
    }};
}
pub(crate) use catching;
