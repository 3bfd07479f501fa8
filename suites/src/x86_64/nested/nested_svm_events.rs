//! Events that a hypervisor on SVM injects, and those whose delivery an exit cuts off (APM vol. 2, "Event
//! Injection", "EXITINTINFO").
use crate::prelude::*;
use defs::x86::vmcb::{Event, event, exit, intercept};

const VMMCALL: u64 = exit::intercepted(intercept::VMMCALL);
const VECTOR: u8 = 0x61;
/// CR2 of the guest; no page fault of its own has this.
const CR2: u64 = 0x1234_5678_9000;

/// What the guest's handlers have taken: how many, the last one's vector, error code, RIP, CR2.
static TAKEN: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];

fn taken() -> [u64; 5] {
    TAKEN.each_ref().map(|value| value.load(SeqCst))
}

/// How many, and the last one's vector.
fn taken_vector() -> (u64, u8) {
    let [count, vector, ..] = taken();
    (count, vector as u8)
}

fn note(frame: &mut TrapFrame) {
    TAKEN[0].fetch_add(1, SeqCst);
    for (to, value) in TAKEN[1..].iter().zip([frame.vector, frame.error, frame.rip, read_cr2()]) {
        to.store(value, SeqCst);
    }
}

/// The guest: calls its hypervisor until that answers with something else than zero.
fn takes_events(_: &mut Guest) {
    let calls = || while svm::vmmcall(0) == 0 {};
    with_handler(VECTOR, note, || {
        with_handler(vector::NMI, note, || {
            with_handler(vector::GP, note, || {
                with_handler(vector::PF, note, || with_handler(vector::UD, note, calls));
            });
        });
    });
}

/// Every type of event, with an error code where the vector has one.
const EVENTS: [(&str, Event); 6] = [
    ("an external interrupt", Event::interrupt(VECTOR)),
    ("an NMI", Event::nmi()),
    ("#UD", Event::exception(vector::UD)),
    ("#GP", Event::exception(vector::GP).with_code(0x1230)),
    ("#PF", Event::exception(vector::PF).with_code(0x5)),
    ("a software interrupt", Event::software(VECTOR)),
];

/// A hypervisor whose guest has made its first call.
fn ready(g: &Guest) -> Svm {
    let mut svm = Svm::new();
    if g.arg(0) != 0 {
        svm.use_nested_paging();
    }
    let exit = svm.enter(takes_events);
    check_eq!("the guest calls when its handlers are ready", exit.code, VMMCALL);
    svm
}

/// Moves the guest behind its call, and has its next entry inject `event`.
fn inject(svm: &mut Svm, event: Event) -> u64 {
    TAKEN.iter().for_each(|value| value.store(0, SeqCst));
    svm.skip();
    let rip = svm.vmcb().save.rip;
    svm.vmcb().save.rax = 0;
    svm.vmcb().save.cr2 = CR2;
    svm.vmcb().control.event_injection = event;
    // Where a software interrupt returns to, on a CPU that has the field.
    svm.vmcb().control.next_rip = rip;
    rip
}

/// What the manual defines of an event: no vector of an NMI, no error code without its flag.
fn significant(event: Event) -> Event {
    let event = if event.has_error() { event } else { event.with_error(0) };
    if event.kind() == event::NMI { event.with_vector(vector::NMI) } else { event }
}

fn finish(mut svm: Svm) {
    svm.skip();
    svm.vmcb().save.rax = 1;
    let exit = svm.resume();
    check!("the guest ends when its hypervisor says so", svm.has_returned(&exit), "{exit:x?}");
}

#[guest]
fn injects(g: &mut Guest) {
    let mut svm = ready(g);
    for (name, event) in EVENTS {
        let rip = inject(&mut svm, event);
        let exit = svm.resume();
        check_eq!("the guest goes on to its next call after {name}", exit.code, VMMCALL);
        let wanted = [1, event.vector().into(), event.error().into(), rip, CR2];
        check_eq!("the guest takes {name} exactly once, before anything else", taken(), wanted);
        let left = svm.vmcb().control.event_injection;
        check!("EVENTINJ is not valid after {name} was injected", !left.is_valid(), "{left:x?}");
        check!("nothing was being delivered after {name}", !exit.int_info.is_valid());
    }
    inject(&mut svm, EVENTS[0].1.with_is_valid(false));
    svm.resume();
    check_eq!("an event that is not valid is not injected", taken()[0], 0);
    finish(svm);
}

/// A page that nothing is mapped at.
const ABSENT: u64 = layout::SCRATCH + 0x8000;

