//! The local APIC (SDM vol. 3, "Advanced Programmable Interrupt Controller (APIC)") and the messages that
//! devices send to it (SDM vol. 3, "Message Signalled Interrupts").
#![expect(missing_docs, reason = "the manual's names")]

use bitflags::bitflags;

bitflags! {
    /// IA32_APIC_BASE beside the address.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ApicBase: u64 {
        const BSP = 1 << 8;
        /// x2APIC mode.
        const EXTD = 1 << 10;
        const EN = 1 << 11;
    }
}

/// Where the registers are in xAPIC mode, and where messages go.
pub const XAPIC_BASE: u64 = 0xfee0_0000;

/// MSRs of x2APIC mode.
pub const X2APIC_MSRS: core::ops::Range<u32> = 0x800..0x900;

/// The MSR that a register is in x2APIC mode.
pub const fn x2apic_msr(reg: u32) -> u32 {
    X2APIC_MSRS.start + reg / 16
}

/// Register offsets of xAPIC mode.
pub mod reg {
    pub const ID: u32 = 0x20;
    pub const VERSION: u32 = 0x30;
    pub const TPR: u32 = 0x80;
    pub const PPR: u32 = 0xa0;
    pub const EOI: u32 = 0xb0;
    pub const LDR: u32 = 0xd0;
    pub const DFR: u32 = 0xe0;
    pub const SPIV: u32 = 0xf0;
    pub const ISR: u32 = 0x100;
    pub const TMR: u32 = 0x180;
    pub const IRR: u32 = 0x200;
    pub const ESR: u32 = 0x280;
    pub const LVT_CMCI: u32 = 0x2f0;
    pub const ICR: u32 = 0x300;
    pub const ICR_HIGH: u32 = 0x310;
    pub const LVT_TIMER: u32 = 0x320;
    pub const LVT_PMI: u32 = 0x340;
    pub const LVT_LINT0: u32 = 0x350;
    pub const LVT_LINT1: u32 = 0x360;
    pub const LVT_ERROR: u32 = 0x370;
    pub const TMICT: u32 = 0x380;
    pub const TMCCT: u32 = 0x390;
    pub const TDCR: u32 = 0x3e0;
    pub const SELF_IPI: u32 = 0x3f0;

    /// The word of a 256-bit register (ISR, TMR, IRR) that has the bit of `vector`.
    pub const fn word(first: u32, vector: u8) -> u32 {
        first + vector as u32 / 32 * 16
    }
}

/// SPIV: APIC software enable.
pub const SPIV_ENABLE: u32 = 1 << 8;

/// ICR, delivery mode: SMI.
pub const ICR_SMI: u32 = 2 << 8;
/// ICR, delivery mode: NMI.
pub const ICR_NMI: u32 = 4 << 8;
/// ICR, delivery mode: INIT.
pub const ICR_INIT: u32 = 5 << 8;
/// ICR, delivery mode: start-up; the vector is the page where it starts.
pub const ICR_STARTUP: u32 = 6 << 8;
/// ICR, destination mode: logical.
pub const ICR_LOGICAL: u32 = 1 << 11;
/// ICR: the IPI is still being sent (xAPIC only).
pub const ICR_BUSY: u32 = 1 << 12;
/// ICR: level is assert, as every IPI but INIT de-assert wants it.
pub const ICR_ASSERT: u32 = 1 << 14;
/// ICR: level-triggered.
pub const ICR_LEVEL: u32 = 1 << 15;
/// ICR, shorthand: this CPU.
pub const ICR_SELF: u32 = 1 << 18;
/// ICR, shorthand: every CPU.
pub const ICR_ALL: u32 = 2 << 18;
/// ICR, shorthand: every CPU but this one.
pub const ICR_OTHERS: u32 = 3 << 18;

/// LVT, delivery mode: NMI.
pub const LVT_NMI: u32 = 4 << 8;
/// LVT: masked.
pub const LVT_MASKED: u32 = 1 << 16;
/// LVT timer, mode: periodic.
pub const LVT_PERIODIC: u32 = 1 << 17;
/// LVT timer, mode: TSC deadline.
pub const LVT_TSC_DEADLINE: u32 = 2 << 17;

/// TDCR: the timer counts every tick of the bus.
pub const DIVIDE_BY_1: u32 = 0b1011;

/// DFR: logical IDs are sets of eight CPUs.
pub const DFR_FLAT: u32 = !0;
/// DFR: logical IDs are a cluster and a set of its four CPUs.
pub const DFR_CLUSTER: u32 = 0x0fff_ffff;

/// Vectors below this one are the CPU's own, and never sent.
pub const FIRST_VECTOR: u8 = 16;
