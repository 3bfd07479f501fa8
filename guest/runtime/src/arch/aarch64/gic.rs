//! The generic interrupt controller, versions 2 and 3, where the harness puts it (IHI 0048, IHI 0069).

use guest_protocol::layout::aarch64::{GICC, GICD, GICR, GICR_STRIDE};

use super::memory::mmio_write;
use super::registers::{Bank, Block, Register, banks, registers};
use super::sysreg::{
    ICC_CTLR_EL1, ICC_DIR_EL1, ICC_EOIR0_EL1, ICC_EOIR1_EL1, ICC_IAR0_EL1, ICC_IAR1_EL1,
    ICC_IGRPEN0_EL1, ICC_IGRPEN1_EL1, ICC_PMR_EL1, ICC_RPR_EL1, ICC_SGI0R_EL1, ICC_SGI1R_EL1,
    ICC_SRE_EL1, MPIDR_EL1,
};
use crate::context::cpu_id;

/// The distributor's registers; the banks are those of the redistributor's SGI frame too.
pub mod gicd {
    #![expect(missing_docs, reason = "the manual's names")]
    use super::{banks, registers};

    /// Whose registers these are.
    #[derive(Debug)]
    pub enum Distributor {}

    registers! { Distributor,
        CTLR: u32 = 0x0000;
        TYPER: u32 = 0x0004;
        IIDR: u32 = 0x0008;
        TYPER2: u32 = 0x000c;
        SGIR: u32 = 0x0f00;
        /// PIDR2 of a GICv3.
        PIDR2: u32 = 0xffe8;
        /// ICPIDR2 of a GICv2.
        ICPIDR2: u32 = 0x0fe8;
    }
    banks! {
        IGROUPR: 1 = 0x0080;
        ISENABLER: 1 = 0x0100;
        ICENABLER: 1 = 0x0180;
        ISPENDR: 1 = 0x0200;
        ICPENDR: 1 = 0x0280;
        ISACTIVER: 1 = 0x0300;
        ICACTIVER: 1 = 0x0380;
        IPRIORITYR: 8 = 0x0400;
        ITARGETSR: 8 = 0x0800;
        ICFGR: 2 = 0x0c00;
        IGRPMODR: 1 = 0x0d00;
        CPENDSGIR: 8 = 0x0f10;
        SPENDSGIR: 8 = 0x0f20;
    }
    /// The route of an SPI of a GICv3.
    pub const fn irouter(intid: u32) -> super::Register<Distributor, u64> {
        super::Register::at(0x6000 + intid as u64 * 8)
    }
    pub const CTLR_ENABLE_GRP0: u32 = 1 << 0;
    pub const CTLR_ENABLE_GRP1: u32 = 1 << 1;
    pub const CTLR_GROUPS: u32 = CTLR_ENABLE_GRP0 | CTLR_ENABLE_GRP1;
    pub const CTLR_ARE: u32 = 1 << 4;
    pub const CTLR_DS: u32 = 1 << 6;
    pub const CTLR_RWP: u32 = 1 << 31;
    pub const TYPER_IT_LINES: u32 = 0x1f;
    pub const TYPER_CPU_NUMBER_SHIFT: u32 = 5;
    pub const TYPER_SECURITY_EXTN: u32 = 1 << 10;
    pub const TYPER_LPIS: u32 = 1 << 17;
    pub const TYPER_NO_1N: u32 = 1 << 25;
    /// Interrupt_Routing_Mode: any vCPU may take it.
    pub const IROUTER_ANY: u64 = 1 << 31;
}

/// The redistributor's registers.
pub mod gicr {
    #![expect(missing_docs, reason = "the manual's names")]
    use super::registers;

    /// Whose registers these are.
    #[derive(Debug)]
    pub enum Redistributor {}

