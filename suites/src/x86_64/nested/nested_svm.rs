//! Guests of guests on SVM (APM vol. 2, "Secure Virtual Machine"): level 2 runs functions of the payload
//! on a context of its own.
use crate::prelude::*;
use defs::x86::vmcb::{exit, intercept};

const CPUID: u64 = exit::intercepted(intercept::CPUID);
const VMMCALL: u64 = exit::intercepted(intercept::VMMCALL);

/// The guest's physical addresses: translated by the hypervisor's own tables, or by nested ones.
#[shared]
static NESTED_PAGING: AtomicU64 = AtomicU64::new(0);

/// A hypervisor as the test's parameter wants it.
fn hypervisor() -> Svm {
    let mut svm = Svm::new();
    if NESTED_PAGING.load(SeqCst) != 0 {
        svm.use_nested_paging();
    }
    svm
}

/// What level 2 has seen.
static LEVEL_AND_STACK: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

fn notes_where_it_runs(g: &mut Guest) {
    LEVEL_AND_STACK[0].store(g.level().into(), SeqCst);
    LEVEL_AND_STACK[1].store(layout::area_of_stack(&raw const g as u64), SeqCst);
    check_eq!("level 2 reads its hypervisor's arguments", g.arg(2), 77);
}

#[guest]
fn runs_a_function(g: &mut Guest) {
    let mut svm = hypervisor();
    let exit = svm.enter_with(notes_where_it_runs, [0, 0, 77, 0, 0, 0]);
    check_eq!("the return of level 2 is a VMMCALL", exit.code, VMMCALL);
    check!("the hypervisor sees that level 2 has returned", svm.has_returned(&exit));
    let [level, stack] = LEVEL_AND_STACK.each_ref().map(|seen| seen.load(SeqCst));
    check_eq!("the guest of level 1 is level 2", (g.level(), level), (1, 2));
    check_eq!("level 2 runs on its own stack", stack, svm.context().area());
    svm.complete(|_| ());
}

fn asks_the_host(g: &mut Guest) {
    let answer = g.sync(7, &[g.level().into(), 5]);
    check_eq!("level 2 gets the host's answer", [answer[0], answer[1]], [30, 31]);
    log!("level {} has synced", g.level());
}

#[guest]
fn syncs_at_both_levels(g: &mut Guest) {
    let mut svm = hypervisor();
    if g.arg(0) != 0 {
        // Every port, the doorbell's too: what level 2 rings for is passed on.
        let permissions = svm.intercept_ports();
        (permissions..permissions + 0x2000).step_by(8).for_each(|gva| poke(gva, !0_u64));
    }
    let exit = svm.enter(asks_the_host);
    check!("level 2 returns behind its sync", svm.has_returned(&exit));
    let answer = g.sync(8, &[g.level().into()]);
    check_eq!("level 1 gets the host's answer", answer[0], 32);
}

/// Invalid opcodes taken, by the level of the handler.
static TAKEN: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

fn counts_at(level: usize) -> impl FnMut(&mut TrapFrame) {
    move |frame| {
        TAKEN[level - 1].fetch_add(1, SeqCst);
        frame.rip += 2;
    }
}

fn takes_an_invalid_opcode(_: &mut Guest) {
    with_handler(vector::UD, counts_at(2), ud2);
    check_eq!("level 2 has faults as values", ud2_safe().map_err(|t| t.vector), Err(vector::UD));
}

#[guest]
fn keeps_handlers_apart(_: &mut Guest) {
    let taken = || TAKEN.each_ref().map(|count| count.load(SeqCst));
    let mut svm = hypervisor();
    with_handler(vector::UD, counts_at(1), || {
        svm.complete(takes_an_invalid_opcode);
        check_eq!("level 2 has handlers of its own", taken(), [0, 1]);
        ud2();
        check_eq!("level 1 has its handler still", taken(), [1, 1]);
    });
    svm.intercept_exception(vector::UD);
    let exit = svm.enter(|_| ud2());
    check_eq!("an intercepted #UD is an exit", exit.code, exit::EXCP0 + u64::from(vector::UD));
    check_eq!("no handler takes an intercepted #UD", taken(), [1, 1]);
}

