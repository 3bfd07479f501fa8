//! Registers, MSRs and single instructions. `*_safe` gives a fault as a value; without it, a fault
//! ends the test.
#![expect(unsafe_code, reason = "privileged instructions; the guest's registers are its own")]

use core::arch::{asm, x86_64};

use defs::x86::cpuid::Feature;
use defs::x86::rflags::Rflags;

use super::frame::{Trap, catching};

/// The stack pointer.
#[inline(always)]
pub fn stack_pointer() -> u64 {
    let rsp: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rsp", out(reg) rsp, options(nomem, nostack, preserves_flags)) };
    rsp
}

/// Program counter, stack pointer and frame pointer of the caller.
#[inline(always)]
pub fn here() -> [u64; 3] {
    let (rip, rsp, rbp): (u64, u64, u64);
    // SAFETY: reads registers.
    unsafe {
        asm!("lea {}, [rip]", "mov {}, rsp", "mov {}, rbp", out(reg) rip, out(reg) rsp, out(reg) rbp, options(nomem, nostack, preserves_flags));
    }
    [rip, rsp, rbp]
}

/// `PAUSE`.
pub fn relax() {
    core::hint::spin_loop();
}

/// Stops this vCPU for good.
pub fn halt_forever() -> ! {
    loop {
        // SAFETY: stops the vCPU.
        unsafe { asm!("cli", "hlt") };
    }
}

