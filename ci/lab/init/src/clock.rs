//! Setting the wall clock.

#![expect(unsafe_code, reason = "there is no safe interface to clock_settime here")]

use std::time::Duration;

/// Sets the wall clock to a time since 1970.
pub fn set(time: Duration) -> std::io::Result<()> {
    let spec = nix::sys::time::TimeSpec::from_duration(time);
    // SAFETY: the argument is a valid timespec that outlives the call.
    match unsafe { libc::clock_settime(libc::CLOCK_REALTIME, spec.as_ref()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
