//! aarch64.

pub mod arch_timer;
pub mod gic_bench;
pub mod gic_groups;
pub mod gic_init;
pub mod gic_its;
pub mod gic_its_state;
pub mod gic_mmio;
pub mod gic_priority;
pub mod gic_save_restore;
pub mod gic_saved;
pub mod gic_state;
pub mod gic_targets;
pub mod hello;
pub mod pmu;
pub mod psci;
pub mod sysreg;

/// What test files of this architecture import beside the common prelude.
pub mod prelude {
    pub use guest_runtime::arch::aarch64::cpu::*;
    pub use guest_runtime::arch::aarch64::entry::psci_entry;
    pub use guest_runtime::arch::aarch64::gic::{Gic as GuestGic, Line, gicc, gicd, gicr};
    pub use guest_runtime::arch::aarch64::memory::{mmio_read, mmio_write, read_safe, write_safe};
    pub use guest_runtime::arch::aarch64::registers::{Bank, Block, Register};
    pub use guest_runtime::arch::aarch64::sysreg::*;
    pub use guest_runtime::arch::aarch64::timer::{self, Timer};
    pub use guest_runtime::arch::aarch64::trap::vector;
    pub use guest_runtime::arch::aarch64::{gic, its, mmu, psci};

    #[cfg(not(kvm_guest))]
    pub use harness::arch::{Device, Gic, GicVersion, Its, VcpuFeatures, core_reg};
}
