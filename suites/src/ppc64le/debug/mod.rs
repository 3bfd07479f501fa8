//! Breakpoints and watchpoints.

pub mod dawr;
