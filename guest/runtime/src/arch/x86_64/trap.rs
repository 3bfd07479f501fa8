//! Traps and interrupts: stubs, frames, scoped handlers, and faults as values.
//!
//! Every vector starts on an IST stack, because `core` may use the red zone; it then moves to the
//! interrupted stack, below the red zone, so that traps can nest. NMI, #MC and #DF stay on stacks of
//! their own. The payload is compiled without vector instructions, so that no trap touches the
//! vector state: it is the test's alone.
#![expect(unsafe_code, reason = "trap entry and exit, and handlers kept as raw pointers")]

use guest_protocol::{NR_ARGS, trap as arg};

use super::{cpu, insn_table, modes};
use crate::{handlers, ucall};

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

#[cfg(kvm_guest)]
core::arch::global_asm!(
    ".pushsection .text.trap, \"ax\"",
    ".balign 16",
    ".global trap_stubs",
    "trap_stubs:",
    ".set vector, 0",
    ".rept 256",
    ".balign 16",
    // The vectors for which the CPU pushes an error code.
    ".if (vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)",
    ".else",
    "push 0",
    ".endif",
    "push vector",
    ".if (vector == 2) || (vector == 8) || (vector == 18)",
    "jmp trap_own_stack",
    ".else",
    "jmp trap_switch_stack",
    ".endif",
    ".set vector, vector + 1",
    ".endr",
    //
    // On the IST stack: [rcx][rax][vector][error][rip][cs][rflags][rsp][ss].
    "trap_switch_stack:",
    "push rax",
    "push rcx",
    "mov rax, [rsp + 56]",
    "test byte ptr [rsp + 40], 3",
    "jz 1f",
    // From ring 3: the stack pointer that `user::run` left at the start of this vCPU's state.
    "mov rax, rsp",
    "and rax, -{area}",
    "mov rax, [rax + {state}]",
    "1:",
    "sub rax, 128",
    "and rax, -16",
    // A fault of the copy below means that the interrupted stack is broken.
    "lea rcx, [rip + trap_copy]",
    "cmp [rsp + 32], rcx",
    "jb trap_copy",
    "lea rcx, [rip + trap_copied]",
    "cmp [rsp + 32], rcx",
    "jb trap_no_stack",
    "trap_copy:",
    "pop rcx",
    "pop qword ptr [rax - 64]",
    "pop qword ptr [rax - 56]",
    "pop qword ptr [rax - 48]",
    "pop qword ptr [rax - 40]",
    "pop qword ptr [rax - 32]",
    "pop qword ptr [rax - 24]",
    "pop qword ptr [rax - 16]",
    "pop qword ptr [rax - 8]",
    "lea rsp, [rax - 64]",
    "jmp trap_save",
    "trap_own_stack:",
    "push rax",
    "trap_save:",
    "push rbx",
    "push rcx",
    "push rdx",
    "push rsi",
    "push rdi",
    "push rbp",
    "push r8",
    "push r9",
    "push r10",
    "push r11",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "trap_copied:",
    "cld",
    "mov rdi, rsp",
    "mov rbp, rsp",
    "call {dispatch}",
    "mov rsp, rbp",
    ".global trap_return",
    "trap_return:",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop r11",
    "pop r10",
    "pop r9",
    "pop r8",
    "pop rbp",
    "pop rdi",
    "pop rsi",
    "pop rdx",
    "pop rcx",
    "pop rbx",
    "pop rax",
    "add rsp, 16",
    "iretq",
    //
    // The second trap's IST frame, which lies where the first one's did: report from a good stack.
    "trap_no_stack:",
    "mov rdi, rsp",
    "mov rsi, rbp",
    "mov rax, rsp",
    "and rax, -{area}",
    "lea rsp, [rax + {fatal_stack_end}]",
    "xor ebp, ebp",
    "call {no_stack}",
    "ud2",
    ".popsection",
    area = const guest_protocol::layout::VCPU_AREA_SIZE,
    state = const guest_protocol::layout::vcpu_area::STATE,
    fatal_stack_end = const guest_protocol::layout::vcpu_area::FATAL_STACK_END,
    dispatch = sym dispatch,
    no_stack = sym no_stack,
);

/// A trap's stack was unusable: says where the stack pointer was.
#[cfg_attr(not(kvm_guest), expect(dead_code, reason = "called from the stubs"))]
extern "C" fn no_stack(ist: *const [u64; 9], rbp: u64) -> ! {
    // SAFETY: the stub passes its own stack.
    let [_, rax, vector, error, rip, _, rflags, rsp, _] = unsafe { *ist };
    // SAFETY: all-zero bytes are a valid frame.
    let mut frame: TrapFrame = unsafe { core::mem::zeroed() };
    frame.vector = vector;
    frame.error = error;
    frame.rip = rip;
    frame.rflags = rflags;
    frame.rbp = rbp;
    // RAX is where the copy was going: 128 bytes below the broken stack pointer.
    frame.rsp = rax;
    frame.rax = rsp;
    ucall::unexpected_trap(&frame)
}

#[cfg_attr(not(kvm_guest), expect(dead_code, reason = "called from the stubs"))]
extern "C" fn dispatch(frame: &mut TrapFrame) {
    if let Some(resume) = handlers::fixup(frame.rip) {
        let trap = frame.trap();
        frame.r8 = u64::from(trap.vector) + 1;
        frame.r9 = trap.error.into();
        frame.r10 = trap.addr;
        frame.rip = resume;
        return;
    }
    let vector = frame.vector as u8;
    if modes::is_from_compatibility(frame) && !handlers::is_handled(vector) {
        return modes::end_compatibility(frame);
    }
    if insn_table::contains(frame.rip) && is_exception(vector) {
        return insn_table::end(frame);
    }
    handlers::call(vector, frame);
}

/// Whether an instruction raises what `vector` is for: NMI is no exception.
fn is_exception(vector: u8) -> bool {
    vector < 32 && vector != defs::x86::exception::vector::NMI
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
