//! The wall clock, and the time since the kernel started.

#![expect(unsafe_code, reason = "there is no safe interface to clock_settime here")]

use std::time::Duration;

/// Milliseconds since the kernel started.
pub fn uptime_ms() -> u64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    time.map_or(0, |time| Duration::from(time).as_millis().try_into().unwrap_or(u64::MAX))
}

/// Sets the wall clock to a time since 1970.
pub fn set(time: Duration) -> std::io::Result<()> {
    let spec = nix::sys::time::TimeSpec::from_duration(time);
    // SAFETY: the argument is a valid timespec that outlives the call.
    match unsafe { libc::clock_settime(libc::CLOCK_REALTIME, spec.as_ref()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
