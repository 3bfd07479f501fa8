//! What KVM/arm64 holds of a VM and its vCPUs (api.rst 4.68; Documentation/virt/kvm/devices).

mod devices;
mod gic;

use kvm_bindings::{
    KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_IRQ, KVM_ARM_VCPU_PVTIME_CTRL,
    KVM_ARM_VCPU_PVTIME_IPA, KVM_ARM_VCPU_SVE, KVM_ARM_VCPU_TIMER_CTRL, kvm_mp_state,
    kvm_vcpu_events,
};

pub use devices::{ItsState, RestoredDevice, SavedDevice};
pub use gic::{ControlIs, GicState};

use super::{Core, Parts, Registers, State, keeps};
use crate::arch::VcpuFeatures;
use crate::failure::TestResult;
use crate::{Ioctl, Irqchip, Vcpu, Vm, attribute};

/// Pieces that run on by themselves, and why they are not the same a moment later.
pub const RUNS_ON: &[(&str, &str)] = &[
    ("register 0x603000000013df1a", "KVM_REG_ARM_TIMER_CNT: the virtual counter counts"),
    ("register 0x603000000013df01", "KVM_REG_ARM_PTIMER_CNT: the physical counter counts"),
];

/// KVM_REG_ARM64_SVE_VLS: it comes before KVM_ARM_VCPU_FINALIZE.
const SVE_VLS: u64 = 0x6060_0000_0015_ffff;
/// KVM_ARM_VCPU_TIMER_IRQ_*: virtual, physical, and EL2's of both.
const NR_TIMERS: u64 = 4;
/// No address was given.
const INVALID: u64 = u64::MAX;

/// What is the VM's: its devices. The counters' offsets come by its vCPUs.
#[derive(Clone, Debug)]
pub struct SavedVm {
    /// In the order of creation.
    pub devices: Vec<SavedDevice>,
}

/// What is a vCPU's.
#[derive(Clone, Debug)]
pub struct SavedVcpu {
    /// What it was made of.
    pub features: VcpuFeatures,
    /// `KVM_GET_ONE_REG` of the whole list.
    pub registers: Registers,
    /// `KVM_GET_VCPU_EVENTS`.
    pub events: Option<kvm_vcpu_events>,
    /// `KVM_GET_MP_STATE`.
    pub mp_state: kvm_mp_state,
    /// The PMU's interrupt, of one that is initialized.
    pub pmu_irq: Option<u32>,
    /// The timers' interrupts.
    pub timer_irqs: Vec<Option<u32>>,
    /// Where stolen time is told.
    pub pvtime: Option<u64>,
}

/// The interrupt controller that a restored VM begins with: none, for it is one of its devices.
pub(super) fn saved_irqchip(_: Irqchip) -> Irqchip {
    Irqchip::None
}

impl SavedVm {
    /// Reads it.
    pub(super) fn save(core: &Core, vcpus: &mut [&mut Vcpu]) -> TestResult<Self> {
        let entries = core.inventory().devices.clone();
        let devices = entries.into_iter().map(|e| SavedDevice::of(e, vcpus.len() as u32));
        Ok(Self { devices: devices.collect::<TestResult<_>>()? })
    }

    /// Nothing has to come before the first vCPU.
    pub(super) fn init(&self, _: &Vm) -> TestResult {
        Ok(())
    }

    /// Writes vCPUs and devices:
    /// - the devices are made and initialized first: the number of vCPUs is known, and a PMU wants an
    ///   initialized interrupt controller;
    /// - PMUs and the interrupts of timers before registers: they are of the vCPU's making;
    /// - of the registers, feature ids and firmware's first, which say what the others mean;
    /// - events behind registers, for they may change how the vCPU goes on;
    /// - the devices' state last, for it is judged with the vCPUs at rest.
    pub(super) fn restore(&self, vm: &mut Vm, vcpus: &mut [Vcpu], state: &State) -> TestResult {
        let devices = self.devices.iter().map(|device| device.create(vm));
        let devices = devices.collect::<TestResult<Vec<_>>>()?;
        for (vcpu, saved) in vcpus.iter().zip(&state.vcpus) {
            saved.restore(vcpu)?;
        }
        for (saved, device) in self.devices.iter().zip(&devices).filter(|_| keeps("devices")) {
            saved.restore(device)?;
        }
        vm.own_devices(devices);
        Ok(())
    }

    /// All of it, as named pieces.
    pub(super) fn parts(&self, parts: &mut Parts) {
        self.devices.iter().for_each(|device| device.parts(parts));
    }
}

fn number<const N: usize>(vcpu: &Vcpu, group: u32, attr: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    attribute::get(vcpu, (group, attr), &mut bytes).ok().map(|_| bytes)
}

