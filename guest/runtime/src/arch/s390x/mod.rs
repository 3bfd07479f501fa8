//! s390x: z/Architecture mode without translation, one 64 KiB area per vCPU with its low core in it.

pub mod cpu;
pub mod entry;
pub mod memory;
pub mod mmu;
pub mod trap;
pub mod ucall;
