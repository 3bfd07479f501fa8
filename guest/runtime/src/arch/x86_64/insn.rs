//! Single instructions that a compiler would not choose, for tests of emulation and of faults.
#![expect(unsafe_code, reason = "each function is one instruction on the guest's own state")]

use core::arch::asm;

use super::trap::{Trap, catching};

macro_rules! memory_operations {
    ($($(#[$doc:meta])* $name:ident: $ty:ty, $class:ident, $insn:literal;)*) => {$(
        $(#[$doc])*
        pub fn $name(gva: u64, value: $ty) {
            // SAFETY: the guest's memory is its own.
            unsafe { asm!($insn, gva = in(reg) gva, value = in($class) value, options(nostack)) };
        }
    )*};
}

memory_operations! {
    /// `OR m32, r32`.
    or32: u32, reg, "or [{gva}], {value:e}";
    /// `AND m16, r16`.
    and16: u16, reg, "and [{gva}], {value:x}";
    /// `XOR m8, r8`.
    xor8: u8, reg_byte, "xor [{gva}], {value}";
    /// `ADD m64, r64`.
    add64: u64, reg, "add [{gva}], {value}";
    /// `LOCK SUB m32, r32`.
    lock_sub32: u32, reg, "lock sub [{gva}], {value:e}";
    /// `BTS m32, r32`.
    bts32: u32, reg, "bts [{gva}], {value:e}";
    /// `MOVNTI m64, r64`.
    movnti64: u64, reg, "movnti [{gva}], {value}";
}

/// `INC m16`.
pub fn inc16(gva: u64) {
    // SAFETY: the guest's memory is its own.
    unsafe { asm!("inc word ptr [{}]", in(reg) gva, options(nostack)) };
}

/// `NOT m64`.
pub fn not64(gva: u64) {
    // SAFETY: as above.
    unsafe { asm!("not qword ptr [{}]", in(reg) gva, options(nostack)) };
}

/// `XCHG m32, r32`; returns what was there.
pub fn xchg32(gva: u64, mut value: u32) -> u32 {
    // SAFETY: as above.
    unsafe { asm!("xchg [{}], {:e}", in(reg) gva, inout(reg) value, options(nostack)) };
    value
}

/// `LOCK XADD m32, r32`; returns what was there.
pub fn xadd32(gva: u64, mut value: u32) -> u32 {
    // SAFETY: as above.
    unsafe { asm!("lock xadd [{}], {:e}", in(reg) gva, inout(reg) value, options(nostack)) };
    value
}

/// `LOCK CMPXCHG m64, r64`; returns RAX (what was there, if that was not `old`) and RFLAGS.ZF.
pub fn cmpxchg64(gva: u64, old: u64, new: u64) -> (u64, bool) {
    let mut rax = old;
    let zf: u8;
    // SAFETY: as above.
    unsafe {
        asm!("lock cmpxchg [{}], {}", "sete {}", in(reg) gva, in(reg) new, out(reg_byte) zf, inout("rax") rax, options(nostack));
    }
    (rax, zf != 0)
}

/// `LOCK CMPXCHG m8, r8`: whether `old` was there, so that `new` is now.
pub fn cmpxchg8(gva: u64, old: u8, new: u8) -> bool {
    let zf: u8;
    // SAFETY: as above.
    unsafe {
        asm!("lock cmpxchg byte ptr [{}], {}", "sete {}", in(reg) gva, in(reg_byte) new, out(reg_byte) zf, inout("al") old => _, options(nostack));
    }
    zf != 0
}

/// `CMP m32, r32`: whether they are equal.
pub fn equals32(gva: u64, value: u32) -> bool {
    let zf: u8;
    // SAFETY: as above.
    unsafe {
        asm!("cmp [{}], {:e}", "sete {}", in(reg) gva, in(reg) value, out(reg_byte) zf, options(nostack));
    }
    zf != 0
}

/// `MOVZX r64, m8`.
pub fn movzx8(gva: u64) -> u64 {
    let value: u64;
    // SAFETY: as above.
    unsafe { asm!("movzx {}, byte ptr [{}]", out(reg) value, in(reg) gva, options(nostack)) };
    value
}

/// `MOVSX r64, m16`.
pub fn movsx16(gva: u64) -> u64 {
    let value: u64;
    // SAFETY: as above.
    unsafe { asm!("movsx {}, word ptr [{}]", out(reg) value, in(reg) gva, options(nostack)) };
    value
}

/// `MOV AL, m8` on top of `rax`: all of RAX afterwards.
pub fn load8_into(gva: u64, mut rax: u64) -> u64 {
    // SAFETY: as above.
    unsafe { asm!("mov al, [{}]", in(reg) gva, inout("rax") rax, options(nostack)) };
    rax
}

/// `MOV EAX, m32` on top of `rax`: all of RAX afterwards.
pub fn load32_into(gva: u64, mut rax: u64) -> u64 {
    // SAFETY: as above.
    unsafe { asm!("mov eax, [{}]", in(reg) gva, inout("rax") rax, options(nostack)) };
    rax
}

/// `PUSH m64`; returns what was pushed.
pub fn push64(gva: u64) -> u64 {
    let value: u64;
    // SAFETY: as above; the stack is balanced.
    unsafe { asm!("push qword ptr [{}]", "pop {}", in(reg) gva, out(reg) value) };
    value
}

/// `POP m64` of `value`.
pub fn pop64(gva: u64, value: u64) {
    // SAFETY: as above; the stack is balanced.
    unsafe { asm!("push {}", "pop qword ptr [{}]", in(reg) value, in(reg) gva) };
}

/// `MOVDQU`: 16 bytes of `from` to `to` by way of XMM0.
pub fn movdqu(to: u64, from: u64) {
    // SAFETY: as above; nobody keeps anything in XMM0.
    unsafe {
        asm!("movdqu xmm0, [{}]", "movdqu [{}], xmm0", in(reg) from, in(reg) to, options(nostack))
    };
}

/// `REP MOVSB`.
pub fn rep_movsb(to: u64, from: u64, count: u64) {
    // SAFETY: as above.
    unsafe {
        asm!("rep movsb", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") count => _, options(nostack))
    };
}

/// `REP MOVSD`.
pub fn rep_movsd(to: u64, from: u64, count: u64) {
    // SAFETY: as above.
    unsafe {
        asm!("rep movsd", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") count => _, options(nostack))
    };
}

/// `REP STOSW`.
pub fn rep_stosw(to: u64, value: u16, count: u64) {
    // SAFETY: as above.
    unsafe {
        asm!("rep stosw", inout("rdi") to => _, in("ax") value, inout("rcx") count => _, options(nostack))
    };
}

/// The bytes of the instruction in [`fld32_safe`].
pub const FLD32: [u8; 2] = [0xd9, 0x00];

/// `FLD m32` ([`FLD32`]); a fault is a value. The x87 stack is empty afterwards.
pub fn fld32_safe(gva: u64) -> Result<(), Trap> {
    // SAFETY: a fault resumes behind the instruction; nobody keeps anything in the x87 unit.
    unsafe {
        asm!("fninit");
        let trap = catching!("fld dword ptr [rax]", in("rax") gva);
        asm!("fninit");
        trap
    }
}

/// `CPUID` with the upper halves of RAX and RCX set: RAX, RBX, RCX and RDX afterwards.
pub fn cpuid_raw(leaf: u32) -> [u64; 4] {
    let (mut rax, mut rbx, mut rcx, mut rdx) = (u64::from(leaf) | !0 << 32, !0, !0 << 32, !0);
    // SAFETY: RBX, which LLVM reserves, is put back.
    unsafe {
        asm!("xchg rbx, {}", "cpuid", "xchg rbx, {0}", inout(reg) rbx, inout("rax") rax, inout("rcx") rcx, inout("rdx") rdx, options(nostack));
    }
    [rax, rbx, rcx, rdx]
}

/// `DIV` by zero, as a value.
pub fn divide_by_zero_safe() -> Result<(), Trap> {
    // SAFETY: a fault resumes behind the instruction.
    unsafe {
        catching!("div {zero:e}", zero = in(reg) 0_u32, inout("eax") 1_u32 => _, inout("edx") 0_u32 => _)
    }
}

/// `MOV DS, r16`, as a value.
pub fn load_ds_safe(selector: u16) -> Result<(), Trap> {
    // SAFETY: a fault resumes behind the instruction; nothing uses DS's base or limit in long mode.
    unsafe { catching!("mov ds, {selector:e}", selector = in(reg) u32::from(selector)) }
}

/// `MOV SS, r16`, as a value.
pub fn load_ss_safe(selector: u16) -> Result<(), Trap> {
    // SAFETY: as above.
    unsafe { catching!("mov ss, {selector:e}", selector = in(reg) u32::from(selector)) }
}

/// A load from `offset` bytes above RSP, whose segment is SS; a fault is a value.
pub fn read_by_ss_safe(offset: u64) -> Result<(), Trap> {
    // SAFETY: a fault resumes behind the instruction.
    unsafe { catching!("mov {offset}, [rsp + {offset}]", offset = inout(reg) offset => _) }
}

/// `FNINIT`; a fault is a value.
pub fn fninit_safe() -> Result<(), Trap> {
    // SAFETY: a fault resumes behind the instruction.
    unsafe { catching!("fninit") }
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

/// `RDMSR` with the upper halves of RAX, RCX and RDX set: RAX and RDX afterwards.
pub fn rdmsr_raw(index: u32) -> (u64, u64) {
    let (mut rax, mut rdx) = (u64::MAX, u64::MAX);
    // SAFETY: the guest's own MSRs.
    unsafe {
        asm!("rdmsr", in("rcx") u64::from(index) | !0 << 32, inout("rax") rax, inout("rdx") rdx, options(nostack));
    }
    (rax, rdx)
}

/// `WRMSR` of `value` with the upper halves of RAX, RCX and RDX set.
pub fn wrmsr_raw(index: u32, value: u64) {
    let upper = |low: u64| low & 0xffff_ffff | !0 << 32;
    // SAFETY: the guest's own MSRs.
    unsafe {
        asm!("wrmsr", in("rcx") upper(index.into()), in("rax") upper(value), in("rdx") upper(value >> 32), options(nostack));
    }
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

/// `MONITOR` of the line at `gva`, as a value.
pub fn monitor_safe(gva: u64) -> Result<(), Trap> {
    // SAFETY: a fault resumes behind the instruction, which changes nothing.
    unsafe { catching!("monitor", in("rax") gva, in("rcx") 0_u64, in("rdx") 0_u64) }
}

/// `MWAIT`, as a value.
pub fn mwait_safe() -> Result<(), Trap> {
    // SAFETY: a fault resumes behind the instruction, which changes nothing.
    unsafe { catching!("mwait", in("rax") 0_u64, in("rcx") 0_u64) }
}
