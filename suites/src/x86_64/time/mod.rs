//! Clocks and timers.

pub mod tsc;
