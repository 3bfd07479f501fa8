//! The generic interrupt controller, versions 2 and 3, where the harness puts it (IHI 0048, IHI 0069).

pub use defs::aarch64::gic::*;
use defs::aarch64::regs::mpidr;
use guest_protocol::layout::aarch64::{GICC, GICD, GICR, GICR_STRIDE};

use super::memory::mmio_write;
use super::registers::{Bank, Block};
use super::sysreg::{
    ICC_CTLR_EL1, ICC_DIR_EL1, ICC_EOIR0_EL1, ICC_EOIR1_EL1, ICC_IAR0_EL1, ICC_IAR1_EL1,
    ICC_IGRPEN0_EL1, ICC_IGRPEN1_EL1, ICC_PMR_EL1, ICC_RPR_EL1, ICC_SGI0R_EL1, ICC_SGI1R_EL1,
    ICC_SRE_EL1, MPIDR_EL1,
};
use crate::context::cpu_id;

/// The distributor.
pub const DIST: Block<gicd::Distributor> = Block::at(GICD);

/// This vCPU's CPU interface of a GICv2.
pub const CPU: Block<gicc::CpuInterface> = Block::at(GICC);

/// The interrupt controller of this VM, by architecture version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gic {
    /// With a memory-mapped CPU interface.
    V2,
    /// With redistributors and system registers.
    V3,
}

/// The exception that an interrupt comes as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// IRQ: group 1.
    Irq,
    /// FIQ: group 0 (on a GICv2 where FIQEn is set).
    Fiq,
}

impl Gic {
    /// Which one the VM has: affinity routing is always on in KVM's GICv3, and unknown to a GICv2.
    pub fn detect() -> Self {
        match DIST.read(gicd::CTLR) & gicd::CTLR_ARE {
            0 => Self::V2,
            _ => Self::V3,
        }
    }

    /// Enables distributor and CPU interface of this vCPU: group 1 on a GICv3; all priorities.
    pub fn enable(self) {
        match self {
            Self::V2 => {
                DIST.write(gicd::CTLR, gicd::CTLR_GROUPS);
                CPU.write(gicc::PMR, 0xff);
                CPU.write(gicc::CTLR, gicc::CTLR_ENABLE_GRP0);
            }
            Self::V3 => {
                let frame = redistributor();
                let awake = frame.read(gicr::WAKER) & !gicr::WAKER_PROCESSOR_SLEEP;
                frame.write(gicr::WAKER, awake);
                DIST.write(gicd::CTLR, gicd::CTLR_ENABLE_GRP1 | gicd::CTLR_ARE);
                ICC_SRE_EL1.write(ICC_SRE_EL1.read() | ICC_SRE_SRE);
                ICC_PMR_EL1.write(0xff);
                ICC_IGRPEN1_EL1.write(1);
            }
        }
    }

    /// The group whose interrupts come as IRQs after [`Gic::enable`].
    pub fn irq_group(self) -> u32 {
        (self == Self::V3).into()
    }

    /// Enables distributor and CPU interface of this vCPU for both groups: group 0 comes as FIQ, group 1
    /// as IRQ.
    pub fn enable_both_groups(self) {
        self.enable();
        self.set_groups(gicd::CTLR_GROUPS);
        self.set_cpu_groups(gicd::CTLR_GROUPS);
    }

    /// Sets the group enables of the distributor to `enabled` ([`gicd::CTLR_GROUPS`]).
    pub fn set_groups(self, enabled: u32) {
        let others = if self == Self::V3 { gicd::CTLR_ARE | gicd::CTLR_DS } else { 0 };
        DIST.write(gicd::CTLR, others | enabled);
    }

    /// The group enables of the distributor.
    pub fn groups(self) -> u32 {
        DIST.read(gicd::CTLR) & gicd::CTLR_GROUPS
    }

