//! The generic interrupt controller, versions 2 and 3, where the harness puts it (IHI 0048, IHI 0069).

use guest_protocol::layout::aarch64::{GICC, GICD, GICR, GICR_STRIDE};

use super::cpu::cpu_id;
use super::memory::{mmio_read, mmio_write};
use super::sysreg::{
    ICC_EOIR1_EL1, ICC_IAR1_EL1, ICC_IGRPEN1_EL1, ICC_PMR_EL1, ICC_SRE_EL1, MPIDR_EL1,
};

/// Offsets of distributor registers (and of the redistributor's SGI frame where it has the same).
pub mod gicd {
    #![expect(missing_docs, reason = "the manual's names")]
    pub const CTLR: u64 = 0x0000;
    pub const TYPER: u64 = 0x0004;
    pub const IIDR: u64 = 0x0008;
    pub const IGROUPR: u64 = 0x0080;
    pub const ISENABLER: u64 = 0x0100;
    pub const ICENABLER: u64 = 0x0180;
    pub const ISPENDR: u64 = 0x0200;
    pub const ICPENDR: u64 = 0x0280;
    pub const ISACTIVER: u64 = 0x0300;
    pub const ICACTIVER: u64 = 0x0380;
    pub const IPRIORITYR: u64 = 0x0400;
    pub const ITARGETSR: u64 = 0x0800;
    pub const ICFGR: u64 = 0x0c00;
    pub const SGIR: u64 = 0x0f00;
    pub const IROUTER: u64 = 0x6000;
    /// PIDR2 of a GICv3.
    pub const PIDR2: u64 = 0xffe8;
    /// ICPIDR2 of a GICv2.
    pub const ICPIDR2: u64 = 0x0fe8;
    pub const CTLR_ENABLE_GRP0: u32 = 1 << 0;
    pub const CTLR_ENABLE_GRP1: u32 = 1 << 1;
    pub const CTLR_ARE: u32 = 1 << 4;
    pub const CTLR_DS: u32 = 1 << 6;
    pub const CTLR_RWP: u32 = 1 << 31;
}

/// Offsets of redistributor registers.
pub mod gicr {
    #![expect(missing_docs, reason = "the manual's names")]
    pub const CTLR: u64 = 0x0000;
    pub const IIDR: u64 = 0x0004;
    pub const TYPER: u64 = 0x0008;
    pub const WAKER: u64 = 0x0014;
    pub const WAKER_PROCESSOR_SLEEP: u32 = 1 << 1;
    pub const WAKER_CHILDREN_ASLEEP: u32 = 1 << 2;
    pub const TYPER_LAST: u64 = 1 << 4;
    /// The frame of SGIs and PPIs.
    pub const SGI_BASE: u64 = 0x1_0000;
}

/// Offsets of a GICv2's CPU interface.
pub mod gicc {
    #![expect(missing_docs, reason = "the manual's names")]
    pub const CTLR: u64 = 0x0000;
    pub const PMR: u64 = 0x0004;
    pub const BPR: u64 = 0x0008;
    pub const IAR: u64 = 0x000c;
    pub const EOIR: u64 = 0x0010;
    pub const RPR: u64 = 0x0014;
    pub const IIDR: u64 = 0x00fc;
    pub const DIR: u64 = 0x1000;
}

/// What an acknowledge returns when nothing is pending.
pub const SPURIOUS: u32 = 1023;

/// First shared peripheral interrupt.
pub const FIRST_SPI: u32 = 32;

/// First private peripheral interrupt.
pub const FIRST_PPI: u32 = 16;

/// The interrupt controller of this VM, by architecture version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gic {
    /// With a memory-mapped CPU interface.
    V2,
    /// With redistributors and system registers.
    V3,
}

impl Gic {
    /// Which one the VM has: affinity routing is always on in KVM's GICv3, and unknown to a GICv2.
    pub fn detect() -> Self {
        match mmio_read::<u32>(GICD + gicd::CTLR) & gicd::CTLR_ARE {
            0 => Self::V2,
            _ => Self::V3,
        }
    }

