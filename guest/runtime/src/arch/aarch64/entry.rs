//! The first instruction.
#![cfg_attr(kvm_guest, expect(unsafe_code, reason = "the entry is assembly"))]

#[cfg(kvm_guest)]
use guest_protocol::layout::{self, aarch64, vcpu_area};

use crate::asm::symbol;

#[cfg(kvm_guest)]
core::arch::global_asm!(
    ".pushsection .text.entry, \"ax\"",
    ".global _start",
    "_start:",
    // The host has set system registers, both stacks, and X0 = StartInfo. No frame is below this one.
    "mov x29, xzr",
    "mov x30, xzr",
    "bl {start}",
    "brk #0",
    //
    // From CPU_ON: EL1h with translation off, X0 = the context id = this vCPU's index. No load or
    // store comes before translation is on, so that nothing depends on what is in the caches.
    ".global psci_entry",
    "psci_entry:",
    "mov x19, #{area}",
    "mov x20, #{area_size}",
    "madd x19, x0, x20, x19",
    "add x20, x19, #{trap_stack_end} >> 12, lsl #12",
    "mov sp, x20",
    "mov x20, #{stack_end}",
    "add x20, x19, x20",
    "msr sp_el0, x20",
    "mov x20, #{payload}",
    "msr vbar_el1, x20",
    "mov x20, #{cpacr}",
    "msr cpacr_el1, x20",
    "mov x20, #{page_tables}",
    "msr ttbr0_el1, x20",
    "movz x20, #({mair} & 0xffff)",
    "movk x20, #(({mair} >> 16) & 0xffff), lsl #16",
    "movk x20, #(({mair} >> 32) & 0xffff), lsl #32",
    "msr mair_el1, x20",
    "movz x20, #({tcr} & 0xffff)",
    "movk x20, #(({tcr} >> 16) & 0xffff), lsl #16",
    "movk x20, #(({tcr} >> 32) & 0xffff), lsl #32",
    "msr tcr_el1, x20",
    "movz x20, #({sctlr} & 0xffff)",
    "movk x20, #(({sctlr} >> 16) & 0xffff), lsl #16",
    "movk x20, #(({sctlr} >> 32) & 0xffff), lsl #32",
    "ic iallu",
    "tlbi vmalle1",
    "dsb nsh",
    "isb",
    "msr sctlr_el1, x20",
    "isb",
    "msr spsel, #0",
    "add x0, x19, #{start_info} >> 12, lsl #12",
    "b _start",
    ".popsection",
    start = sym crate::entry::start,
    area = const layout::VCPU_AREA,
    area_size = const layout::VCPU_AREA_SIZE,
    trap_stack_end = const aarch64::TRAP_STACK_END,
    stack_end = const vcpu_area::STACK_END,
    payload = const layout::PAYLOAD,
    page_tables = const layout::PAGE_TABLES,
    start_info = const vcpu_area::START_INFO,
    cpacr = const aarch64::start::CPACR,
    mair = const aarch64::start::MAIR,
    tcr = const aarch64::start::TCR,
    sctlr = const aarch64::start::SCTLR,
);

/// The entry point to give to `CPU_ON`, with the vCPU's index as context id: arrives in the guest
/// function that the host set for that vCPU.
pub fn psci_entry() -> u64 {
    symbol!(psci_entry)
}

/// Nothing is left to do: the host set translation, vectors and control registers.
pub fn init_cpu() {}
