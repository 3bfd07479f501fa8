//! Single MSRs of a vCPU, as userspace reads and writes them.

use kvm_bindings::{Msrs, kvm_msr_entry};

use crate::failure::{Failure, TestResult};
use crate::{Ioctl, Vcpu};

fn one(index: u32, data: u64) -> TestResult<Msrs> {
    let entry = kvm_msr_entry { index, data, ..Default::default() };
    Msrs::from_entries(&[entry]).map_err(|e| Failure::Error(format!("{e:?}")))
}

impl Vcpu {
    /// `KVM_GET_MSRS` of one MSR: `None` where KVM has no such MSR.
    ///
    /// # Errors
    ///
    /// KVM refuses the ioctl.
    pub fn msr(&self, index: u32) -> TestResult<Option<u64>> {
        let mut msrs = one(index, 0)?;
        let read = self.fd().get_msrs(&mut msrs).ioctl("KVM_GET_MSRS")?;
        Ok((read == 1).then(|| msrs.as_slice()[0].data))
    }

    /// `KVM_SET_MSRS` of one MSR. Says whether KVM took it.
    ///
    /// # Errors
    ///
    /// KVM refuses the ioctl.
    pub fn set_msr(&self, index: u32, value: u64) -> TestResult<bool> {
        Ok(self.fd().set_msrs(&one(index, value)?).ioctl("KVM_SET_MSRS")? == 1)
    }
}
