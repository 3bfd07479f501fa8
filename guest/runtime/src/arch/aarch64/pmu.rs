//! The PMU (ARM ARM D13): fields, events, counters by number, and work to be counted.
#![expect(unsafe_code, reason = "loops of known length")]

use core::arch::asm;

pub use defs::aarch64::pmu::*;

use super::cpu::isb;
use super::sysreg::{
    PMCCFILTR_EL0, PMCEID0_EL0, PMCEID1_EL0, PMCNTENCLR_EL0, PMCR_EL0, PMEVCNTR0_EL0,
    PMEVCNTR1_EL0, PMEVCNTR2_EL0, PMEVCNTR3_EL0, PMEVTYPER0_EL0, PMEVTYPER1_EL0, PMEVTYPER2_EL0,
    PMEVTYPER3_EL0, PMINTENCLR_EL1, PMOVSCLR_EL0, PMSELR_EL0, PMXEVCNTR_EL0, PMXEVTYPER_EL0,
    SysReg,
};

/// The first event counters.
pub const COUNTERS: [SysReg; 4] = [PMEVCNTR0_EL0, PMEVCNTR1_EL0, PMEVCNTR2_EL0, PMEVCNTR3_EL0];
/// Their events.
pub const TYPES: [SysReg; 4] = [PMEVTYPER0_EL0, PMEVTYPER1_EL0, PMEVTYPER2_EL0, PMEVTYPER3_EL0];

/// Stops and clears everything; LC is set.
pub fn reset() {
    PMCR_EL0.write(pmcr::LC | pmcr::C | pmcr::P);
    PMCNTENCLR_EL0.write(!0);
    PMOVSCLR_EL0.write(!0);
    PMINTENCLR_EL1.write(!0);
    PMCCFILTR_EL0.write(0);
}

/// How many event counters there are.
pub fn nr_counters() -> u64 {
    pmcr::N.get(PMCR_EL0.read())
}

/// Bits of the counters that there are.
pub fn implemented() -> u64 {
    ((1 << nr_counters()) - 1) | CYCLES
}

/// Skips the test unless there are `n` event counters.
pub fn need_counters(n: u64) {
    if nr_counters() < n {
        crate::ucall::skip(format_args!("{n} event counters"));
    }
}

/// Whether PMCEID<n>_EL0 tells of `event`, a common event (0 to 0x3f).
pub fn offers(event: u64) -> bool {
    let register = if event < 32 { PMCEID0_EL0 } else { PMCEID1_EL0 };
    register.read() >> (event % 32) & 1 != 0
}

/// Counter `n` by PMSELR_EL0.
pub fn selected_counter(n: u64) -> SysReg {
    PMSELR_EL0.write(n);
    PMXEVCNTR_EL0
}

/// Event of counter `n` by PMSELR_EL0.
pub fn selected_type(n: u64) -> SysReg {
    PMSELR_EL0.write(n);
    PMXEVTYPER_EL0
}

/// Executes 2 × `rounds` instructions.
pub fn instructions(rounds: u64) {
    isb();
    // SAFETY: a loop in registers.
    unsafe { asm!("1: subs {n}, {n}, #1", "b.ne 1b", n = inout(reg) rounds => _) };
    isb();
}

/// Loads `n` times from `address`, which must be RAM.
pub fn loads(n: u64, address: u64) {
    // SAFETY: loads from the guest's own memory.
    unsafe {
        asm!("dsb ish", "1: ldr {x}, [{address}]", "subs {n}, {n}, #1", "b.ne 1b", "dsb ish",
            n = inout(reg) n => _, x = out(reg) _, address = in(reg) address);
    }
    isb();
}
