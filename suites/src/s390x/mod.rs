//! s390x.

pub mod cpu;

/// What test files of this architecture import beside the common prelude.
pub mod prelude {
    pub use guest_runtime::arch::s390x::cpu::*;
    pub use guest_runtime::arch::s390x::memory::{read_safe, write_safe};
    pub use guest_runtime::arch::s390x::trap::vector;

    #[cfg(not(kvm_guest))]
    pub use vm::arch::reg;
}
