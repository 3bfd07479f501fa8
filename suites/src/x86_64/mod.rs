//! x86_64.

pub mod cpu;
pub mod exits;
pub mod hyperv;
pub mod irq;
pub mod memory;
pub mod modules;
pub mod nested;
pub mod pmu;
pub mod pv;
pub mod selftest;
pub mod smm;
pub(crate) mod support;
pub mod time;
pub mod uapi_bounds;

/// What test files of this architecture import beside the common prelude.
pub mod prelude {
    pub use defs::x86::cr::{Cr0, Cr4, Efer};
    pub use defs::x86::exception::vector;
    pub use defs::x86::paging::Pte;
    pub use defs::x86::rflags::Rflags;
    pub use defs::x86::{cpuid, kvm_pv, msr};
    pub use guest_runtime::arch::x86_64::apic::{self, Apic};
    pub use guest_runtime::arch::x86_64::cpu::*;
    pub use guest_runtime::arch::x86_64::kvm::{Hypercall, pv_features, read_clock};
    pub use guest_runtime::arch::x86_64::memory::{read_safe, write_safe};
    pub use guest_runtime::arch::x86_64::port::*;
    pub use guest_runtime::arch::x86_64::{hyperv, insn, insn_table, ioapic, mmu, modes, user};
    pub use guest_runtime::nested::svm::{self, Svm};
    pub use guest_runtime::nested::vmx::{self, Vmx};
}
