//! System registers with the manual's names, as values.
#![expect(unsafe_code, reason = "MRS and MSR; the guest's registers are its own")]

use core::arch::asm;
use core::ops::Deref;

use defs::aarch64::sysreg as defs;

use super::insn::{Insn, assembled};
use super::trap::{Trap, catching};

/// A system register and how it is reached. Every access is by its encoding, so that the assembler has no
/// opinion on which registers exist or may be written.
#[derive(Clone, Copy, Debug)]
pub struct SysReg {
    of: defs::SysReg,
    read: fn() -> u64,
    write: fn(u64),
    read_safe: fn() -> Result<u64, Trap>,
    write_safe: fn(u64) -> Result<(), Trap>,
    /// Address of `MRS X0, …` and `MSR …, X0`.
    code: fn() -> u64,
}

impl SysReg {
    /// `MRS`.
    #[inline(always)]
    pub fn read(&self) -> u64 {
        (self.read)()
    }

    /// `MSR`, and an `ISB` behind it.
    #[inline(always)]
    pub fn write(&self, value: u64) {
        (self.write)(value);
    }

    /// `MRS`; a fault is a value.
    pub fn read_safe(&self) -> Result<u64, Trap> {
        (self.read_safe)()
    }

    /// `MSR` and `ISB`; a fault is a value.
    pub fn write_safe(&self, value: u64) -> Result<(), Trap> {
        (self.write_safe)(value)
    }

    /// `MRS X0, …`, to be run elsewhere.
    pub const fn mrs(&self) -> Insn {
        Insn::new(self.code, 0)
    }

    /// `MSR …, X0`, to be run elsewhere.
    pub const fn msr(&self) -> Insn {
        Insn::new(self.code, 1)
    }

    /// Its id for `KVM_GET_ONE_REG`.
    pub const fn one_reg(&self) -> u64 {
        self.of.one_reg()
    }

    /// Its definition.
    pub const fn definition(&self) -> &defs::SysReg {
        &self.of
    }
}

impl Deref for SysReg {
    type Target = defs::SysReg;

    fn deref(&self) -> &defs::SysReg {
        &self.of
    }
}

macro_rules! sysregs {
    ($($name:ident = $op0:literal, $op1:literal, $crn:literal, $crm:literal, $op2:literal;)*) => {$(
        #[doc = stringify!($name)]
        pub const $name: SysReg = {
            #[inline(always)]
            fn read() -> u64 {
                let value: u64;
                // SAFETY: reads a register.
                unsafe { asm!(concat!("mrs {}, S", $op0, "_", $op1, "_C", $crn, "_C", $crm, "_", $op2), out(reg) value, options(nostack)) };
                value
            }
            #[inline(always)]
            fn write(value: u64) {
                // SAFETY: the guest's own registers.
                unsafe { asm!(concat!("msr S", $op0, "_", $op1, "_C", $crn, "_C", $crm, "_", $op2, ", {}"), "isb", in(reg) value, options(nostack)) };
            }
            fn read_safe() -> Result<u64, Trap> {
                let value: u64;
                // SAFETY: a fault resumes behind the instruction.
                let trap = unsafe {
                    catching!(concat!("mrs {value}, S", $op0, "_", $op1, "_C", $crn, "_C", $crm, "_", $op2), value = out(reg) value)
                };
                trap.map(|()| value)
            }
            fn write_safe(value: u64) -> Result<(), Trap> {
                // SAFETY: a fault resumes behind the instruction.
                unsafe {
                    catching!(concat!("msr S", $op0, "_", $op1, "_C", $crn, "_C", $crm, "_", $op2, ", {value}"), value = in(reg) value)
                }?;
                super::cpu::isb();
                Ok(())
            }
            fn code() -> u64 {
                assembled!(
                    concat!("mrs x0, S", $op0, "_", $op1, "_C", $crn, "_C", $crm, "_", $op2),
                    concat!("msr S", $op0, "_", $op1, "_C", $crn, "_C", $crm, "_", $op2, ", x0")
                )
            }
            SysReg {
                of: defs::$name,
                read,
                write,
                read_safe,
                write_safe,
                code,
            }
        };
    )*};
}

::defs::for_each_sysreg!(sysregs);
