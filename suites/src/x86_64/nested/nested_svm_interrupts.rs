//! Interrupts of a hypervisor on SVM and of its guest (APM vol. 2, "Interrupt Intercepts", "Virtual
//! Interrupts", "Global Interrupt Flag"): whose an interrupt is, and when it comes.
use crate::prelude::*;
use defs::x86::vmcb::{VirtualInterrupt, exit, intercept};
use svm::{clgi_safe, stgi_safe};

const VMMCALL: u64 = exit::intercepted(intercept::VMMCALL);
const INTR: u64 = exit::INTR;
const VECTOR: u8 = 0x61;
const VIRTUAL: u8 = 0x71;

guest_asm! { CALLS, bits64: "vmmcall" }
guest_asm! { CALLS_AFTER_NOP, bits64: "nop", "vmmcall" }

/// Interrupts and NMIs that level 1 has taken.
static TAKEN: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

fn taken() -> [u64; 2] {
    TAKEN.each_ref().map(|count| count.load(SeqCst))
}

/// Runs `body` with handlers of level 1 that count, and maskable interrupts off.
fn counting(apic: Apic, body: impl FnOnce()) {
    let on_interrupt = |_: &mut TrapFrame| {
        TAKEN[0].fetch_add(1, SeqCst);
        apic.eoi();
    };
    let on_nmi = |_: &mut TrapFrame| {
        TAKEN[1].fetch_add(1, SeqCst);
    };
    cli();
    with_handler(VECTOR, on_interrupt, || with_handler(vector::NMI, on_nmi, body));
}

fn interrupt_self(apic: Apic) {
    apic.ipi(0, apic::ICR_SELF | u32::from(VECTOR));
}

fn nmi_self(apic: Apic) {
    apic.ipi(apic.id(), apic::ICR_NMI | apic::ICR_ASSERT);
}

#[guest]
fn clears_gif(_: &mut Guest) {
    let apic = Apic::enable();
    let _on = Svm::new();
    counting(apic, || {
        check_eq!("CLGI with EFER.SVME is taken", clgi_safe(), Ok(()));
        interrupt_self(apic);
        nmi_self(apic);
        sti();
        check_eq!("no interrupt comes while GIF is clear", taken(), [0, 0]);
        check!("an interrupt is pending while GIF is clear", apic.bit(apic::reg::IRR, VECTOR));
        check_eq!("STGI with EFER.SVME is taken", stgi_safe(), Ok(()));
        check_eq!("interrupt and NMI come exactly once behind STGI", taken(), [1, 1]);
        cli();
    });
}

/// Who may be interrupted, and what is to come of it.
struct Masks {
    masking: bool,
    host_if: bool,
    guest_if: bool,
}

const MASKS: [Masks; 8] = {
    let mut all = [const { Masks { masking: false, host_if: false, guest_if: false } }; 8];
    let mut n = 0;
    while n < 8 {
        all[n] = Masks { masking: n & 1 != 0, host_if: n & 2 != 0, guest_if: n & 4 != 0 };
        n += 1;
    }
    all
};

#[guest]
fn masks_interrupts(_: &mut Guest) {
    let apic = Apic::enable();
    let mut svm = Svm::new();
    svm.intercept(intercept::INTR);
    for Masks { masking, host_if, guest_if } in MASKS {
        counting(apic, || {
            svm.start(&CALLS);
            if guest_if {
                svm.vmcb().save.rflags |= Rflags::IF.bits();
            }
            let virtual_interrupt = VirtualInterrupt::new().with_v_intr_masking(masking);
            svm.vmcb().control.virtual_interrupt = virtual_interrupt;
            let before = taken()[0];
            check_eq!("CLGI before VMRUN is taken", clgi_safe(), Ok(()));
            interrupt_self(apic);
            if host_if {
                sti();
            }
            let exit = svm.run();
            let case = (masking, host_if, guest_if);
            let exits = if masking { host_if } else { guest_if };
            let wanted = if exits { INTR } else { VMMCALL };
            check_eq!(
                "a pending interrupt is an exit where V_INTR_MASKING and RFLAGS.IF let it be",
                (case, exit.code),
                (case, wanted)
            );
            check_eq!(
                "the exit is before the guest's next instruction",
                svm.vmcb().save.rip,
                CALLS.address()
            );
            sti();
            cli();
            check_eq!("the hypervisor takes its interrupt exactly once", taken()[0] - before, 1);
        });
    }
}

#[guest]
fn is_interrupted_by_nmis(_: &mut Guest) {
    let apic = Apic::enable();
    let mut svm = Svm::new();
    svm.intercept(intercept::NMI);
    counting(apic, || {
        svm.start(&CALLS);
        check_eq!("CLGI before VMRUN is taken", clgi_safe(), Ok(()));
        nmi_self(apic);
        let exit = svm.run();
        check_eq!("a pending NMI is an exit", exit.code, exit::intercepted(intercept::NMI));
        check_eq!(
            "the NMI's exit is before the guest's next instruction",
            svm.vmcb().save.rip,
            CALLS.address()
        );
        check_eq!("the hypervisor takes an intercepted NMI itself", taken(), [0, 1]);
        let exit = svm.run();
        check_eq!("the guest goes on behind the NMI's exit", exit.code, VMMCALL);
        check_eq!("an intercepted NMI is taken exactly once", taken(), [0, 1]);
    });
}