    registers! { Redistributor,
        CTLR: u32 = 0x0000;
        IIDR: u32 = 0x0004;
        TYPER: u64 = 0x0008;
        WAKER: u32 = 0x0014;
        PROPBASER: u64 = 0x0070;
        PENDBASER: u64 = 0x0078;
        INVLPIR: u64 = 0x00a0;
        INVALLR: u64 = 0x00b0;
        SYNCR: u32 = 0x00c0;
        PIDR2: u32 = 0xffe8;
    }
    pub const CTLR_ENABLE_LPIS: u32 = 1 << 0;
    /// Invalidation by INVLPIR and INVALLR is there.
    pub const CTLR_IR: u32 = 1 << 2;
    pub const WAKER_PROCESSOR_SLEEP: u32 = 1 << 1;
    pub const WAKER_CHILDREN_ASLEEP: u32 = 1 << 2;
    pub const TYPER_PLPIS: u64 = 1 << 0;
    pub const TYPER_LAST: u64 = 1 << 4;
    pub const TYPER_PROCESSOR_SHIFT: u32 = 8;
    pub const TYPER_AFFINITY_SHIFT: u32 = 32;
    /// The pending table is all zeroes.
    pub const PENDBASER_PTZ: u64 = 1 << 62;
    /// The frame of SGIs and PPIs.
    pub const SGI_BASE: u64 = 0x1_0000;
}

/// A GICv2's CPU interface.
pub mod gicc {
    #![expect(missing_docs, reason = "the manual's names")]
    use super::registers;

    /// Whose registers these are.
    #[derive(Debug)]
    pub enum CpuInterface {}

    registers! { CpuInterface,
        CTLR: u32 = 0x0000;
        PMR: u32 = 0x0004;
        BPR: u32 = 0x0008;
        IAR: u32 = 0x000c;
        EOIR: u32 = 0x0010;
        RPR: u32 = 0x0014;
        HPPIR: u32 = 0x0018;
        ABPR: u32 = 0x001c;
        IIDR: u32 = 0x00fc;
        DIR: u32 = 0x1000;
    }
    pub const CTLR_ENABLE_GRP0: u32 = 1 << 0;
    pub const CTLR_ENABLE_GRP1: u32 = 1 << 1;
    pub const CTLR_ACK_CTL: u32 = 1 << 2;
    pub const CTLR_FIQ_EN: u32 = 1 << 3;
    pub const CTLR_EOI_MODE: u32 = 1 << 9;
}

/// ICC_CTLR_EL1.EOImode: EOIR drops the priority only.
pub const ICC_CTLR_EOI_MODE: u64 = 1 << 1;

/// What an acknowledge returns when nothing is pending.
pub const SPURIOUS: u32 = 1023;

/// The INTID in what an acknowledge returns: a GICv2 tells the sender of an SGI above it.
pub const INTID: u32 = 0x3ff;

/// First shared peripheral interrupt.
pub const FIRST_SPI: u32 = 32;

/// First private peripheral interrupt.
pub const FIRST_PPI: u32 = 16;

/// First locality-specific peripheral interrupt.
pub const FIRST_LPI: u32 = 8192;

/// What RPR reads while nothing is active. A GICv2's virtual interface may have zeroes for the priority's
/// bits that it does not implement: GICV_RPR "reads as 0xFF or 0xF8" (GIC architecture 2.0, 5.5.6).
pub const IDLE_PRIORITY: u32 = 0xff;
/// Bits of a priority that an implementation may lack.
const OPTIONAL_PRIORITY: u32 = 0x7;

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
                ICC_SRE_EL1.write(ICC_SRE_EL1.read() | 1);
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
            Self::V2 => DIST.write(gicd::SGIR, targets << 16 | sgi),
            Self::V3 => ICC_SGI1R_EL1.write(u64::from(sgi) << 24 | u64::from(targets)),
        }
    }

    /// Sends SGI `sgi` to all vCPUs but this one.
    pub fn send_sgi_to_others(self, sgi: u32) {
        match self {
            Self::V2 => DIST.write(gicd::SGIR, 1 << 24 | sgi),
            Self::V3 => ICC_SGI1R_EL1.write(u64::from(sgi) << 24 | 1 << 40),
        }
    }

    /// Sends SGI `sgi` of group 0 (GICv3).
    pub fn send_group0_sgi(self, sgi: u32, targets: u32) {
        ICC_SGI0R_EL1.write(u64::from(sgi) << 24 | u64::from(targets));
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
            Self::V3 => ICC_CTLR_EL1.write(ICC_CTLR_EL1.read() | ICC_CTLR_EOI_MODE),
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
    MPIDR_EL1.read() & 0xff
}

/// Stores a byte to a GICv2's SGI pending bank: the senders `senders` of `sgi`.
pub fn set_sgi_senders(bank: Bank, sgi: u32, senders: u8) {
    mmio_write(GICD + bank.offset + u64::from(sgi), senders);
}
