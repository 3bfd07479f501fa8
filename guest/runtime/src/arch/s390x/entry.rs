//! The first instruction.
#![cfg_attr(kvm_guest, expect(unsafe_code, reason = "the entry is assembly"))]

#[cfg(kvm_guest)]
core::arch::global_asm!(
    ".pushsection .text.entry, \"ax\"",
    ".global _start",
    "_start:",
    // Hercules may begin 2 bytes behind a vCPU's first instruction.
    "nopr",
    "nopr",
    // The host has set control registers, the stack, and R2 = StartInfo. No frame is below this one.
    "xc 0(8,%r15), 0(%r15)",
    "brasl %r14, {start}",
    ".short 0",
    ".popsection",
    start = sym crate::entry::start,
);

/// Nothing is left to do: the host set the low core and control registers.
pub fn init_cpu() {}
