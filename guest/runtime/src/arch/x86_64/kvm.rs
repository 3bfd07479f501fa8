//! KVM's paravirtual interface: CPUID leaves, MSRs, hypercalls and the clock page
//! (Documentation/virt/kvm/x86/{cpuid,msr,hypercalls}.rst).
#![expect(unsafe_code, reason = "hypercall instructions")]

use defs::x86::cpuid::{leaf, vendor};

use super::cpu;
use super::trap::{Trap, catching};

/// Hypercall instructions; which one a CPU has is told by its vendor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hypercall {
    /// Intel.
    Vmcall,
    /// AMD.
    Vmmcall,
}

impl Hypercall {
    /// The instruction of this CPU's vendor (CPUID leaf 0).
    pub fn of_this_cpu() -> Self {
        match vendor::name(cpu::cpuid(leaf::VENDOR, 0)) {
            vendor::AMD | vendor::HYGON => Self::Vmmcall,
            _ => Self::Vmcall,
        }
    }

    /// Makes hypercall `nr` with four arguments; the result is RAX.
    pub fn call(self, nr: u64, args: [u64; 4]) -> Result<u64, Trap> {
        let mut rax = nr;
        // SAFETY: a fault resumes behind the instruction; RBX is saved because LLVM reserves it.
        let trap = unsafe {
            match self {
                Self::Vmcall => catching!(
                    "xchg rbx, {b}; vmcall; xchg rbx, {b}", b = inout(reg) args[0] => _,
                    inout("rax") rax, in("rcx") args[1], in("rdx") args[2], in("rsi") args[3]
                ),
                Self::Vmmcall => catching!(
                    "xchg rbx, {b}; vmmcall; xchg rbx, {b}", b = inout(reg) args[0] => _,
                    inout("rax") rax, in("rcx") args[1], in("rdx") args[2], in("rsi") args[3]
                ),
            }
        };
        trap.map(|()| rax)
    }
}

/// The clock page (`struct pvclock_vcpu_time_info`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "msr.rst names and explains the fields")]
pub struct PvClock {
    pub version: u32,
    pub pad0: u32,
    pub tsc_timestamp: u64,
    pub system_time: u64,
    pub tsc_to_system_mul: u32,
    pub tsc_shift: i8,
    pub flags: u8,
    pub pad: [u8; 2],
}

/// Reads after which a page that KVM seems to be writing is given up: an update takes as long as two.
const PATIENCE: u32 = 10_000;

impl PvClock {
    /// Reads the page at `gva` by the seqcount protocol.
    ///
    /// # Panics
    /// The page is never consistent.
    pub fn read(gva: u64) -> Self {
        for _ in 0..PATIENCE {
            let before: u32 = super::memory::peek(gva);
            let clock: Self = super::memory::peek(gva);
            let after: u32 = super::memory::peek(gva);
            if before & 1 == 0 && before == after {
                return Self { version: before, ..clock };
            }
            cpu::relax();
        }
        panic!("the clock page at {gva:#x} is never consistent");
    }

    /// Nanoseconds at TSC value `tsc`.
    pub fn time_at(&self, tsc: u64) -> u64 {
        let delta = tsc.wrapping_sub(self.tsc_timestamp);
        let delta =
            if self.tsc_shift >= 0 { delta << self.tsc_shift } else { delta >> -self.tsc_shift };
        let ns = (u128::from(delta) * u128::from(self.tsc_to_system_mul)) >> 32;
        self.system_time.wrapping_add(ns as u64)
    }
}
