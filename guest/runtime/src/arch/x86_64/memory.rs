//! Single memory accesses of a known width, and the copies behind `memcpy` and `memset`.
#![expect(unsafe_code, reason = "reads and writes addresses that tests choose")]

use core::arch::asm;

use super::frame::{Trap, catching};
pub use crate::memory::{peek, poke};

/// Integers that one instruction can load or store.
pub trait Word: Copy + 'static {
    #[doc(hidden)]
    fn read_safe(gva: u64) -> Result<Self, Trap>;
    #[doc(hidden)]
    fn write_safe(gva: u64, value: Self) -> Result<(), Trap>;
}

macro_rules! word {
    ($($ty:ty, $class:ident, $modifier:literal;)*) => {$(
        impl Word for $ty {
            fn read_safe(gva: u64) -> Result<Self, Trap> {
                let value: $ty;
                // SAFETY: a fault resumes behind the instruction and comes back as a value.
                let trap = unsafe {
                    catching!(concat!("mov {value", $modifier, "}, [{gva}]"), value = out($class) value, gva = in(reg) gva)
                };
                trap.map(|()| value)
            }

            fn write_safe(gva: u64, value: Self) -> Result<(), Trap> {
                // SAFETY: as above.
                unsafe {
                    catching!(concat!("mov [{gva}], {value", $modifier, "}"), value = in($class) value, gva = in(reg) gva)
                }
            }
        }
    )*};
}

word! {
    u8, reg_byte, "";
    u16, reg, ":x";
    u32, reg, ":e";
    u64, reg, ":r";
}

/// Loads from `gva`; a fault is a value.
pub fn read_safe<T: Word>(gva: u64) -> Result<T, Trap> {
    T::read_safe(gva)
}

/// Stores to `gva`; a fault is a value.
pub fn write_safe<T: Word>(gva: u64, value: T) -> Result<(), Trap> {
    T::write_safe(gva, value)
}

/// Copies `n` bytes upwards.
///
/// # Safety
///
/// As for C's `memcpy`.
#[cfg_attr(not(kvm_guest), expect(dead_code, reason = "the host has its own"))]
pub(crate) unsafe fn copy_forward(dest: *mut u8, src: *const u8, n: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("rep movsb", inout("rcx") n => _, inout("rdi") dest => _, inout("rsi") src => _, options(nostack, preserves_flags))
    }
}

/// Fills `n` bytes.
///
/// # Safety
///
/// As for C's `memset`.
#[cfg_attr(not(kvm_guest), expect(dead_code, reason = "the host has its own"))]
pub(crate) unsafe fn fill(dest: *mut u8, value: u8, n: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("rep stosb", inout("rcx") n => _, inout("rdi") dest => _, in("al") value, options(nostack, preserves_flags))
    }
}
