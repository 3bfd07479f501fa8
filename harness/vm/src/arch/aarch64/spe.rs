//! The interface of the series that gives guests SPE. No kernel has it yet, and its numbers have changed
//! with every version of the series: a test takes them from `unittests.yaml`.
#![expect(unsafe_code, reason = "locks guest memory")]

use nix::sys::mman::mlock;
use std::ptr::NonNull;

use crate::Vm;
use crate::failure::{Failure, TestResult};

/// Attribute group of a vCPU.
pub const KVM_ARM_VCPU_SPE_CTRL: u32 = 3;
/// The buffer management interrupt, a PPI.
pub const KVM_ARM_VCPU_SPE_IRQ: u32 = 0;
/// Makes it ready.
pub const KVM_ARM_VCPU_SPE_INIT: u32 = 1;

impl Vm {
    /// Locks guest memory: SPE's writes cannot fault.
    ///
    /// # Errors
    ///
    /// The host's limit is too low: a skip that names it.
    pub fn lock_ram(&self) -> TestResult {
        let mapping = self.ram().mapping();
        let start = NonNull::new(mapping.hva() as *mut libc::c_void);
        let start = start.ok_or_else(|| Failure::Error("guest memory at null".into()))?;
        // SAFETY: locks pages of our own mapping, changes none.
        unsafe { mlock(start, mapping.len()) }
            .map_err(|e| Failure::Skip(format!("room for locked memory (RLIMIT_MEMLOCK): {e}")))
    }
}
