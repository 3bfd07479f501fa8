//! Instructions that a compiler would not choose, for tests of emulation and of faults: rows of a table, and
//! what takes more than one instruction.
#![expect(unsafe_code, reason = "each function is a few instructions on the guest's own state")]

use core::arch::asm;

use defs::x86::rflags::Rflags;

use super::frame::{Trap, catching};
use super::insn_table::columns::*;
use super::insn_table::{Form, Insn, State};
use crate::insn_table;

insn_table! {
    /// All rows. A memory operand's address is in RDI, a register operand in RSI where it can be chosen.
    pub static TABLE;

    ADD_M8_R8: "add [rdi], sil", [mem(1, Rdi, RW), reg(1, Rsi, R)], flags::ALL, faults::MEMORY;
    ADD_M16_R16: "add [rdi], si", [mem(2, Rdi, RW), reg(2, Rsi, R)], flags::ALL, faults::MEMORY;
    ADD_M32_R32: "add [rdi], esi", [mem(4, Rdi, RW), reg(4, Rsi, R)], flags::ALL, faults::MEMORY;
    ADD_M64_R64: "add [rdi], rsi", [mem(8, Rdi, RW), reg(8, Rsi, R)], flags::ALL, faults::MEMORY;
    OR_M32_R32: "or [rdi], esi", [mem(4, Rdi, RW), reg(4, Rsi, R)], flags::LOGICAL, faults::MEMORY;
    AND_M16_R16: "and [rdi], si", [mem(2, Rdi, RW), reg(2, Rsi, R)], flags::LOGICAL, faults::MEMORY;
    XOR_M8_R8: "xor [rdi], sil", [mem(1, Rdi, RW), reg(1, Rsi, R)], flags::LOGICAL, faults::MEMORY;
    CMP_M32_R32: "cmp [rdi], esi", [mem(4, Rdi, R), reg(4, Rsi, R)], flags::ALL, faults::MEMORY;
    INC_M16: "inc word ptr [rdi]", [mem(2, Rdi, RW)], flags::ALL, faults::MEMORY;
    NOT_M64: "not qword ptr [rdi]", [mem(8, Rdi, RW)], flags::ALL, faults::MEMORY;
    BTS_M32_R32: "bts [rdi], esi", [mem(4, Rdi, RW), reg(4, Rsi, R)], flags::BIT_TEST, faults::MEMORY;
    LOCK_SUB_M32_R32: "lock sub [rdi], esi", [mem(4, Rdi, RW), reg(4, Rsi, R)], flags::ALL, faults::LOCKED;
    XCHG_M32_R32: "xchg [rdi], esi", [mem(4, Rdi, RW), reg(4, Rsi, RW)], flags::ALL, faults::MEMORY;
    LOCK_XADD_M32_R32: "lock xadd [rdi], esi", [mem(4, Rdi, RW), reg(4, Rsi, RW)], flags::ALL, faults::LOCKED;
    LOCK_CMPXCHG_M8_R8: "lock cmpxchg [rdi], sil", [mem(1, Rdi, RW), reg(1, Rsi, R), reg(1, Rax, RW)], flags::ALL, faults::LOCKED;
    LOCK_CMPXCHG_M64_R64: "lock cmpxchg [rdi], rsi", [mem(8, Rdi, RW), reg(8, Rsi, R), reg(8, Rax, RW)], flags::ALL, faults::LOCKED;

    MOV_R8_M8: "mov sil, [rdi]", [mem(1, Rdi, R), reg(1, Rsi, RW)], flags::ALL, faults::MEMORY;
    MOV_R32_M32: "mov esi, [rdi]", [mem(4, Rdi, R), reg(8, Rsi, W)], flags::ALL, faults::MEMORY;
    MOV_M32_R32: "mov [rdi], esi", [mem(4, Rdi, W), reg(4, Rsi, R)], flags::ALL, faults::MEMORY;
    MOVZX_R64_M8: "movzx rsi, byte ptr [rdi]", [mem(1, Rdi, R), reg(8, Rsi, W)], flags::ALL, faults::MEMORY;
    MOVSX_R64_M16: "movsx rsi, word ptr [rdi]", [mem(2, Rdi, R), reg(8, Rsi, W)], flags::ALL, faults::MEMORY;
    MOVNTI_M64_R64: "movnti [rdi], rsi", [mem(8, Rdi, W), reg(8, Rsi, R)], flags::ALL, faults::MEMORY;
    MOVDQU_XMM_M128: "movdqu xmm0, [rdi]", [mem(16, Rdi, R), xmm(16, 0, W)], flags::ALL, faults::SSE_MEMORY;
    MOVDQU_M128_XMM: "movdqu [rdi], xmm0", [mem(16, Rdi, W), xmm(16, 0, R)], flags::ALL, faults::SSE_MEMORY;
    PUSH_M64: "push qword ptr [rdi]", [mem(8, Rdi, R), reg(8, Rsp, RW)], flags::ALL, faults::MEMORY;
    POP_M64: "pop qword ptr [rdi]", [mem(8, Rdi, W), reg(8, Rsp, RW)], flags::ALL, faults::MEMORY;
    REP_MOVSB: "rep movsb", [mem(1, Rdi, W), mem(1, Rsi, R), reg(8, Rcx, RW), reg(8, Rdi, RW), reg(8, Rsi, RW)], flags::ALL, faults::MEMORY;
    REP_MOVSD: "rep movsd", [mem(4, Rdi, W), mem(4, Rsi, R), reg(8, Rcx, RW), reg(8, Rdi, RW), reg(8, Rsi, RW)], flags::ALL, faults::MEMORY;
    REP_STOSW: "rep stosw", [mem(2, Rdi, W), reg(2, Rax, R), reg(8, Rcx, RW), reg(8, Rdi, RW)], flags::ALL, faults::MEMORY;

    DIV_R32: "div esi", [reg(4, Rsi, R), reg(4, Rax, RW), reg(4, Rdx, RW)], flags::NONE, faults::DIVIDE;
    MOV_DS_R32: "mov ds, esi", [reg(4, Rsi, R)], flags::ALL, faults::SEGMENT;
    MOV_SS_R32: "mov ss, esi", [reg(4, Rsi, R)], flags::ALL, faults::SEGMENT;
    CPUID: "cpuid", [reg(4, Rax, RW), reg(4, Rbx, W), reg(4, Rcx, RW), reg(4, Rdx, W)], flags::ALL, faults::NONE;
    RDMSR: "rdmsr", [reg(4, Rcx, R), reg(4, Rax, W), reg(4, Rdx, W)], flags::ALL, faults::PRIVILEGED;
    WRMSR: "wrmsr", [reg(4, Rcx, R), reg(4, Rax, R), reg(4, Rdx, R)], flags::ALL, faults::PRIVILEGED;
    MONITOR: "monitor", [mem(1, Rax, R), reg(8, Rcx, R), reg(8, Rdx, R)], flags::ALL, faults::OPTIONAL;
    MWAIT: "mwait", [reg(8, Rax, R), reg(8, Rcx, R)], flags::ALL, faults::OPTIONAL;

    INVLPGA: "invlpga rax, ecx", [reg(8, Rax, R), reg(4, Rcx, R)], flags::ALL, faults::OPTIONAL;
    VMRUN: "vmrun rax", [reg(8, Rax, R)], flags::ALL, faults::OPTIONAL;
    VMLOAD: "vmload rax", [reg(8, Rax, R)], flags::ALL, faults::OPTIONAL;
    VMSAVE: "vmsave rax", [reg(8, Rax, R)], flags::ALL, faults::OPTIONAL;
    STGI: "stgi", [], flags::ALL, faults::OPTIONAL;
    CLGI: "clgi", [], flags::ALL, faults::OPTIONAL;
    SKINIT: "skinit eax", [reg(4, Rax, R)], flags::ALL, faults::OPTIONAL;

    FNINIT: "fninit", [], flags::ALL, faults::X87;
    FLD_M32: "fld dword ptr [rdi]", [mem(4, Rdi, R)], flags::ALL, faults::X87_MEMORY;
}

