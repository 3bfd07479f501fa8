//! The first instruction.
#![cfg_attr(kvm_guest, expect(unsafe_code, reason = "the entry is assembly"))]

#[cfg(kvm_guest)]
core::arch::global_asm!(
    ".pushsection .text.entry, \"ax\"",
    ".global _start",
    "_start:",
    // The host has set CSRs, the stack, and a0 = StartInfo. No frame is below this one.
    "li s0, 0",
    "li ra, 0",
    "call {start}",
    "unimp",
    ".popsection",
    start = sym crate::entry::start,
);

/// Nothing is left to do: the host set translation and CSRs.
pub fn init_cpu() {}
