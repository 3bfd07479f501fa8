//! Single values of the binary statistics (api.rst 4.133).

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use super::{Ioctl, Vcpu, Vm, raw_ioctl_fd, request};
use crate::outcome::TestResult;

/// Bytes of `struct kvm_stats_header`, and of `struct kvm_stats_desc` before its name.
const HEADER: usize = 24;
const DESC: usize = 16;

impl Vm {
    /// A statistic of the VM; `None` where this KVM counts no such thing.
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn stat(&self, name: &str) -> TestResult<Option<u64>> {
        stat(self, name)
    }
}

impl Vcpu {
    /// A statistic of the vCPU; `None` where this KVM counts no such thing.
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn stat(&self, name: &str) -> TestResult<Option<u64>> {
        stat(self, name)
    }
}

fn stat(fd: &impl AsRawFd, name: &str) -> TestResult<Option<u64>> {
    let file: File =
        raw_ioctl_fd(fd, request::KVM_GET_STATS_FD, &mut []).ioctl("KVM_GET_STATS_FD")?.into();
    Ok(value(&file, name))
}

fn value(file: &File, name: &str) -> Option<u64> {
    let header = bytes(file, 0, HEADER)?;
    let word = |bytes: &[u8], at: usize| {
        Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize)
    };
    let (name_size, count) = (word(&header, 4)?, word(&header, 8)?);
    let (descs, data) = (word(&header, 16)?, word(&header, 20)?);
    (0..count).find_map(|i| {
        let desc = bytes(file, descs + i * (DESC + name_size), DESC + name_size)?;
        let text = desc[DESC..].split(|byte| *byte == 0).next()?;
        if text != name.as_bytes() {
            return None;
        }
        let value = bytes(file, data + word(&desc, 8)?, 8)?;
        Some(u64::from_ne_bytes(value.try_into().ok()?))
    })
}

fn bytes(file: &File, at: usize, len: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, at as u64).ok()?;
    Some(bytes)
}
