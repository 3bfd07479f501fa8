//! CPU features that KVM offers to guests (`KVM_GET_SUPPORTED_CPUID`), as requirements.

use super::Requirement;

#[cfg(target_arch = "aarch64")]
pub use super::aarch64::*;
#[cfg(target_arch = "riscv64")]
pub use super::riscv64::*;

/// A bit of CPUID: name, leaf, subleaf, register (0 EAX … 3 EDX), bit.
pub type CpuidBit = (&'static str, u32, u32, usize, u32);

macro_rules! features {
    ($($name:ident = $leaf:literal, $subleaf:literal, $register:literal[$bit:literal];)*) => {
        $(
            #[doc = concat!("CPUID feature ", stringify!($name), ".")]
            pub const $name: Requirement = Requirement {
                name: concat!("CPUID feature ", stringify!($name)),
                met: |facts| facts.cpu_features.iter().any(|f| f == stringify!($name)),
            };
        )*

        /// Every feature with a name here.
        pub const ALL: &[CpuidBit] = &[$((stringify!($name), $leaf, $subleaf, $register, $bit),)*];
    };
}

features! {
    MONITOR = 1, 0, 2[3];
    VMX = 1, 0, 2[5];
    PCID = 1, 0, 2[17];
    X2APIC = 1, 0, 2[21];
    TSC_DEADLINE = 1, 0, 2[24];
    XSAVE = 1, 0, 2[26];
    AVX = 1, 0, 2[28];
    MCE = 1, 0, 3[7];
    MCA = 1, 0, 3[14];
    TSC_ADJUST = 7, 0, 1[1];
    SMEP = 7, 0, 1[7];
    RTM = 7, 0, 1[11];
    AVX512F = 7, 0, 1[16];
    SMAP = 7, 0, 1[20];
    UMIP = 7, 0, 2[2];
    PKU = 7, 0, 2[3];
    LA57 = 7, 0, 2[16];
    BUS_LOCK_DETECT = 7, 0, 2[24];
    SPLIT_LOCK_DETECT = 7, 0, 3[30];
    XSAVES = 0xd, 1, 0[3];
    SVM = 0x8000_0001, 0, 2[2];
    NX = 0x8000_0001, 0, 3[20];
    GBPAGES = 0x8000_0001, 0, 3[26];
    RDTSCP = 0x8000_0001, 0, 3[27];
    NPT = 0x8000_000a, 0, 3[0];
}
