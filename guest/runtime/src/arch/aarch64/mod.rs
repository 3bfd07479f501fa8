//! aarch64: EL1 with translation on (4 KiB granule), one 64 KiB area per vCPU.
//!
//! Guest functions run on SP_EL0 (`EL1t`) and traps on SP_EL1, so that a trap always starts on a good
//! stack, and every exception from a guest function comes through the vectors for SP_EL0.

pub mod cpu;
pub mod entry;
pub mod gic;
pub mod granule;
pub mod insn;
pub mod its;
pub mod memory;
pub mod mmu;
pub mod pmu;
pub mod psci;
pub mod registers;
pub mod sysreg;
pub mod timer;
pub mod trap;
pub mod ucall;
pub mod user;
