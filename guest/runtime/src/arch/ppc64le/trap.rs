//! Traps and interrupts: the code behind the vectors, frames, and faults as values.
//!
//! The host fills the vectors: each saves R31 in SPRG1, loads its own address into R31 and goes to
//! `trap_save`. SPRG0 holds the vCPU's state area, which lends more registers. A trap in a handler goes
//! on below on the trap stack. The payload is compiled without vectors, and has no use for floating
//! point, so that trap entry leaves both alone: they are the test's.
#![cfg_attr(kvm_guest, expect(unsafe_code, reason = "trap entry is assembly"))]

pub use defs::ppc64le::interrupt::{SRR1_ILLEGAL, SRR1_TRAP};
use guest_protocol::layout::ppc64le::VECTOR_STRIDE;
use guest_protocol::{NR_ARGS, trap as arg};

use crate::handlers;

/// A trap as a value: what an instruction that was allowed to fault came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap {
    /// The interrupt ([`vector`]).
    pub vector: u8,
    /// SRR1, with the reason of a program interrupt.
    pub srr1: u64,
    /// DAR, of interrupts that set it.
    pub addr: u64,
}

/// What handlers are installed for: interrupt vectors (Power ISA, Book III) divided by the least
/// distance of two.
pub mod vector {
    #![expect(missing_docs, reason = "the manual's names say it")]
    use defs::ppc64le::interrupt::vector;

    const fn at(address: u64) -> u8 {
        (address / super::VECTOR_STRIDE) as u8
    }
    pub const SYSTEM_RESET: u8 = at(vector::SYSTEM_RESET);
    pub const MACHINE_CHECK: u8 = at(vector::MACHINE_CHECK);
    pub const DATA_STORAGE: u8 = at(vector::DATA_STORAGE);
    pub const DATA_SEGMENT: u8 = at(vector::DATA_SEGMENT);
    pub const INSTRUCTION_STORAGE: u8 = at(vector::INSTRUCTION_STORAGE);
    pub const EXTERNAL: u8 = at(vector::EXTERNAL);
    pub const ALIGNMENT: u8 = at(vector::ALIGNMENT);
    pub const PROGRAM: u8 = at(vector::PROGRAM);
    pub const FP_UNAVAILABLE: u8 = at(vector::FP_UNAVAILABLE);
    pub const DECREMENTER: u8 = at(vector::DECREMENTER);
    pub const SYSTEM_CALL: u8 = at(vector::SYSTEM_CALL);
    pub const TRACE: u8 = at(vector::TRACE);
    pub const FACILITY_UNAVAILABLE: u8 = at(vector::FACILITY_UNAVAILABLE);
}

/// The interrupted state. A handler may change it; it is restored on return.
#[derive(Debug)]
#[repr(C)]
#[expect(missing_docs, reason = "the manual's register names")]
pub struct TrapFrame {
    pub gpr: [u64; 32],
    pub srr0: u64,
    pub srr1: u64,
    pub lr: u64,
    pub ctr: u64,
    pub xer: u64,
    pub cr: u64,
    pub dar: u64,
    pub dsisr: u64,
    /// Address of the vector.
    pub address: u64,
    reserved: u64,
}

/// Bytes of a frame.
const FRAME: usize = size_of::<TrapFrame>();
const _: () = assert!(FRAME.is_multiple_of(16));
/// Bytes below a stack pointer that its function may use without saying so, and more (ELFv2 ABI).
#[cfg(kvm_guest)]
const PROTECTED_ZONE: usize = 512;
/// Bytes at a stack pointer that a function leaves to the one it calls (ELFv2 ABI).
#[cfg(kvm_guest)]
const HEADER: usize = 32;

impl TrapFrame {
    /// What the handler was installed for.
    pub fn vector(&self) -> u8 {
        (self.address / VECTOR_STRIDE) as u8
    }

    /// The trap as a value.
    pub fn trap(&self) -> Trap {
        Trap { vector: self.vector(), srr1: self.srr1, addr: self.dar }
    }

    /// As `Verb::Trap` wants it; general registers R0 to R31.
    pub(crate) fn to_args(&self) -> [u64; NR_ARGS] {
        let mut args = [0; NR_ARGS];
        args[arg::VECTOR] = self.address;
        args[arg::CODE] = self.dsisr;
        args[arg::PC] = self.srr0;
        args[arg::ADDR] = self.dar;
        args[arg::SP] = self.gpr[1];
        args[arg::FP] = self.gpr[1];
        args[arg::FLAGS] = self.srr1;
        args[arg::REGS..arg::REGS + 32].copy_from_slice(&self.gpr);
        args
    }
}