macro_rules! plain_instructions {
    ($($(#[$doc:meta])* $name:ident: $insn:literal;)*) => {$(
        $(#[$doc])*
        pub fn $name() {
            // SAFETY: the guest's own CPU state.
            unsafe { asm!($insn) };
        }
    )*};
}

plain_instructions! {
    /// `HLT`.
    hlt: "hlt";
    /// `STI`, and the instruction that it shadows.
    sti: "sti; nop";
    /// `CLI`.
    cli: "cli";
    /// `STI; HLT`: no interrupt can come between the two.
    sti_hlt: "sti; hlt";
    /// `INT3`.
    int3: "int3";
    /// `UD2`, without the compiler knowing that it ends the function.
    ud2: "ud2";
    /// `MFENCE`.
    mfence: "mfence";
    /// `WBINVD`.
    wbinvd: "wbinvd";
}

/// Runs `f` with maskable interrupts off, and puts RFLAGS.IF back.
pub fn without_interrupts<R>(f: impl FnOnce() -> R) -> R {
    let enabled = Rflags::from_bits_retain(rflags()).contains(Rflags::IF);
    if enabled {
        cli();
    }
    let result = f();
    if enabled {
        sti();
    }
    result
}

/// RFLAGS.
pub fn rflags() -> u64 {
    let value: u64;
    // SAFETY: reads a register.
    unsafe { asm!("pushfq", "pop {}", out(reg) value) };
    value
}

/// Sets RFLAGS.
pub fn set_rflags(value: u64) {
    // SAFETY: the guest's own flags.
    unsafe { asm!("push {}", "popfq", in(reg) value) };
}

/// Takes a trap with an empty IDT: #DF cannot be delivered either, and the CPU shuts down.
pub fn triple_fault() {
    let no_idt = [0_u64; 2];
    // SAFETY: ends the VM.
    unsafe { asm!("lidt [{}]", "ud2", in(reg) &no_idt) };
}

/// `CPUID` of a leaf and subleaf: EAX, EBX, ECX, EDX.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let r = x86_64::__cpuid_count(leaf, subleaf);
    [r.eax, r.ebx, r.ecx, r.edx]
}

/// Whether CPUID shows a feature.
pub fn cpuid_has(feature: Feature) -> bool {
    feature.is_set(cpuid(feature.leaf, feature.subleaf))
}

/// `RDTSC`.
pub fn rdtsc() -> u64 {
    // SAFETY: every x86_64 CPU has it.
    unsafe { x86_64::_rdtsc() }
}

/// `RDTSC` that waits for all earlier instructions.
pub fn rdtsc_ordered() -> u64 {
    // SAFETY: every x86_64 CPU has both.
    unsafe {
        x86_64::_mm_lfence();
        x86_64::_rdtsc()
    }
}

/// `RDMSR`.
pub fn rdmsr(index: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the guest's own MSRs.
    unsafe { asm!("rdmsr", in("ecx") index, out("eax") low, out("edx") high, options(nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// `WRMSR`.
pub fn wrmsr(index: u32, value: u64) {
    // SAFETY: the guest's own MSRs.
    unsafe {
        asm!("wrmsr", in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack))
    };
}

/// `RDMSR`; a fault is a value.
pub fn rdmsr_safe(index: u32) -> Result<u64, Trap> {
    let (low, high): (u32, u32);
    // SAFETY: a fault resumes behind the instruction.
    let trap = unsafe { catching!("rdmsr", in("ecx") index, out("eax") low, out("edx") high) };
    trap.map(|()| u64::from(high) << 32 | u64::from(low))
}

/// `WRMSR`; a fault is a value.
pub fn wrmsr_safe(index: u32, value: u64) -> Result<(), Trap> {
    // SAFETY: a fault resumes behind the instruction.
    unsafe {
        catching!("wrmsr", in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32)
    }
}

/// `XGETBV`; a fault is a value.
pub fn xgetbv_safe(index: u32) -> Result<u64, Trap> {
    let (low, high): (u32, u32);
    // SAFETY: a fault resumes behind the instruction.
    let trap = unsafe { catching!("xgetbv", in("ecx") index, out("eax") low, out("edx") high) };
    trap.map(|()| u64::from(high) << 32 | u64::from(low))
}

/// `XSETBV`; a fault is a value.
pub fn xsetbv_safe(index: u32, value: u64) -> Result<(), Trap> {
    // SAFETY: a fault resumes behind the instruction.
    unsafe {
        catching!("xsetbv", in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32)
    }
}

/// `UD2`, as a value: shows that the fault path itself works.
pub fn ud2_safe() -> Result<(), Trap> {
    // SAFETY: the fault resumes behind the instruction.
    unsafe { catching!("ud2") }
}

/// `RSM`, outside system management mode: there it would not come back.
pub fn rsm_safe() -> Result<(), Trap> {
    // SAFETY: the fault resumes behind the instruction.
    unsafe { catching!("rsm") }
}

macro_rules! control_registers {
    ($($(#[$doc:meta])* $read:ident $write:ident $write_safe:ident $reg:literal;)*) => {$(
        $(#[$doc])*
        pub fn $read() -> u64 {
            let value: u64;
            // SAFETY: reads a register.
            unsafe { asm!(concat!("mov {}, ", $reg), out(reg) value, options(nostack, preserves_flags)) };
            value
        }

        #[doc = concat!("Writes ", $reg, ".")]
        pub fn $write(value: u64) {
            // SAFETY: the guest's own registers.
            unsafe { asm!(concat!("mov ", $reg, ", {}"), in(reg) value, options(nostack, preserves_flags)) };
        }

        #[doc = concat!("Writes ", $reg, "; a fault is a value.")]
        pub fn $write_safe(value: u64) -> Result<(), Trap> {
            // SAFETY: a fault resumes behind the instruction.
            unsafe { catching!(concat!("mov ", $reg, ", {value}"), value = in(reg) value) }
        }
    )*};
}

control_registers! {
    /// Reads CR0.
    read_cr0 write_cr0 write_cr0_safe "cr0";
    /// Reads CR2.
    read_cr2 write_cr2 write_cr2_safe "cr2";
    /// Reads CR3.
    read_cr3 write_cr3 write_cr3_safe "cr3";
    /// Reads CR4.
    read_cr4 write_cr4 write_cr4_safe "cr4";
    /// Reads CR8.
    read_cr8 write_cr8 write_cr8_safe "cr8";
    /// Reads DR0.
    read_dr0 write_dr0 write_dr0_safe "dr0";
    /// Reads DR1.
    read_dr1 write_dr1 write_dr1_safe "dr1";
    /// Reads DR2.
    read_dr2 write_dr2 write_dr2_safe "dr2";
    /// Reads DR3.
    read_dr3 write_dr3 write_dr3_safe "dr3";
    /// Reads DR6.
    read_dr6 write_dr6 write_dr6_safe "dr6";
    /// Reads DR7.
    read_dr7 write_dr7 write_dr7_safe "dr7";
}

/// `INVLPG`.
pub fn invlpg(gva: u64) {
    // SAFETY: drops a translation.
    unsafe { asm!("invlpg [{}]", in(reg) gva, options(nostack, preserves_flags)) };
}
