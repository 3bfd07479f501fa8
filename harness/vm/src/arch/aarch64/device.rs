//! Devices in the kernel by their attributes (Documentation/virt/kvm/devices).

use kvm_bindings::{KVM_CREATE_DEVICE_TEST, kvm_create_device, kvm_device_attr};
use kvm_ioctls::{DeviceFd, VmFd};
use nix::errno::Errno;

use crate::{GuardedBuffer, Ioctl, raw_ioctl, request};

/// A number that an attribute holds: 32 or 64 bits wide.
pub trait Number: Copy {
    /// Its bytes.
    fn to_bytes(self) -> Vec<u8>;
    /// From as many bytes.
    fn from_bytes(bytes: &[u8]) -> Self;
}

macro_rules! number {
    ($($ty:ty),*) => {$(
        impl Number for $ty {
            fn to_bytes(self) -> Vec<u8> {
                self.to_ne_bytes().to_vec()
            }
            fn from_bytes(bytes: &[u8]) -> Self {
                let mut value = [0; size_of::<$ty>()];
                value.copy_from_slice(bytes);
                Self::from_ne_bytes(value)
            }
        }
    )*};
}
number!(u32, u64);

/// A device of a VM. Attributes are values here; KVM is handed a copy that ends where unmapped memory
/// begins, so that an attribute of another width is EFAULT.
#[derive(Debug)]
pub struct Device(DeviceFd);

impl Device {
    /// `KVM_CREATE_DEVICE`.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn create(vm: &VmFd, type_: u32) -> Result<Self, Errno> {
        let mut device = kvm_create_device { type_, fd: 0, flags: 0 };
        vm.create_device(&mut device).map(Self).errno()
    }

    /// Whether KVM would make one: `KVM_CREATE_DEVICE_TEST`, which gives no descriptor.
    pub(super) fn offered(vm: &VmFd, type_: u32) -> bool {
        let mut bytes = [0; size_of::<kvm_create_device>()];
        bytes[0..4].copy_from_slice(&type_.to_ne_bytes());
        bytes[8..12].copy_from_slice(&KVM_CREATE_DEVICE_TEST.to_ne_bytes());
        raw_ioctl(vm, request::KVM_CREATE_DEVICE, &mut bytes).is_ok()
    }

    /// The wrapped descriptor.
    pub fn fd(&self) -> &DeviceFd {
        &self.0
    }

    fn call(&self, request: u64, group: u32, attr: u64, addr: u64) -> Result<(), Errno> {
        let mut bytes = [0; size_of::<kvm_device_attr>()];
        bytes[4..8].copy_from_slice(&group.to_ne_bytes());
        bytes[8..16].copy_from_slice(&attr.to_ne_bytes());
        bytes[16..24].copy_from_slice(&addr.to_ne_bytes());
        raw_ioctl(&self.0, request, &mut bytes).map(drop)
    }

    /// `KVM_HAS_DEVICE_ATTR`.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn has(&self, group: u32, attr: u64) -> Result<(), Errno> {
        self.call(request::KVM_HAS_DEVICE_ATTR, group, attr, 0)
    }

    /// `KVM_SET_DEVICE_ATTR` with an address, which need not be one.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn set_at(&self, group: u32, attr: u64, addr: u64) -> Result<(), Errno> {
        self.call(request::KVM_SET_DEVICE_ATTR, group, attr, addr)
    }

    /// `KVM_SET_DEVICE_ATTR`.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn set<T: Number>(&self, group: u32, attr: u64, value: T) -> Result<(), Errno> {
        let buffer = GuardedBuffer::new(&value.to_bytes());
        self.set_at(group, attr, buffer.address())
    }

    /// `KVM_GET_DEVICE_ATTR` of an attribute that looks at what is there before it answers.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn query<T: Number>(&self, group: u32, attr: u64, value: T) -> Result<T, Errno> {
        let buffer = GuardedBuffer::new(&value.to_bytes());
        self.call(request::KVM_GET_DEVICE_ATTR, group, attr, buffer.address())?;
        Ok(T::from_bytes(buffer.bytes()))
    }

    /// `KVM_GET_DEVICE_ATTR`.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn get<T: Number + Default>(&self, group: u32, attr: u64) -> Result<T, Errno> {
        self.query(group, attr, T::default())
    }
}
