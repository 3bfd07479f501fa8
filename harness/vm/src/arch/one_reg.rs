//! Registers one by one (api.rst 4.68), where that is how a vCPU's state is read and set.

use nix::errno::Errno;

use crate::{Ioctl, Vcpu};

impl Vcpu {
    /// `KVM_GET_ONE_REG` of a 64-bit register.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn get_reg(&self, id: u64) -> Result<u64, Errno> {
        let mut bytes = [0; 8];
        self.fd().get_one_reg(id, &mut bytes).errno()?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// `KVM_SET_ONE_REG` of a 64-bit register.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn set_reg(&self, id: u64, value: u64) -> Result<(), Errno> {
        let result = self.fd().set_one_reg(id, &value.to_ne_bytes());
        result.map(drop).errno()
    }
}
