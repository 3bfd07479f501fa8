//! Requirements as data: what a test needs of the host, and how a skip names it.

#[cfg(target_arch = "aarch64")]
pub mod aarch64;
pub mod cap;
pub mod cpu;
pub mod host;
#[cfg(target_arch = "riscv64")]
pub mod riscv64;

use results::HostFacts;

/// Something that a host has or has not. Constants of this type live in [`cap`], [`cpu`] and
/// [`host`], so an unknown name does not compile.
#[derive(Clone, Copy, Debug)]
pub struct Requirement {
    /// What a skip prints, such as `KVM_CAP_ARM_PMU_V3` or `CPUID VMX`.
    pub name: &'static str,
    /// Whether this host has it.
    pub met: fn(&HostFacts) -> bool,
}

impl Requirement {
    /// Nothing.
    pub const NONE: Self = Self { name: "nothing", met: |_| true };
}
