//! The payload: every guest function of the suites in one static ELF.
//!
//! An ordinary build gives a stub, so that the workspace builds as a whole; the payload proper is
//! built by `suites/build.rs` with `cfg(kvm_guest)`.
#![cfg_attr(kvm_guest, no_std, no_main)]

#[cfg(kvm_guest)]
use {guest_runtime as _, suites as _};

#[cfg(not(kvm_guest))]
fn main() {
    eprintln!("the payload runs in a VM: use ./run_tests.sh");
    std::process::exit(2);
}
