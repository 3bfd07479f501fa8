//! What several test files share; no tests stand here.

pub mod gic_bench;
#[cfg(not(kvm_guest))]
pub mod gic_saved;
