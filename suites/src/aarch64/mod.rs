//! aarch64.

pub mod cpu;
pub mod firmware;
pub mod gic;
pub mod memory;
pub mod nested;
pub mod pmu;
pub mod selftest;
pub mod spe;
pub(crate) mod support;
pub mod time;

/// What test files of this architecture import beside the common prelude.
pub mod prelude {
    pub use defs::aarch64::id::{dfr0, mmfr0, pfr0};
    pub use defs::aarch64::paging::Descriptor;
    pub use defs::aarch64::regs::{self, CURRENTEL_EL, Hcr, Sctlr, Spsr};
    pub use defs::aarch64::{esr, smccc};
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