    /// Sets the group enables of this vCPU's CPU interface to `enabled` ([`gicd::CTLR_GROUPS`]). Group 0
    /// is signalled as FIQ, and one acknowledge serves both groups of a GICv2.
    pub fn set_cpu_groups(self, enabled: u32) {
        match self {
            Self::V2 => {
                CPU.write(gicc::CTLR, enabled | gicc::CTLR_ACK_CTL | gicc::CTLR_FIQ_EN);
            }
            Self::V3 => {
                ICC_IGRPEN0_EL1.write((enabled & gicd::CTLR_ENABLE_GRP0).into());
                ICC_IGRPEN1_EL1.write((enabled & gicd::CTLR_ENABLE_GRP1 != 0).into());
            }
        }
    }

    /// How many interrupts the distributor has, SGIs and PPIs included.
    pub fn nr_intids(self) -> u32 {
        32 * ((DIST.read(gicd::TYPER) & gicd::TYPER_IT_LINES) + 1)
    }

    /// Where the registers of `intid` are: SGIs and PPIs of a GICv3 are in the redistributor.
    pub fn frame(self, intid: u32) -> Block<gicd::Distributor> {
        match self {
            Self::V3 if intid < FIRST_SPI => sgi_frame(cpu_id()),
            _ => DIST,
        }
    }

    /// Sets this interrupt's bit in a bank of one bit each (`ISENABLER`, `ICPENDR`, …).
    pub fn set(self, bank: Bank, intid: u32) {
        self.frame(intid).write_word(bank, intid, 1 << bank.shift(intid));
    }

    /// This interrupt's bit in a bank of one bit each.
    pub fn get(self, bank: Bank, intid: u32) -> bool {
        self.frame(intid).field(bank, intid) != 0
    }

    /// Sets this interrupt's bit in IGROUPR.
    pub fn set_group(self, intid: u32, group: u32) {
        self.frame(intid).set_field(gicd::IGROUPR, intid, group);
    }

    /// This interrupt's group.
    pub fn group(self, intid: u32) -> u32 {
        self.frame(intid).field(gicd::IGROUPR, intid)
    }

    /// Sets this interrupt's priority.
    pub fn set_priority(self, intid: u32, priority: u8) {
        self.frame(intid).set_byte(gicd::IPRIORITYR, intid, priority);
    }

    /// This interrupt's priority.
    pub fn priority(self, intid: u32) -> u8 {
        self.frame(intid).byte(gicd::IPRIORITYR, intid)
    }

    /// Makes an interrupt edge-triggered, or level-sensitive.
    pub fn set_edge(self, intid: u32, edge: bool) {
        self.frame(intid).set_field(gicd::ICFGR, intid, u32::from(edge) << 1);
    }

    /// Sends an SPI to vCPU `vcpu` (whose affinity is its index).
    pub fn route(self, intid: u32, vcpu: u32) {
        match self {
            Self::V2 => DIST.set_byte(gicd::ITARGETSR, intid, 1 << vcpu),
            Self::V3 => DIST.write(gicd::irouter(intid), vcpu.into()),
        }
    }

    /// Sends SGI `sgi` of the group that comes as IRQ to the vCPUs whose bits are set in `targets`.
    pub fn send_sgi(self, sgi: u32, targets: u32) {
        match self {
            Self::V2 => DIST.write(gicd::SGIR, targets << gicd::SGIR_TARGETS_SHIFT | sgi),
            Self::V3 => ICC_SGI1R_EL1.write(sgi_of(sgi) | u64::from(targets)),
        }
    }

    /// Sends SGI `sgi` to all vCPUs but this one.
    pub fn send_sgi_to_others(self, sgi: u32) {
        match self {
            Self::V2 => DIST.write(gicd::SGIR, gicd::SGIR_OTHERS | sgi),
            Self::V3 => ICC_SGI1R_EL1.write(sgi_of(sgi) | icc_sgir::IRM),
        }
    }

    /// Sends SGI `sgi` of group 0 (GICv3).
    pub fn send_group0_sgi(self, sgi: u32, targets: u32) {
        ICC_SGI0R_EL1.write(sgi_of(sgi) | u64::from(targets));
    }

