//! Counts at which size arithmetic goes wrong, tried on an ioctl one after the other.
//!
//! An ioctl that takes an array trusts a count from userspace. Where the count is multiplied by the
//! size of an entry without a check, 2^31 and 2^32 - 1 wrap; where the check itself is off by one,
//! the limit and its neighbours tell.
use crate::prelude::*;

/// A count, and its name in checks: a limit differs between hosts, its name does not.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    /// In words.
    pub name: &'static str,
    /// The number.
    pub value: u32,
}

/// The counts to try on an ioctl that takes at most `limit` of something.
pub fn counts(limit: u32) -> [Count; 7] {
    [
        Count { name: "0", value: 0 },
        Count { name: "1", value: 1 },
        Count { name: "the limit - 1", value: limit - 1 },
        Count { name: "the limit", value: limit },
        Count { name: "the limit + 1", value: limit + 1 },
        Count { name: "2^31", value: 1 << 31 },
        Count { name: "2^32 - 1", value: u32::MAX },
    ]
}

/// Calls `ioctl` with every count of [`counts`]. Each must end as `want` says, and a refused one must
/// leave what `state` reads as it was.
pub fn probe<S: PartialEq + std::fmt::Debug>(
    what: &str,
    limit: u32,
    mut ioctl: impl FnMut(u32) -> Result<i32, Errno>,
    want: impl Fn(u32) -> Result<i32, Errno>,
    mut state: impl FnMut() -> TestResult<S>,
) -> TestResult {
    for count in counts(limit) {
        let before = state()?;
        let got = ioctl(count.value);
        check_end(what, count, got, want(count.value));
        if got.is_err() {
            let (name, after) = (count.name, state()?);
            check!(
                "{what}: {name}, refused, changes nothing",
                after == before,
                "before {before:x?}, after {after:x?}"
            );
        }
    }
    Ok(())
}

/// As [`probe`], for state that cannot be read back.
pub fn probe_end(
    what: &str,
    limit: u32,
    mut ioctl: impl FnMut(u32) -> Result<i32, Errno>,
    want: impl Fn(u32) -> Result<i32, Errno>,
) {
    for count in counts(limit) {
        check_end(what, count, ioctl(count.value), want(count.value));
    }
}

fn check_end(what: &str, count: Count, got: Result<i32, Errno>, want: Result<i32, Errno>) {
    let name = count.name;
    match want {
        Ok(_) => check_eq!("{what}: {name} is accepted", got, want),
        Err(errno) => check_eq!("{what}: {name} is refused with {errno:?}", got, want),
    };
}

/// The bytes of an array of words, as KVM's structures have them.
pub fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_ne_bytes()).collect()
}

/// Word `index` of KVM's structure.
pub fn word(bytes: &[u8], index: usize) -> u32 {
    u32::from_ne_bytes(bytes[4 * index..4 * index + 4].try_into().expect("four bytes"))
}
