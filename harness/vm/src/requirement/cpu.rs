//! CPU features that KVM offers to guests (`KVM_GET_SUPPORTED_CPUID`), as requirements.

use super::Requirement;

#[cfg(target_arch = "aarch64")]
pub use super::aarch64::*;
#[cfg(target_arch = "riscv64")]
pub use super::riscv64::*;

use defs::x86::cpuid::{Feature, feature};

macro_rules! requirement {
    ($name:ident) => {
        #[doc = concat!("CPUID feature ", stringify!($name), ".")]
        pub const $name: Requirement =
            Requirement::new(concat!("CPUID feature ", stringify!($name)), |facts| {
                facts.cpu_features.iter().any(|f| f == stringify!($name))
            });
    };
}

/// Requirements with the names of their bits; then such as have a name of their own.
macro_rules! features {
    ($($name:ident),*; $($own:ident = $feature:ident),*) => {
        $(requirement!($name);)*
        $(requirement!($own);)*

        /// Every feature with a name here.
        pub const ALL: &[(&str, Feature)] = &[
            $((stringify!($name), feature::$name),)*
            $((stringify!($own), feature::$feature),)*
        ];
    };
}

features! {
    MONITOR, VMX, PCID, X2APIC, TSC_DEADLINE, XSAVE, AVX, MCE, MCA, TSC_ADJUST, SMEP, RTM, AVX512F,
    SMAP, UMIP, PKU, LA57, BUS_LOCK_DETECT, XSAVES, SVM, NX, GBPAGES, RDTSCP, NPT;
    // By way of IA32_CORE_CAPABILITIES.
    SPLIT_LOCK_DETECT = CORE_CAPABILITIES
}
