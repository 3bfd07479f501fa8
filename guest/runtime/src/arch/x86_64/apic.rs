//! The local APIC, by MMIO (xAPIC) or MSRs (x2APIC); SDM vol. 3, chapter "APIC".

use super::cpu::{rdmsr, wrmsr};
use super::memory::{peek, poke};

/// IA32_APIC_BASE.
pub const IA32_APIC_BASE: u32 = 0x1b;
/// IA32_APIC_BASE.EXTD: x2APIC mode.
pub const APIC_BASE_EXTD: u64 = 1 << 10;
/// IA32_APIC_BASE.EN.
pub const APIC_BASE_EN: u64 = 1 << 11;
/// Where the registers are in xAPIC mode.
pub const XAPIC_BASE: u64 = 0xfee0_0000;

/// Register offsets of xAPIC mode; divided by 16 and added to 0x800 they are x2APIC's MSRs.
pub mod reg {
    #![expect(missing_docs, reason = "the manual's names")]
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
}

/// SPIV: APIC software enable.
pub const SPIV_ENABLE: u32 = 1 << 8;

/// ICR, delivery mode: SMI.
pub const ICR_SMI: u32 = 2 << 8;
/// ICR, delivery mode: NMI.
pub const ICR_NMI: u32 = 4 << 8;
/// ICR, destination mode: logical.
pub const ICR_LOGICAL: u32 = 1 << 11;
/// ICR: the IPI is still being sent (xAPIC only).
pub const ICR_BUSY: u32 = 1 << 12;
/// ICR: level is assert, as every IPI but INIT de-assert wants it.
pub const ICR_ASSERT: u32 = 1 << 14;
/// ICR, shorthand: this CPU.
pub const ICR_SELF: u32 = 1 << 18;
/// ICR, shorthand: every CPU.
pub const ICR_ALL: u32 = 2 << 18;
/// ICR, shorthand: every CPU but this one.
pub const ICR_OTHERS: u32 = 3 << 18;

/// How the local APIC is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Apic {
    /// By MMIO.
    Xapic,
    /// By MSRs.
    X2apic,
}

impl Apic {
    /// The mode that IA32_APIC_BASE says is on, with the APIC software-enabled and spurious vector
    /// 0xff.
    pub fn enable() -> Self {
        let x2apic = rdmsr(IA32_APIC_BASE) & APIC_BASE_EXTD != 0;
        let apic = if x2apic { Self::X2apic } else { Self::Xapic };
        apic.write(reg::SPIV, SPIV_ENABLE | 0xff);
        apic
    }

    /// Switches to x2APIC mode and software-enables the APIC.
    pub fn enable_x2apic() -> Self {
        wrmsr(IA32_APIC_BASE, rdmsr(IA32_APIC_BASE) | APIC_BASE_EN | APIC_BASE_EXTD);
        Self::enable()
    }

    /// The MSR of a register.
    pub const fn msr(reg: u32) -> u32 {
        0x800 + reg / 16
    }

    /// Reads a register.
    pub fn read(self, reg: u32) -> u32 {
        match self {
            Self::Xapic => peek(XAPIC_BASE + u64::from(reg)),
            Self::X2apic => rdmsr(Self::msr(reg)) as u32,
        }
    }

    /// Writes a register.
    pub fn write(self, reg: u32, value: u32) {
        match self {
            Self::Xapic => poke(XAPIC_BASE + u64::from(reg), value),
            Self::X2apic => wrmsr(Self::msr(reg), value.into()),
        }
    }

    /// This CPU's APIC ID.
    pub fn id(self) -> u32 {
        match self {
            Self::Xapic => self.read(reg::ID) >> 24,
            Self::X2apic => self.read(reg::ID),
        }
    }

    /// Ends the interrupt in service.
    pub fn eoi(self) {
        self.write(reg::EOI, 0);
    }

    /// Sends an IPI: `icr` is the low half of ICR (vector, delivery mode, shorthand).
    pub fn ipi(self, destination: u32, icr: u32) {
        match self {
            Self::Xapic => {
                self.write(reg::ICR_HIGH, destination << 24);
                self.write(reg::ICR, icr);
            }
            Self::X2apic => {
                wrmsr(Self::msr(reg::ICR), u64::from(destination) << 32 | u64::from(icr));
            }
        }
    }

    /// Whether `vector` is set in a 256-bit register (ISR, TMR, IRR).
    pub fn bit(self, first: u32, vector: u8) -> bool {
        let vector = u32::from(vector);
        self.read(first + (vector / 32) * 16) >> (vector % 32) & 1 != 0
    }
}