    /// Acknowledges the highest pending interrupt (group 1 on a GICv3). A GICv2 tells the sender of an
    /// SGI above bit 9.
    pub fn acknowledge(self) -> u32 {
        self.acknowledge_on(Line::Irq)
    }

    /// Acknowledges the highest pending interrupt of what comes on `line`.
    pub fn acknowledge_on(self, line: Line) -> u32 {
        match (self, line) {
            (Self::V2, _) => CPU.read(gicc::IAR),
            (Self::V3, Line::Irq) => ICC_IAR1_EL1.read() as u32,
            (Self::V3, Line::Fiq) => ICC_IAR0_EL1.read() as u32,
        }
    }

    /// Ends an interrupt by what the acknowledge returned.
    pub fn end(self, acknowledged: u32) {
        self.end_on(Line::Irq, acknowledged);
    }

    /// Ends an interrupt that came on `line`.
    pub fn end_on(self, line: Line, acknowledged: u32) {
        match (self, line) {
            (Self::V2, _) => CPU.write(gicc::EOIR, acknowledged),
            (Self::V3, Line::Irq) => ICC_EOIR1_EL1.write(acknowledged.into()),
            (Self::V3, Line::Fiq) => ICC_EOIR0_EL1.write(acknowledged.into()),
        }
    }

    /// Lets the end of an interrupt drop its priority only; [`Gic::deactivate`] does the rest.
    pub fn split_end(self) {
        match self {
            Self::V2 => CPU.write(gicc::CTLR, CPU.read(gicc::CTLR) | gicc::CTLR_EOI_MODE),
            Self::V3 => ICC_CTLR_EL1.write(ICC_CTLR_EL1.read() | icc_ctlr::EOI_MODE),
        }
    }

    /// Deactivates an interrupt whose end dropped its priority only.
    pub fn deactivate(self, acknowledged: u32) {
        match self {
            Self::V2 => CPU.write(gicc::DIR, acknowledged),
            Self::V3 => ICC_DIR_EL1.write(acknowledged.into()),
        }
    }

    /// Only interrupts of a priority above this one come.
    pub fn set_priority_mask(self, priority: u8) {
        match self {
            Self::V2 => CPU.write(gicc::PMR, priority.into()),
            Self::V3 => ICC_PMR_EL1.write(priority.into()),
        }
    }

    /// Priority of the highest active interrupt.
    pub fn running_priority(self) -> u32 {
        match self {
            Self::V2 => match CPU.read(gicc::RPR) & 0xff {
                rpr if rpr | OPTIONAL_PRIORITY == IDLE_PRIORITY => IDLE_PRIORITY,
                rpr => rpr,
            },
            Self::V3 => ICC_RPR_EL1.read() as u32 & 0xff,
        }
    }
}

/// The SGI in ICC_SGI0R_EL1 and ICC_SGI1R_EL1.
fn sgi_of(sgi: u32) -> u64 {
    u64::from(sgi) << icc_sgir::INTID_SHIFT
}

/// The redistributor of this vCPU.
pub fn redistributor() -> Block<gicr::Redistributor> {
    redistributor_of(cpu_id())
}

/// The redistributor of vCPU `vcpu`.
pub fn redistributor_of(vcpu: u64) -> Block<gicr::Redistributor> {
    Block::at(GICR + vcpu * GICR_STRIDE)
}

/// The frame of vCPU `vcpu`'s SGIs and PPIs in a GICv3, laid out as the distributor is.
pub fn sgi_frame(vcpu: u64) -> Block<gicd::Distributor> {
    Block::at(GICR + vcpu * GICR_STRIDE + gicr::SGI_BASE)
}

/// Aff0 of this vCPU.
pub fn affinity() -> u64 {
    mpidr::AFF0.get(MPIDR_EL1.read())
}

/// Stores a byte to a GICv2's SGI pending bank: the senders `senders` of `sgi`.
pub fn set_sgi_senders(bank: Bank, sgi: u32, senders: u8) {
    mmio_write(GICD + bank.offset + u64::from(sgi), senders);
}
