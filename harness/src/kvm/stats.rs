//! Single binary statistics by name (api.rst 4.133).

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use super::request::KVM_GET_STATS_FD;
use super::{Vcpu, raw_ioctl_fd};
use crate::outcome::{Failure, TestResult};

/// Bytes of `struct kvm_stats_header`, and of `struct kvm_stats_desc` before its name.
const HEADER: usize = 24;
const DESC: usize = 16;

fn word(bytes: &[u8], offset: usize) -> u32 {
    u32::from_ne_bytes([bytes[offset], bytes[offset + 1], bytes[offset + 2], bytes[offset + 3]])
}

/// The first value of the statistic `name`; `None` where there is none.
fn read(fd: &impl AsRawFd, name: &str) -> Option<u64> {
    let file: File = raw_ioctl_fd(fd, KVM_GET_STATS_FD, &mut []).ok()?.into();
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, 0).ok()?;
    let (name_size, nr) = (word(&header, 4) as usize, word(&header, 8) as usize);
    let (descs, data) = (u64::from(word(&header, 16)), u64::from(word(&header, 20)));
    let mut table = vec![0; nr * (DESC + name_size)];
    file.read_exact_at(&mut table, descs).ok()?;
    let found = table.chunks_exact(DESC + name_size).find(|desc| {
        desc[DESC..].strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    })?;
    let mut value = [0; 8];
    file.read_exact_at(&mut value, data + u64::from(word(found, 8))).ok()?;
    Some(u64::from_ne_bytes(value))
}

impl Vcpu {
    /// The statistic `name` of this vCPU.
    ///
    /// # Errors
    ///
    /// KVM has none of that name: a skip.
    pub fn stat(&self, name: &str) -> TestResult<u64> {
        read(self, name).ok_or_else(|| Failure::Skip(format!("the statistic `{name}`")))
    }
}
