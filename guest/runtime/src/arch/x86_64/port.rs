//! Port I/O.
#![expect(unsafe_code, reason = "IN and OUT; a guest's ports are its own")]

use core::arch::asm;

use super::frame::{Trap, catching};

macro_rules! port_io {
    ($($read:ident $read_string:ident $write:ident $write_string:ident $read_imm:ident $write_imm:ident $ty:ty, $reg:tt, $bits:literal, $suffix:literal;)*) => {$(
        #[doc = concat!("Reads ", $bits, " bits from a port.")]
        pub fn $read(port: u16) -> $ty {
            let value: $ty;
            // SAFETY: the guest's ports are its own.
            unsafe { asm!(concat!("in ", $reg, ", dx"), in("dx") port, out($reg) value, options(nostack, preserves_flags)) };
            value
        }

        #[doc = concat!("Writes ", $bits, " bits to a port.")]
        pub fn $write(port: u16, value: $ty) {
            // SAFETY: the guest's ports are its own.
            unsafe { asm!(concat!("out dx, ", $reg), in("dx") port, in($reg) value, options(nostack, preserves_flags)) };
        }

        #[doc = concat!("`REP INS` of ", $bits, " bits each.")]
        pub fn $read_string(port: u16, data: &mut [$ty]) {
            // SAFETY: writes exactly the slice.
            unsafe { asm!(concat!("rep ins", $suffix), in("dx") port, inout("rcx") data.len() => _, inout("rdi") data.as_mut_ptr() => _, options(nostack, preserves_flags)) };
        }

        #[doc = concat!("`REP OUTS` of ", $bits, " bits each.")]
        pub fn $write_string(port: u16, data: &[$ty]) {
            // SAFETY: reads exactly the slice.
            unsafe { asm!(concat!("rep outs", $suffix), in("dx") port, inout("rcx") data.len() => _, inout("rsi") data.as_ptr() => _, options(nostack, preserves_flags)) };
        }

        #[doc = concat!("Reads ", $bits, " bits from a port named in the instruction.")]
        pub fn $read_imm<const PORT: u8>() -> $ty {
            let value: $ty;
            // SAFETY: the guest's ports are its own.
            unsafe { asm!(concat!("in ", $reg, ", {}"), const PORT, out($reg) value, options(nostack, preserves_flags)) };
            value
        }

        #[doc = concat!("Writes ", $bits, " bits to a port named in the instruction.")]
        pub fn $write_imm<const PORT: u8>(value: $ty) {
            // SAFETY: the guest's ports are its own.
            unsafe { asm!(concat!("out {}, ", $reg), const PORT, in($reg) value, options(nostack, preserves_flags)) };
        }
    )*};
}

port_io! {
    inb insb outb outsb inb_imm outb_imm u8, "al", "8", "b";
    inw insw outw outsw inw_imm outw_imm u16, "ax", "16", "w";
    inl insl outl outsl inl_imm outl_imm u32, "eax", "32", "d";
}

/// `IN EAX, DX` on top of `rax`: all of RAX afterwards.
pub fn inl_into(port: u16, rax: u64) -> u64 {
    let mut value = rax;
    // SAFETY: the guest's ports are its own.
    unsafe {
        asm!("in eax, dx", in("dx") port, inout("rax") value, options(nostack, preserves_flags))
    };
    value
}

/// `IN AX, DX` on top of `rax`: all of RAX afterwards.
pub fn inw_into(port: u16, rax: u64) -> u64 {
    let mut value = rax;
    // SAFETY: the guest's ports are its own.
    unsafe {
        asm!("in ax, dx", in("dx") port, inout("rax") value, options(nostack, preserves_flags))
    };
    value
}

/// `IN AL, DX` on top of `rax`: all of RAX afterwards.
pub fn inb_into(port: u16, rax: u64) -> u64 {
    let mut value = rax;
    // SAFETY: the guest's ports are its own.
    unsafe {
        asm!("in al, dx", in("dx") port, inout("rax") value, options(nostack, preserves_flags))
    };
    value
}

/// Where a string instruction stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringState {
    /// RCX: elements that are left.
    pub count: u64,
    /// RDI or RSI: the next element's address.
    pub gva: u64,
}

macro_rules! string_io {
    ($($(#[$doc:meta])* $name:ident $insn:literal $pointer:tt;)*) => {$(
        $(#[$doc])*
        pub fn $name(port: u16, gva: u64, count: u64) -> StringState {
            let mut state = StringState { count, gva };
            // SAFETY: the guest's memory and ports are its own.
            unsafe {
                asm!($insn, "cld", in("dx") port, inout("rcx") state.count, inout($pointer) state.gva, options(nostack));
            }
            state
        }
    )*};
}

string_io! {
    /// One `INSB` without a REP prefix.
    insb_once "insb" "rdi";
    /// One `OUTSB` without a REP prefix.
    outsb_once "outsb" "rsi";
    /// `REP INSB`.
    rep_insb "rep insb" "rdi";
    /// `REP INSW`.
    rep_insw "rep insw" "rdi";
    /// `REP INSD`.
    rep_insd "rep insd" "rdi";
    /// `REP OUTSB`.
    rep_outsb "rep outsb" "rsi";
    /// `REP OUTSW`.
    rep_outsw "rep outsw" "rsi";
    /// `REP OUTSD`.
    rep_outsd "rep outsd" "rsi";
    /// `REP INSB` with RFLAGS.DF set.
    rep_insb_down "std; rep insb" "rdi";
    /// `REP INSW` with RFLAGS.DF set.
    rep_insw_down "std; rep insw" "rdi";
    /// `REP INSD` with RFLAGS.DF set.
    rep_insd_down "std; rep insd" "rdi";
    /// `REP OUTSB` with RFLAGS.DF set.
    rep_outsb_down "std; rep outsb" "rsi";
    /// `REP OUTSW` with RFLAGS.DF set.
    rep_outsw_down "std; rep outsw" "rsi";
    /// `REP OUTSD` with RFLAGS.DF set.
    rep_outsd_down "std; rep outsd" "rsi";
}

/// `REP INSB`; a fault is a value. Also tells where it stopped.
pub fn rep_insb_safe(port: u16, gva: u64, count: u64) -> (Result<(), Trap>, StringState) {
    let mut state = StringState { count, gva };
    // SAFETY: a fault resumes behind the instruction.
    let trap = unsafe {
        catching!("rep insb", in("dx") port, inout("rcx") state.count, inout("rdi") state.gva)
    };
    (trap, state)
}

/// `REP OUTSB`; a fault is a value. Also tells where it stopped.
pub fn rep_outsb_safe(port: u16, gva: u64, count: u64) -> (Result<(), Trap>, StringState) {
    let mut state = StringState { count, gva };
    // SAFETY: a fault resumes behind the instruction.
    let trap = unsafe {
        catching!("rep outsb", in("dx") port, inout("rcx") state.count, inout("rsi") state.gva)
    };
    (trap, state)
}
