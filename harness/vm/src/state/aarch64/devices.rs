//! The devices of a VM, made again: the GIC, its regions, and ITSs (Documentation/virt/kvm/devices/
//! arm-vgic-its.rst, "ITS Restore Sequence").

use guest_runtime::arch::aarch64::its::gits;
use guest_runtime::arch::aarch64::registers::Register;
use kvm_bindings::{
    KVM_DEV_ARM_ITS_RESTORE_TABLES, KVM_DEV_ARM_ITS_SAVE_TABLES, KVM_DEV_ARM_VGIC_GRP_ADDR,
    KVM_VGIC_ITS_ADDR_TYPE, KVM_VGIC_V2_ADDR_TYPE_CPU, KVM_VGIC_V2_ADDR_TYPE_DIST,
    KVM_VGIC_V3_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_REDIST, KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION,
    kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS as ITS,
    kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2 as V2, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3 as V3,
};

use super::{ControlIs, GicState};
use crate::arch::{Device, Gic, GicVersion, Its};
use crate::failure::{Failure, TestResult};
use crate::state::{DeviceEntry, Parts};
use crate::{Ioctl, Vm};

/// No address was given.
const UNDEFINED: u64 = u64::MAX;

/// A device and its state.
#[derive(Clone, Debug)]
pub struct SavedDevice {
    kind: u32,
    /// Kind of address, and address.
    addresses: Vec<(u32, u64)>,
    state: DeviceState,
}

#[derive(Clone, Debug)]
enum DeviceState {
    Gic(GicState),
    Its(ItsState),
}

/// The state of an ITS; its tables are in guest memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItsState {
    iidr: u64,
    control: u64,
    /// Name and value of the others, in the order of [`registers`].
    registers: Vec<(&'static str, u64)>,
}

/// GITS_CBASER first, which resets GITS_CREADR; GITS_CWRITER behind that, so that no command is taken twice.
fn registers() -> Vec<(&'static str, Register<gits::Its, u64>)> {
    let fixed = [("CBASER", gits::CBASER), ("CREADR", gits::CREADR), ("CWRITER", gits::CWRITER)];
    let tables = (0..gits::NR_BASERS).map(|n| ("BASER", gits::baser(n)));
    fixed.into_iter().chain(tables).collect()
}

impl ItsState {
    /// Writes the tables to guest memory and reads the registers.
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn of(its: &Its) -> TestResult<Self> {
        its.control(KVM_DEV_ARM_ITS_SAVE_TABLES).ioctl("KVM_DEV_ARM_ITS_SAVE_TABLES")?;
        let read = |(name, register)| its.register(register).map(|value| (name, value)).ioctl(name);
        Ok(Self {
            iidr: its.register(gits::IIDR).ioctl("GITS_IIDR")?,
            control: its.register(gits::CTLR).ioctl("GITS_CTLR")?,
            registers: registers().into_iter().map(read).collect::<TestResult<_>>()?,
        })
    }

    /// Writes the registers and reads the tables from guest memory; GITS_IIDR, which says what these look
    /// like, before that, and GITS_CTLR, which enables the ITS, behind it.
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn restore(&self, its: &Its) -> TestResult {
        its.set_register(gits::IIDR, self.iidr).ioctl("GITS_IIDR")?;
        for ((name, register), (_, value)) in registers().into_iter().zip(&self.registers) {
            its.set_register(register, *value).ioctl(name)?;
        }
        its.control(KVM_DEV_ARM_ITS_RESTORE_TABLES).ioctl("KVM_DEV_ARM_ITS_RESTORE_TABLES")?;
        its.set_register(gits::CTLR, self.control).ioctl("GITS_CTLR")
    }
}

