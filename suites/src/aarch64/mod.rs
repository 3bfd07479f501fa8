//! aarch64.

pub mod arch_timer;
pub mod gic;
pub mod hello;
pub mod pmu;
pub mod psci;
pub mod sysreg;

/// What test files of this architecture import beside the common prelude.
pub mod prelude {
    pub use guest_runtime::arch::aarch64::cpu::*;
    pub use guest_runtime::arch::aarch64::entry::psci_entry;
    pub use guest_runtime::arch::aarch64::gic::{Gic as GuestGic, gicc, gicd, gicr};
    pub use guest_runtime::arch::aarch64::memory::{mmio_read, mmio_write, read_safe, write_safe};
    pub use guest_runtime::arch::aarch64::sysreg::*;
    pub use guest_runtime::arch::aarch64::timer::{self, Timer};
    pub use guest_runtime::arch::aarch64::trap::vector;
    pub use guest_runtime::arch::aarch64::{gic, mmu, psci};

    #[cfg(not(kvm_guest))]
    pub use harness::arch::{Gic, GicVersion, VcpuFeatures, core_reg};
}
