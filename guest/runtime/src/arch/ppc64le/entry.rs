//! The first instruction.
#![cfg_attr(kvm_guest, expect(unsafe_code, reason = "the entry is assembly"))]

#[cfg(kvm_guest)]
core::arch::global_asm!(
    ".pushsection .text.entry, \"ax\"",
    ".global _start",
    "_start:",
    // The host has set the stack and R3 = StartInfo. No frame is below this one.
    "li 0, 0",
    "std 0, 0(1)",
    "lis 2, .TOC.@ha",
    "addi 2, 2, .TOC.@l",
    "bl {start}",
    "nop",
    "trap",
    ".popsection",
    start = sym crate::entry::start,
);

/// Nothing is left to do: the host wrote the vectors and set registers.
pub fn init_cpu() {}
