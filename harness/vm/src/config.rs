//! What a VM is made of.

use std::fmt;
use std::sync::Arc;

use guest_protocol::layout;

use crate::arch;
use crate::failure::{Failure, TestResult};

/// Which interrupt controller the VM gets before its first vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Irqchip {
    /// None: HLT exits to userspace.
    #[default]
    None,
    /// All of it in the kernel; aarch64: the newest GIC that KVM offers.
    Kernel,
    /// x86: local APICs in the kernel, the rest in userspace (`KVM_CAP_SPLIT_IRQCHIP`).
    Split,
    /// aarch64: a GIC of this version.
    #[cfg(target_arch = "aarch64")]
    Gic(arch::GicVersion),
}

/// A capability to enable, and its arguments.
pub type Capability = (u32, [u64; 4]);

type VcpuEdit = Arc<dyn Fn(&mut arch::VcpuConfig) + Send + Sync>;

/// What a VM is made of: by default RAM of [`layout::DEFAULT_RAM_SIZE`], room for
/// [`layout::DEFAULT_VCPUS`] vCPUs that have everything KVM supports, and no interrupt controller.
///
/// ```
/// use vm::{Irqchip, VmConfig};
/// let config = VmConfig::new().irqchip(Irqchip::Kernel).ram(64 << 20).vcpus(3);
/// ```
#[derive(Clone, Default)]
pub struct VmConfig {
    pub(crate) irqchip: Irqchip,
    pub(crate) caps: Vec<Capability>,
    ram: Option<u64>,
    vcpus: Option<u32>,
    #[cfg(target_arch = "aarch64")]
    pub(crate) has_pmu: bool,
    vcpu_edits: Vec<VcpuEdit>,
}

impl fmt::Debug for VmConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VmConfig")
            .field("irqchip", &self.irqchip)
            .field("caps", &self.caps)
            .field("ram", &self.ram_size())
            .field("vcpus", &self.nr_vcpus())
            .finish_non_exhaustive()
    }
}

impl VmConfig {
    /// The default.
    pub fn new() -> Self {
        Self::default()
    }

    /// With this interrupt controller.
    #[must_use]
    pub fn irqchip(mut self, irqchip: Irqchip) -> Self {
        self.irqchip = irqchip;
        self
    }

    /// With capability `cap` enabled, before the interrupt controller and the first vCPU are made.
    #[must_use]
    pub fn enable(mut self, cap: u32, args: [u64; 4]) -> Self {
        self.caps.push((cap, args));
        self
    }

    /// With at least `bytes` of RAM. The guest reads the size by `Guest::ram_size`.
    #[must_use]
    pub fn ram(mut self, bytes: u64) -> Self {
        self.ram = Some(bytes);
        self
    }

    /// With room for `number` vCPUs that run guest functions. Areas for more than
    /// [`layout::DEFAULT_VCPUS`] take RAM behind the default one.
    #[must_use]
    pub fn vcpus(mut self, number: u32) -> Self {
        self.vcpus = Some(number);
        self
    }

    /// With vCPUs changed by `edit`: on x86 their CPUID, on aarch64 and riscv64 their features.
    #[must_use]
    pub fn vcpu(mut self, edit: impl Fn(&mut arch::VcpuConfig) + Send + Sync + 'static) -> Self {
        self.vcpu_edits.push(Arc::new(edit));
        self
    }

    /// vCPUs that can run guest functions.
    pub fn nr_vcpus(&self) -> u32 {
        self.vcpus.unwrap_or(layout::DEFAULT_VCPUS as u32)
    }

    /// Bytes of RAM.
    pub fn ram_size(&self) -> u64 {
        let asked = self.ram.unwrap_or(layout::DEFAULT_RAM_SIZE);
        let last = u64::from(self.nr_vcpus().max(1)) - 1;
        asked.max(layout::vcpu_area(last) + layout::VCPU_AREA_SIZE)
    }

    /// What new vCPUs are made of.
    pub(crate) fn vcpu_config(&self, default: arch::VcpuConfig) -> arch::VcpuConfig {
        let mut config = default;
        self.vcpu_edits.iter().for_each(|edit| edit(&mut config));
        config
    }

    /// Refuses what the guest-physical map has no room for.
    pub(crate) fn check(&self) -> TestResult {
        let (ram, vcpus) = (self.ram_size(), u64::from(self.nr_vcpus()));
        if vcpus > arch::MAX_VCPUS {
            return Err(Failure::Error(format!(
                "{vcpus} vCPUs: the guest-physical map has room for {}",
                arch::MAX_VCPUS
            )));
        }
        if ram > arch::MAX_RAM || !ram.is_multiple_of(layout::PAGE_SIZE) {
            return Err(Failure::Error(format!(
                "{ram:#x} bytes of RAM: the guest-physical map has room for whole pages up to {:#x}",
                arch::MAX_RAM
            )));
        }
        Ok(())
    }
}

impl From<&Self> for VmConfig {
    fn from(config: &Self) -> Self {
        config.clone()
    }
}

impl From<Irqchip> for VmConfig {
    fn from(irqchip: Irqchip) -> Self {
        Self::new().irqchip(irqchip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_holds_the_areas_of_all_vcpus() {
        let high = |config: &VmConfig| config.ram_size() - layout::DEFAULT_RAM_SIZE;
        assert_eq!(high(&VmConfig::new()), 0);
        assert_eq!(high(&VmConfig::new().vcpus(16)), 0);
        assert_eq!(high(&VmConfig::new().vcpus(18)), 2 * layout::VCPU_AREA_SIZE);
        assert_eq!(high(&VmConfig::new().vcpus(18).ram(64 << 20)), 48 << 20);
    }

    #[test]
    fn what_the_map_has_no_room_for_is_refused() {
        assert!(VmConfig::new().vcpus(64).ram(64 << 20).check().is_ok());
        for config in [
            VmConfig::new().vcpus(arch::MAX_VCPUS as u32 + 1),
            VmConfig::new().ram(arch::MAX_RAM + layout::PAGE_SIZE),
            VmConfig::new().ram(layout::DEFAULT_RAM_SIZE + 1),
        ] {
            assert!(matches!(config.check(), Err(Failure::Error(_))), "{config:?}");
        }
    }
}
