//! x86_64.

pub mod ioeventfd;
pub mod mmio;
pub mod msr_filter;
pub mod msr_lists;
pub mod pio;
pub mod selftest;
pub mod uapi_bounds;
pub mod uapi_bounds_caps;
pub mod uapi_bounds_filters;
pub mod uapi_bounds_irq;
pub mod uapi_bounds_lists;
pub mod uapi_bounds_msrs;
pub mod uapi_bounds_vcpu;
pub mod userspace_msr;

/// What test files of this architecture import beside the common prelude.
pub mod prelude {
    pub use guest_runtime::arch::x86_64::apic::{self, Apic};
    pub use guest_runtime::arch::x86_64::cpu::*;
    pub use guest_runtime::arch::x86_64::kvm::{Hypercall, PvClock};
    pub use guest_runtime::arch::x86_64::memory::{read_safe, write_safe};
    pub use guest_runtime::arch::x86_64::port::*;
    pub use guest_runtime::arch::x86_64::trap::vector;
    pub use guest_runtime::arch::x86_64::{insn, ioapic, mmu, user};
}
