//! The instructions of VMX one by one (SDM vol. 3, "VMX Instruction Reference"), with their failures as
//! values (SDM vol. 3, "Conventions").
#![expect(unsafe_code, reason = "each function is one instruction on the guest's own state")]

use core::arch::asm;

use crate::Trap;
use crate::arch::x86_64::frame::catching;
use defs::x86::rflags::Rflags;
use defs::x86::vmcs::Field;

/// A failure of a VMX instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmFail {
    /// VMfailInvalid: there is no current VMCS for an error number.
    Invalid,
    /// VMfailValid, with the VM-instruction error.
    Valid(u32),
}

/// What RFLAGS behind a VMX instruction say.
pub(super) fn outcome(rflags: u64) -> Result<(), VmFail> {
    let rflags = Rflags::from_bits_retain(rflags);
    if rflags.contains(Rflags::CF) {
        Err(VmFail::Invalid)
    } else if rflags.contains(Rflags::ZF) {
        let error = vmread(Field::VM_INSTRUCTION_ERROR).map_or(0, |error| error as u32);
        Err(VmFail::Valid(error))
    } else {
        Ok(())
    }
}

macro_rules! with_pointer {
    ($($(#[$doc:meta])* $name:ident: $insn:literal;)*) => {$(
        $(#[$doc])*
        pub fn $name(gpa: u64) -> Result<(), VmFail> {
            let flags: u64;
            // SAFETY: the structure is the caller's; the flags tell what came of it.
            unsafe { asm!($insn, "pushfq", "pop {flags}", gpa = in(reg) &gpa, flags = out(reg) flags) };
            outcome(flags)
        }
    )*};
}

with_pointer! {
    /// `VMCLEAR`.
    vmclear: "vmclear [{gpa}]";
    /// `VMPTRLD`.
    vmptrld: "vmptrld [{gpa}]";
}

/// `VMXON`; a fault is a value.
pub fn vmxon(gpa: u64) -> Result<Result<(), VmFail>, Trap> {
    let flags: u64;
    // SAFETY: the region is the caller's; a fault resumes behind the instruction, with flags of no failure.
    let trap = unsafe {
        catching!("vmxon [{gpa}]; pushfq; pop {flags}", gpa = in(reg) &gpa, flags = out(reg) flags)
    };
    trap.map(|()| outcome(flags))
}

/// `VMXOFF`; a fault is a value.
pub fn vmxoff_safe() -> Result<(), Trap> {
    // SAFETY: a fault resumes behind the instruction.
    unsafe { catching!("vmxoff") }
}

/// `VMPTRST`: the current VMCS.
pub fn vmptrst() -> u64 {
    let mut gpa = 0_u64;
    // SAFETY: stores to a local variable.
    unsafe { asm!("vmptrst [{}]", in(reg) &raw mut gpa, options(nostack)) };
    gpa
}

/// `VMREAD`.
pub fn vmread(field: Field) -> Result<u64, VmFail> {
    let (value, flags): (u64, u64);
    // SAFETY: reads a field; the flags tell what came of it.
    unsafe {
        asm!(
            "vmread {value}, {field}",
            "pushfq",
            "pop {flags}",
            field = in(reg) u64::from(field.0), value = out(reg) value, flags = out(reg) flags
        );
    }
    match Rflags::from_bits_retain(flags) {
        flags if flags.contains(Rflags::CF) => Err(VmFail::Invalid),
        // The number cannot be read if the field of it cannot.
        flags if flags.contains(Rflags::ZF) && field == Field::VM_INSTRUCTION_ERROR => {
            Err(VmFail::Valid(0))
        }
        _ => outcome(flags).map(|()| value),
    }
}

/// `VMWRITE`.
pub fn vmwrite(field: Field, value: u64) -> Result<(), VmFail> {
    let flags: u64;
    // SAFETY: writes a field of the current VMCS; the flags tell what came of it.
    unsafe {
        asm!(
            "vmwrite {field}, {value}",
            "pushfq",
            "pop {flags}",
            field = in(reg) u64::from(field.0), value = in(reg) value, flags = out(reg) flags
        );
    }
    outcome(flags)
}
