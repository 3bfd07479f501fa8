//! KVM's interface on the architectures that kvm-bindings and kvm-ioctls do not know: as much of both
//! as the harness and the suites use, under the same names.
//!
//! The structures are those of the kernel's headers (include/uapi/linux/kvm.h and
//! arch/*/include/uapi/asm/kvm.h).
#![cfg(any(target_arch = "s390x", target_arch = "powerpc64"))]

mod constants;
mod fds;
mod structs;

pub use constants::*;
pub use fds::*;
pub use structs::*;

#[cfg(target_arch = "s390x")]
mod s390x;
#[cfg(target_arch = "s390x")]
pub use s390x::*;

#[cfg(target_arch = "powerpc64")]
mod ppc64;
#[cfg(target_arch = "powerpc64")]
pub use ppc64::*;
