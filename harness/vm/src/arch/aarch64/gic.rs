//! The in-kernel interrupt controller (Documentation/virt/kvm/devices/arm-vgic*.rst).

use std::sync::OnceLock;

use defs::aarch64::gic::gicc::CpuInterface;
use defs::aarch64::its::gits;
use defs::aarch64::mmio::Register;
use defs::aarch64::sysreg::SysReg;
use guest_protocol::layout::aarch64 as map;
use kvm_bindings::{
    KVM_DEV_ARM_VGIC_CTRL_INIT, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_DEV_ARM_VGIC_GRP_CPU_REGS,
    KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_GRP_DIST_REGS,
    KVM_DEV_ARM_VGIC_GRP_ITS_REGS, KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, KVM_DEV_ARM_VGIC_GRP_NR_IRQS,
    KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES, KVM_VGIC_ITS_ADDR_TYPE,
    KVM_VGIC_V2_ADDR_TYPE_CPU, KVM_VGIC_V2_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_DIST,
    KVM_VGIC_V3_ADDR_TYPE_REDIST, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS,
    kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
};
use kvm_ioctls::VmFd;
use nix::errno::Errno;

use super::device::{Device, Number};
use crate::failure::{Failure, TestResult};
use crate::{Ioctl, Vm};

/// Architecture version of an interrupt controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GicVersion {
    /// GICv2.
    V2,
    /// GICv3.
    V3,
}

impl GicVersion {
    /// `KVM_DEV_TYPE_ARM_VGIC_V2` or `_V3`.
    pub fn device_type(self) -> u32 {
        match self {
            Self::V2 => kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2,
            Self::V3 => kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
        }
    }

    /// Whether KVM offers it on this host.
    pub(super) fn offered(self, vm: &VmFd) -> bool {
        Device::offered(vm, self.device_type())
    }

    /// What a test that needs it and has not got it is skipped for.
    fn requirement(self) -> &'static str {
        match self {
            Self::V2 => crate::requirement::aarch64::GICV2.name,
            Self::V3 => crate::requirement::aarch64::GICV3.name,
        }
    }
}

/// An interrupt controller device of a VM, at the places of the layout.
#[derive(Debug)]
pub struct Gic {
    device: Device,
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
    /// KVM refuses; a version that it does not offer is a skip.
    pub fn create(vm: &Vm, version: GicVersion) -> TestResult<Self> {
        let gic = Self::without_addresses(vm, version)?;
        let places = match version {
            GicVersion::V2 => {
                [(KVM_VGIC_V2_ADDR_TYPE_DIST, map::GICD), (KVM_VGIC_V2_ADDR_TYPE_CPU, map::GICC)]
            }
            GicVersion::V3 => {
                [(KVM_VGIC_V3_ADDR_TYPE_DIST, map::GICD), (KVM_VGIC_V3_ADDR_TYPE_REDIST, map::GICR)]
            }
        };
        for (kind, address) in places {
            gic.device
                .set(KVM_DEV_ARM_VGIC_GRP_ADDR, kind.into(), address)
                .ioctl("KVM_SET_DEVICE_ATTR(KVM_DEV_ARM_VGIC_GRP_ADDR)")?;
        }
        Ok(gic)
    }

    /// Creates the device, and leaves it to the test where its registers are.
    ///
    /// # Errors
    ///
    /// KVM refuses; a version that it does not offer is a skip.
    pub fn without_addresses(vm: &Vm, version: GicVersion) -> TestResult<Self> {
        if !version.offered(vm.fd()) {
            return Err(Failure::Skip(version.requirement().into()));
        }
        let device = Device::create(vm, version.device_type()).ioctl("KVM_CREATE_DEVICE(VGIC)")?;
        Ok(Self::of(device, version))
    }

    /// The interrupt controller that a device is.
    pub(crate) fn of(device: Device, version: GicVersion) -> Self {
        Self { device, version, initialized: OnceLock::new() }
    }

    /// Its version.
    pub fn version(&self) -> GicVersion {
        self.version
    }

    /// Its attributes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Writes the pending bits of LPIs to guest memory.
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn save_pending_tables(&self) -> TestResult {
        self.device
            .set_at(KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES.into(), 0)
            .ioctl("KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES")
    }

    /// Sets the number of interrupts, before [`Gic::init`].
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn set_nr_irqs(&self, nr_irqs: u32) -> Result<(), Errno> {
        self.device.set(KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, nr_irqs)
    }

    /// Initializes the device once all vCPUs are there; the first KVM_RUN does it by itself.
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn init(&self) -> TestResult {
        let mut result = Ok(());
        self.initialized.get_or_init(|| {
            result = self.try_init().ioctl("KVM_SET_DEVICE_ATTR(KVM_DEV_ARM_VGIC_CTRL_INIT)");
        });
        result
    }