#[guest]
fn cuts_off_by_page_faults(g: &mut Guest) {
    let mut svm = ready(g);
    mmu::unmap(ABSENT, mmu::Size::Small);
    let idt = svm.vmcb().save.idtr;
    svm.intercept_exception(vector::PF);
    for (name, event) in EVENTS {
        inject(&mut svm, event);
        svm.vmcb().save.idtr.base = ABSENT;
        let exit = svm.resume();
        check_eq!(
            "the page fault in the delivery of {name} is the exit",
            exit.code,
            exit::EXCP0 + 14
        );
        let gate = ABSENT + 16 * u64::from(event.vector());
        check_eq!("the page fault in the delivery of {name} is at its gate", exit.info, [0, gate]);
        check_eq!("EXITINTINFO has {name} that was cut off", significant(exit.int_info), event);
        let left = svm.vmcb().control.event_injection;
        check!("EVENTINJ is not valid after {name} was cut off", !left.is_valid(), "{left:x?}");
        check_eq!("the guest has not taken {name} that was cut off", taken()[0], 0);
        check_eq!("an intercepted page fault leaves the guest's CR2", svm.vmcb().save.cr2, CR2);
        svm.vmcb().save.idtr = idt;
        svm.vmcb().control.event_injection = exit.int_info;
        let exit = svm.resume();
        check_eq!("the guest goes on with {name} injected again", exit.code, VMMCALL);
        check_eq!(
            "the guest takes {name} injected again once",
            taken_vector(),
            (1, event.vector())
        );
    }
    finish(svm);
}

#[guest]
fn cuts_off_by_nested_faults(g: &mut Guest) {
    let mut svm = ready(g);
    let idt = svm.vmcb().save.idtr.base;
    // Without next RIPs nobody can tell where a software interrupt that was cut off is to return to.
    let has_next_rip = cpuid_has(cpuid::feature::NRIPS);
    for (name, event) in
        EVENTS.into_iter().filter(|(_, e)| has_next_rip || e.kind() != event::SOFTWARE)
    {
        inject(&mut svm, event);
        let gate = idt + 16 * u64::from(event.vector());
        svm.protect_nested(gate, Pte::empty());
        let exit = svm.resume();
        check_eq!("the nested fault in the delivery of {name} is the exit", exit.code, exit::NPF);
        check_eq!("the nested fault in the delivery of {name} is at its gate", exit.info[1], gate);
        check_eq!(
            "EXITINTINFO has {name} that a nested fault cut off",
            significant(exit.int_info),
            event
        );
        check_eq!("the guest has not taken {name} before its nested fault", taken()[0], 0);
        svm.protect_nested(gate, Pte::DEFAULT);
        svm.vmcb().control.event_injection = exit.int_info;
        let exit = svm.resume();
        check_eq!("the guest goes on with {name} after its nested fault", exit.code, VMMCALL);
        let wanted = (1, event.vector());
        check_eq!("the guest takes {name} once after its nested fault", taken_vector(), wanted);
    }
    // An NMI that was cut off and is not injected again has masked nothing, and is taken by nobody.
    inject(&mut svm, Event::nmi());
    svm.protect_nested(idt, Pte::empty());
    let exit = svm.resume();
    check_eq!(
        "an NMI without a gate is cut off",
        (exit.code, significant(exit.int_info)),
        (exit::NPF, Event::nmi())
    );
    svm.protect_nested(idt, Pte::DEFAULT);
    let exit = svm.resume();
    check_eq!("the guest goes on without the NMI that was cut off", exit.code, VMMCALL);
    check_eq!("an NMI that was cut off is not taken by itself", taken()[0], 0);
    finish(svm);
}

/// A guest that waits at its first instruction, with no handlers.
fn without_handlers(g: &Guest) -> Svm {
    let mut svm = Svm::new();
    if g.arg(0) != 0 {
        svm.use_nested_paging();
    }
    svm.start(&CALLS);
    svm
}

guest_asm! { CALLS, bits64: "vmmcall" }

#[guest]
fn doubles(g: &mut Guest) {
    mmu::unmap(ABSENT, mmu::Size::Small);
    let event = EVENTS[3].1;
    let mut svm = without_handlers(g);
    svm.intercept_exception(vector::DF);
    svm.vmcb().save.idtr.base = ABSENT;
    svm.vmcb().control.event_injection = event;
    let exit = svm.run();
    let double_fault = exit::EXCP0 + u64::from(vector::DF);
    check_eq!("a page fault in the delivery of #GP is #DF", exit.code, double_fault);
    check_eq!("the error code of #DF is zero", exit.info[0], 0);
    let gate = ABSENT + 16 * u64::from(vector::GP);
    check_eq!("a page fault on the way to #DF has set CR2", svm.vmcb().save.cr2, gate);
}

#[guest]
fn escalates(g: &mut Guest) {
    let event = EVENTS[3].1;
    let mut svm = without_handlers(g);
    svm.intercept(intercept::SHUTDOWN);
    svm.vmcb().save.idtr.limit = 0;
    svm.vmcb().control.event_injection = event;
    let exit = svm.run();
    let shutdown = exit::intercepted(intercept::SHUTDOWN);
    check_eq!("a triple fault is an exit with the shutdown intercept", exit.code, shutdown);

    let mut svm = without_handlers(g);
    let exit = svm.run();
    check_eq!("another guest runs after a shutdown", exit.code, VMMCALL);
}

