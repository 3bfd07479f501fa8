//! Register state that kvm-ioctls has no calls for.
#![expect(unsafe_code, reason = "ioctls on structures of plain integers")]

use std::os::fd::AsRawFd;

use kvm_bindings::kvm_sregs2;
use nix::errno::Errno;

use crate::{Vcpu, attribute};

const KVM_GET_SREGS2: u64 = 0x8140_aecc;
const KVM_SET_SREGS2: u64 = 0x4140_aecd;
const _: () = assert!(size_of::<kvm_sregs2>() == 0x140);

/// Group and attribute: KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET.
const TSC_OFFSET: (u32, u64) = (0, 0);

impl Vcpu {
    /// `KVM_GET_SREGS2`.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn sregs2(&self) -> Result<kvm_sregs2, Errno> {
        let mut sregs = kvm_sregs2::default();
        // SAFETY: the kernel fills a structure of the size that the request has.
        let result = unsafe { libc::ioctl(self.as_raw_fd(), KVM_GET_SREGS2 as _, &raw mut sregs) };
        Errno::result(result).map(|_| sregs)
    }

    /// `KVM_VCPU_TSC_OFFSET` (devices/vcpu.rst 4.1).
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn tsc_offset(&self) -> Result<u64, Errno> {
        let mut bytes = [0; 8];
        attribute::get(self, TSC_OFFSET, &mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// Sets it.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn set_tsc_offset(&self, offset: u64) -> Result<(), Errno> {
        attribute::set(self, TSC_OFFSET, &offset.to_ne_bytes())
    }

    /// `KVM_SET_SREGS2`.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn set_sregs2(&self, sregs: &kvm_sregs2) -> Result<(), Errno> {
        // SAFETY: the kernel reads a structure of the size that the request has.
        let result =
            unsafe { libc::ioctl(self.as_raw_fd(), KVM_SET_SREGS2 as _, &raw const *sregs) };
        Errno::result(result).map(drop)
    }
}
