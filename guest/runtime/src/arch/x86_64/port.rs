//! Port I/O.
#![expect(unsafe_code, reason = "IN and OUT; a guest's ports are its own")]

use core::arch::asm;

macro_rules! port_io {
    ($($read:ident $read_string:ident $write:ident $write_string:ident $ty:ty, $reg:tt, $bits:literal, $suffix:literal;)*) => {$(
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
    )*};
}

port_io! {
    inb insb outb outsb u8, "al", "8", "b";
    inw insw outw outsw u16, "ax", "16", "w";
    inl insl outl outsl u32, "eax", "32", "d";
}
