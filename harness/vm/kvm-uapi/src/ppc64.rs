//! Structures and ioctls of ppc64le.
#![expect(missing_docs, reason = "the kernel's names")]

use crate::{Result, VcpuFd, number};

/// None are synchronized.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct kvm_sync_regs {}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct kvm_regs {
    pub pc: u64,
    pub cr: u64,
    pub ctr: u64,
    pub lr: u64,
    pub xer: u64,
    pub msr: u64,
    pub srr0: u64,
    pub srr1: u64,
    pub pid: u64,
    pub sprg: [u64; 8],
    pub gpr: [u64; 32],
}

const KVM_GET_REGS: u64 = number::read(0x81, size_of::<kvm_regs>());
const KVM_SET_REGS: u64 = number::write(0x82, size_of::<kvm_regs>());

impl VcpuFd {
    /// `KVM_GET_REGS`.
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn get_regs(&self) -> Result<kvm_regs> {
        let mut regs = kvm_regs::default();
        self.call_with_mut(KVM_GET_REGS, &mut regs)?;
        Ok(regs)
    }

    /// `KVM_SET_REGS`.
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn set_regs(&self, regs: &kvm_regs) -> Result<()> {
        self.call_with(KVM_SET_REGS, regs)
    }
}
