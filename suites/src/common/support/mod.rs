//! What several test files share; no tests stand here.

#[cfg(not(kvm_guest))]
pub mod boundary;
