//! Single memory accesses of a known width, and the copies behind `memcpy` and `memset`.
#![expect(unsafe_code, reason = "reads and writes addresses that tests choose")]

use core::arch::asm;

use super::trap::{Trap, catching};
pub use crate::memory::{peek, poke};

/// Integers that one instruction can load or store.
pub trait Word: Copy + 'static {
    #[doc(hidden)]
    fn read_safe(gva: u64) -> Result<Self, Trap>;
    #[doc(hidden)]
    fn write_safe(gva: u64, value: Self) -> Result<(), Trap>;
    #[doc(hidden)]
    fn mmio_read(gva: u64) -> Self;
    #[doc(hidden)]
    fn mmio_write(gva: u64, value: Self);
}

macro_rules! word {
    ($($ty:ty, $suffix:literal, $modifier:literal;)*) => {$(
        impl Word for $ty {
            fn read_safe(gva: u64) -> Result<Self, Trap> {
                let value: $ty;
                // SAFETY: a fault resumes behind the instruction and comes back as a value.
                let trap = unsafe {
                    catching!(concat!("ldr", $suffix, " {value", $modifier, "}, [{gva}]"), value = out(reg) value, gva = in(reg) gva)
                };
                trap.map(|()| value)
            }

            fn write_safe(gva: u64, value: Self) -> Result<(), Trap> {
                // SAFETY: as above.
                unsafe {
                    catching!(concat!("str", $suffix, " {value", $modifier, "}, [{gva}]"), value = in(reg) value, gva = in(reg) gva)
                }
            }

            fn mmio_read(gva: u64) -> Self {
                let value: $ty;
                // SAFETY: the guest's devices are its own.
                unsafe { asm!(concat!("ldr", $suffix, " {value", $modifier, "}, [{gva}]"), value = out(reg) value, gva = in(reg) gva, options(nostack, preserves_flags)) };
                value
            }

            fn mmio_write(gva: u64, value: Self) {
                // SAFETY: the guest's devices are its own.
                unsafe { asm!(concat!("str", $suffix, " {value", $modifier, "}, [{gva}]"), value = in(reg) value, gva = in(reg) gva, options(nostack, preserves_flags)) };
            }
        }
    )*};
}

word! {
    u8, "b", ":w";
    u16, "h", ":w";
    u32, "", ":w";
    u64, "", ":x";
}

/// Loads from `gva` by an instruction whose syndrome tells KVM all of the access (no write-back of
/// the base register).
pub fn mmio_read<T: Word>(gva: u64) -> T {
    T::mmio_read(gva)
}

/// Stores to `gva` by an instruction whose syndrome tells KVM all of the access.
pub fn mmio_write<T: Word>(gva: u64, value: T) {
    T::mmio_write(gva, value);
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
        asm!(
            "1: subs {n}, {n}, #8",
            "b.lo 2f",
            "ldr {word}, [{src}], #8",
            "str {word}, [{dest}], #8",
            "b 1b",
            "2: adds {n}, {n}, #8",
            "b.eq 4f",
            "3: ldrb {word:w}, [{src}], #1",
            "strb {word:w}, [{dest}], #1",
            "subs {n}, {n}, #1",
            "b.ne 3b",
            "4:",
            n = inout(reg) n => _, src = inout(reg) src => _, dest = inout(reg) dest => _, word = out(reg) _,
            options(nostack)
        );
    }
}

/// Fills `n` bytes.
///
/// # Safety
///
/// As for C's `memset`.
#[cfg_attr(not(kvm_guest), expect(dead_code, reason = "the host has its own"))]
pub(crate) unsafe fn fill(dest: *mut u8, value: u8, n: usize) {
    let word = u64::from_ne_bytes([value; 8]);
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "1: subs {n}, {n}, #8",
            "b.lo 2f",
            "str {word}, [{dest}], #8",
            "b 1b",
            "2: adds {n}, {n}, #8",
            "b.eq 4f",
            "3: strb {word:w}, [{dest}], #1",
            "subs {n}, {n}, #1",
            "b.ne 3b",
            "4:",
            n = inout(reg) n => _, dest = inout(reg) dest => _, word = in(reg) word,
            options(nostack)
        );
    }
}
