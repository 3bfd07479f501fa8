//! Paravirtual end of interrupt: where KVM says so in a word of the guest's, clearing that word ends the
//! interrupt without an access to the APIC (x86/msr.rst, MSR_KVM_PV_EOI_EN).
use crate::prelude::*;
use insn_table::Gpr;
use kvm_pv::{Features, KVM_MSR_ENABLED as ENABLE, KVM_PV_EOI_MASK, MSR_KVM_PV_EOI_EN};

const WORD: u64 = layout::SCRATCH + 0x44;
const OTHER_WORD: u64 = layout::SCRATCH + 0x1000 - 4;
const PATTERN: u32 = 0x5a5a_5a5a;
const VECTOR: u8 = 0x62;
const HIGHER: u8 = 0x91;
const PIN: u32 = 21;
const ROUNDS: u64 = 20;

fn require_feature() {
    if !pv_features().contains(Features::PV_EOI) {
        guest_runtime::ucall::skip(format_args!("KVM_FEATURE_PV_EOI"));
    }
}

fn enable() -> Apic {
    require_feature();
    let apic = Apic::enable();
    poke(WORD, 0_u32);
    wrmsr(MSR_KVM_PV_EOI_EN, WORD | ENABLE);
    apic
}

/// Ends the interrupt as a guest does: by the word if that may be, else by the APIC. Whether by the word.
fn end(apic: Apic) -> bool {
    let by_word = insn::XCHG_M32_R32.native(WORD, 0)[Gpr::Rsi] as u32 & KVM_PV_EOI_MASK != 0;
    if !by_word {
        apic.eoi();
    }
    by_word
}

fn send(apic: Apic, vector: u8) {
    apic.ipi(0, u32::from(vector) | apic::ICR_ASSERT | apic::ICR_SELF);
}

/// Lets in what is pending of these vectors.
fn take_pending(apic: Apic, vectors: &[u8]) {
    for _ in 0..vectors.len() {
        // HLT: no CPU may put off an interrupt there.
        if vectors.iter().any(|vector| apic.bit(apic::reg::IRR, *vector)) {
            sti_hlt();
            cli();
        }
    }
}

#[guest]
fn enables(g: &mut Guest) {
    require_feature();
    Apic::enable();
    poke(WORD, PATTERN);
    let fault = |value| wrmsr_safe(MSR_KVM_PV_EOI_EN, value).map_err(|t| (t.vector, t.error));
    check_eq!("MSR_KVM_PV_EOI_EN is 0 at reset", rdmsr_safe(MSR_KVM_PV_EOI_EN), Ok(0));
    for value in [WORD | 2, WORD | 2 | ENABLE] {
        let refused = fault(value);
        check_eq!("the reserved bit is #GP(0) ({value:#x})", refused, Err((vector::GP, 0)));
    }
    check_eq!("a refused write leaves MSR_KVM_PV_EOI_EN unchanged", rdmsr(MSR_KVM_PV_EOI_EN), 0);
    check_eq!("an address without the enable bit is accepted", fault(WORD), Ok(()));
    check_eq!("MSR_KVM_PV_EOI_EN reads as written, disabled", rdmsr(MSR_KVM_PV_EOI_EN), WORD);
    check_eq!("the word is left alone while disabled", peek::<u32>(WORD), PATTERN);
    check_eq!("an address with the enable bit is accepted", fault(WORD | ENABLE), Ok(()));
    check_eq!(
        "MSR_KVM_PV_EOI_EN reads as written, enabled",
        rdmsr(MSR_KVM_PV_EOI_EN),
        WORD | ENABLE
    );
    g.sync(1, &[]);
    check_eq!("the word is left alone without an interrupt", peek::<u32>(WORD), PATTERN);
    check_eq!("the last word of a page is accepted", fault(OTHER_WORD | ENABLE), Ok(()));
    check_eq!("MSR_KVM_PV_EOI_EN can be switched off", fault(0), Ok(()));
    check_eq!("MSR_KVM_PV_EOI_EN reads as 0 when off", rdmsr(MSR_KVM_PV_EOI_EN), 0);
}