    /// `KVM_DEV_ARM_VGIC_CTRL_INIT`.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn try_init(&self) -> Result<(), Errno> {
        self.device.set_at(KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT.into(), 0)
    }

    /// A register of the distributor, as vCPU 0 sees it.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn dist(&self, offset: u64) -> Result<u32, Errno> {
        self.device.get(KVM_DEV_ARM_VGIC_GRP_DIST_REGS, offset)
    }

    /// Sets a register of the distributor.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn set_dist(&self, offset: u64, value: u32) -> Result<(), Errno> {
        self.device.set(KVM_DEV_ARM_VGIC_GRP_DIST_REGS, offset, value)
    }

    /// The 32 bits at `offset` of the private part of vCPU `vcpu`: of its redistributor (GICv3), or of
    /// its view of the distributor (GICv2).
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn private(&self, vcpu: u32, offset: u64) -> Result<u32, Errno> {
        let (group, attr) = self.private_attr(vcpu, offset);
        self.device.get(group, attr)
    }

    /// Sets them.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn set_private(&self, vcpu: u32, offset: u64, value: u32) -> Result<(), Errno> {
        let (group, attr) = self.private_attr(vcpu, offset);
        self.device.set(group, attr, value)
    }

    fn private_attr(&self, vcpu: u32, offset: u64) -> (u32, u64) {
        let group = match self.version {
            GicVersion::V2 => KVM_DEV_ARM_VGIC_GRP_DIST_REGS,
            GicVersion::V3 => KVM_DEV_ARM_VGIC_GRP_REDIST_REGS,
        };
        (group, of_vcpu(vcpu, offset))
    }

    /// A register of vCPU `vcpu`'s CPU interface (GICv2).
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn cpu_register(
        &self,
        vcpu: u32,
        register: Register<CpuInterface, u32>,
    ) -> Result<u32, Errno> {
        self.device.get(KVM_DEV_ARM_VGIC_GRP_CPU_REGS, of_vcpu(vcpu, register.offset()))
    }

    /// Sets it.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn set_cpu_register(
        &self,
        vcpu: u32,
        register: Register<CpuInterface, u32>,
        value: u32,
    ) -> Result<(), Errno> {
        self.device.set(KVM_DEV_ARM_VGIC_GRP_CPU_REGS, of_vcpu(vcpu, register.offset()), value)
    }

    /// A system register of vCPU `vcpu`'s CPU interface (GICv3).
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn cpu_sysreg(&self, vcpu: u32, register: &SysReg) -> Result<u64, Errno> {
        self.device.get(KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, of_vcpu(vcpu, register.instruction()))
    }

    /// Sets it.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn set_cpu_sysreg(&self, vcpu: u32, register: &SysReg, value: u64) -> Result<(), Errno> {
        let attr = of_vcpu(vcpu, register.instruction());
        self.device.set(KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, attr, value)
    }

    /// The levels of the 32 lines from `intid` on, which is a multiple of 32 (GICv3).
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn line_levels(&self, vcpu: u32, intid: u32) -> Result<u32, Errno> {
        self.device.get(KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, of_vcpu(vcpu, intid.into()))
    }

    /// Sets them.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn set_line_levels(&self, vcpu: u32, intid: u32, levels: u32) -> Result<(), Errno> {
        self.device.set(KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, of_vcpu(vcpu, intid.into()), levels)
    }
}

/// An attribute of vCPU `vcpu`: KVM makes the lowest field of its affinity of the index's lowest 4 bits,
/// and the next one of the 8 above them.
pub(super) fn of_vcpu(vcpu: u32, attr: u64) -> u64 {
    let affinity = vcpu & 0xf | vcpu >> 4 << 8;
    u64::from(affinity) << 32 | attr
}

/// The interrupt translation service of a VM with a GICv3, at the place of the layout.
#[derive(Debug)]
pub struct Its(Device);

impl Its {
    /// Creates the device; [`Its::init`] waits for the GIC's.
    ///
    /// # Errors
    ///
    /// KVM refuses; none to be had is a skip.
    pub fn create(vm: &Vm) -> TestResult<Self> {
        let its = Self::without_address(vm)?;
        its.0
            .set(KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_ITS_ADDR_TYPE.into(), map::ITS)
            .ioctl("KVM_SET_DEVICE_ATTR(KVM_VGIC_ITS_ADDR_TYPE)")?;
        Ok(its)
    }

    /// Creates the device, and leaves it to the test where its registers are.
    ///
    /// # Errors
    ///
    /// KVM refuses; none to be had is a skip.
    pub fn without_address(vm: &Vm) -> TestResult<Self> {
        match Device::create(vm, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS) {
            Err(Errno::ENODEV) => Err(Failure::Skip("an in-kernel ITS".into())),
            device => device.map(Self).ioctl("KVM_CREATE_DEVICE(ITS)"),
        }
    }

    /// The interrupt translation service that a device is.
    pub(crate) fn of(device: Device) -> Self {
        Self(device)
    }

    /// Initializes it.
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn init(&self) -> TestResult {
        self.control(KVM_DEV_ARM_VGIC_CTRL_INIT)
            .ioctl("KVM_SET_DEVICE_ATTR(KVM_DEV_ARM_VGIC_CTRL_INIT) of the ITS")
    }

    /// Its attributes.
    pub fn device(&self) -> &Device {
        &self.0
    }

    /// An attribute of KVM_DEV_ARM_VGIC_GRP_CTRL.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn control(&self, attr: u32) -> Result<(), Errno> {
        self.0.set_at(KVM_DEV_ARM_VGIC_GRP_CTRL, attr.into(), 0)
    }

    /// A register; the API has all of them as 64 bits.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn register<T: Number>(&self, register: Register<gits::Its, T>) -> Result<u64, Errno> {
        self.0.get(KVM_DEV_ARM_VGIC_GRP_ITS_REGS, register.offset())
    }

    /// Sets it.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn set_register<T: Number>(
        &self,
        register: Register<gits::Its, T>,
        value: u64,
    ) -> Result<(), Errno> {
        self.0.set(KVM_DEV_ARM_VGIC_GRP_ITS_REGS, register.offset(), value)
    }
}
