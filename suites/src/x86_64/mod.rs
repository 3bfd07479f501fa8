//! x86_64.

pub mod debugregs;
pub mod dirty_log_pv;
pub mod pio;
pub mod registers;
pub mod selftest;
pub mod sregs;
pub mod sync_regs;
pub mod vcpu_events;
pub mod xsave;

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
