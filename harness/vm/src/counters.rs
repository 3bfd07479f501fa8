//! Whether hardware counters of the host's are free. A guest's counter is a pinned perf event: while the
//! NMI watchdog, `perf record -a`, a profiler or another VM have the host's, it counts nothing.
#![expect(unsafe_code, reason = "perf_event_open, which no crate here wraps")]

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{FromRawFd as _, OwnedFd};

/// `struct perf_event_attr`, as much of it as the first kernels that had it knew.
type Attributes = [u64; 8];
/// Its size in bytes, in the upper half of the first word; the lower half is PERF_TYPE_HARDWARE.
const SIZE: u64 = (size_of::<Attributes>() as u64) << 32;
/// PERF_COUNT_HW_CPU_CYCLES, in the second word.
const CYCLES: u64 = 0;
/// Its flags `pinned`, `exclude_kernel` and `exclude_hv`, in the sixth word.
const FLAGS: u64 = 1 << 2 | 1 << 5 | 1 << 6;

/// Whether this thread gets as many counters at once. A host that has none, or does not let this process
/// ask, is none whose counters somebody has.
pub fn counters_are_free(counters: usize) -> bool {
    let opened: Option<Vec<File>> = (0..counters).map(|_| open()).collect();
    let Some(mut opened) = opened else { return true };
    (0..1_000_000_u32).for_each(|round| {
        std::hint::black_box(round);
    });
    // One that could not be scheduled has failed for good: reading it gives nothing.
    opened.iter_mut().all(|counter| counter.read(&mut [0; 8]).is_ok_and(|bytes| bytes > 0))
}

fn open() -> Option<File> {
    let attributes: Attributes = [SIZE, CYCLES, 0, 0, 0, FLAGS, 0, 0];
    const OF_THIS_THREAD: libc::pid_t = 0;
    const ON_ANY_CPU: libc::c_int = -1;
    const NO_GROUP: libc::c_int = -1;
    const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
    // SAFETY: the kernel reads as many bytes of `attributes` as they say that they have.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attributes.as_ptr(),
            OF_THIS_THREAD,
            ON_ANY_CPU,
            NO_GROUP,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    // SAFETY: a descriptor that nobody else has.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd as i32) }.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_host_has_so_many_counters() {
        assert!(counters_are_free(0));
        if open().is_some() {
            assert!(!counters_are_free(200));
        }
    }
}
