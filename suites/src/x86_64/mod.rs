//! x86_64.

pub mod ioeventfd;
pub mod irqfd;
pub mod irqfd_resample;
pub mod kvmclock;
pub mod pio;
pub mod pv_cpuid;
pub mod selftest;

/// What test files of this architecture import beside the common prelude.
pub mod prelude {
    pub use guest_runtime::arch::x86_64::apic::{self, Apic};
    pub use guest_runtime::arch::x86_64::cpu::*;
    pub use guest_runtime::arch::x86_64::kvm::{Hypercall, PvClock};
    pub use guest_runtime::arch::x86_64::memory::{read_safe, write_safe};
    pub use guest_runtime::arch::x86_64::port::*;
    pub use guest_runtime::arch::x86_64::trap::vector;
    pub use guest_runtime::arch::x86_64::{ioapic, mmu, user};
}
