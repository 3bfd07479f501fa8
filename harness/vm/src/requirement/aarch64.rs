//! What KVM can give to arm64 guests, as requirements: read from the id registers of a vCPU that has
//! every optional feature, and from the devices that KVM creates.

use std::ops::RangeInclusive;

use guest_runtime::arch::aarch64::sysreg::{
    ID_AA64DFR0_EL1, ID_AA64MMFR0_EL1, ID_AA64PFR0_EL1, SysReg,
};

use super::Requirement;

/// A 4-bit field of an id register: the register, and its lowest bit.
pub type IdField = (SysReg, u32);

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
    (PMUV3, &(ID_AA64DFR0_EL1, 8), 1..=14),
    (PMUV3P5, &(ID_AA64DFR0_EL1, 8), 6..=14),
    (AARCH32_EL0, &(ID_AA64PFR0_EL1, 0), 2..=2),
    (AARCH64_ONLY, &(ID_AA64PFR0_EL1, 0), 1..=1),
    (SVE, &(ID_AA64PFR0_EL1, 32), 1..=1),
    (GRANULE_64K, &(ID_AA64MMFR0_EL1, 24), 0..=0),
];