/// A load from `offset` bytes above RSP, whose segment is SS; a fault is a value.
pub fn read_by_ss_safe(offset: u64) -> Result<(), Trap> {
    // SAFETY: a fault resumes behind the instruction.
    unsafe { catching!("mov {offset}, [rsp + {offset}]", offset = inout(reg) offset => _) }
}

/// `DIV` of 1 by zero, as a value.
pub fn divide_by_zero_safe() -> Result<(), Trap> {
    let mut state = State::default();
    state[Rax] = 1;
    DIV_R32.run(Form::Native, &mut state)
}

/// `LOCK CMPXCHG m64, r64`; returns RAX (what was there, if that was not `old`) and RFLAGS.ZF.
pub fn cmpxchg64(form: Form, gva: u64, old: u64, new: u64) -> (u64, bool) {
    let mut state = State::default();
    (state[Rdi], state[Rsi], state[Rax]) = (gva, new, old);
    let result = LOCK_CMPXCHG_M64_R64.run(form, &mut state);
    assert!(result.is_ok(), "CMPXCHG takes {result:x?}");
    (state[Rax], state.rflags.contains(Rflags::ZF))
}

/// `LOCK CMPXCHG m8, r8`: whether `old` was there, so that `new` is now.
pub fn cmpxchg8(gva: u64, old: u8, new: u8) -> bool {
    let mut state = State::default();
    (state[Rdi], state[Rsi], state[Rax]) = (gva, new.into(), old.into());
    let result = LOCK_CMPXCHG_M8_R8.run(Form::Native, &mut state);
    assert!(result.is_ok(), "CMPXCHG takes {result:x?}");
    state.rflags.contains(Rflags::ZF)
}

