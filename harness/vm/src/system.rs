//! `/dev/kvm` itself.
#![expect(unsafe_code, reason = "adopts the descriptor of /dev/kvm")]

use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::sync::OnceLock;
use std::{fs, io};

use kvm_ioctls::{Kvm, VmFd};

use crate::arch;
use crate::failure::{Failure, TestResult};
use crate::keep_open;

/// The API version that every KVM since 2.6.22 has (api.rst 4.1).
const API_VERSION: i32 = 12;

/// Why `/dev/kvm` cannot be used. Each message says what to do.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum KvmUnusable {
    /// No device node.
    #[error(
        "{0} does not exist: load the module for this CPU (modprobe kvm_intel or kvm_amd), enable \
         virtualization in the firmware, or run in the lab (./run_tests.sh --arch x86_64)"
    )]
    Missing(String),
    /// No permission.
    #[error(
        "no permission to open {0}: join the group that owns it (usually `kvm`), or run as root"
    )]
    Permission(String),
    /// Another hypervisor holds the CPU's extensions.
    #[error("{0} is busy: another hypervisor uses the CPU's virtualization extensions; stop it")]
    Busy(String),
    /// Not the KVM API that we know.
    #[error("{0} speaks KVM API version {1}, not 12: this is no KVM that we can test")]
    Version(String, i32),
    /// Anything else.
    #[error("cannot use {0}: {1}")]
    Other(String, String),
}

/// `/dev/kvm`, opened once.
#[derive(Debug)]
pub struct System {
    kvm: Kvm,
    mmap_size: usize,
}

impl System {
    /// The host's KVM, for a test; `KVM_CONFORMANCE_DEVICE` names another node than `/dev/kvm`.
    ///
    /// # Errors
    ///
    /// It cannot be used.
    pub fn get() -> TestResult<&'static Self> {
        Self::usable().map_err(|e| Failure::Error(e.to_string()))
    }

    /// The same, for those who look into why not.
    ///
    /// # Errors
    ///
    /// It cannot be used.
    pub fn usable() -> Result<&'static Self, KvmUnusable> {
        static SYSTEM: OnceLock<Result<System, KvmUnusable>> = OnceLock::new();
        let open = || {
            let path =
                std::env::var("KVM_CONFORMANCE_DEVICE").unwrap_or_else(|_| "/dev/kvm".into());
            Self::open(&path)
        };
        SYSTEM.get_or_init(open).as_ref().map_err(Clone::clone)
    }

    fn open(path: &str) -> Result<Self, KvmUnusable> {
        let name = path.to_owned();
        let file = fs::File::options().read(true).write(true).open(path).map_err(|e| {
            match (e.kind(), e.raw_os_error()) {
                (io::ErrorKind::NotFound, _) | (_, Some(libc::ENODEV | libc::ENXIO)) => {
                    KvmUnusable::Missing(name.clone())
                }
                (io::ErrorKind::PermissionDenied, _) => KvmUnusable::Permission(name.clone()),
                _ => KvmUnusable::Other(name.clone(), e.to_string()),
            }
        })?;
        // SAFETY: the descriptor is open and nobody else's.
        let kvm = unsafe { Kvm::from_raw_fd(file.into_raw_fd()) };
        judge_version(&name, kvm.get_api_version())?;
        let mmap_size =
            kvm.get_vcpu_mmap_size().map_err(|e| KvmUnusable::Other(name, e.to_string()))?;
        keep_open(kvm.as_raw_fd());
        Ok(Self { kvm, mmap_size })
    }

    /// A VM: the node opens for everyone who shares the CPU with another hypervisor, too, but only one
    /// of them can have VMs.
    ///
    /// # Errors
    ///
    /// KVM refuses a VM.
    pub fn make_a_vm(&self) -> Result<VmFd, KvmUnusable> {
        let name = || fs::read_link(format!("/proc/self/fd/{}", self.as_raw_fd()));
        let name = || name().map_or("/dev/kvm".to_owned(), |path| path.display().to_string());
        match arch::create_vm(self) {
            Ok(vm) => Ok(vm),
            Err(e) if e.errno() == libc::EBUSY => Err(KvmUnusable::Busy(name())),
            Err(e) => Err(KvmUnusable::Other(name(), format!("KVM_CREATE_VM: {e}"))),
        }
    }

    /// The wrapped descriptor.
    pub fn fd(&self) -> &Kvm {
        &self.kvm
    }

    /// `KVM_GET_VCPU_MMAP_SIZE`.
    pub fn vcpu_mmap_size(&self) -> usize {
        self.mmap_size
    }

    /// `KVM_CHECK_EXTENSION` by number.
    pub fn check_extension(&self, cap: u32) -> i64 {
        self.kvm.check_extension_raw(cap.into()).into()
    }
}

fn judge_version(name: &str, version: i32) -> Result<(), KvmUnusable> {
    match version {
        API_VERSION => Ok(()),
        -1 => Err(KvmUnusable::Other(name.to_owned(), "it is not a KVM device".into())),
        other => Err(KvmUnusable::Version(name.to_owned(), other)),
    }
}

impl AsRawFd for System {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.kvm.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_devices_are_told_apart() {
        let error = System::open("/nonexistent/kvm").unwrap_err();
        assert!(error.to_string().starts_with("/nonexistent/kvm does not exist: load the module"));
        let error = System::open("/dev/null").unwrap_err();
        assert_eq!(error.to_string(), "cannot use /dev/null: it is not a KVM device");
    }

    #[test]
    fn only_api_version_12_will_do() {
        assert!(judge_version("/dev/kvm", 12).is_ok());
        for wrong in [0, 11, 13] {
            let told = judge_version("/dev/kvm", wrong).unwrap_err().to_string();
            let wanted = format!("/dev/kvm speaks KVM API version {wrong}, not 12");
            assert!(told.starts_with(&wanted), "{told}");
        }
    }
}
