//! Numbers and registers of the architectures and of their paravirtual interfaces, each written once
//! and named as its manual names it. Guest, harness and suites take them from here.
//!
//! Sets of bits are [`bitflags`], registers with wider fields are [`bitfield_struct`]s, and structures
//! that guest and host exchange have the specification's fields. What KVM's own API defines
//! (`KVM_CAP_*`, `struct kvm_*` of ioctls) is in kvm-bindings, not here.
#![no_std]
#![forbid(unsafe_code)]

pub mod aarch64;
pub mod arch;
mod field;
pub mod ppc64le;
pub mod riscv64;
pub mod s390x;
pub mod x86;

pub use field::Field;

/// Several flags of one type as a plain number, also in constants: `bits!(Cr0::{PE | PG})`.
#[macro_export]
macro_rules! bits {
    ($flags:ident :: { $($name:ident)|+ }) => { $($flags::$name.bits())|+ };
}
