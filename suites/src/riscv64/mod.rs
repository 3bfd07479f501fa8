//! riscv64.

pub mod cpu;
pub mod firmware;

/// What test files of this architecture import beside the common prelude.
pub mod prelude {
    pub use defs::riscv64::paging::Pte;
    pub use guest_runtime::arch::riscv64::cpu::*;
    pub use guest_runtime::arch::riscv64::memory::{read_safe, write_safe};
    pub use guest_runtime::arch::riscv64::trap::vector;
    pub use guest_runtime::arch::riscv64::{csr, mmu, sbi};

    #[cfg(not(kvm_guest))]
    pub use vm::arch::reg;
}
