//! The three kinds of descriptors.
#![expect(unsafe_code, reason = "ioctls, and the mapping of kvm_run")]

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::ptr::NonNull;

use nix::errno::Errno;

use crate::{kvm_enable_cap, kvm_run, kvm_userspace_memory_region};

/// KVM's ioctl type.
pub const KVMIO: u32 = 0xae;

/// Numbers of ioctls (asm-generic/ioctl.h; powerpc has its own).
pub(crate) mod number {
    const IS_POWERPC: bool = cfg!(target_arch = "powerpc64");

    const fn ioc(direction: u64, nr: u64, size: usize) -> u64 {
        direction | (size as u64) << 16 | (super::KVMIO as u64) << 8 | nr
    }

    /// Without a structure.
    pub(crate) const fn none(nr: u64) -> u64 {
        ioc(if IS_POWERPC { 1 << 29 } else { 0 }, nr, 0)
    }

    /// The kernel reads a structure.
    pub(crate) const fn write(nr: u64, size: usize) -> u64 {
        ioc(if IS_POWERPC { 4 << 29 } else { 1 << 30 }, nr, size)
    }

    /// The kernel writes one.
    #[cfg(target_arch = "powerpc64")]
    pub(crate) const fn read(nr: u64, size: usize) -> u64 {
        ioc(2 << 29, nr, size)
    }
}

const KVM_GET_API_VERSION: u64 = number::none(0x00);
const KVM_CREATE_VM: u64 = number::none(0x01);
const KVM_CHECK_EXTENSION: u64 = number::none(0x03);
const KVM_GET_VCPU_MMAP_SIZE: u64 = number::none(0x04);
const KVM_CREATE_VCPU: u64 = number::none(0x41);
const KVM_SET_USER_MEMORY_REGION: u64 =
    number::write(0x46, size_of::<kvm_userspace_memory_region>());
const KVM_ENABLE_CAP: u64 = number::write(0xa3, size_of::<kvm_enable_cap>());
const KVM_GET_ONE_REG: u64 = number::write(0xab, size_of::<OneReg>());
const KVM_SET_ONE_REG: u64 = number::write(0xac, size_of::<OneReg>());

/// `struct kvm_one_reg`.
#[repr(C)]
struct OneReg {
    id: u64,
    addr: u64,
}

/// Why an ioctl failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error(Errno);

impl Error {
    /// The errno.
    pub fn errno(self) -> i32 {
        self.0 as i32
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Error {}

/// What an ioctl gives.
pub type Result<T> = std::result::Result<T, Error>;

fn call(fd: &File, request: u64, value: u64) -> Result<i32> {
    // SAFETY: only with numbers above whose argument is a value, or a pointer to what the caller holds.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), request as _, value) }).map_err(Error)
}

fn call_with<T>(fd: &File, request: u64, argument: &T) -> Result<i32> {
    call(fd, request, std::ptr::from_ref(argument) as u64)
}

/// `KVM_CHECK_EXTENSION`; what fails has no such extension.
fn check_extension(fd: &File, cap: u64) -> i32 {
    call(fd, KVM_CHECK_EXTENSION, cap).unwrap_or(0)
}

/// `/dev/kvm`.
#[derive(Debug)]
pub struct Kvm(File);

impl Kvm {
    /// `KVM_GET_API_VERSION`; -1 for what is no KVM.
    pub fn get_api_version(&self) -> i32 {
        call(&self.0, KVM_GET_API_VERSION, 0).unwrap_or(-1)
    }

    /// `KVM_GET_VCPU_MMAP_SIZE`.
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn get_vcpu_mmap_size(&self) -> Result<usize> {
        call(&self.0, KVM_GET_VCPU_MMAP_SIZE, 0).map(|size| size as usize)
    }

    /// `KVM_CHECK_EXTENSION` by number.
    pub fn check_extension_raw(&self, cap: u64) -> i32 {
        check_extension(&self.0, cap)
    }

    /// `KVM_CREATE_VM` of the default type.
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn create_vm(&self) -> Result<VmFd> {
        self.create_vm_with_type(0)
    }

    /// `KVM_CREATE_VM`.
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn create_vm_with_type(&self, kind: u64) -> Result<VmFd> {
        let fd = call(&self.0, KVM_CREATE_VM, kind)?;
        // SAFETY: the descriptor is new, and nobody else's.
        let file = unsafe { File::from_raw_fd(fd) };
        Ok(VmFd { file, mmap_size: self.get_vcpu_mmap_size()? })
    }
}

impl FromRawFd for Kvm {
    unsafe fn from_raw_fd(fd: RawFd) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { File::from_raw_fd(fd) })
    }
}

