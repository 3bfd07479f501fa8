//! The local APIC, by MMIO (xAPIC) or MSRs (x2APIC); SDM vol. 3, chapter "APIC".

use defs::bits;
pub use defs::x86::apic::*;
use defs::x86::msr::IA32_APIC_BASE;

use super::cpu::{rdmsr, wrmsr};
use super::memory::{peek, poke};

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
        let x2apic = ApicBase::from_bits_retain(rdmsr(IA32_APIC_BASE)).contains(ApicBase::EXTD);
        let apic = if x2apic { Self::X2apic } else { Self::Xapic };
        apic.write(reg::SPIV, SPIV_ENABLE | 0xff);
        apic
    }

    /// Switches to x2APIC mode and software-enables the APIC.
    pub fn enable_x2apic() -> Self {
        wrmsr(IA32_APIC_BASE, rdmsr(IA32_APIC_BASE) | bits!(ApicBase::{EN | EXTD}));
        Self::enable()
    }

    /// Reads a register.
    pub fn read(self, reg: u32) -> u32 {
        match self {
            Self::Xapic => peek(XAPIC_BASE + u64::from(reg)),
            Self::X2apic => rdmsr(x2apic_msr(reg)) as u32,
        }
    }

    /// Writes a register.
    pub fn write(self, reg: u32, value: u32) {
        match self {
            Self::Xapic => poke(XAPIC_BASE + u64::from(reg), value),
            Self::X2apic => wrmsr(x2apic_msr(reg), value.into()),
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
                wrmsr(x2apic_msr(reg::ICR), u64::from(destination) << 32 | u64::from(icr));
            }
        }
    }

    /// Whether `vector` is set in a 256-bit register (ISR, TMR, IRR).
    pub fn bit(self, first: u32, vector: u8) -> bool {
        self.read(reg::word(first, vector)) >> (vector % 32) & 1 != 0
    }
}
