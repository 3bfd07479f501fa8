//! aarch64.

pub mod arch_timer;
pub mod arch_timer_uapi;
pub mod debug;
pub mod debug_guest;
pub mod el0;
pub mod gic_bench;
pub mod gic_groups;
pub mod gic_init;
pub mod gic_its;
pub mod gic_its_moves;
pub mod gic_its_state;
pub mod gic_mmio;
pub mod gic_priority;
pub mod gic_save_restore;
pub mod gic_saved;
pub mod gic_state;
pub mod gic_targets;
pub mod granule;
pub mod hello;
pub mod nested;
pub mod pmu;
pub mod pmu_chain;
pub mod pmu_cycles;
pub mod pmu_events;
pub mod pmu_filter;
pub mod pmu_migration;
pub mod pmu_overflow;
pub mod pmu_uapi;
pub mod psci;
pub mod psci_power;
pub mod selftest;
pub mod smccc;
pub mod smccc_filter;
pub mod spe;
pub mod spe_abi;
pub mod sysreg;
pub mod sysreg_masks;

/// What test files of this architecture import beside the common prelude.
pub mod prelude {
    pub use guest_runtime::arch::aarch64::cpu::*;
    pub use guest_runtime::arch::aarch64::entry::psci_entry;
    pub use guest_runtime::arch::aarch64::gic::{Gic as GuestGic, Line, gicc, gicd, gicr};
    pub use guest_runtime::arch::aarch64::memory::{mmio_read, mmio_write, read_safe, write_safe};
    pub use guest_runtime::arch::aarch64::registers::{Bank, Block, Register};
    pub use guest_runtime::arch::aarch64::sysreg::*;
    pub use guest_runtime::arch::aarch64::timer::{self, Timer, comes};
    pub use guest_runtime::arch::aarch64::trap::vector;
    pub use guest_runtime::arch::aarch64::user::{self, insn};
    pub use guest_runtime::arch::aarch64::{gic, granule, its, mmu, pmu, psci};
    pub use guest_runtime::nested::el2::{self, El2};

    #[cfg(not(kvm_guest))]
    pub use vm::arch::{Device, Gic, GicVersion, Its, VcpuFeatures, core_reg};
}
