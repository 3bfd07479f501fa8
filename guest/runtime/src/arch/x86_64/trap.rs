//! Traps and interrupts: stubs, and who is told.
//!
//! Every vector starts on an IST stack, because `core` may use the red zone; it then moves to the
//! interrupted stack, below the red zone, so that traps can nest. NMI, #MC and #DF stay on stacks of
//! their own. The payload is compiled without vector instructions, so that no trap touches the
//! vector state: it is the test's alone.
#![expect(unsafe_code, reason = "trap entry and exit, and handlers kept as raw pointers")]

pub use super::frame::{Trap, TrapFrame};
use super::{insn_table, modes};
use crate::{handlers, ucall};

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