#[guest]
fn takes_interrupts(_: &mut Guest) {
    let apic = enable();
    let (mut taken, mut by_word) = (0, 0);
    let on_interrupt = |_: &mut TrapFrame| {
        taken += 1;
        by_word += u64::from(end(apic));
    };
    with_handler(VECTOR, on_interrupt, || {
        for _ in 0..ROUNDS {
            send(apic, VECTOR);
            sti_hlt();
            cli();
            let left = apic.bit(apic::reg::ISR, VECTOR) || apic.bit(apic::reg::IRR, VECTOR);
            check!("an ended interrupt is no longer in service", !left);
            check_eq!("the word is clear after the end", peek::<u32>(WORD) & KVM_PV_EOI_MASK, 0);
        }
    });
    check_eq!("each interrupt is taken exactly once", taken, ROUNDS);
    guest_runtime::ucall::metric("ended by the word", "interrupts", by_word);
}

#[guest]
fn takes_two(_: &mut Guest) {
    let apic = enable();
    let (mut order, mut count) = ([0; 2], 0);
    let cell = core::cell::RefCell::new((&mut order, &mut count));
    let take = |vector: u8| {
        let (order, count) = &mut *cell.borrow_mut();
        if let Some(place) = order.get_mut(**count as usize) {
            *place = vector;
        }
        **count += 1;
        end(apic);
    };
    with_handler(
        HIGHER,
        |_| take(HIGHER),
        || {
            with_handler(
                VECTOR,
                |_| take(VECTOR),
                || {
                    for _ in 0..ROUNDS {
                        *cell.borrow_mut().1 = 0;
                        send(apic, VECTOR);
                        send(apic, HIGHER);
                        take_pending(apic, &[HIGHER, VECTOR]);
                        let (order, count) = &*cell.borrow();
                        check_eq!("both of two waiting interrupts are taken", **count, 2_u64);
                        check_eq!("the higher interrupt is taken first", **order, [HIGHER, VECTOR]);
                    }
                },
            );
        },
    );
    check!("no interrupt is left in service", !apic.bit(apic::reg::ISR, VECTOR));
}

#[guest]
fn takes_levels(g: &mut Guest) {
    let apic = enable();
    ioapic::route(PIN, VECTOR, apic.id(), ioapic::LEVEL);
    let mut taken = 0;
    let on_interrupt = |frame: &mut TrapFrame| {
        taken += 1;
        let word: u32 = peek(WORD);
        check_eq!("the word does not end a level-triggered interrupt", word & KVM_PV_EOI_MASK, 0);
        end(apic);
        // The line stays raised: once is enough.
        frame.rflags &= !Rflags::IF.bits();
    };
    with_handler(VECTOR, on_interrupt, || {
        for _ in 0..4 {
            g.sync(RAISE, &[]);
            sti_hlt();
            cli();
            g.sync(LOWER, &[]);
            take_pending(apic, &[VECTOR]);
            let remote = ioapic::entry(PIN) & ioapic::REMOTE_IRR;
            check_eq!("the end of a level reaches the I/O APIC", remote, 0);
        }
    });
    check!("each level-triggered interrupt was taken", taken >= 4, "{taken}");
}

/// What the guest asks the host to do with the pin.
const RAISE: u64 = 1;
const LOWER: u64 = 2;

#[host]
mod host {
    use super::*;

    kvm_tests! { irqchip }

    /// The MSR is as x86/msr.rst says.
    #[kvm_test(enables)]
    fn msr_takes_addresses_of_words(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_sync(1)?;
        t.vcpu.run_until_done()
    }

    /// However the guest ends an interrupt, by the word where KVM allows that, the next one comes.
    #[kvm_test(takes_interrupts)]
    fn interrupts_ended_by_the_word_are_over(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// An interrupt that waits behind another is delivered when that is ended, without a further one.
    #[kvm_test(takes_two)]
    fn waiting_interrupt_comes_after_the_end(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// The I/O APIC waits for the end of a level-triggered interrupt, which the word would keep from it.
    #[kvm_test(takes_levels, moved)]
    fn level_interrupts_are_ended_in_the_apic(t: &mut OneVcpu) -> TestResult {
        for _ in 0..4 {
            for (stage, active) in [(RAISE, true), (LOWER, false)] {
                t.vcpu.run_until_sync(stage)?;
                t.vm.set_irq_line(PIN, active).ioctl("KVM_IRQ_LINE")?;
            }
        }
        t.vcpu.run_until_done()
    }
}
