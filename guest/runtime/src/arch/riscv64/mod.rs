//! riscv64: VS-mode with Sv39 translation on, one 64 KiB area per vCPU.
//!
//! There is one stack pointer: trap entry moves to the vCPU's trap stack, unless it is there already.

pub mod cpu;
pub mod csr;
pub mod entry;
pub mod memory;
pub mod mmu;
pub mod sbi;
pub mod trap;
pub mod ucall;
