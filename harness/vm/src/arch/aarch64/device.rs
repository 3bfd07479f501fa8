//! Devices in the kernel by their attributes (Documentation/virt/kvm/devices).
#![expect(unsafe_code, reason = "adopts descriptors of devices")]

use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::{Arc, Weak};

use kvm_bindings::{KVM_CREATE_DEVICE_TEST, kvm_create_device};
use kvm_ioctls::{DeviceFd, VmFd};
use nix::errno::Errno;

use crate::failure::{Failure, TestResult};
use crate::state::{Core, DeviceEntry};
use crate::{Ioctl, Vm, attribute, raw_ioctl, request};

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
pub struct Device {
    fd: DeviceFd,
    core: Weak<Core>,
}

impl Device {
    /// `KVM_CREATE_DEVICE`.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn create(vm: &Vm, type_: u32) -> Result<Self, Errno> {
        let mut device = kvm_create_device { type_, fd: 0, flags: 0 };
        let fd = vm.fd().create_device(&mut device).errno()?;
        let entry = DeviceEntry { fd: fd.as_raw_fd(), kind: type_ };
        vm.core().inventory().devices.push(entry);
        Ok(Self { fd, core: Arc::downgrade(vm.core()) })
    }

    /// Another descriptor of a device.
    pub(crate) fn twin(entry: DeviceEntry) -> TestResult<Self> {
        // SAFETY: a system call without pointers.
        let raw = Errno::result(unsafe { libc::fcntl(entry.fd, libc::F_DUPFD_CLOEXEC, 0) })
            .map_err(|e| Failure::Error(format!("dup of a device's descriptor: {e}")))?;
        // SAFETY: the descriptor is new, a device's, and nobody else's.
        Ok(Self { fd: unsafe { DeviceFd::from_raw_fd(raw) }, core: Weak::new() })
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
        &self.fd
    }

    /// `KVM_HAS_DEVICE_ATTR`.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn has(&self, group: u32, attr: u64) -> Result<(), Errno> {
        attribute::has(&self.fd, (group, attr))
    }

    /// `KVM_SET_DEVICE_ATTR` with an address, which need not be one.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn set_at(&self, group: u32, attr: u64, addr: u64) -> Result<(), Errno> {
        attribute::set_at(&self.fd, (group, attr), addr)
    }

    /// `KVM_SET_DEVICE_ATTR`.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn set<T: Number>(&self, group: u32, attr: u64, value: T) -> Result<(), Errno> {
        attribute::set(&self.fd, (group, attr), &value.to_bytes())
    }

    /// `KVM_GET_DEVICE_ATTR` of an attribute that looks at what is there before it answers.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn query<T: Number>(&self, group: u32, attr: u64, value: T) -> Result<T, Errno> {
        let mut bytes = value.to_bytes();
        attribute::get(&self.fd, (group, attr), &mut bytes)?;
        Ok(T::from_bytes(&bytes))
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

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(core) = self.core.upgrade() {
            let raw = self.fd.as_raw_fd();
            core.inventory().devices.retain(|entry| entry.fd != raw);
        }
    }
}
