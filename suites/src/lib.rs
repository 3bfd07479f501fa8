//! The tests: one file per KVM feature, guest and host halves together.
//!
//! Compiled twice: into the runner, and (`cfg(kvm_guest)`) into the payload.
#![cfg_attr(kvm_guest, no_std)]
#![allow(clippy::module_inception, reason = "a subject may have the name of one of its features")]

pub mod common;
pub mod prelude;
pub mod selftest;

#[cfg(target_arch = "aarch64")]
pub mod aarch64;
#[cfg(target_arch = "powerpc64")]
pub mod ppc64le;
#[cfg(target_arch = "riscv64")]
pub mod riscv64;
#[cfg(target_arch = "s390x")]
pub mod s390x;
#[cfg(target_arch = "x86_64")]
pub mod x86_64;

/// The payload for this host, embedded.
#[cfg(not(kvm_guest))]
pub static PAYLOAD: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/payload.elf"));
