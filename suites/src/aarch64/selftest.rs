//! Guests that misbehave as only arm64 can; see `crate::selftest`.
use crate::prelude::*;

#[guest]
fn takes_an_unexpected_trap(_: &mut Guest) {
    HCR_EL2.read();
}

#[guest]
fn leaves_for_el0(_: &mut Guest) {
    let program = [insn::UDF];
    // EL0's exception has a handler only while `run` waits for it.
    with_handler(
        vector::SVC,
        |frame| (frame.elr, frame.spsr) = (user::CODE, Spsr::DAIF.bits() | regs::mode::EL0T),
        || {
            user::place(layout::SCRATCH_END - layout::PAGE_SIZE, &program);
            svc();
        },
    );
}

#[host]
mod host {
    use super::*;

    /// A trap without a handler is told with its class, registers and backtrace.
    #[kvm_test(takes_an_unexpected_trap, groups("nodefault"))]
    fn guest_traps(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// So is one from EL0, or from where nothing is mapped.
    #[kvm_test(leaves_for_el0, groups("nodefault"))]
    fn guest_traps_at_el0(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }
}
