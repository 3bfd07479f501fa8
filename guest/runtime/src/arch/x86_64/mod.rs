//! x86_64: long mode, four-level paging, one 64 KiB area per vCPU.

pub mod apic;
pub mod cpu;
pub mod entry;
pub mod frame;
pub mod hyperv;
pub mod insn;
pub mod insn_table;
pub mod ioapic;
pub mod kvm;
pub mod memory;
pub mod mmu;
pub mod modes;
pub mod port;
pub mod state;
pub mod trap;
pub mod ucall;
pub mod user;
