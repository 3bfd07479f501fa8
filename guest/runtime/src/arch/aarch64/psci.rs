//! PSCI calls (DEN0022) by HVC.

pub use defs::aarch64::psci::*;

use super::cpu::hvc;

/// Calls `function`; the low 32 bits of X0.
pub fn call(function: u32, args: [u64; 3]) -> i32 {
    hvc(function, args)[0] as i32
}
