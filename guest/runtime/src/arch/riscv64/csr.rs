//! Control and status registers, and their bits (privileged manual, "Supervisor-Level ISA").
#![expect(unsafe_code, reason = "the guest's CSRs are its own")]

use core::arch::asm;

pub use defs::riscv64::csr::{Sie, Sstatus};

use super::trap::{Trap, catching};

macro_rules! csrs {
    ($($(#[$doc:meta])* $name:ident = $csr:literal;)*) => {$(
        $(#[$doc])*
        pub mod $name {
            use super::*;

            /// `csrr`.
            pub fn read() -> u64 {
                let value;
                // SAFETY: reads a register.
                unsafe { asm!(concat!("csrr {}, ", $csr), out(reg) value, options(nostack)) };
                value
            }

            /// `csrr`; a fault is a value.
            pub fn read_safe() -> Result<u64, Trap> {
                let value;
                // SAFETY: a fault resumes behind the instruction.
                let trap = unsafe { catching!(concat!("csrr {value}, ", $csr), value = out(reg) value) };
                trap.map(|()| value)
            }

            /// `csrw`.
            pub fn write(value: u64) {
                // SAFETY: the guest's own register.
                unsafe { asm!(concat!("csrw ", $csr, ", {}"), in(reg) value, options(nostack)) };
            }

            /// `csrw`; a fault is a value.
            pub fn write_safe(value: u64) -> Result<(), Trap> {
                // SAFETY: a fault resumes behind the instruction.
                unsafe { catching!(concat!("csrw ", $csr, ", {value}"), value = in(reg) value) }
            }
        }
    )*};
}

csrs! {
    /// Supervisor status.
    sstatus = "sstatus";
    /// Supervisor interrupt enable.
    sie = "sie";
    /// Supervisor interrupt pending.
    sip = "sip";
    /// Supervisor trap vector.
    stvec = "stvec";
    /// Scratch: the runtime's ([`super::trap`]).
    sscratch = "sscratch";
    /// Supervisor address translation and protection.
    satp = "satp";
    /// Which counters U-mode reads.
    scounteren = "scounteren";
    /// Hypervisor status: not a guest's to touch.
    hstatus = "hstatus";
    /// Machine status: not a supervisor's to touch.
    mstatus = "mstatus";
}

/// The `time` counter.
pub fn rdtime() -> u64 {
    let value;
    // SAFETY: reads a counter.
    unsafe { asm!("rdtime {}", out(reg) value, options(nomem, nostack)) };
    value
}