/// Whether others depend on a register: feature ids (op0 3, op1 0, CRn 0), and firmware's.
fn comes_first(id: u64) -> bool {
    let is_feature_id = id >> 16 & 0xfff == 0x013 && id & 0xff80 == 0xc000;
    let is_firmware = matches!(id >> 16 & 0xfff, 0x014 | 0x016);
    is_feature_id || is_firmware
}

impl SavedVcpu {
    /// Reads it.
    pub(super) fn save(core: &Core, vcpu: &mut Vcpu) -> TestResult<Self> {
        let entries = core.inventory().vcpus.clone();
        let features = entries.iter().find(|v| v.index == vcpu.index());
        let features = features.map(|v| v.features).unwrap_or_default();
        let timer_irq = |timer| number(vcpu, KVM_ARM_VCPU_TIMER_CTRL, timer);
        let pvtime = number(vcpu, KVM_ARM_VCPU_PVTIME_CTRL, KVM_ARM_VCPU_PVTIME_IPA.into());
        let pmu_irq = number(vcpu, KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_IRQ.into());
        Ok(Self {
            features,
            registers: Registers::listed(vcpu)?,
            events: vcpu.fd().get_vcpu_events().ok(),
            mp_state: vcpu.fd().get_mp_state().ioctl("KVM_GET_MP_STATE")?,
            pmu_irq: pmu_irq.map(u32::from_ne_bytes),
            timer_irqs: (0..NR_TIMERS).map(|t| timer_irq(t).map(u32::from_ne_bytes)).collect(),
            pvtime: pvtime.map(u64::from_ne_bytes).filter(|ipa| *ipa != INVALID),
        })
    }

    /// `KVM_ARM_VCPU_INIT`; with SVE, the vector lengths and `KVM_ARM_VCPU_FINALIZE`.
    pub(super) fn init(&self, vcpu: &Vcpu) -> TestResult {
        crate::arch::init_vcpu(vcpu, &self.features)?;
        if self.features.has(KVM_ARM_VCPU_SVE) {
            self.registers.write(vcpu, |id| id == SVE_VLS)?;
        }
        crate::arch::finalize_vcpu(vcpu, &self.features)
    }

    fn restore(&self, vcpu: &Vcpu) -> TestResult {
        for (irq, timer) in self.timer_irqs.iter().zip(0..).filter(|_| keeps("timer irqs")) {
            if let Some(irq) = irq
                && number(vcpu, KVM_ARM_VCPU_TIMER_CTRL, timer) != Some(irq.to_ne_bytes())
            {
                attribute::set(vcpu, (KVM_ARM_VCPU_TIMER_CTRL, timer), &irq.to_ne_bytes())
                    .ioctl("KVM_ARM_VCPU_TIMER_CTRL")?;
            }
        }
        if let Some(irq) = self.pmu_irq.filter(|_| keeps("pmu")) {
            vcpu.set_pmu_irq(irq).ioctl("KVM_ARM_VCPU_PMU_V3_IRQ")?;
            vcpu.init_pmu().ioctl("KVM_ARM_VCPU_PMU_V3_INIT")?;
        }
        if let Some(ipa) = self.pvtime.filter(|_| keeps("stolen time")) {
            let attr = (KVM_ARM_VCPU_PVTIME_CTRL, KVM_ARM_VCPU_PVTIME_IPA.into());
            attribute::set(vcpu, attr, &ipa.to_ne_bytes()).ioctl("KVM_ARM_VCPU_PVTIME_IPA")?;
        }
        if keeps("feature ids") {
            self.registers.write(vcpu, comes_first)?;
        }
        if keeps("registers") {
            self.registers.write(vcpu, |id| !comes_first(id) && id != SVE_VLS)?;
        }
        for events in self.events.iter().filter(|_| keeps("events")) {
            vcpu.fd().set_vcpu_events(events).ioctl("KVM_SET_VCPU_EVENTS")?;
        }
        if keeps("mp state") {
            vcpu.fd().set_mp_state(self.mp_state).ioctl("KVM_SET_MP_STATE")?;
        }
        Ok(())
    }

    /// All of it, as named pieces.
    pub(super) fn parts(&self, parts: &mut Parts) {
        self.registers.parts(parts);
        if let Some(events) = &self.events {
            let exception = &events.exception;
            parts.number("SError pending", exception.serror_pending.into());
            parts.number("SError syndrome", exception.serror_esr);
        }
        parts.number("mp_state", self.mp_state.mp_state.into());
        self.pmu_irq.iter().for_each(|irq| parts.number("PMU interrupt", (*irq).into()));
        for (irq, timer) in self.timer_irqs.iter().zip(0..) {
            irq.iter()
                .for_each(|irq| parts.number(format!("interrupt of timer {timer}"), (*irq).into()));
        }
        self.pvtime.iter().for_each(|ipa| parts.number("stolen time", *ipa));
    }
}
