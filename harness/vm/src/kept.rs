//! Descriptors that outlive the start of a worker, which closes all others.

use std::os::fd::RawFd;
use std::sync::Mutex;

static KEPT: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

/// Keeps a descriptor of the runner open in its workers, such as `/dev/kvm` or the payload's.
pub fn keep_open(fd: RawFd) {
    if let Ok(mut kept) = KEPT.lock() {
        kept.push(fd);
    }
}

/// All that [`keep_open`] was called with.
pub fn kept() -> Vec<RawFd> {
    KEPT.lock().map(|kept| kept.clone()).unwrap_or_default()
}