fn reads_cpuid(_: &mut Guest) {
    check_eq!("CPUID of level 2 is what its hypervisor gave", cpuid(0, 0), [1, 2, 3, 4]);
}

#[guest]
fn intercepts_cpuid(_: &mut Guest) {
    let mut svm = hypervisor();
    svm.intercept(intercept::CPUID);
    let exit = svm.enter(reads_cpuid);
    check_eq!("an intercepted CPUID is an exit", exit.code, CPUID);
    svm.vmcb().save.rax = 1;
    (svm.gprs.rbx, svm.gprs.rcx, svm.gprs.rdx) = (2, 3, 4);
    svm.skip();
    let exit = svm.resume();
    check!("level 2 goes on behind an intercepted instruction", svm.has_returned(&exit));
}

fn sums_up_hypercalls(g: &mut Guest) {
    let mut sum = g.arg(0);
    for _ in 0..3 {
        sum += svm::vmmcall(sum);
    }
    check_eq!("a guest keeps its own sum", sum, g.arg(0) * 8);
}

#[guest]
fn alternates(_: &mut Guest) {
    let mut guests = [hypervisor(), hypervisor()];
    let mut exits =
        [0, 1].map(|n| guests[n].enter_with(sums_up_hypercalls, [100 + n as u64, 0, 0, 0, 0, 0]));
    let areas = guests.each_ref().map(|guest| guest.context().area());
    check!("each guest has its own context", areas[0] != areas[1], "{areas:x?}");
    for round in 0..3 {
        for (n, (guest, exit)) in guests.iter_mut().zip(&mut exits).enumerate() {
            let sum = (100 + n as u64) << round;
            check_eq!("a guest's hypercall has its sum", guest.vmcb().save.rax, sum);
            guest.skip();
            *exit = guest.resume();
        }
    }
    for (guest, exit) in guests.iter().zip(&exits) {
        check!("each guest returns after its hypercalls", guest.has_returned(exit), "{exit:x?}");
    }
}

#[host]
mod host {
    use super::*;

    /// Level 2 runs a function to its end, and level 1 goes on behind it.
    #[kvm_test(runs_a_function, requires(cpu::SVM), params = [shadow: 0, nested: 1])]
    fn level_2_runs_a_function(t: &mut OneVcpu, nested_paging: u64) -> TestResult {
        t.vm.shared(shared_static!(NESTED_PAGING)).store(nested_paging, SeqCst);
        t.vcpu.run_until_done()
    }

    /// Messages of level 2 reach the host, which answers them, whether its hypervisor intercepts them or not.
    #[kvm_test(syncs_at_both_levels, requires(cpu::SVM), params = [direct: 0, intercepted: 1])]
    fn level_2_syncs_with_the_host(t: &mut OneVcpu, intercepted: u64) -> TestResult {
        t.vcpu.set_args(&[intercepted]);
        let args = t.vcpu.run_until_sync(7)?;
        check_eq!("the sync comes from level 2", [args[0], args[1]], [2, 5]);
        t.vcpu.answer(&[30, 31]);
        let args = t.vcpu.run_until_sync(8)?;
        check_eq!("the next sync comes from level 1", args[0], 1);
        t.vcpu.answer(&[32]);
        t.vcpu.run_until_done()
    }

    /// Each level takes its exceptions on its own stack with handlers of its own.
    #[kvm_test(keeps_handlers_apart, requires(cpu::SVM), params = [shadow: 0, nested: 1])]
    fn handlers_belong_to_a_level(t: &mut OneVcpu, nested_paging: u64) -> TestResult {
        t.vm.shared(shared_static!(NESTED_PAGING)).store(nested_paging, SeqCst);
        t.vcpu.run_until_done()
    }

    /// A hypervisor answers an instruction of its guest.
    #[kvm_test(intercepts_cpuid, requires(cpu::SVM))]
    fn level_1_emulates_an_instruction(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// Two guests of one hypervisor take turns on one vCPU.
    #[kvm_test(alternates, requires(cpu::SVM))]
    fn two_guests_take_turns(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }
}
