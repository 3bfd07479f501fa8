//! KVM's paravirtual interface as a guest uses it: hypercalls and the clock page
//! (Documentation/virt/kvm/x86/{cpuid,msr,hypercalls}.rst).
#![expect(unsafe_code, reason = "hypercall instructions")]

use defs::x86::cpuid::{leaf, vendor};
use defs::x86::kvm_pv::{self, Features, PvclockVcpuTimeInfo};

use super::cpu;
use super::frame::{Trap, catching};

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

/// The paravirtual features that CPUID shows.
pub fn pv_features() -> Features {
    Features::from_bits_retain(cpu::cpuid(kvm_pv::leaf::FEATURES, 0)[0])
}

/// Reads after which a page that KVM seems to be writing is given up: an update takes as long as two.
const PATIENCE: u32 = 10_000;

/// Reads the clock page at `gva` by the seqcount protocol.
///
/// # Panics
/// The page is never consistent.
pub fn read_clock(gva: u64) -> PvclockVcpuTimeInfo {
    for _ in 0..PATIENCE {
        let before: u32 = super::memory::peek(gva);
        let clock: PvclockVcpuTimeInfo = super::memory::peek(gva);
        let after: u32 = super::memory::peek(gva);
        if before & 1 == 0 && before == after {
            return PvclockVcpuTimeInfo { version: before, ..clock };
        }
        cpu::relax();
    }
    panic!("the clock page at {gva:#x} is never consistent");
}
