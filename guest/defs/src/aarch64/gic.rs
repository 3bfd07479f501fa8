//! The generic interrupt controller, versions 2 (IHI 0048) and 3 (IHI 0069).
#![expect(missing_docs, reason = "the manual's names")]

/// The distributor's registers; the banks are those of the redistributor's SGI frame too.
pub mod gicd {
    use super::super::mmio::{Bank, Register, banks, registers};

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
    pub const fn irouter(intid: u32) -> Register<Distributor, u64> {
        Register::at(0x6000 + intid as u64 * 8)
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
    pub const TYPER_ID_BITS_SHIFT: u32 = 19;
    pub const TYPER_NO_1N: u32 = 1 << 25;
    pub const SGIR_TARGETS_SHIFT: u32 = 16;
    /// SGIR: to all but this one; to this one.
    pub const SGIR_OTHERS: u32 = 1 << 24;
    pub const SGIR_SELF: u32 = 2 << 24;
    /// Interrupt_Routing_Mode: any vCPU may take it.
    pub const IROUTER_ANY: u64 = 1 << 31;
}

/// The redistributor's registers.
pub mod gicr {
    use super::super::mmio::{Register, registers};

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
    use super::super::mmio::{Register, registers};

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

/// ICC_CTLR_EL1.
pub mod icc_ctlr {
    use crate::Field;

    /// EOIR drops the priority only.
    pub const EOI_MODE: u64 = 1 << 1;
    /// How many bits a priority has, less one.
    pub const PRI_BITS: Field = Field::new(8, 3);
}

/// ICC_SRE_EL1.SRE: the CPU interface is reached by system registers.
pub const ICC_SRE_SRE: u64 = 1 << 0;

/// ICC_SGI0R_EL1 and ICC_SGI1R_EL1, beside the target list in the low bits.
pub mod icc_sgir {
    pub const INTID_SHIFT: u32 = 24;
    /// IRM: all but this one.
    pub const IRM: u64 = 1 << 40;
}

/// GICD_IIDR, GICR_IIDR and GICC_IIDR.
pub mod iidr {
    pub const IMPLEMENTER: u32 = 0xfff;
    pub const REVISION_SHIFT: u32 = 12;
    pub const REVISION: u32 = 0xf << REVISION_SHIFT;
    /// Of GICC_IIDR: the architecture's version.
    pub const ARCH_VERSION_SHIFT: u32 = 16;
    pub const PRODUCT_ID_SHIFT: u32 = 24;
    /// Arm's JEP106 code.
    pub const ARM: u32 = 0x43b;
}

/// What an acknowledge returns when nothing is pending.
pub const SPURIOUS: u32 = 1023;

/// The INTID in what an acknowledge returns: a GICv2 tells the sender of an SGI above it.
pub const INTID: u32 = 0x3ff;

/// Where PIDR2 has the architecture's version.
pub const PIDR2_ARCH_REV_SHIFT: u32 = 4;

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
pub const OPTIONAL_PRIORITY: u32 = 0x7;