/// A string instruction of `count` elements.
pub fn repeat(insn: &Insn, to: u64, from: u64, count: u64) {
    let mut state = State::default();
    (state[Rdi], state[Rsi], state[Rcx]) = (to, from, count);
    let result = insn.run(Form::Native, &mut state);
    assert!(result.is_ok(), "{} takes {result:x?}", insn.text);
}

/// `FLD m32`; a fault is a value. The x87 stack is empty afterwards.
pub fn fld32_safe(gva: u64) -> Result<(), Trap> {
    let mut state = State::default();
    state[Rdi] = gva;
    FNINIT.native(0, 0);
    let result = FLD_M32.run(Form::Native, &mut state);
    FNINIT.native(0, 0);
    result
}

/// `INT n`.
pub fn int(vector: u8) {
    #[cfg(kvm_guest)]
    // SAFETY: the table has a stub for each vector, which does nothing but `INT n`.
    unsafe {
        asm!(
            "lea {stub}, [rip + int_stubs]",
            "lea {stub}, [{stub} + {vector} * 4]",
            "call {stub}",
            stub = out(reg) _, vector = in(reg) u64::from(vector)
        );
    }
    #[cfg(not(kvm_guest))]
    let _ = vector;
}

#[cfg(kvm_guest)]
core::arch::global_asm!(
    ".pushsection .text.int_stubs, \"ax\"",
    ".balign 4",
    "int_stubs:",
    ".set int_vector, 0",
    ".rept 256",
    ".balign 4",
    ".byte 0xcd, int_vector",
    "ret",
    ".set int_vector, int_vector + 1",
    ".endr",
    ".popsection",
);

/// Calls `gva`, which must return without changing more than C functions may.
pub fn call(gva: u64) {
    // SAFETY: the caller's promise; a fault ends the test.
    unsafe { asm!("call {}", in(reg) gva, clobber_abi("C")) };
}

/// `FLD1`, `FLDZ`, `FDIVP` with the zero-divide exception unmasked, then `FWAIT`; #MF as a value.
pub fn x87_divide_by_zero_safe() -> Result<(), Trap> {
    let control = 0x037b_u16;
    // SAFETY: a fault resumes behind FWAIT; nobody keeps anything in the x87 unit.
    unsafe {
        asm!("fninit", "fldcw [{}]", "fld1", "fldz", "fdivp st(1), st", in(reg) &control);
        let trap = catching!("fwait");
        asm!("fninit");
        trap
    }
}

/// `DIVSS` by zero with the exception unmasked; #XM as a value.
pub fn sse_divide_by_zero_safe() -> Result<(), Trap> {
    let (unmasked, masked, one) = (0x1d80_u32, 0x1f80_u32, 1.0_f32.to_bits());
    // SAFETY: a fault resumes behind the instruction; nobody keeps anything in the vector state.
    unsafe {
        asm!("ldmxcsr [{}]", "movd xmm0, {:e}", "xorps xmm1, xmm1", in(reg) &unmasked, in(reg) one);
        let trap = catching!("divss xmm0, xmm1");
        asm!("ldmxcsr [{}]", in(reg) &masked);
        trap
    }
}
