//! The state that a trap interrupts, and instructions whose faults are values.

use guest_protocol::{NR_ARGS, trap as arg};

use super::cpu;

/// A trap as a value: what an instruction that was allowed to fault came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap {
    /// SDM vol. 3, 6.15: 6 is #UD, 13 #GP, 14 #PF.
    pub vector: u8,
    /// The error code, 0 where the vector has none.
    pub error: u32,
    /// CR2 as the handler saw it; meaningful for #PF.
    pub addr: u64,
}

/// The interrupted state. A handler may change it; it is restored on return.
#[derive(Debug)]
#[repr(C)]
#[expect(missing_docs, reason = "the manual's register names")]
pub struct TrapFrame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

impl TrapFrame {
    /// The trap as a value.
    pub fn trap(&self) -> Trap {
        Trap { vector: self.vector as u8, error: self.error as u32, addr: cpu::read_cr2() }
    }

    /// As `Verb::Trap` wants it; general registers in the order RAX, RBX, RCX, RDX, RSI, RDI, R8–R15.
    pub(crate) fn to_args(&self) -> [u64; NR_ARGS] {
        let mut args = [0; NR_ARGS];
        args[arg::VECTOR] = self.vector;
        args[arg::CODE] = self.error;
        args[arg::PC] = self.rip;
        args[arg::ADDR] = cpu::read_cr2();
        args[arg::SP] = self.rsp;
        args[arg::FP] = self.rbp;
        args[arg::FLAGS] = self.rflags;
        let regs = [
            self.rax, self.rbx, self.rcx, self.rdx, self.rsi, self.rdi, self.r8, self.r9, self.r10,
            self.r11, self.r12, self.r13, self.r14, self.r15,
        ];
        args[arg::REGS..arg::REGS + regs.len()].copy_from_slice(&regs);
        args
    }
}

/// Runs one instruction that may fault: `Result<(), Trap>`. R8, R9 and R10 carry the trap.
macro_rules! catching {
    ($insn:expr $(, $($operands:tt)+)?) => {{
        let (vector, error, addr): (u64, u64, u64);
        core::arch::asm!(
            "xor r8d, r8d",
            "770:",
            $insn,
            "771:",
            ".pushsection guest_fixups, \"a\", @progbits",
            ".long 770b - .",
            ".long 771b - .",
            ".popsection",
            $($($operands)+,)?
            out("r8") vector, out("r9") error, out("r10") addr,
        );
        match vector {
            0 => Ok(()),
            _ => Err($crate::Trap { vector: (vector - 1) as u8, error: error as u32, addr }),
        }
    }};
}
pub(crate) use catching;
