//! What KVM has counted (api.rst 4.133, KVM_GET_STATS_FD).

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use crate::{raw_ioctl_fd, request};

/// Bytes of `struct kvm_stats_header`.
const HEADER_BYTES: usize = 24;
/// Bytes of `struct kvm_stats_desc` before its name.
const DESC_BYTES: usize = 16;
/// More statistics than any KVM has.
const MOST_STATS: u32 = 4096;
/// A longer name than any KVM has.
const LONGEST_NAME: u32 = 256;
/// Values of a histogram that are read at a time.
const VALUES: usize = 32;

/// The statistics of a VM or vCPU that are not 0; nothing from a KVM without any.
///
/// A histogram counts as the sum of its buckets: how often there was something to measure.
pub(crate) fn nonzero(fd: &impl AsRawFd) -> BTreeMap<String, u64> {
    let mut all = all(fd);
    all.retain(|_, value| *value != 0);
    all
}

fn all(fd: &impl AsRawFd) -> BTreeMap<String, u64> {
    let Ok(stats) = raw_ioctl_fd(fd, request::KVM_GET_STATS_FD, &mut []) else {
        return BTreeMap::new();
    };
    let file = File::from(stats);
    read_all(|offset, bytes| file.read_exact_at(bytes, offset).ok()).unwrap_or_default()
}

/// A statistic of a VM or vCPU; `None` where this KVM counts no such thing.
pub(crate) fn stat(fd: &impl AsRawFd, name: &str) -> Option<u64> {
    all(fd).remove(name)
}

/// Reads header, descriptors and data by `read`, which fills a buffer from an offset.
fn read_all(read: impl Fn(u64, &mut [u8]) -> Option<()>) -> Option<BTreeMap<String, u64>> {
    let mut all = BTreeMap::new();
    visit(read, |name, sum| {
        all.insert(name.to_owned(), sum);
    })?;
    Some(all)
}

/// Gives each statistic to `each`, without allocating.
pub(super) fn visit(
    read: impl Fn(u64, &mut [u8]) -> Option<()>,
    mut each: impl FnMut(&str, u64),
) -> Option<()> {
    let word = |bytes: &[u8], at: usize| {
        u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap_or_default())
    };
    let mut header = [0; HEADER_BYTES];
    read(0, &mut header)?;
    let (name_size, count) = (word(&header, 4), word(&header, 8));
    let (descs, data) = (u64::from(word(&header, 16)), u64::from(word(&header, 20)));
    if name_size > LONGEST_NAME || count > MOST_STATS {
        return None;
    }
    let stride = DESC_BYTES + name_size as usize;
    let mut room = [0; DESC_BYTES + LONGEST_NAME as usize];
    for nth in 0..u64::from(count) {
        let desc = &mut room[..stride];
        read(descs + nth * stride as u64, desc)?;
        let values = usize::from(u16::from_ne_bytes([desc[6], desc[7]]));
        let mut at = data + u64::from(word(desc, 8));
        let mut sum = 0_u64;
        let mut bytes = [0; 8 * VALUES];
        for first in (0..values).step_by(VALUES) {
            let bytes = &mut bytes[..8 * VALUES.min(values - first)];
            read(at, bytes)?;
            at += bytes.len() as u64;
            for value in bytes.chunks_exact(8) {
                sum = sum.wrapping_add(u64::from_ne_bytes(value.try_into().unwrap_or_default()));
            }
        }
        let name = desc[DESC_BYTES..].split(|b| *b == 0).next().unwrap_or_default();
        each(std::str::from_utf8(name).unwrap_or("?"), sum);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME_BYTES: usize = 8;

    /// A statistics file with these names and values.
    fn file(stats: &[(&str, &[u64])]) -> Vec<u8> {
        let descs_end = HEADER_BYTES + stats.len() * (DESC_BYTES + NAME_BYTES);
        let header = [0, NAME_BYTES, stats.len(), 0, HEADER_BYTES, descs_end];
        let mut bytes: Vec<u8> = header.iter().flat_map(|w| (*w as u32).to_ne_bytes()).collect();
        let mut offset = 0;
        for (name, values) in stats {
            bytes.extend([0; 6]);
            bytes.extend((values.len() as u16).to_ne_bytes());
            bytes.extend((offset as u32).to_ne_bytes());
            bytes.extend([0; 4]);
            let mut padded = name.as_bytes().to_vec();
            padded.resize(NAME_BYTES, 0);
            bytes.extend(padded);
            offset += 8 * values.len();
        }
        bytes.extend(stats.iter().flat_map(|(_, v)| v.iter()).flat_map(|v| v.to_ne_bytes()));
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<BTreeMap<String, u64>> {
        read_all(|offset, buffer| {
            let from = bytes.get(usize::try_from(offset).ok()?..)?;
            buffer.copy_from_slice(from.get(..buffer.len())?);
            Some(())
        })
    }

    #[test]
    fn every_statistic_is_told() {
        let bytes = file(&[("exits", &[7]), ("nmi", &[0]), ("hist", &[1, 0, 2])]);
        let wanted = [("exits", 7), ("nmi", 0), ("hist", 3)].map(|(name, n)| (name.to_owned(), n));
        assert_eq!(parse(&bytes), Some(BTreeMap::from(wanted)));
    }

    #[test]
    fn what_is_cut_or_absurd_is_nothing() {
        let bytes = file(&[("exits", &[7]), ("hist", &[1, 0, 2])]);
        for len in 0..bytes.len() {
            assert_eq!(parse(&bytes[..len]), None, "{len} bytes");
        }
        for at in [4, 8] {
            let mut absurd = bytes.clone();
            absurd[at..at + 4].fill(0xff);
            assert_eq!(parse(&absurd), None);
        }
    }
}
