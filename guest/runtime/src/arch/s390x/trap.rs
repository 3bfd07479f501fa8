//! Traps and interrupts: the new PSWs' code, frames, and faults as values.
//!
//! Trap entry saves through the vCPU's low core and goes to its trap stack; a trap in a handler goes
//! on below. Floating-point registers are left alone: they are the test's, and the payload's own code
//! has no use for them.
#![cfg_attr(kvm_guest, expect(unsafe_code, reason = "trap entry is assembly"))]

use defs::s390x::interruption::PER_EVENT;
use guest_protocol::{NR_ARGS, trap as arg};

use crate::handlers;

/// A trap as a value: what an instruction that was allowed to fault came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap {
    /// The program-interruption code ([`vector`]).
    pub vector: u8,
    /// The translation-exception identification, meaningful where the code has one.
    pub addr: u64,
}

/// What handlers are installed for: program-interruption codes, and behind them the other classes
/// (Principles of Operation, "Interruptions").
pub mod vector {
    #![expect(missing_docs, reason = "the manual's names say it")]
    pub use defs::s390x::interruption::program::*;

    pub const EXTERNAL: u8 = 0xe1;
    pub const SVC: u8 = 0xe2;
    pub const MACHINE_CHECK: u8 = 0xe3;
    pub const IO: u8 = 0xe4;
}

/// The interrupted state. A handler may change it; it is restored on return.
#[derive(Debug)]
#[repr(C)]
pub struct TrapFrame {
    /// General registers.
    pub gprs: [u64; 16],
    /// Mask half of the old PSW.
    pub psw_mask: u64,
    /// Address half of the old PSW.
    pub psw_addr: u64,
    /// Class: 0 program, 1 external, 2 SVC, 3 machine check, 4 I/O.
    pub class: u64,
    /// Parameter of an external interruption.
    pub external_parameter: u32,
    /// CPU that an external interruption comes from.
    pub external_cpu: u16,
    /// External-interruption code.
    pub external_code: u16,
    /// Length of the SVC instruction.
    pub svc_length: u16,
    /// SVC-interruption code.
    pub svc_code: u16,
    /// Length of the instruction that a program interruption is about.
    pub program_length: u16,
    /// Program-interruption code.
    pub program_code: u16,
    /// Translation-exception identification.
    pub translation_exception: u64,
}

/// Bytes of a frame.
const FRAME: usize = size_of::<TrapFrame>();
const _: () = assert!(FRAME == 176);

impl TrapFrame {
    /// What the handler was installed for.
    pub fn vector(&self) -> u8 {
        match self.class {
            0 => (self.program_code & !PER_EVENT) as u8,
            class => 0xe0 + class as u8,
        }
    }

    /// The trap as a value.
    pub fn trap(&self) -> Trap {
        Trap { vector: self.vector(), addr: self.translation_exception }
    }

    /// The instruction that a program interruption is about: the PSW is behind it, unless the
    /// exception nullifies.
    pub fn instruction(&self) -> u64 {
        match self.vector() {
            vector::SEGMENT_TRANSLATION | vector::PAGE_TRANSLATION | 0x38..=0x3b => self.psw_addr,
            _ => self.psw_addr.wrapping_sub(self.program_length.into()),
        }
    }

    /// As `Verb::Trap` wants it; general registers R0 to R15.
    pub(crate) fn to_args(&self) -> [u64; NR_ARGS] {
        let mut args = [0; NR_ARGS];
        args[arg::VECTOR] = self.vector().into();
        args[arg::CODE] = match self.class {
            0 => self.program_code.into(),
            1 => self.external_code.into(),
            2 => self.svc_code.into(),
            _ => 0,
        };
        args[arg::PC] = self.psw_addr;
        args[arg::ADDR] = self.translation_exception;
        args[arg::SP] = self.gprs[15];
        args[arg::FP] = self.gprs[15];
        args[arg::FLAGS] = self.psw_mask;
        args[arg::REGS..arg::REGS + 16].copy_from_slice(&self.gprs);
        args
    }
}

