//! Instructions behind KVM's forced-emulation prefix: with kvm.force_emulation_prefix KVM emulates what
//! follows it, whatever the CPU could do itself.
#![expect(unsafe_code, reason = "each function is one instruction on the guest's own state")]

use core::arch::asm;

/// The prefix: UD2 and three letters.
macro_rules! forced {
    ($insn:literal) => {
        concat!(".byte 0x0f, 0x0b, 0x6b, 0x76, 0x6d; ", $insn)
    };
}

/// `LOCK SUB m32, r32`, emulated.
pub fn lock_sub32(gva: u64, value: u32) {
    // SAFETY: the guest's memory is its own.
    unsafe {
        asm!(forced!("lock sub [{gva}], {value:e}"), gva = in(reg) gva, value = in(reg) value, options(nostack));
    }
}

/// `XCHG m32, r32`, emulated; returns what was there.
pub fn xchg32(gva: u64, mut value: u32) -> u32 {
    // SAFETY: as above.
    unsafe {
        asm!(forced!("xchg [{gva}], {value:e}"), gva = in(reg) gva, value = inout(reg) value, options(nostack));
    }
    value
}

/// `LOCK XADD m32, r32`, emulated; returns what was there.
pub fn xadd32(gva: u64, mut value: u32) -> u32 {
    // SAFETY: as above.
    unsafe {
        asm!(forced!("lock xadd [{gva}], {value:e}"), gva = in(reg) gva, value = inout(reg) value, options(nostack));
    }
    value
}

/// `LOCK CMPXCHG m64, r64`, emulated; returns RAX (what was there, if that was not `old`) and
/// RFLAGS.ZF.
pub fn cmpxchg64(gva: u64, old: u64, new: u64) -> (u64, bool) {
    let mut rax = old;
    let zf: u8;
    // SAFETY: as above.
    unsafe {
        asm!(forced!("lock cmpxchg [{gva}], {new}"), "sete {zf}", gva = in(reg) gva, new = in(reg) new, zf = out(reg_byte) zf, inout("rax") rax, options(nostack));
    }
    (rax, zf != 0)
}
