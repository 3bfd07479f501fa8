//! Everything that differs between architectures. Each supplies the names re-exported here.

#[cfg(target_arch = "x86_64")]
pub mod x86_64;
#[cfg(target_arch = "x86_64")]
use x86_64 as this;

#[cfg(target_arch = "aarch64")]
pub mod aarch64;
#[cfg(target_arch = "aarch64")]
use aarch64 as this;

#[cfg(target_arch = "riscv64")]
pub mod riscv64;
#[cfg(target_arch = "riscv64")]
use riscv64 as this;

#[cfg(target_arch = "s390x")]
pub mod s390x;
#[cfg(target_arch = "s390x")]
use s390x as this;

#[cfg(target_arch = "powerpc64")]
pub mod ppc64le;
#[cfg(target_arch = "powerpc64")]
use ppc64le as this;

#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "powerpc64",
    target_arch = "riscv64",
    target_arch = "s390x"
)))]
compile_error!("the guest runtime does not know this architecture yet");

pub use this::cpu::{halt_forever, here, relax, stack_pointer, without_interrupts};
pub use this::entry::init_cpu;
#[cfg(kvm_guest)]
pub(crate) use this::memory::{copy_forward, fill};
pub use this::mmu;
pub(crate) use this::mmu::protect_stacks;
pub use this::trap::{Trap, TrapFrame};
pub use this::ucall::ring_doorbell;
