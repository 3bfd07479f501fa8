//! Registers one by one (api.rst 4.68), of every width.

use nix::errno::Errno;

use super::Parts;
use crate::failure::{Failure, TestResult};
use crate::{Ioctl, Vcpu};

/// Ids and values, in the order of the list they were read by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registers(pub Vec<(u64, Vec<u8>)>);

/// Bytes of a register, which its id says.
fn size(id: u64) -> usize {
    1 << (id >> 52 & 0xf)
}

fn read(vcpu: &Vcpu, id: u64) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; size(id)];
    vcpu.fd().get_one_reg(id, &mut bytes).errno()?;
    Ok(bytes)
}

impl Registers {
    /// Reads those of `ids` that the vCPU has.
    #[cfg(any(target_arch = "powerpc64", target_arch = "s390x"))]
    pub(super) fn of(vcpu: &Vcpu, ids: impl IntoIterator<Item = u64>) -> TestResult<Self> {
        let mut all = Vec::new();
        for id in ids {
            match read(vcpu, id) {
                Ok(bytes) => all.push((id, bytes)),
                // Names no register here.
                Err(Errno::EINVAL | Errno::ENOENT | Errno::ENXIO) => {}
                Err(e) => return Err(e).ioctl(&format!("KVM_GET_ONE_REG of {id:#x}")),
            }
        }
        Ok(Self(all))
    }

    /// Reads all of `KVM_GET_REG_LIST`.
    #[cfg(any(target_arch = "aarch64", target_arch = "riscv64"))]
    pub(super) fn listed(vcpu: &Vcpu) -> TestResult<Self> {
        let ids = vcpu.register_list()?;
        let all = ids.into_iter().map(|id| {
            read(vcpu, id).map(|bytes| (id, bytes)).ioctl(&format!("KVM_GET_ONE_REG of {id:#x}"))
        });
        all.collect::<TestResult<_>>().map(Self)
    }

    /// A 64-bit register.
    pub fn get(&self, id: u64) -> Option<u64> {
        let (_, bytes) = self.0.iter().find(|(other, _)| *other == id)?;
        bytes.as_slice().try_into().ok().map(u64::from_ne_bytes)
    }

    /// Writes those that `wanted` names, in their order. One that is refused must be what it was already.
    pub(super) fn write(&self, vcpu: &Vcpu, wanted: impl Fn(u64) -> bool) -> TestResult {
        for (id, bytes) in self.0.iter().filter(|(id, _)| wanted(*id)) {
            let Err(errno) = vcpu.fd().set_one_reg(*id, bytes).errno() else { continue };
            if read(vcpu, *id).as_ref() != Ok(bytes) {
                return Err(Failure::Fail(format!(
                    "KVM_SET_ONE_REG of {id:#x}, as KVM_GET_ONE_REG told it: {errno}"
                )));
            }
        }
        Ok(())
    }

    /// All of them, as named pieces.
    pub(super) fn parts(&self, parts: &mut Parts) {
        self.0.iter().for_each(|(id, bytes)| parts.add(format!("register {id:#x}"), bytes));
    }
}

#[cfg(any(target_arch = "aarch64", target_arch = "riscv64"))]
impl Vcpu {
    /// `KVM_GET_REG_LIST`.
    ///
    /// # Errors
    ///
    /// KVM refuses; one without the ioctl is a skip.
    pub fn register_list(&self) -> TestResult<Vec<u64>> {
        use crate::request::KVM_GET_REG_LIST;
        let mut bytes = vec![0; 8];
        match self.raw(KVM_GET_REG_LIST, &mut bytes) {
            Err(Errno::E2BIG) => {}
            Err(Errno::ENOTTY | Errno::EINVAL) => {
                return Err(Failure::Skip("KVM_GET_REG_LIST".into()));
            }
            other => other.map(drop).ioctl("KVM_GET_REG_LIST")?,
        }
        let number = u64::from_ne_bytes(bytes[..8].try_into().unwrap_or_default());
        bytes.resize(8 + 8 * number as usize, 0);
        self.raw(KVM_GET_REG_LIST, &mut bytes).ioctl("KVM_GET_REG_LIST")?;
        let word = |word: &[u8]| u64::from_ne_bytes(word.try_into().unwrap_or_default());
        Ok(bytes[8..].chunks_exact(8).map(word).collect())
    }
}
