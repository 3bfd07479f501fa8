//! Attributes of a vCPU (Documentation/virt/kvm/devices/vcpu.rst) and of a VM.

use kvm_bindings::{
    KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_INIT, KVM_ARM_VCPU_PMU_V3_IRQ, kvm_device_attr,
};
use nix::errno::Errno;

use crate::kvm::{Vcpu, Vm};

fn errno(result: Result<(), kvm_ioctls::Error>) -> Result<(), Errno> {
    result.map_err(|e| Errno::from_raw(e.errno()))
}

impl Vcpu {
    /// `KVM_HAS_DEVICE_ATTR`.
    pub fn has_attr(&self, group: u32, attr: u32) -> bool {
        let attr = kvm_device_attr { group, attr: attr.into(), ..Default::default() };
        self.fd().has_device_attr(&attr).is_ok()
    }

    /// `KVM_SET_DEVICE_ATTR` with a value in memory.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn set_attr<T>(&self, group: u32, attr: u32, mut value: T) -> Result<(), Errno> {
        self.set_attr_at(group, attr, &raw mut value as u64)
    }

    /// `KVM_SET_DEVICE_ATTR` with an address as it is: the kernel's to refuse.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn set_attr_at(&self, group: u32, attr: u32, addr: u64) -> Result<(), Errno> {
        let attr = kvm_device_attr { group, attr: attr.into(), addr, flags: 0 };
        errno(self.fd().set_device_attr(&attr))
    }

    /// Gives the vCPU's PMU its interrupt: `KVM_ARM_VCPU_PMU_V3_IRQ`.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn set_pmu_irq(&self, intid: u32) -> Result<(), Errno> {
        self.set_attr(KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_IRQ, intid)
    }

    /// Makes the vCPU's PMU ready: `KVM_ARM_VCPU_PMU_V3_INIT`.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn init_pmu(&self) -> Result<(), Errno> {
        self.set_attr_at(KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_INIT, 0)
    }
}

impl Vm {
    /// `KVM_HAS_DEVICE_ATTR` on the VM.
    pub fn has_attr(&self, group: u32, attr: u32) -> bool {
        let attr = kvm_device_attr { group, attr: attr.into(), ..Default::default() };
        self.fd().has_device_attr(&attr).is_ok()
    }

    /// `KVM_SET_DEVICE_ATTR` on the VM with a value in memory.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn set_attr<T>(&self, group: u32, attr: u32, mut value: T) -> Result<(), Errno> {
        self.set_attr_at(group, attr, &raw mut value as u64)
    }

    /// `KVM_SET_DEVICE_ATTR` on the VM with an address as it is: the kernel's to refuse.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn set_attr_at(&self, group: u32, attr: u32, addr: u64) -> Result<(), Errno> {
        let attr = kvm_device_attr { group, attr: attr.into(), addr, flags: 0 };
        errno(self.fd().set_device_attr(&attr))
    }
}
