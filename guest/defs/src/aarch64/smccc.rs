//! Calls to firmware (SMC Calling Convention, DEN0028) other than PSCI: true random numbers (DEN0098), paravirtual time
//! (DEN0057), and KVM's own (Documentation/virt/kvm/arm/{hypercalls,pvtime,ptp_kvm}.rst).
#![expect(missing_docs, reason = "the specifications' names")]

/// Bit of a function id: the 64-bit convention.
pub const SMC64: u32 = 1 << 30;

/// Bit of a function id: it is a fast call.
pub const FAST: u32 = 1 << 31;

/// Where the service's owner is in a function id.
pub const OWNER_SHIFT: u32 = 24;

/// Owners of services.
pub mod owner {
    pub const ARCHITECTURE: u32 = 0;
    pub const STANDARD: u32 = 4;
    pub const STANDARD_HYPERVISOR: u32 = 5;
    pub const VENDOR_HYPERVISOR: u32 = 6;
}

/// The id of a fast call of the 32-bit convention.
pub const fn fast(owner: u32, number: u16) -> u32 {
    FAST | owner << OWNER_SHIFT | number as u32
}

/// Function ids.
pub mod function {
    use super::{SMC64, fast, owner};

    pub const VERSION: u32 = fast(owner::ARCHITECTURE, 0);
    pub const ARCH_FEATURES: u32 = fast(owner::ARCHITECTURE, 1);
    pub const ARCH_WORKAROUND_1: u32 = fast(owner::ARCHITECTURE, 0x8000);
    pub const ARCH_WORKAROUND_2: u32 = fast(owner::ARCHITECTURE, 0x7fff);
    pub const ARCH_WORKAROUND_3: u32 = fast(owner::ARCHITECTURE, 0x3fff);
    pub const TRNG_VERSION: u32 = fast(owner::STANDARD, 0x50);
    pub const TRNG_FEATURES: u32 = fast(owner::STANDARD, 0x51);
    pub const TRNG_GET_UUID: u32 = fast(owner::STANDARD, 0x52);
    pub const TRNG_RND32: u32 = fast(owner::STANDARD, 0x53);
    pub const TRNG_RND64: u32 = TRNG_RND32 | SMC64;
    pub const PV_TIME_FEATURES: u32 = fast(owner::STANDARD_HYPERVISOR, 0x20) | SMC64;
    pub const PV_TIME_ST: u32 = fast(owner::STANDARD_HYPERVISOR, 0x21) | SMC64;
    pub const VENDOR_HYP_UID: u32 = fast(owner::VENDOR_HYPERVISOR, 0xff01);
    pub const VENDOR_HYP_FEATURES: u32 = fast(owner::VENDOR_HYPERVISOR, 0);
    pub const VENDOR_HYP_PTP: u32 = fast(owner::VENDOR_HYPERVISOR, 1);
}

/// Version 1.1.
pub const V1_1: i32 = 0x1_0001;

/// A function that is not there, in 64 bits.
pub const NOT_SUPPORTED: u64 = (-1_i64).cast_unsigned();

/// TRNG: parameters that are not allowed.
pub const TRNG_INVALID_PARAMETERS: u64 = (-2_i64).cast_unsigned();

/// What VENDOR_HYP_UID gives where the hypervisor is KVM: 28b46fb6-2ec5-11e9-a9ca-4b564d003a74.
pub const KVM_UID: [u64; 4] = [0xb66f_b428, 0xe911_c52e, 0x564b_caa9, 0x743a_004d];