/// The exceptions that the guest raises itself.
fn raises(g: &mut Guest) {
    match g.arg(0) {
        0 => ud2(),
        1 => drop(insn::divide_by_zero_safe()),
        2 => drop(peek::<u8>(1 << 62)),
        3 => drop(peek::<u8>(ABSENT)),
        4 => poke(ABSENT, 1_u8),
        _ => write_cr4(1 << 31),
    }
}

#[guest]
fn intercepts_exceptions(g: &mut Guest) {
    mmu::unmap(ABSENT, mmu::Size::Small);
    let rows = [
        ("#UD", vector::UD, None, None),
        ("#DE", vector::DE, None, None),
        ("#GP of an address that is not canonical", vector::GP, Some(0), None),
        ("#PF of a read", vector::PF, Some(0), Some(ABSENT)),
        ("#PF of a write", vector::PF, Some(2), Some(ABSENT)),
        ("#GP of a reserved bit", vector::GP, Some(0), None),
    ];
    for (nth, (name, vector, error, address)) in rows.into_iter().enumerate() {
        let mut svm = Svm::new();
        if g.arg(0) != 0 {
            svm.use_nested_paging();
        }
        svm.intercept_exception(vector);
        svm.vmcb().save.cr2 = CR2;
        let exit = svm.enter_with(raises, [nth as u64, 0, 0, 0, 0, 0]);
        let wanted = exit::EXCP0 + u64::from(vector);
        check_eq!("{name} is an exit with its intercept", exit.code, wanted);
        check_eq!("no event was being delivered at {name}", exit.int_info.is_valid(), false);
        if let Some(error) = error {
            check_eq!("the exit of {name} has the error code", exit.info[0], error);
        }
        if let Some(address) = address {
            check_eq!("the exit of {name} has the address", exit.info[1], address);
        }
        check_eq!("the exit of {name} leaves CR2", svm.vmcb().save.cr2, CR2);
    }
}

#[guest]
fn intercepts_breakpoints(_: &mut Guest) {
    let mut svm = Svm::new();
    svm.intercept_exception(vector::BP);
    let exit = svm.enter(|_| int3());
    let wanted = exit::EXCP0 + u64::from(vector::BP);
    check_eq!("#BP of INT3 is an exit with its intercept", exit.code, wanted);
}

#[host]
mod host {
    use super::*;

    /// The guest takes what its hypervisor injects, whatever its RFLAGS.IF is.
    #[kvm_test(injects, requires(cpu::SVM), params = [shadow: 0, nested: 1])]
    fn events_are_injected(t: &mut OneVcpu, nested_paging: u64) -> TestResult {
        t.vcpu.set_args(&[nested_paging]);
        t.vcpu.run_until_done()
    }

    /// A page fault that the hypervisor intercepts cuts the delivery of an event off: EXITINTINFO says which.
    #[kvm_test(cuts_off_by_page_faults, requires(cpu::SVM), params = [shadow: 0, nested: 1])]
    fn page_faults_cut_events_off(t: &mut OneVcpu, nested_paging: u64) -> TestResult {
        t.vcpu.set_args(&[nested_paging]);
        t.vcpu.run_until_done()
    }

    /// A nested page fault cuts the delivery of an event off.
    #[kvm_test(cuts_off_by_nested_faults, requires(cpu::SVM, cpu::NPT))]
    fn nested_faults_cut_events_off(t: &mut OneVcpu) -> TestResult {
        t.vcpu.set_args(&[1]);
        t.vcpu.run_until_done()
    }

    /// A page fault in the delivery of #GP is #DF, which is intercepted as such.
    #[kvm_test(doubles, requires(cpu::SVM), params = [shadow: 0, nested: 1])]
    fn double_faults_are_intercepted(t: &mut OneVcpu, nested_paging: u64) -> TestResult {
        t.vcpu.set_args(&[nested_paging]);
        t.vcpu.run_until_done()
    }

    /// Faults in the delivery of faults become a shutdown, which is an exit.
    #[kvm_test(escalates, requires(cpu::SVM), params = [shadow: 0, nested: 1])]
    fn faults_of_delivery_escalate(t: &mut OneVcpu, nested_paging: u64) -> TestResult {
        t.vcpu.set_args(&[nested_paging]);
        t.vcpu.run_until_done()
    }

    /// An exception that is intercepted is an exit before it has any effect.
    #[kvm_test(intercepts_exceptions, requires(cpu::SVM), params = [shadow: 0, nested: 1])]
    fn exceptions_are_intercepted(t: &mut OneVcpu, nested_paging: u64) -> TestResult {
        t.vcpu.set_args(&[nested_paging]);
        t.vcpu.run_until_done()
    }

    /// INT3 is an exception for the intercepts, as it is for the IDT.
    #[kvm_test(intercepts_breakpoints, requires(cpu::SVM))]
    fn breakpoints_are_intercepted(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }
}
