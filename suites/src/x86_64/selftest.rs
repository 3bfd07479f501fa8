//! Guests that misbehave as only x86 can; see `crate::selftest`.
use crate::prelude::*;

#[guest]
fn triple_faults(_: &mut Guest) {
    triple_fault();
}

/// A triple fault is told at once.
#[kvm_test(triple_faults, groups("nodefault"))]
fn guest_triple_faults(t: &mut OneVcpu) -> TestResult {
    t.vcpu.run_until_done()
}

#[guest]
fn takes_an_unexpected_trap(_: &mut Guest) {
    rdmsr(msr::UNKNOWN);
}

/// A trap without a handler is told with its vector, registers and backtrace.
#[kvm_test(takes_an_unexpected_trap, groups("nodefault"))]
fn guest_traps(t: &mut OneVcpu) -> TestResult {
    t.vcpu.run_until_done()
}
