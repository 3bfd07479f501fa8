//! Attributes of devices, and of VMs and vCPUs, which have some like them (Documentation/virt/kvm/devices).

use std::os::fd::AsRawFd;

use nix::errno::Errno;
use zerocopy::IntoBytes;

#[cfg(target_arch = "aarch64")]
use crate::request::KVM_HAS_DEVICE_ATTR;
use crate::request::{KVM_GET_DEVICE_ATTR, KVM_SET_DEVICE_ATTR};
use crate::{GuardedBuffer, raw_ioctl};

fn call(fd: &impl AsRawFd, request: u64, of: (u32, u64), addr: u64) -> Result<i32, Errno> {
    let (group, attr) = of;
    // struct kvm_device_attr: flags and group, attr, addr.
    let mut words = [u64::from_ne_bytes(halves(0, group)), attr, addr];
    raw_ioctl(fd, request, words.as_mut_bytes())
}

fn halves(first: u32, second: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_ne_bytes());
    bytes[4..].copy_from_slice(&second.to_ne_bytes());
    bytes
}

/// `KVM_HAS_DEVICE_ATTR` of (group, attribute).
#[cfg(target_arch = "aarch64")]
pub(crate) fn has(fd: &impl AsRawFd, of: (u32, u64)) -> Result<(), Errno> {
    call(fd, KVM_HAS_DEVICE_ATTR, of, 0).map(drop)
}

/// `KVM_GET_DEVICE_ATTR` of (group, attribute) into `bytes`, which it may look at first; gives what the
/// ioctl returns.
pub(crate) fn get(fd: &impl AsRawFd, of: (u32, u64), bytes: &mut [u8]) -> Result<i32, Errno> {
    let buffer = GuardedBuffer::new(bytes);
    let result = call(fd, KVM_GET_DEVICE_ATTR, of, buffer.address())?;
    bytes.copy_from_slice(buffer.bytes());
    Ok(result)
}

/// `KVM_SET_DEVICE_ATTR` of (group, attribute).
pub(crate) fn set(fd: &impl AsRawFd, of: (u32, u64), bytes: &[u8]) -> Result<(), Errno> {
    let buffer = GuardedBuffer::new(bytes);
    set_at(fd, of, buffer.address())
}

/// `KVM_SET_DEVICE_ATTR` of (group, attribute) with an address, which need not be one.
pub(crate) fn set_at(fd: &impl AsRawFd, of: (u32, u64), addr: u64) -> Result<(), Errno> {
    call(fd, KVM_SET_DEVICE_ATTR, of, addr).map(drop)
}