#[cfg(kvm_guest)]
core::arch::global_asm!(
    ".macro each_plain_register insn",
    // All but R1, and R28 to R31 that trap entry works with.
    ".irp n, 0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27",
    "\\insn \\n, {header} + 8*\\n(1)",
    ".endr",
    ".endm",
    ".pushsection .text.trap, \"ax\"",
    ".balign 4",
    ".global trap_save",
    "trap_save:",
    "mtsprg 2, 30",
    "mfsprg 30, 0",
    "std 1, 0(30)",
    "std 29, 8(30)",
    "std 28, 16(30)",
    "mfcr 29",
    "std 29, 24(30)",
    // Where the stack pointer is in the vCPU's area, which begins {state} before the state.
    "addi 28, 30, -{state}",
    "subf 29, 28, 1",
    "addi 29, 29, -1",
    "srdi 29, 29, {shift}",
    "cmpldi 29, {number}",
    "beq 1f",
    "addis 1, 28, {end} >> 16",
    "1: addi 1, 1, -({frame} + {header} + {zone})",
    "each_plain_register std",
    "ld 28, 0(30)",
    "std 28, {header} + 8*1(1)",
    "ld 28, 16(30)",
    "std 28, {header} + 8*28(1)",
    "ld 28, 8(30)",
    "std 28, {header} + 8*29(1)",
    "mfsprg 28, 2",
    "std 28, {header} + 8*30(1)",
    "mfsprg 28, 1",
    "std 28, {header} + 8*31(1)",
    "mfsrr0 28",
    "std 28, {header} + 8*32(1)",
    "mfsrr1 28",
    "std 28, {header} + 8*33(1)",
    "mflr 28",
    "std 28, {header} + 8*34(1)",
    "mfctr 28",
    "std 28, {header} + 8*35(1)",
    "mfxer 28",
    "std 28, {header} + 8*36(1)",
    "ld 28, 24(30)",
    "std 28, {header} + 8*37(1)",
    "mfdar 28",
    "std 28, {header} + 8*38(1)",
    "mfdsisr 28",
    "std 28, {header} + 8*39(1)",
    "std 31, {header} + 8*40(1)",
    "li 28, 0",
    "std 28, 0(1)",
    "lis 2, .TOC.@ha",
    "addi 2, 2, .TOC.@l",
    "addi 3, 1, {header}",
    "bl {dispatch}",
    "nop",
    "ld 28, {header} + 8*32(1)",
    "mtsrr0 28",
    "ld 28, {header} + 8*33(1)",
    "mtsrr1 28",
    "ld 28, {header} + 8*34(1)",
    "mtlr 28",
    "ld 28, {header} + 8*35(1)",
    "mtctr 28",
    "ld 28, {header} + 8*36(1)",
    "mtxer 28",
    "ld 28, {header} + 8*37(1)",
    "mtcr 28",
    "each_plain_register ld",
    "ld 28, {header} + 8*28(1)",
    "ld 29, {header} + 8*29(1)",
    "ld 30, {header} + 8*30(1)",
    "ld 31, {header} + 8*31(1)",
    "ld 1, {header} + 8*1(1)",
    "rfid",
    ".popsection",
    state = const guest_protocol::layout::vcpu_area::STATE,
    shift = const guest_protocol::layout::trap_stack::SHIFT,
    number = const guest_protocol::layout::trap_stack::NUMBER,
    end = const guest_protocol::layout::trap_stack::END,
    frame = const FRAME,
    header = const HEADER,
    zone = const PROTECTED_ZONE,
    dispatch = sym dispatch,
);

#[cfg_attr(not(kvm_guest), expect(dead_code, reason = "called from the vectors"))]
extern "C" fn dispatch(frame: &mut TrapFrame) {
    if let Some(resume) = handlers::fixup(frame.srr0) {
        let trap = frame.trap();
        frame.gpr[9] = u64::from(trap.vector) + 1;
        frame.gpr[10] = trap.srr1;
        frame.gpr[11] = trap.addr;
        frame.srr0 = resume;
        return;
    }
    handlers::call(frame.vector(), frame);
}

/// Runs one instruction that may fault: `Result<(), Trap>`. R9, R10 and R11 carry the trap.
macro_rules! catching {
    ($insn:expr $(, $($operands:tt)+)?) => {{
        let (vector, srr1, addr): (u64, u64, u64);
        core::arch::asm!(
            "li 9, 0",
            "770:",
            $insn,
            "771:",
            ".pushsection guest_fixups, \"a\", @progbits",
            ".long 770b - .",
            ".long 771b - .",
            ".popsection",
            $($($operands)+,)?
            out("r9") vector, out("r10") srr1, out("r11") addr,
        );
        match vector {
            0 => Ok(()),
            _ => Err($crate::Trap { vector: (vector - 1) as u8, srr1, addr }),
        }
    }};
}
pub(crate) use catching;