#[cfg(kvm_guest)]
core::arch::global_asm!(
    ".macro trap_entry name, old, class",
    ".balign 8",
    ".global \\name",
    "\\name:",
    "stmg %r0, %r15, {registers}(%r0)",
    "mvc {psw}(16,%r0), \\old(%r0)",
    "lghi %r2, \\class",
    "j trap_save",
    ".endm",
    ".pushsection .text.trap, \"ax\"",
    "trap_entry trap_program, {program_old}, 0",
    "trap_entry trap_external, {external_old}, 1",
    "trap_entry trap_svc, {svc_old}, 2",
    "trap_entry trap_machine_check, {machine_check_old}, 3",
    "trap_entry trap_io, {io_old}, 4",
    "trap_save:",
    "lg %r1, {area}(%r0)",
    "lgr %r3, %r15",
    "sgr %r3, %r1",
    "aghi %r3, -1",
    "srlg %r3, %r3, {shift}",
    "cghi %r3, {number}",
    "je 1f",
    "lgr %r15, %r1",
    "agfi %r15, {end}",
    // The frame, and the register save area of the function that is called.
    "1: aghi %r15, -({frame} + {stack_frame})",
    "mvc {stack_frame}(128,%r15), {registers}(%r0)",
    "mvc {stack_frame}+128(16,%r15), {psw}(%r0)",
    "stg %r2, {stack_frame}+144(%r15)",
    "mvc {stack_frame}+152(16,%r15), {codes}(%r0)",
    "mvc {stack_frame}+168(8,%r15), {translation}(%r0)",
    "xc 0(8,%r15), 0(%r15)",
    "la %r2, {stack_frame}(%r15)",
    "brasl %r14, {dispatch}",
    "mvc {psw}(16,%r0), {stack_frame}+128(%r15)",
    "lmg %r0, %r15, {stack_frame}(%r15)",
    "lpswe {psw}(%r0)",
    ".popsection",
    registers = const guest_protocol::layout::s390x::low_core::REGISTERS,
    psw = const guest_protocol::layout::s390x::low_core::PSW,
    area = const guest_protocol::layout::s390x::low_core::AREA,
    codes = const guest_protocol::layout::s390x::low_core::INTERRUPTION_CODES,
    translation = const guest_protocol::layout::s390x::low_core::TRANSLATION_EXCEPTION,
    program_old = const guest_protocol::layout::s390x::low_core::PROGRAM_OLD,
    external_old = const guest_protocol::layout::s390x::low_core::EXTERNAL_OLD,
    svc_old = const guest_protocol::layout::s390x::low_core::SVC_OLD,
    machine_check_old = const guest_protocol::layout::s390x::low_core::MACHINE_CHECK_OLD,
    io_old = const guest_protocol::layout::s390x::low_core::IO_OLD,
    stack_frame = const guest_protocol::layout::s390x::STACK_FRAME,
    shift = const guest_protocol::layout::trap_stack::SHIFT,
    number = const guest_protocol::layout::trap_stack::NUMBER,
    end = const guest_protocol::layout::trap_stack::END,
    frame = const FRAME,
    dispatch = sym dispatch,
);

#[cfg_attr(not(kvm_guest), expect(dead_code, reason = "called from trap entry"))]
extern "C" fn dispatch(frame: &mut TrapFrame) {
    let vector = frame.vector();
    if frame.class == 0
        && let Some(resume) = handlers::fixup(frame.instruction())
    {
        frame.gprs[2] = u64::from(vector) + 1;
        frame.gprs[3] = frame.translation_exception;
        frame.psw_addr = resume;
        return;
    }
    handlers::call(vector, frame);
}

/// Runs one instruction that may fault: `Result<(), Trap>`. R2 and R3 carry the trap.
macro_rules! catching {
    ($insn:expr $(, $($operands:tt)+)?) => {{
        let (vector, addr): (u64, u64);
        core::arch::asm!(
            "lghi %r2, 0",
            "770:",
            $insn,
            "771:",
            ".pushsection guest_fixups, \"a\", @progbits",
            ".long 770b - .",
            ".long 771b - .",
            ".popsection",
            $($($operands)+,)?
            out("r2") vector, out("r3") addr,
        );
        match vector {
            0 => Ok(()),
            _ => Err($crate::Trap { vector: (vector - 1) as u8, addr }),
        }
    }};
}
pub(crate) use catching;