impl AsRawFd for Kvm {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A VM.
#[derive(Debug)]
pub struct VmFd {
    file: File,
    mmap_size: usize,
}

impl VmFd {
    /// `KVM_CREATE_VCPU`.
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn create_vcpu(&self, id: u64) -> Result<VcpuFd> {
        let fd = call(&self.file, KVM_CREATE_VCPU, id)?;
        // SAFETY: the descriptor is new, and nobody else's.
        unsafe { self.create_vcpu_from_rawfd(fd) }
    }

    /// Takes over a vCPU's descriptor, and maps its `kvm_run`.
    ///
    /// # Errors
    ///
    /// It cannot be mapped.
    ///
    /// # Safety
    ///
    /// The descriptor is a vCPU's, and nobody else's.
    pub unsafe fn create_vcpu_from_rawfd(&self, fd: RawFd) -> Result<VcpuFd> {
        // SAFETY: as the caller says.
        let file = unsafe { File::from_raw_fd(fd) };
        // SAFETY: a new mapping at an address of the kernel's choice.
        let run = unsafe {
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), self.mmap_size, prot, libc::MAP_SHARED, fd, 0)
        };
        match NonNull::new(run.cast::<kvm_run>()) {
            Some(run) if run.as_ptr().cast() != libc::MAP_FAILED => {
                Ok(VcpuFd { file, run, mmap_size: self.mmap_size })
            }
            _ => Err(Error(Errno::last())),
        }
    }

    /// `KVM_SET_USER_MEMORY_REGION`.
    ///
    /// # Errors
    ///
    /// KVM refuses.
    ///
    /// # Safety
    ///
    /// A guest can write what is at `userspace_addr`.
    pub unsafe fn set_user_memory_region(&self, region: kvm_userspace_memory_region) -> Result<()> {
        call_with(&self.file, KVM_SET_USER_MEMORY_REGION, &region).map(drop)
    }

    /// `KVM_ENABLE_CAP`.
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn enable_cap(&self, cap: &kvm_enable_cap) -> Result<()> {
        call_with(&self.file, KVM_ENABLE_CAP, cap).map(drop)
    }

    /// `KVM_CHECK_EXTENSION` by number.
    pub fn check_extension_raw(&self, cap: u64) -> i32 {
        check_extension(&self.file, cap)
    }
}

impl AsRawFd for VmFd {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// A vCPU.
#[derive(Debug)]
pub struct VcpuFd {
    file: File,
    run: NonNull<kvm_run>,
    mmap_size: usize,
}

// SAFETY: kvm_run is this descriptor's own mapping.
unsafe impl Send for VcpuFd {}

impl VcpuFd {
    /// `kvm_run`.
    pub fn get_kvm_run(&mut self) -> &mut kvm_run {
        // SAFETY: the mapping lives as long as this value, is large enough, and takes every bit pattern.
        unsafe { self.run.as_mut() }
    }

    /// Sets `immediate_exit`.
    pub fn set_kvm_immediate_exit(&mut self, value: u8) {
        self.get_kvm_run().immediate_exit = value;
    }

    /// `KVM_GET_ONE_REG`. Gives the register's size.
    ///
    /// # Errors
    ///
    /// KVM refuses.
    ///
    /// # Panics
    ///
    /// `bytes` are fewer than the register's.
    pub fn get_one_reg(&self, id: u64, bytes: &mut [u8]) -> Result<usize> {
        let size = register_size(id);
        let addr = bytes[..size].as_mut_ptr() as u64;
        call_with(&self.file, KVM_GET_ONE_REG, &OneReg { id, addr }).map(|_| size)
    }

    /// `KVM_SET_ONE_REG`. Gives the register's size.
    ///
    /// # Errors
    ///
    /// KVM refuses.
    ///
    /// # Panics
    ///
    /// `bytes` are fewer than the register's.
    pub fn set_one_reg(&self, id: u64, bytes: &[u8]) -> Result<usize> {
        let size = register_size(id);
        let addr = bytes[..size].as_ptr() as u64;
        call_with(&self.file, KVM_SET_ONE_REG, &OneReg { id, addr }).map(|_| size)
    }
}

#[cfg(target_arch = "powerpc64")]
impl VcpuFd {
    /// An ioctl that reads a structure.
    pub(crate) fn call_with<T>(&self, request: u64, argument: &T) -> Result<()> {
        call_with(&self.file, request, argument).map(drop)
    }

    /// An ioctl that writes a structure.
    pub(crate) fn call_with_mut<T>(&self, request: u64, argument: &mut T) -> Result<()> {
        call(&self.file, request, std::ptr::from_mut(argument) as u64).map(drop)
    }
}

/// Bytes of a register, from its id (`KVM_REG_SIZE_MASK`).
fn register_size(id: u64) -> usize {
    1 << (id >> 52 & 0xf)
}

impl AsRawFd for VcpuFd {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl Drop for VcpuFd {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and no reference outlives it.
        unsafe { libc::munmap(self.run.as_ptr().cast(), self.mmap_size) };
    }
}
