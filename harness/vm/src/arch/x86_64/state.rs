//! Register state that kvm-ioctls has no calls for.
#![expect(unsafe_code, reason = "ioctls on structures of plain integers")]

use std::os::fd::AsRawFd;

use kvm_bindings::kvm_sregs2;
use nix::errno::Errno;

use crate::Vcpu;

const KVM_GET_SREGS2: u64 = 0x8140_aecc;
const KVM_SET_SREGS2: u64 = 0x4140_aecd;
const _: () = assert!(size_of::<kvm_sregs2>() == 0x140);

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
