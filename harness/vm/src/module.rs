//! KVM's own kernel modules, on hosts of the lab.
#![expect(unsafe_code, reason = "puts another file under the number of a descriptor")]

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::kmod::{DeleteModuleFlags, ModuleInitFlags, delete_module, finit_module};

use super::System;
use crate::failure::{Failure, TestResult};

/// A kernel module, by its name with underscores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module(String);

impl Module {
    /// The module `kvm`.
    pub fn kvm() -> Self {
        Self("kvm".into())
    }

    /// The module that is loaded on top of `kvm`.
    pub fn backend() -> Option<Self> {
        ["kvm_amd", "kvm_intel"].into_iter().map(|name| Self(name.into())).find(Self::is_loaded)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Where a host of the lab has it, not compressed.
    fn path(&self) -> String {
        format!("/lib/modules/{}.ko", self.0.replace('_', "-"))
    }

    /// Whether this host can load it again.
    pub fn is_there(&self) -> bool {
        fs::exists(self.path()).unwrap_or(false)
    }

    /// Whether it is loaded.
    pub fn is_loaded(&self) -> bool {
        let modules = fs::read_to_string("/proc/modules").unwrap_or_default();
        modules.lines().any(|line| line.split(' ').next() == Some(&self.0))
    }

    /// Parameters and their values, as sysfs shows them.
    pub fn parameters(&self) -> BTreeMap<String, String> {
        let dir = format!("/sys/module/{}/parameters", self.0);
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| {
                let value = fs::read_to_string(entry.path()).ok()?;
                Some((entry.file_name().to_string_lossy().into_owned(), value.trim().to_owned()))
            })
            .collect()
    }

    /// Unloads it, unless it is in use.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn unload(&self) -> Result<(), Errno> {
        let name = CString::new(self.0.as_str()).map_err(|_| Errno::EINVAL)?;
        delete_module(&name, DeleteModuleFlags::O_NONBLOCK)
    }

    /// Loads it with `parameters` such as `npt=0 nested=1`.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn load(&self, parameters: &str) -> Result<(), Errno> {
        let file = File::open(self.path())
            .map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))?;
        let parameters = CString::new(parameters).map_err(|_| Errno::EINVAL)?;
        finit_module(&file, &parameters, ModuleInitFlags::empty())
    }
}

impl System {
    /// Puts `path` under the number of the descriptor of `/dev/kvm`.
    fn replace_descriptor(&self, path: &str) -> TestResult {
        let error = |e: String| Failure::Error(format!("{path} in the place of /dev/kvm: {e}"));
        let file =
            File::options().read(true).write(true).open(path).map_err(|e| error(e.to_string()))?;
        // SAFETY: both are open descriptors of this process; what used the number goes on to own it.
        let result = unsafe { libc::dup3(file.as_raw_fd(), self.as_raw_fd(), libc::O_CLOEXEC) };
        Errno::result(result).map(drop).map_err(|e| error(e.to_string()))
    }

    /// Lets go of `/dev/kvm`, so that its modules can be unloaded; until [`System::take_back`] every
    /// call of KVM fails.
    ///
    /// # Errors
    ///
    /// The host refuses.
    pub fn let_go(&self) -> TestResult {
        self.replace_descriptor("/dev/null")
    }

    /// Opens `/dev/kvm` again.
    ///
    /// # Errors
    ///
    /// It is not there.
    pub fn take_back(&self) -> TestResult {
        self.replace_descriptor("/dev/kvm")
    }
}