/// What level 2 has taken: interrupts, NMIs, virtual interrupts.
static TAKEN_BY_GUEST: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

fn taken_by_guest() -> [u64; 3] {
    TAKEN_BY_GUEST.each_ref().map(|count| count.load(SeqCst))
}

/// The guest: calls its hypervisor, with interrupts on when the answer is 1; takes a software
/// interrupt when it is 3; ends when it is 2.
fn is_interrupted(_: &mut Guest) {
    let count = |nth: usize| {
        move |_: &mut TrapFrame| {
            TAKEN_BY_GUEST[nth].fetch_add(1, SeqCst);
        }
    };
    let on_interrupt = |_: &mut TrapFrame| {
        TAKEN_BY_GUEST[0].fetch_add(1, SeqCst);
        Apic::enable().eoi();
    };
    with_handler(VECTOR, on_interrupt, || {
        with_handler(vector::NMI, count(1), || {
            with_handler(VIRTUAL, count(2), || {
                loop {
                    match svm::vmmcall(0) {
                        0 => {}
                        1 => {
                            sti();
                            cli();
                        }
                        3 => insn::int(VIRTUAL),
                        _ => return,
                    }
                }
            });
        });
    });
}

/// Goes on with the guest, which takes `answer` for its call.
fn answer(svm: &mut Svm, answer: u64) -> svm::Exit {
    svm.skip();
    svm.vmcb().save.rax = answer;
    svm.resume()
}

#[guest]
fn leaves_interrupts_to_its_guest(_: &mut Guest) {
    let apic = Apic::enable();
    let mut svm = Svm::new();
    counting(apic, || {
        let exit = svm.enter(is_interrupted);
        check_eq!("the guest calls when its handlers are ready", exit.code, VMMCALL);
        check_eq!("CLGI before the guest's interrupts is taken", clgi_safe(), Ok(()));
        interrupt_self(apic);
        let exit = answer(&mut svm, 0);
        check_eq!("no exit comes of an interrupt without the intercept", exit.code, VMMCALL);
        check_eq!("the guest's RFLAGS.IF holds its interrupt back", taken_by_guest(), [0, 0, 0]);
        let exit = answer(&mut svm, 1);
        check_eq!("the guest goes on behind its own interrupt", exit.code, VMMCALL);
        check_eq!(
            "the guest takes an interrupt that is not intercepted",
            taken_by_guest(),
            [1, 0, 0]
        );
        check_eq!("CLGI before the guest's NMI is taken", clgi_safe(), Ok(()));
        nmi_self(apic);
        let exit = answer(&mut svm, 0);
        check_eq!("no exit comes of an NMI without the intercept", exit.code, VMMCALL);
        check_eq!("the guest takes an NMI that is not intercepted", taken_by_guest(), [1, 1, 0]);
        check_eq!("the hypervisor takes nothing of its guest's", taken(), [0, 0]);
        let exit = answer(&mut svm, 2);
        check!("the guest ends after its interrupts", svm.has_returned(&exit), "{exit:x?}");
    });
}

const PENDING: VirtualInterrupt = VirtualInterrupt::new()
    .with_v_irq(true)
    .with_v_intr_vector(VIRTUAL)
    .with_v_intr_prio(VIRTUAL >> 4)
    .with_v_intr_masking(true);

#[guest]
fn makes_interrupts_up(_: &mut Guest) {
    let mut svm = Svm::new();
    svm.enter(is_interrupted);
    // What delivery reads has to be mapped before: emulated CPUs take a fault in it for an exception's.
    answer(&mut svm, 3);
    check_eq!("the guest takes its own software interrupt", taken_by_guest()[2], 1);
    svm.vmcb().control.virtual_interrupt = PENDING;
    answer(&mut svm, 0);
    check_eq!("a virtual interrupt waits for the guest's RFLAGS.IF", taken_by_guest()[2], 1);
    let left = svm.vmcb().control.virtual_interrupt;
    check!("a virtual interrupt that waits is still pending", left.v_irq(), "{left:?}");
    answer(&mut svm, 1);
    check_eq!("the guest takes a virtual interrupt exactly once", taken_by_guest()[2], 2);
    let left = svm.vmcb().control.virtual_interrupt;
    check!("a virtual interrupt that was taken is not pending", !left.v_irq(), "{left:?}");

    svm.vmcb().control.virtual_interrupt = PENDING.with_v_tpr((VIRTUAL >> 4) + 1);
    answer(&mut svm, 1);
    check_eq!("V_TPR holds a virtual interrupt of less priority back", taken_by_guest()[2], 2);
    svm.vmcb().control.virtual_interrupt = PENDING.with_v_tpr((VIRTUAL >> 4) - 1);
    answer(&mut svm, 1);
    check_eq!("V_TPR lets a virtual interrupt of more priority through", taken_by_guest()[2], 3);
    svm.vmcb().control.virtual_interrupt = PENDING.with_v_tpr(0xf).with_v_ign_tpr(true);
    answer(&mut svm, 1);
    check_eq!("V_IGN_TPR lets a virtual interrupt through", taken_by_guest()[2], 4);
    let exit = answer(&mut svm, 2);
    check!("the guest ends after its virtual interrupts", svm.has_returned(&exit), "{exit:x?}");
}

