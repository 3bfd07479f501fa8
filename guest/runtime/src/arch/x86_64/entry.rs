//! The first instruction.
#![cfg_attr(kvm_guest, expect(unsafe_code, reason = "the entry is assembly"))]

#[cfg(kvm_guest)]
core::arch::global_asm!(
    ".pushsection .text.entry, \"ax\"",
    ".global _start",
    "_start:",
    // The host has set long mode, tables, stack, and RDI = StartInfo. No frame is below this one.
    "xor ebp, ebp",
    "call {start}",
    "ud2",
    ".popsection",
    start = sym crate::entry::start,
);

/// Nothing is left to do: the host set GDT, TSS, IDT and control registers.
pub fn init_cpu() {}