    /// Enables distributor and CPU interface of this vCPU: group 1 on a GICv3; all priorities.
    pub fn enable(self) {
        match self {
            Self::V2 => {
                self.write_dist(gicd::CTLR, gicd::CTLR_ENABLE_GRP0 | gicd::CTLR_ENABLE_GRP1);
                mmio_write::<u32>(GICC + gicc::PMR, 0xff);
                mmio_write::<u32>(GICC + gicc::CTLR, 1);
            }
            Self::V3 => {
                let waker = redistributor() + gicr::WAKER;
                mmio_write(waker, mmio_read::<u32>(waker) & !gicr::WAKER_PROCESSOR_SLEEP);
                self.write_dist(gicd::CTLR, gicd::CTLR_ENABLE_GRP1 | gicd::CTLR_ARE);
                ICC_SRE_EL1.write(ICC_SRE_EL1.read() | 1);
                ICC_PMR_EL1.write(0xff);
                ICC_IGRPEN1_EL1.write(1);
            }
        }
    }

    /// Reads a distributor register.
    pub fn read_dist(self, offset: u64) -> u32 {
        mmio_read(GICD + offset)
    }

    /// Writes a distributor register.
    pub fn write_dist(self, offset: u64, value: u32) {
        mmio_write(GICD + offset, value);
    }

    /// Where the registers of `intid` are: SGIs and PPIs of a GICv3 are in the redistributor.
    fn frame(self, intid: u32) -> u64 {
        match self {
            Self::V3 if intid < FIRST_SPI => redistributor() + gicr::SGI_BASE,
            _ => GICD,
        }
    }

    /// Sets this interrupt's bit in a register bank with one bit each (`ISENABLER`, `ICPENDR`, …).
    pub fn set(self, bank: u64, intid: u32) {
        let register = self.frame(intid) + bank + u64::from(intid / 32 * 4);
        mmio_write::<u32>(register, 1 << (intid % 32));
    }

    /// This interrupt's bit in a register bank with one bit each.
    pub fn get(self, bank: u64, intid: u32) -> bool {
        let register = self.frame(intid) + bank + u64::from(intid / 32 * 4);
        mmio_read::<u32>(register) >> (intid % 32) & 1 != 0
    }

    /// Sets this interrupt's bit in IGROUPR.
    pub fn set_group(self, intid: u32, group: u32) {
        let register = self.frame(intid) + gicd::IGROUPR + u64::from(intid / 32 * 4);
        let others = mmio_read::<u32>(register) & !(1 << (intid % 32));
        mmio_write(register, others | group << (intid % 32));
    }

    /// This interrupt's group.
    pub fn group(self, intid: u32) -> u32 {
        self.get(gicd::IGROUPR, intid).into()
    }

    /// Sets this interrupt's priority.
    pub fn set_priority(self, intid: u32, priority: u8) {
        mmio_write(self.frame(intid) + gicd::IPRIORITYR + u64::from(intid), priority);
    }

    /// This interrupt's priority.
    pub fn priority(self, intid: u32) -> u8 {
        mmio_read(self.frame(intid) + gicd::IPRIORITYR + u64::from(intid))
    }

    /// Makes an interrupt edge-triggered, or level-sensitive.
    pub fn set_edge(self, intid: u32, edge: bool) {
        let register = self.frame(intid) + gicd::ICFGR + u64::from(intid / 16 * 4);
        let shift = intid % 16 * 2;
        let others = mmio_read::<u32>(register) & !(3 << shift);
        mmio_write(register, others | u32::from(edge) << (shift + 1));
    }

    /// Sends an SPI to vCPU `vcpu` (whose affinity is its index).
    pub fn route(self, intid: u32, vcpu: u32) {
        match self {
            Self::V2 => mmio_write(GICD + gicd::ITARGETSR + u64::from(intid), 1u8 << vcpu),
            Self::V3 => mmio_write(GICD + gicd::IROUTER + u64::from(intid) * 8, u64::from(vcpu)),
        }
    }

    /// Acknowledges the highest pending interrupt (group 1 on a GICv3). A GICv2 tells the sender of an
    /// SGI above bit 9.
    pub fn acknowledge(self) -> u32 {
        match self {
            Self::V2 => mmio_read(GICC + gicc::IAR),
            Self::V3 => ICC_IAR1_EL1.read() as u32,
        }
    }

    /// Ends an interrupt by what the acknowledge returned.
    pub fn end(self, acknowledged: u32) {
        match self {
            Self::V2 => mmio_write(GICC + gicc::EOIR, acknowledged),
            Self::V3 => ICC_EOIR1_EL1.write(acknowledged.into()),
        }
    }
}

/// The redistributor of this vCPU.
pub fn redistributor() -> u64 {
    GICR + cpu_id() * GICR_STRIDE
}

/// Aff0 of this vCPU.
pub fn affinity() -> u64 {
    MPIDR_EL1.read() & 0xff
}