#[guest]
fn waits_for_a_window(_: &mut Guest) {
    let mut svm = Svm::new();
    svm.intercept(intercept::VINTR);
    let window = exit::intercepted(intercept::VINTR);
    for (name, rflags, shadow, nops) in
        [("with RFLAGS.IF", Rflags::IF, 0, 0), ("behind an interrupt shadow", Rflags::IF, 1, 1)]
    {
        svm.start(&CALLS_AFTER_NOP);
        svm.vmcb().save.rflags |= rflags.bits();
        svm.vmcb().control.interrupt_shadow = shadow;
        svm.vmcb().control.virtual_interrupt = PENDING;
        let exit = svm.run();
        check_eq!("the window opens {name}", exit.code, window);
        let rip = svm.vmcb().save.rip;
        check_eq!("the window {name} is at its instruction", rip, CALLS_AFTER_NOP.address() + nops);
        let left = svm.vmcb().control.virtual_interrupt;
        check!("the virtual interrupt is still pending {name}", left.v_irq(), "{left:?}");
    }
    svm.start(&CALLS_AFTER_NOP);
    svm.vmcb().control.interrupt_shadow = 0;
    svm.vmcb().control.virtual_interrupt = PENDING;
    let exit = svm.run();
    check_eq!("no window opens without RFLAGS.IF", exit.code, VMMCALL);
    svm.start(&CALLS_AFTER_NOP);
    svm.vmcb().save.rflags |= Rflags::IF.bits();
    svm.vmcb().control.virtual_interrupt = PENDING.with_v_irq(false);
    let exit = svm.run();
    check_eq!("no window opens without a virtual interrupt", exit.code, VMMCALL);
}

#[guest]
fn has_a_tpr(_: &mut Guest) {
    let mut svm = Svm::new();
    write_cr8(0x5);
    svm.vmcb().control.virtual_interrupt =
        VirtualInterrupt::new().with_v_intr_masking(true).with_v_tpr(3);
    svm.start(&MOVES_TPR);
    svm.run();
    check_eq!("the guest reads V_TPR as CR8", svm.gprs.rbx, 3);
    check_eq!(
        "the guest's write of CR8 is in V_TPR",
        svm.vmcb().control.virtual_interrupt.v_tpr(),
        9
    );
    check_eq!("the guest's write of CR8 leaves its hypervisor's", read_cr8(), 5);
    svm.vmcb().control.virtual_interrupt = VirtualInterrupt::new();
    svm.start(&MOVES_TPR);
    svm.run();
    check_eq!("the guest reads its hypervisor's CR8 without V_INTR_MASKING", svm.gprs.rbx, 5);
    check_eq!("the guest writes its hypervisor's CR8 without V_INTR_MASKING", read_cr8(), 9);
    write_cr8(0);
}

guest_asm! { MOVES_TPR, bits64: "mov rbx, cr8", "mov eax, 9", "mov cr8, rax", "vmmcall" }

#[host]
mod host {
    use super::*;

    kvm_tests! { irqchip, requires(cpu::SVM) }

    /// GIF holds interrupts and NMIs back, and loses none.
    #[kvm_test(clears_gif)]
    fn gif_holds_interrupts_back(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// An interrupt that comes while the guest runs is an exit: RFLAGS.IF is the guest's, or with
    /// V_INTR_MASKING the hypervisor's.
    #[kvm_test(masks_interrupts)]
    fn interrupts_are_intercepted(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// An NMI that comes while the guest runs is an exit.
    #[kvm_test(is_interrupted_by_nmis)]
    fn nmis_are_intercepted(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// Without intercepts the guest takes interrupts and NMIs itself.
    #[kvm_test(leaves_interrupts_to_its_guest)]
    fn interrupts_can_be_the_guests(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// The guest takes a virtual interrupt when it can, once.
    #[kvm_test(makes_interrupts_up)]
    fn virtual_interrupts_are_taken(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// The intercept of virtual interrupts is an interrupt window.
    #[kvm_test(waits_for_a_window)]
    fn virtual_interrupts_are_intercepted(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// CR8 is the guest's with V_INTR_MASKING, else its hypervisor's.
    #[kvm_test(has_a_tpr)]
    fn cr8_follows_v_intr_masking(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }
}
