//! ppc64le: supervisor state in real mode (no translation by the guest), one 64 KiB area per vCPU.

pub mod cpu;
pub mod entry;
pub mod hcall;
pub mod memory;
pub mod mmu;
pub mod trap;
pub mod ucall;
