//! x86_64.

mod absent_pages;
pub mod async_pf;
pub mod async_pf_msrs;
pub mod debugregs;
pub mod dirty_log_pv;
pub mod exit_latency;
pub mod exits;
pub mod hypercall_exits;
pub mod hyperv_clock;
pub mod hyperv_connections;
pub mod hyperv_cpuid;
pub mod hyperv_features;
pub mod hyperv_ipi;
pub mod hyperv_sint;
pub mod hyperv_stimer;
pub mod hyperv_stimer_messages;
pub mod hyperv_synic;
pub mod hyperv_tlb_flush;
pub mod ioeventfd;
pub mod ipi;
pub mod irqfd;
pub mod irqfd_resample;
pub mod kvmclock;
pub mod lapic;
pub mod mce;
pub mod mmio;
pub mod module;
pub mod msr_filter;
pub mod msr_lists;
pub mod pebs;
pub mod pio;
pub mod pit;
pub mod pmu;
pub mod pv_cpuid;
pub mod pv_eoi;
pub mod pv_ipi;
pub mod pv_tlb_flush;
pub mod registers;
pub mod selftest;
pub mod split_lock;
pub mod sregs;
pub mod steal_time;
pub mod sync_regs;
pub mod tlb_roots;
pub mod traps;
pub mod tsc;
pub mod uapi_bounds;
pub mod uapi_bounds_caps;
pub mod uapi_bounds_filters;
pub mod uapi_bounds_irq;
pub mod uapi_bounds_lists;
pub mod uapi_bounds_msrs;
pub mod uapi_bounds_vcpu;
pub mod userspace_msr;
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
    pub use guest_runtime::arch::x86_64::{hyperv, insn, ioapic, mmu, user};
}
