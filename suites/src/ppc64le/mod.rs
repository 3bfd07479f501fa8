//! ppc64le.

pub mod cpu;
pub mod debug;

/// What test files of this architecture import beside the common prelude.
pub mod prelude {
    pub use guest_runtime::arch::ppc64le::cpu::*;
    pub use guest_runtime::arch::ppc64le::hcall;
    pub use guest_runtime::arch::ppc64le::memory::{read_safe, write_safe};
    pub use guest_runtime::arch::ppc64le::trap::{SRR1_ILLEGAL, SRR1_TRAP, vector};

    #[cfg(not(kvm_guest))]
    pub use vm::arch::reg;
}
