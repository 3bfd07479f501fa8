//! The in-kernel interrupt controller (Documentation/virt/kvm/devices/arm-vgic*.rst).

use std::mem::ManuallyDrop;
use std::sync::OnceLock;

use guest_protocol::layout::aarch64 as map;
use kvm_bindings::{
    KVM_CREATE_DEVICE_TEST, KVM_DEV_ARM_VGIC_CTRL_INIT, KVM_DEV_ARM_VGIC_GRP_ADDR,
    KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, KVM_VGIC_V2_ADDR_TYPE_CPU,
    KVM_VGIC_V2_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_REDIST,
    kvm_create_device, kvm_device_attr, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2,
    kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
};
use kvm_ioctls::{DeviceFd, VmFd};
use nix::errno::Errno;

use crate::kvm::{Ioctl, Vm};
use crate::outcome::{Failure, TestResult};

/// Architecture version of an interrupt controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GicVersion {
    /// GICv2.
    V2,
    /// GICv3.
    V3,
}

impl GicVersion {
    fn device(self, flags: u32) -> kvm_create_device {
        let type_ = match self {
            Self::V2 => kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2,
            Self::V3 => kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
        };
        kvm_create_device { type_, fd: 0, flags }
    }

    /// Whether KVM offers it on this host.
    pub(super) fn offered(self, vm: &VmFd) -> bool {
        let tested = vm.create_device(&mut self.device(KVM_CREATE_DEVICE_TEST));
        // A test makes no descriptor: what is wrapped is number 0, which is not ours to close.
        tested.map(ManuallyDrop::new).is_ok()
    }
}

/// An interrupt controller device of a VM, at the places of the layout.
#[derive(Debug)]
pub struct Gic {
    fd: DeviceFd,
    version: GicVersion,
    initialized: OnceLock<()>,
}

impl Gic {
    /// The newest one that KVM offers.
    pub(super) fn newest(vm: &Vm) -> TestResult<Self> {
        let version = [GicVersion::V3, GicVersion::V2].into_iter().find(|v| v.offered(vm.fd()));
        let version = version.ok_or_else(|| Failure::Skip("an in-kernel GIC".into()))?;
        Self::create(vm, version)
    }

    /// Creates the device; [`Gic::init`] waits for the vCPUs.
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn create(vm: &Vm, version: GicVersion) -> TestResult<Self> {
        let fd = vm.fd().create_device(&mut version.device(0)).ioctl("KVM_CREATE_DEVICE(VGIC)")?;
        let gic = Self { fd, version, initialized: OnceLock::new() };
        let places = match version {
            GicVersion::V2 => {
                [(KVM_VGIC_V2_ADDR_TYPE_DIST, map::GICD), (KVM_VGIC_V2_ADDR_TYPE_CPU, map::GICC)]
            }
            GicVersion::V3 => {
                [(KVM_VGIC_V3_ADDR_TYPE_DIST, map::GICD), (KVM_VGIC_V3_ADDR_TYPE_REDIST, map::GICR)]
            }
        };
        for (kind, mut address) in places {
            gic.set_attr(KVM_DEV_ARM_VGIC_GRP_ADDR, kind.into(), &mut address)
                .ioctl("KVM_SET_DEVICE_ATTR(KVM_DEV_ARM_VGIC_GRP_ADDR)")?;
        }
        Ok(gic)
    }

    /// Its version.
    pub fn version(&self) -> GicVersion {
        self.version
    }

    /// The wrapped descriptor.
    pub fn fd(&self) -> &DeviceFd {
        &self.fd
    }

    /// Sets the number of interrupts, before [`Gic::init`].
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn set_nr_irqs(&self, mut nr_irqs: u32) -> Result<(), Errno> {
        self.set_attr(KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, &mut nr_irqs)
    }

    /// Initializes the device once all vCPUs are there; the first KVM_RUN does it by itself.
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn init(&self) -> TestResult {
        let mut result = Ok(());
        self.initialized.get_or_init(|| {
            let attr = kvm_device_attr {
                group: KVM_DEV_ARM_VGIC_GRP_CTRL,
                attr: KVM_DEV_ARM_VGIC_CTRL_INIT.into(),
                ..Default::default()
            };
            result = self
                .fd
                .set_device_attr(&attr)
                .ioctl("KVM_SET_DEVICE_ATTR(KVM_DEV_ARM_VGIC_CTRL_INIT)");
        });
        result
    }

    /// `KVM_SET_DEVICE_ATTR` with a value in memory.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn set_attr<T>(&self, group: u32, attr: u64, value: &mut T) -> Result<(), Errno> {
        let attr = kvm_device_attr { group, attr, addr: &raw mut *value as u64, flags: 0 };
        self.fd.set_device_attr(&attr).map_err(|e| Errno::from_raw(e.errno()))
    }
}