fn addresses(device: &Device, kind: u32) -> TestResult<Vec<(u32, u64)>> {
    let kinds: &[u32] = match kind {
        V2 => &[KVM_VGIC_V2_ADDR_TYPE_DIST, KVM_VGIC_V2_ADDR_TYPE_CPU],
        V3 => &[KVM_VGIC_V3_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_REDIST],
        _ => &[KVM_VGIC_ITS_ADDR_TYPE],
    };
    let mut list = Vec::new();
    for &kind in kinds {
        match device.get::<u64>(KVM_DEV_ARM_VGIC_GRP_ADDR, kind.into()) {
            Ok(UNDEFINED) => {}
            // Redistributors in regions.
            Err(nix::errno::Errno::EINVAL) if kind == KVM_VGIC_V3_ADDR_TYPE_REDIST => {}
            address => list.push((kind, address.ioctl("KVM_DEV_ARM_VGIC_GRP_ADDR")?)),
        }
    }
    if kind == V3 && !list.iter().any(|(kind, _)| *kind == KVM_VGIC_V3_ADDR_TYPE_REDIST) {
        let attr = KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION;
        let region = |index| device.query::<u64>(KVM_DEV_ARM_VGIC_GRP_ADDR, attr.into(), index);
        list.extend((0..).map_while(|index| region(index).ok()).map(|region| (attr, region)));
    }
    Ok(list)
}

impl SavedDevice {
    /// Reads it.
    pub(super) fn of(entry: DeviceEntry, nr_vcpus: u32) -> TestResult<Self> {
        let device = Device::twin(entry)?;
        let addresses = addresses(&device, entry.kind)?;
        let state = match entry.kind {
            ITS => DeviceState::Its(ItsState::of(&Its::of(device))?),
            kind => {
                let gic = Gic::of(device, version(kind)?);
                let state = GicState::of(&gic, nr_vcpus)?;
                if state.has_lpis() {
                    gic.save_pending_tables()?;
                }
                DeviceState::Gic(state)
            }
        };
        Ok(Self { kind: entry.kind, addresses, state })
    }

    /// Makes it again, and initializes it: the vCPUs are there.
    pub(super) fn create(&self, vm: &Vm) -> TestResult<RestoredDevice> {
        let device = Device::create(vm, self.kind).ioctl("KVM_CREATE_DEVICE again")?;
        for (kind, address) in &self.addresses {
            device
                .set(KVM_DEV_ARM_VGIC_GRP_ADDR, (*kind).into(), *address)
                .ioctl("KVM_DEV_ARM_VGIC_GRP_ADDR again")?;
        }
        match &self.state {
            DeviceState::Its(_) => {
                let its = Its::of(device);
                its.init()?;
                Ok(RestoredDevice::Its(its))
            }
            DeviceState::Gic(state) => {
                let gic = Gic::of(device, version(self.kind)?);
                gic.set_nr_irqs(state.nr_irqs()).ioctl("KVM_DEV_ARM_VGIC_GRP_NR_IRQS again")?;
                gic.init()?;
                Ok(RestoredDevice::Gic(gic))
            }
        }
    }

    /// Writes its state.
    pub(super) fn restore(&self, device: &RestoredDevice) -> TestResult {
        match (&self.state, device) {
            (DeviceState::Gic(state), RestoredDevice::Gic(gic)) => {
                state.restore(gic, ControlIs::Last)
            }
            (DeviceState::Its(state), RestoredDevice::Its(its)) => state.restore(its),
            _ => Err(Failure::Error("a device has become another".into())),
        }
    }

    /// All of it, as named pieces.
    pub(super) fn parts(&self, parts: &mut Parts) {
        for (kind, address) in &self.addresses {
            parts.number(format!("address {kind} of device {}", self.kind), *address);
        }
        match &self.state {
            DeviceState::Gic(state) => state.parts(parts),
            DeviceState::Its(state) => {
                parts.number("GITS_IIDR", state.iidr);
                parts.number("GITS_CTLR", state.control);
                for ((name, value), number) in state.registers.iter().zip(0..) {
                    parts.number(format!("GITS_{name}, register {number}"), *value);
                }
            }
        }
    }
}

/// A device of a restored VM.
#[derive(Debug)]
pub enum RestoredDevice {
    /// Its interrupt controller.
    Gic(Gic),
    /// An interrupt translation service.
    Its(Its),
}

fn version(kind: u32) -> TestResult<GicVersion> {
    match kind {
        V2 => Ok(GicVersion::V2),
        V3 => Ok(GicVersion::V3),
        other => Err(Failure::Error(format!("a device of type {other} cannot be saved"))),
    }
}
