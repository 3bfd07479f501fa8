//! The state of a GIC (Documentation/virt/kvm/devices/arm-vgic.rst and arm-vgic-v3.rst).

use guest_runtime::arch::aarch64::gic::{self, gicc, gicd, gicr};
use guest_runtime::arch::aarch64::registers::{Bank, Register};
use guest_runtime::arch::aarch64::sysreg::{
    ICC_AP0R0_EL1, ICC_AP1R0_EL1, ICC_BPR0_EL1, ICC_BPR1_EL1, ICC_CTLR_EL1, ICC_IGRPEN0_EL1,
    ICC_IGRPEN1_EL1, ICC_PMR_EL1, ICC_SRE_EL1, SysReg,
};
use kvm_bindings::KVM_DEV_ARM_VGIC_GRP_NR_IRQS;

use crate::Ioctl;
use crate::arch::{Gic, GicVersion};
use crate::failure::TestResult;
use crate::state::Parts;

/// Active priorities of a GICv2's CPU interface: GICC_APR0.
const APR0: Register<gicc::CpuInterface, u32> = Register::at(0xd0);

/// When GICD_CTLR, which enables the distributor, is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlIs {
    /// Before the interrupts' states.
    First,
    /// Behind them.
    Last,
}

/// A GIC's state, with the vCPUs stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GicState {
    nr_irqs: u32,
    iidr: u32,
    control: u32,
    /// Words of the banks of SPIs: name, offset, value.
    shared: Vec<(&'static str, u64, u32)>,
    /// Words of each vCPU's private interrupts, and of its redistributor.
    private: Vec<Vec<(&'static str, u64, u32)>>,
    /// Registers of each vCPU's CPU interface, in the order of [`CPU_SYSREGS`] or [`CPU_REGISTERS`].
    cpu: Vec<Vec<u64>>,
    /// Levels of the lines of each vCPU's PPIs, then of SPIs (GICv3).
    levels: Vec<(u32, u32, u32)>,
}

/// The CPU interface of a GICv3; SRE first. KVM has priorities of 5 bits, for which there is one register
/// of active ones for each group.
const CPU_SYSREGS: [SysReg; 9] = [
    ICC_SRE_EL1,
    ICC_CTLR_EL1,
    ICC_PMR_EL1,
    ICC_BPR0_EL1,
    ICC_BPR1_EL1,
    ICC_IGRPEN0_EL1,
    ICC_IGRPEN1_EL1,
    ICC_AP0R0_EL1,
    ICC_AP1R0_EL1,
];

/// The CPU interface of a GICv2.
const CPU_REGISTERS: [Register<gicc::CpuInterface, u32>; 5] =
    [gicc::CTLR, gicc::PMR, gicc::BPR, gicc::ABPR, APR0];

/// Banks whose words are set as a whole; those that only set bits are cleared first by their twin.
const BANKS: [(&str, Bank); 6] = [
    ("IGROUPR", gicd::IGROUPR),
    ("IPRIORITYR", gicd::IPRIORITYR),
    ("ICFGR", gicd::ICFGR),
    ("ISENABLER", gicd::ISENABLER),
    ("ISPENDR", gicd::ISPENDR),
    ("ISACTIVER", gicd::ISACTIVER),
];

/// Names and offsets of the words of SPIs, or of private interrupts.
fn words(intids: std::ops::Range<u32>) -> impl Iterator<Item = (&'static str, u64)> {
    BANKS.into_iter().flat_map(move |(name, bank)| {
        intids.clone().step_by(bank.per_word() as usize).map(move |intid| (name, bank.word(intid)))
    })
}

fn shared_words(version: GicVersion, nr_irqs: u32) -> Vec<(&'static str, u64)> {
    let mut list: Vec<_> = words(gic::FIRST_SPI..nr_irqs).collect();
    for intid in gic::FIRST_SPI..nr_irqs {
        match version {
            GicVersion::V2 if intid % 4 == 0 => {
                list.push(("ITARGETSR", gicd::ITARGETSR.word(intid)));
            }
            GicVersion::V2 => {}
            GicVersion::V3 => {
                // The upper half is Aff3, which KVM's vCPUs have not got.
                list.push(("IROUTER", gicd::irouter(intid).offset()));
            }
        }
    }
    list
}

fn private_words(version: GicVersion) -> Vec<(&'static str, u64)> {
    match version {
        GicVersion::V2 => words(0..gic::FIRST_SPI).collect(),
        GicVersion::V3 => {
            let tables = [("PROPBASER", gicr::PROPBASER), ("PENDBASER", gicr::PENDBASER)];
            let halves = tables.map(|(name, r)| [(name, r.offset()), (name, r.offset() + 4)]);
            // EnableLPIs behind the tables that it makes the redistributor read.
            let control = ("CTLR of the redistributor", gicr::CTLR.offset());
            let frame = words(0..gic::FIRST_SPI).map(|(name, at)| (name, at + gicr::SGI_BASE));
            halves.into_iter().flatten().chain([control]).chain(frame).collect()
        }
    }
}

impl GicState {
    /// Reads all of it.
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn of(gic: &Gic, nr_vcpus: u32) -> TestResult<Self> {
        let version = gic.version();
        let nr_irqs = gic.device().get(KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0);
        let mut state = Self {
            nr_irqs: nr_irqs.ioctl("KVM_DEV_ARM_VGIC_GRP_NR_IRQS")?,
            iidr: gic.dist(gicd::IIDR.offset()).ioctl("GICD_IIDR")?,
            control: gic.dist(gicd::CTLR.offset()).ioctl("GICD_CTLR")?,
            ..Self::default()
        };
        for (name, at) in shared_words(version, state.nr_irqs) {
            state.shared.push((name, at, gic.dist(at).ioctl(name)?));
        }
        for vcpu in 0..nr_vcpus {
            let words = private_words(version).into_iter();
            let words = words.map(|(name, at)| Ok((name, at, gic.private(vcpu, at).ioctl(name)?)));
            state.private.push(words.collect::<TestResult<_>>()?);
            let cpu: TestResult<Vec<_>> = match version {
                GicVersion::V2 => CPU_REGISTERS
                    .iter()
                    .map(|r| gic.cpu_register(vcpu, *r).map(u64::from).ioctl("CPU_REGS"))
                    .collect(),
                GicVersion::V3 => {
                    CPU_SYSREGS.iter().map(|r| gic.cpu_sysreg(vcpu, r).ioctl(r.name)).collect()
                }
            };
            state.cpu.push(cpu?);
        }
        if version == GicVersion::V3 {
            let private = (0..nr_vcpus).map(|vcpu| (vcpu, 0));
            let shared = (gic::FIRST_SPI..state.nr_irqs).step_by(32).map(|intid| (0, intid));
            for (vcpu, intid) in private.chain(shared) {
                let levels = gic.line_levels(vcpu, intid).ioctl("LEVEL_INFO")?;
                state.levels.push((vcpu, intid, levels));
            }
        }
        Ok(state)
    }

    /// Whether a redistributor takes LPIs.
    pub(super) fn has_lpis(&self) -> bool {
        let controls = self.words("CTLR of the redistributor");
        controls.iter().any(|control| control & gicr::CTLR_ENABLE_LPIS != 0)
    }

    /// The number of vCPUs.
    pub fn nr_vcpus(&self) -> usize {
        self.cpu.len()
    }

    /// The number of interrupts, to be set before the GIC is initialized.
    pub fn nr_irqs(&self) -> u32 {
        self.nr_irqs
    }

    /// Writes all of it to the GIC of a new VM: IIDR first, as the API wants it, and GICD_CTLR where `order`
    /// says.
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn restore(&self, gic: &Gic, order: ControlIs) -> TestResult {
        let version = gic.version();
        gic.set_dist(gicd::IIDR.offset(), self.iidr).ioctl("GICD_IIDR")?;
        if order == ControlIs::First {
            gic.set_dist(gicd::CTLR.offset(), self.control).ioctl("GICD_CTLR")?;
        }
        for (words, vcpu) in self.private.iter().zip(0..) {
            for (name, at, value) in words {
                if *name == "ISENABLER" {
                    let clear = at - gicd::ISENABLER.offset + gicd::ICENABLER.offset;
                    gic.set_private(vcpu, clear, !0).ioctl("ICENABLER")?;
                }
                // Without LPIs there are no tables, and a zero would come back with other attributes.
                if !name.ends_with("BASER") || *value != 0 {
                    gic.set_private(vcpu, *at, *value).ioctl(name)?;
                }
            }
        }
        for (name, at, value) in &self.shared {
            gic.set_dist(*at, *value).ioctl(name)?;
        }
        for (vcpu, intid, levels) in &self.levels {
            gic.set_line_levels(*vcpu, *intid, *levels).ioctl("LEVEL_INFO")?;
        }
        for (values, vcpu) in self.cpu.iter().zip(0..) {
            match version {
                GicVersion::V2 => CPU_REGISTERS.iter().zip(values).try_for_each(|(r, value)| {
                    gic.set_cpu_register(vcpu, *r, *value as u32).ioctl("CPU_REGS")
                }),
                GicVersion::V3 => CPU_SYSREGS
                    .iter()
                    .zip(values)
                    .try_for_each(|(r, value)| gic.set_cpu_sysreg(vcpu, r, *value).ioctl(r.name)),
            }?;
        }
        if order == ControlIs::Last {
            gic.set_dist(gicd::CTLR.offset(), self.control).ioctl("GICD_CTLR")?;
        }
        Ok(())
    }

    /// The words of one name, of SPIs and then of each vCPU.
    pub fn words(&self, name: &str) -> Vec<u32> {
        let all = self.shared.iter().chain(self.private.iter().flatten());
        all.filter(|(other, ..)| *other == name).map(|(.., value)| *value).collect()
    }

    /// What is not the same in `other`, a sentence each.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let parts = |state: &Self| {
            let mut parts = Parts::default();
            state.parts(&mut parts);
            parts
        };
        parts(self).differences(&parts(other), |_| false)
    }

    /// All of it, as named pieces.
    pub(super) fn parts(&self, parts: &mut Parts) {
        parts.number("GIC: number of interrupts", self.nr_irqs.into());
        parts.number("GICD_IIDR", self.iidr.into());
        parts.number("GICD_CTLR", self.control.into());
        for (name, at, value) in &self.shared {
            parts.number(format!("GICD_{name} at {at:#x}"), (*value).into());
        }
        for (words, vcpu) in self.private.iter().zip(0..) {
            for (name, at, value) in words {
                parts.number(format!("GIC of vCPU {vcpu}: {name} at {at:#x}"), (*value).into());
            }
        }
        for (values, vcpu) in self.cpu.iter().zip(0..) {
            for (value, number) in values.iter().zip(0..) {
                parts.number(format!("GIC of vCPU {vcpu}: CPU interface {number}"), *value);
            }
        }
        for (vcpu, intid, levels) in &self.levels {
            parts.number(format!("levels of vCPU {vcpu} from {intid} on"), (*levels).into());
        }
    }
}
