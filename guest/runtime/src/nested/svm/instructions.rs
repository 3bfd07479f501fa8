//! The instructions of SVM one by one (APM vol. 3, "System Instruction Reference"); faults are values.
#![expect(unsafe_code, reason = "each function is one instruction on the guest's own state")]

use crate::Trap;
use crate::arch::x86_64::frame::catching;

macro_rules! instructions {
    ($($(#[$doc:meta])* $name:ident: $insn:literal;)*) => {$(
        $(#[$doc])*
        pub fn $name(vmcb: u64) -> Result<(), Trap> {
            // SAFETY: a fault resumes behind the instruction; the caller chose what is loaded or stored.
            unsafe { catching!($insn, inout("rax") vmcb => _) }
        }
    )*};
}

instructions! {
    /// `VMRUN`, where it is to fault.
    vmrun_safe: "vmrun rax";
    /// `VMLOAD`.
    vmload_safe: "vmload rax";
    /// `VMSAVE`.
    vmsave_safe: "vmsave rax";
    /// `SKINIT`, where it is to fault.
    skinit_safe: "skinit eax";
}

/// `STGI`.
pub fn stgi_safe() -> Result<(), Trap> {
    // SAFETY: the caller is ready for what was held back; a fault resumes behind the instruction.
    unsafe { catching!("stgi") }
}

/// `CLGI`.
pub fn clgi_safe() -> Result<(), Trap> {
    // SAFETY: a fault resumes behind the instruction.
    unsafe { catching!("clgi") }
}

/// `INVLPGA` of an address in an address space.
pub fn invlpga_safe(gva: u64, asid: u32) -> Result<(), Trap> {
    // SAFETY: drops translations; a fault resumes behind the instruction.
    unsafe { catching!("invlpga rax, ecx", in("rax") gva, in("ecx") asid) }
}

/// `VMMCALL`, where it is to fault.
pub fn vmmcall_safe(rax: u64) -> Result<u64, Trap> {
    let mut result = rax;
    // SAFETY: a hypervisor changes no register but RAX; a fault resumes behind the instruction.
    let trap = unsafe { catching!("vmmcall", inout("rax") result) };
    trap.map(|()| result)
}
