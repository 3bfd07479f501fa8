//! Guests that misbehave as only x86 can; see `crate::selftest`.
use crate::prelude::*;
use guest_runtime::protocol::Verb;

#[guest]
fn triple_faults(_: &mut Guest) {
    triple_fault();
}

#[guest]
fn takes_an_unexpected_trap(_: &mut Guest) {
    rdmsr(msr::UNKNOWN);
}

/// Runs one of the functions below at level 2.
#[guest]
fn runs_a_guest(g: &mut Guest) {
    let f: fn(&mut Guest) = match g.arg(0) {
        0 => |g| panic!("level {} has the argument {}", g.level(), g.arg(1)),
        1 => takes_an_unexpected_trap,
        2 => |_| wait_until(|| false),
        3 => crate::selftest::recurses,
        4 => |_| rings_with(|message| poke(message + 12, 1_u32)),
        5 => |_| rings_with(|message| poke(message + 4, Verb::Done as u32)),
        _ => |_| guest_runtime::arch::ring_doorbell(layout::vcpu_area(0) as u32 + 1),
    };
    let mut svm = Svm::new();
    let exit = svm.enter_with(f, [1, 8, 0, 0, 0, 0]);
    check!("level 2 does not return", false, "{exit:x?}");
}

/// Rings for the last message of the caller's context, after `change`.
fn rings_with(change: fn(u64)) {
    log!("a good message of level 2 first");
    let message = layout::area_of_stack(guest_runtime::arch::stack_pointer());
    change(message);
    guest_runtime::arch::ring_doorbell(message as u32);
}

#[guest]
fn loops_after_a_guest(_: &mut Guest) {
    Svm::new().complete(|_| ());
    wait_until(|| false);
}

#[host]
mod host {
    use super::*;

    /// A triple fault is told at once.
    #[kvm_test(triple_faults, groups("nodefault"))]
    fn guest_triple_faults(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// A trap without a handler is told with its vector, registers and backtrace.
    #[kvm_test(takes_an_unexpected_trap, groups("nodefault"))]
    fn guest_traps(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// A guest of level 2 is told with its level, its own registers and its own backtrace.
    #[kvm_test(runs_a_guest, requires(cpu::SVM), groups("nodefault"), params = [
    panics: 0,
    traps: 1,
    loops_for_ever: 2,
    overflows_its_stack: 3,
    sends_another_level: 4,
    is_done: 5,
    rings_wildly: 6,
])]
    fn nested_guest(t: &mut OneVcpu, misdeed: u64) -> TestResult {
        t.vcpu.set_args(&[misdeed]);
        t.vcpu.run_until_done()
    }

    /// A hypervisor that hangs is told as level 1.
    #[kvm_test(loops_after_a_guest, requires(cpu::SVM), groups("nodefault"))]
    fn hypervisor_loops_for_ever(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }
}
