//! What KVM can give to arm64 guests, as requirements: read from the id registers of a vCPU that has
//! every optional feature, and from the devices that KVM creates.

use std::ops::RangeInclusive;

use defs::Field;
use defs::aarch64::id::{dfr0, mmfr0, pfr0};
use defs::aarch64::sysreg::{ID_AA64DFR0_EL1, ID_AA64MMFR0_EL1, ID_AA64PFR0_EL1, SysReg};

use super::Requirement;

/// A field of an id register.
pub type IdField = (SysReg, Field);

macro_rules! requirements {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {$(
        $(#[$doc])*
        pub const $name: Requirement =
            Requirement::new($text, |facts| facts.cpu_features.iter().any(|f| f == $text));
    )*};
}

requirements! {
    /// An in-kernel GICv2.
    GICV2 = "an in-kernel GICv2";
    /// An in-kernel GICv3.
    GICV3 = "an in-kernel GICv3";
    /// A PMU for guests.
    PMUV3 = "PMUv3";
    /// 64-bit event counters.
    PMUV3P5 = "PMUv3p5";
    /// EL0 can run AArch32 code.
    AARCH32_EL0 = "AArch32 at EL0";
    /// EL0 runs AArch64 code only.
    AARCH64_ONLY = "AArch64 only at EL0";
    /// Vectors of scalable length.
    SVE = "FEAT_SVE";
    /// The 64 KiB translation granule.
    GRANULE_64K = "the 64 KiB translation granule";
}

/// Requirements that a field's value decides.
pub const ID_REGISTER_FEATURES: &[(Requirement, &IdField, RangeInclusive<u64>)] = &[
    (PMUV3, &(ID_AA64DFR0_EL1, dfr0::PMUVER), 1..=dfr0::PMU_IMPLEMENTATION_DEFINED - 1),
    (
        PMUV3P5,
        &(ID_AA64DFR0_EL1, dfr0::PMUVER),
        dfr0::PMUV3P5..=dfr0::PMU_IMPLEMENTATION_DEFINED - 1,
    ),
    (AARCH32_EL0, &(ID_AA64PFR0_EL1, pfr0::EL0), pfr0::AARCH32_TOO..=pfr0::AARCH32_TOO),
    (AARCH64_ONLY, &(ID_AA64PFR0_EL1, pfr0::EL0), pfr0::AARCH64_ONLY..=pfr0::AARCH64_ONLY),
    (SVE, &(ID_AA64PFR0_EL1, pfr0::SVE), 1..=1),
    (GRANULE_64K, &(ID_AA64MMFR0_EL1, mmfr0::TGRAN64), 0..=0),
];
