//! The state of a GIC as userspace saves and restores it (Documentation/virt/kvm/devices/arm-vgic.rst and
//! arm-vgic-v3.rst), for the tests that move a VM.
use crate::prelude::host;

#[host]
use crate::aarch64::support::gic_bench::Bench;
#[host]
use crate::prelude::*;

/// Active priorities of a GICv2's CPU interface: GICC_APR0.
#[host]
const APR0: Register<gicc::CpuInterface, u32> = Register::at(0xd0);

/// When GICD_CTLR, which enables the distributor, is restored.
#[host]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlIs {
    /// Before the interrupts' states.
    First,
    /// Behind them.
    Last,
}

/// The GIC's state.
#[host]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    iidr: u32,
    control: u32,
    /// Words of the banks of SPIs: name, offset, value.
    pub shared: Vec<(&'static str, u64, u32)>,
    /// Words of each vCPU's private interrupts, and of its redistributor.
    pub private: Vec<Vec<(&'static str, u64, u32)>>,
    /// Registers of each vCPU's CPU interface, in the order of [`CPU_SYSREGS`] or [`CPU_REGISTERS`].
    pub cpu: Vec<Vec<u64>>,
    /// Levels of the lines of SPIs (GICv3).
    pub levels: Vec<u32>,
}

/// The CPU interface of a GICv3; SRE first.
#[host]
pub const CPU_SYSREGS: [SysReg; 9] = [
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
#[host]
pub const CPU_REGISTERS: [Register<gicc::CpuInterface, u32>; 5] =
    [gicc::CTLR, gicc::PMR, gicc::BPR, gicc::ABPR, APR0];

/// Banks whose words are set as a whole; those that only set bits are cleared first by their twin.
#[host]
const BANKS: [(&str, Bank); 6] = [
    ("IGROUPR", gicd::IGROUPR),
    ("IPRIORITYR", gicd::IPRIORITYR),
    ("ICFGR", gicd::ICFGR),
    ("ISENABLER", gicd::ISENABLER),
    ("ISPENDR", gicd::ISPENDR),
    ("ISACTIVER", gicd::ISACTIVER),
];

/// SPIs end here in the VMs of these tests: few, since each register is a call.
#[host]
const NR_INTIDS: u32 = 96;

/// Prepares the GIC of such a VM.
#[host]
pub fn few_interrupts(gic: &Gic) -> TestResult {
    gic.set_nr_irqs(NR_INTIDS).ioctl("KVM_DEV_ARM_VGIC_GRP_NR_IRQS")
}

/// Names and offsets of the words of SPIs, or of private interrupts.
#[host]
fn words(intids: std::ops::Range<u32>) -> impl Iterator<Item = (&'static str, u64)> {
    BANKS.into_iter().flat_map(move |(name, bank)| {
        intids.clone().step_by(bank.per_word() as usize).map(move |intid| (name, bank.word(intid)))
    })
}

#[host]
fn shared_words(version: GicVersion) -> Vec<(&'static str, u64)> {
    let mut list: Vec<_> = words(gic::FIRST_SPI..NR_INTIDS).collect();
    for intid in gic::FIRST_SPI..NR_INTIDS {
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

#[host]
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

#[host]
impl Saved {
    /// Reads all of it, with the vCPUs stopped.
    pub fn of(bench: &Bench) -> TestResult<Self> {
        let gic = &bench.gic;
        let version = gic.version();
        let nr_vcpus = bench.vcpus.len() as u32;
        let mut saved = Self {
            iidr: gic.dist(gicd::IIDR.offset()).ioctl("GICD_IIDR")?,
            control: gic.dist(gicd::CTLR.offset()).ioctl("GICD_CTLR")?,
            ..Self::default()
        };
        for (name, at) in shared_words(version) {
            saved.shared.push((name, at, gic.dist(at).ioctl(name)?));
        }
        for vcpu in 0..nr_vcpus {
            let words = private_words(version).into_iter();
            let words = words.map(|(name, at)| Ok((name, at, gic.private(vcpu, at).ioctl(name)?)));
            saved.private.push(words.collect::<TestResult<_>>()?);
            let cpu: TestResult<Vec<_>> = match version {
                GicVersion::V2 => CPU_REGISTERS
                    .iter()
                    .map(|r| gic.cpu_register(vcpu, *r).map(u64::from).ioctl("CPU_REGS"))
                    .collect(),
                GicVersion::V3 => {
                    CPU_SYSREGS.iter().map(|r| gic.cpu_sysreg(vcpu, r).ioctl(r.name)).collect()
                }
            };
            saved.cpu.push(cpu?);
        }
        if version == GicVersion::V3 {
            for intid in (gic::FIRST_SPI..NR_INTIDS).step_by(32) {
                saved.levels.push(gic.line_levels(0, intid).ioctl("LEVEL_INFO")?);
            }
        }
        Ok(saved)
    }

    /// Writes all of it to the GIC of a new VM: IIDR first, as the API wants it, and GICD_CTLR where `order`
    /// says.
    pub fn restore(&self, bench: &Bench, order: ControlIs) -> TestResult {
        let gic = &bench.gic;
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
        for (levels, word) in self.levels.iter().zip(1..) {
            gic.set_line_levels(0, word * 32, *levels).ioctl("LEVEL_INFO")?;
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

    /// What is not the same in `other`: names and offsets.
    pub fn differences(&self, other: &Self) -> Vec<(&'static str, u64, u32, u32)> {
        let words = |saved: &Self| {
            let private = saved.private.iter().flatten();
            saved.shared.iter().chain(private).copied().collect::<Vec<_>>()
        };
        let mut list: Vec<_> = (words(self).into_iter().zip(words(other)))
            .filter(|(a, b)| a != b)
            .map(|(a, b)| (a.0, a.1, a.2, b.2))
            .collect();
        if (self.iidr, self.control) != (other.iidr, other.control) {
            list.push(("CTLR", gicd::CTLR.offset(), self.control, other.control));
        }
        if self.levels != other.levels {
            list.push(("LEVEL_INFO", 0, 0, 0));
        }
        for (a, b) in self.cpu.iter().flatten().zip(other.cpu.iter().flatten()) {
            if a != b {
                list.push(("the CPU interface", 0, *a as u32, *b as u32));
            }
        }
        list
    }

    /// The words of one name, of SPIs and then of each vCPU.
    pub fn words(&self, name: &str) -> Vec<u32> {
        let all = self.shared.iter().chain(self.private.iter().flatten());
        all.filter(|(other, ..)| *other == name).map(|(.., value)| *value).collect()
    }
}

/// The same VM a second time, with the GIC's state and `guest` on vCPU 0.
#[host]
pub fn restored(
    saved: &Saved,
    version: GicVersion,
    order: ControlIs,
    guest: GuestFn,
) -> TestResult<(Vm, Bench)> {
    let mut vm = Vm::new(VmConfig::new())?;
    let others = vec![guest; saved.cpu.len() - 1];
    let bench = Bench::of(&mut vm, version, guest, &others, few_interrupts)?;
    saved.restore(&bench, order)?;
    Ok((vm, bench))
}
