//! Clocks and timers.

pub mod arch_timer;
pub mod arch_timer_uapi;
