//! Structures of s390x.
#![expect(missing_docs, reason = "the kernel's names")]

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The synchronized registers, up to the floating-point control register.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvm_sync_regs {
    pub prefix: u64,
    pub gprs: [u64; 16],
    pub acrs: [u32; 16],
    pub crs: [u64; 16],
    pub todpr: u64,
    pub cputm: u64,
    pub ckc: u64,
    pub pp: u64,
    pub gbea: u64,
    pub pft: u64,
    pub pfs: u64,
    pub pfc: u64,
    /// The vector registers in pairs, or the floating-point registers in the first sixteen.
    pub vrs: [u64; 64],
    pub reserved: [u64; 64],
    pub fpc: u32,
}

pub const KVM_SYNC_PREFIX: u64 = 1 << 0;
pub const KVM_SYNC_GPRS: u64 = 1 << 1;
pub const KVM_SYNC_ACRS: u64 = 1 << 2;
pub const KVM_SYNC_CRS: u64 = 1 << 3;
pub const KVM_SYNC_ARCH0: u64 = 1 << 4;
pub const KVM_SYNC_PFAULT: u64 = 1 << 5;
pub const KVM_SYNC_VRS: u64 = 1 << 6;
pub const KVM_SYNC_FPRS: u64 = 1 << 8;

const _: () = assert!(std::mem::offset_of!(kvm_sync_regs, fpc) == 0x588);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kvm_regs {
    pub gprs: [u64; 16],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kvm_sregs {
    pub acrs: [u32; 16],
    pub crs: [u64; 16],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kvm_fpu {
    pub fpc: u32,
    pub padding: u32,
    pub fprs: [u64; 16],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kvm_s390_irq {
    pub type_: u64,
    /// What the type says more.
    pub u: [u8; 64],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct kvm_s390_irq_state {
    pub buf: u64,
    pub flags: u32,
    pub len: u32,
    pub reserved: [u32; 4],
}

pub const KVM_S390_INT_EMERGENCY: u64 = 0xffff_1201;

const _: () = assert!(size_of::<kvm_s390_irq>() == 72 && size_of::<kvm_s390_irq_state>() == 32);
