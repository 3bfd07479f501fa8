//! Second vCPUs, and interrupts between them through local APICs and the I/O APIC: what tests rely on
//! in the guest runtime, by the SDM's rules (vol. 3, chapter "APIC").
use crate::prelude::*;

const VECTOR: u8 = 0x61;
/// Vectors that an IPI can have: the APIC refuses those below, and the runtime's stubs take
/// exceptions at those below 32.
const VECTORS: core::ops::RangeInclusive<u8> = 32..=255;

#[shared]
static RECEIVED: AtomicU64 = AtomicU64::new(0);
#[shared]
static PLACE: AtomicU64 = AtomicU64::new(0);
#[shared]
static READY: AtomicU64 = AtomicU64::new(0);
#[shared]
static STOP: AtomicU64 = AtomicU64::new(0);

/// Times that a pending `vector` is taken when interrupts are let in. HLT: no CPU may put off an
/// interrupt there.
fn take(apic: Apic, vector: u8) -> u64 {
    let mut count = 0;
    let on_interrupt = |frame: &mut TrapFrame| {
        count += 1;
        apic.eoi();
        // A level that stays raised would come again and again.
        frame.rflags &= !Rflags::IF.bits();
    };
    with_handler(vector, on_interrupt, || {
        if apic.bit(apic::reg::IRR, vector) {
            sti_hlt();
            cli();
        }
    });
    count
}

fn enable(x2apic: bool) -> Apic {
    if x2apic { Apic::enable_x2apic() } else { Apic::enable() }
}

#[guest]
fn interrupts_itself(g: &mut Guest) {
    let apic = enable(g.arg(0) != 0);
    let want = if g.arg(0) != 0 { Apic::X2apic } else { Apic::Xapic };
    check_eq!("the APIC is in the mode asked for", apic, want);
    check_eq!("APIC ID of vCPU 0 is 0", apic.id(), 0);
    let mut missing = 0_u64;
    for vector in VECTORS {
        apic.ipi(0, u32::from(vector) | apic::ICR_ASSERT | apic::ICR_SELF);
        let count = take(apic, vector);
        missing += u64::from(count != 1);
    }
    check_eq!("each vector that the APIC sends itself arrives once", missing, 0);
    apic.ipi(0, u32::from(VECTOR) | apic::ICR_ASSERT);
    check!("an interrupt waits in IRR while interrupts are off", apic.bit(apic::reg::IRR, VECTOR));
    check_eq!("an IPI to its own ID arrives once", take(apic, VECTOR), 1);
    check!("an interrupt that was taken has left IRR", !apic.bit(apic::reg::IRR, VECTOR));
    check!("an interrupt that was ended has left ISR", !apic.bit(apic::reg::ISR, VECTOR));
}

#[guest]
fn looks_at_its_isr(g: &mut Guest) {
    let apic = enable(g.arg(0) != 0);
    let mut seen = None;
    let in_service = || apic.bit(apic::reg::ISR, VECTOR);
    let on_interrupt = |_: &mut TrapFrame| {
        let before = in_service();
        apic.eoi();
        seen = Some((before, in_service()));
    };
    apic.ipi(0, u32::from(VECTOR) | apic::ICR_ASSERT | apic::ICR_SELF);
    with_handler(VECTOR, on_interrupt, || {
        sti_hlt();
        cli();
    });
    check_eq!("the handler of the self-IPI runs", seen.is_some(), true);
    let (before, after) = seen.unwrap_or_default();
    check!("ISR has the vector in its handler", before);
    check!("ISR has lost the vector after EOI", !after);
}

#[guest]
fn uses_the_self_ipi_register(_: &mut Guest) {
    let apic = Apic::enable_x2apic();
    apic.write(apic::reg::SELF_IPI, VECTOR.into());
    check_eq!("a write to SELF IPI arrives once", take(apic, VECTOR), 1);
    for bit in [8, 31] {
        let trap = wrmsr_safe(apic::x2apic_msr(apic::reg::SELF_IPI), u64::from(VECTOR) | 1 << bit)
            .map_err(|trap| trap.vector);
        check_eq!("bit {bit} of SELF IPI is reserved: #GP", trap, Err(vector::GP));
    }
    check!("a refused write to SELF IPI sends nothing", !apic.bit(apic::reg::IRR, VECTOR));
}

#[guest]
fn raises_its_priority(_: &mut Guest) {
    let apic = Apic::enable();
    let send = |vector: u8| apic.ipi(0, u32::from(vector) | apic::ICR_ASSERT | apic::ICR_SELF);
    let mut low = 0;
    let on_low = |_: &mut TrapFrame| {
        low += 1;
        apic.eoi();
    };
    write_cr8(u64::from(LOW >> 4));
    let high = with_handler(LOW, on_low, || {
        send(LOW);
        // KVM looks for interrupts at an exit: here it has one with interrupts on.
        sti();
        cpuid(0, 0);
        cli();
        send(HIGH);
        take(apic, HIGH)
    });
    check_eq!("a vector of the class in CR8 is not taken", low, 0);
    check!("a vector of the class in CR8 waits in IRR", apic.bit(apic::reg::IRR, LOW));
    check_eq!("a vector above the class in CR8 is taken", high, 1);
    check_eq!("TPR has the class that CR8 has", apic.read(apic::reg::TPR), u32::from(LOW & 0xf0));
    write_cr8(0);
    check_eq!("a vector that waited is taken when CR8 falls", take(apic, LOW), 1);
    for class in 0..=0xf {
        write_cr8(class);
        check_eq!("TPR has each class of CR8", apic.read(apic::reg::TPR), (class as u32) << 4);
        check_eq!("CR8 reads as written", read_cr8(), class);
    }
    write_cr8(0);
}

/// Vectors of two priority classes.
const LOW: u8 = 0x45;
const HIGH: u8 = 0x51;

#[guest]
fn receives(g: &mut Guest) {
    let apic = enable(g.arg(0) != 0);
    check_eq!("APIC ID of vCPU 1 is 1", apic.id(), 1);
    let on_ipi = |_: &mut TrapFrame| {
        PLACE.store(g.vcpu().into(), SeqCst);
        RECEIVED.fetch_add(1, SeqCst);
        apic.eoi();
    };
    with_handler(VECTOR, on_ipi, || {
        with_handler(
            vector::NMI,
            |_| {
                RECEIVED.fetch_add(NMI_COUNT, SeqCst);
            },
            || {
                sti();
                READY.store(1, SeqCst);
                wait_until(|| STOP.load(SeqCst) != 0);
                cli();
            },
        );
    });
}

/// What an NMI adds to [`RECEIVED`].
const NMI_COUNT: u64 = 1 << 32;

/// Waits for something new to vCPU 1, and gives what it has received by then.
fn received_after(count: u64) -> u64 {
    wait_until(|| RECEIVED.load(SeqCst) != count);
    RECEIVED.load(SeqCst)
}

#[guest]
fn sends(g: &mut Guest) {
    let x2apic = g.arg(0) != 0;
    let apic = enable(x2apic);
    wait_until(|| READY.load(SeqCst) != 0);
    let icr = u32::from(VECTOR) | apic::ICR_ASSERT;
    apic.ipi(1, icr);
    check_eq!("an IPI to vCPU 1's ID interrupts vCPU 1", received_after(0), 1);
    check_eq!("an IPI to vCPU 1's ID runs vCPU 1's handler", PLACE.load(SeqCst), 1);
    apic.ipi(0, icr | apic::ICR_OTHERS);
    check_eq!("an IPI to all others interrupts vCPU 1", received_after(1), 2);
    check!("an IPI to all others does not interrupt the sender", !apic.bit(apic::reg::IRR, VECTOR));
    apic.ipi(0, icr | apic::ICR_ALL);
    check_eq!("an IPI to all interrupts vCPU 1", received_after(2), 3);
    check!("an IPI to all interrupts the sender", apic.bit(apic::reg::IRR, VECTOR));
    check_eq!("the sender takes its own IPI once", take(apic, VECTOR), 1);
    apic.ipi(1, apic::ICR_NMI | apic::ICR_ASSERT);
    check_eq!("an NMI to vCPU 1's ID interrupts vCPU 1", received_after(3), 3 + NMI_COUNT);
    for received in (3 + NMI_COUNT..).take(10) {
        apic.ipi(1, icr);
        let got = received_after(received);
        check_eq!("ten IPIs one after the other all arrive", got, received + 1);
    }
    STOP.store(1, SeqCst);
}

#[guest]
fn sleeps_until_interrupted(_: &mut Guest) {
    let apic = Apic::enable();
    let on_ipi = |_: &mut TrapFrame| {
        RECEIVED.fetch_add(1, SeqCst);
        apic.eoi();
    };
    with_handler(VECTOR, on_ipi, || {
        for round in 1..=ROUNDS {
            READY.store(round, SeqCst);
            sti_hlt();
            cli();
        }
    });
}

/// Times that the second vCPU goes to sleep.
const ROUNDS: u64 = 20;

#[guest]
fn wakes(_: &mut Guest) {
    let apic = Apic::enable();
    for round in 1..=ROUNDS {
        wait_until(|| READY.load(SeqCst) == round);
        apic.ipi(1, u32::from(VECTOR) | apic::ICR_ASSERT);
        check_eq!("each IPI wakes the vCPU from HLT", received_after(round - 1), round);
    }
}

/// Both vCPUs use this barrier; each has its place in these.
#[shared]
static VALUES: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
static BARRIER: Barrier = Barrier::new();

#[guest]
fn has_its_own_state(g: &mut Guest) {
    let me = g.vcpu();
    let on_stack = core::hint::black_box(u64::from(me) + 100);
    let mut count = 0;
    let on_ud = |frame: &mut TrapFrame| {
        count += 1;
        frame.rip += 2;
        VALUES[me as usize].store(u64::from(me) + 1, SeqCst);
    };
    with_handler(vector::UD, on_ud, || {
        BARRIER.wait(2);
        for _ in 0..=me {
            ud2();
        }
        BARRIER.wait(2);
    });
    check_eq!("vCPU {me} takes its own traps, no others", count, u64::from(me) + 1);
    check_eq!("vCPU {me} sees what vCPU 0 stored", VALUES[0].load(SeqCst), 1);
    check_eq!("vCPU {me} sees what vCPU 1 stored", VALUES[1].load(SeqCst), 2);
    check_eq!(
        "vCPU {me} has a stack of its own",
        core::hint::black_box(on_stack),
        u64::from(me) + 100
    );
    check_eq!("vCPU {me} has its number", cpu_id(), u64::from(me));
}

/// A pin that no device of KVM's uses.
const PIN: u32 = 20;

#[guest]
fn takes_ioapic_interrupts(g: &mut Guest) {
    let apic = Apic::enable();
    let level = g.arg(0) != 0;
    let pending = |vector| apic.bit(apic::reg::IRR, vector);
    check_eq!("a pin is masked after reset", ioapic::entry(PIN) & ioapic::MASKED, ioapic::MASKED);
    ioapic::route(PIN, VECTOR, 0, if level { ioapic::LEVEL } else { 0 });
    let want = u64::from(VECTOR) | if level { ioapic::LEVEL } else { 0 };
    check_eq!("the redirection entry reads back as written", ioapic::entry(PIN), want);
    g.sync(RAISE, &[]);
    check!("a raised pin interrupts its destination", pending(VECTOR));
    check_eq!(
        "TMR distinguishes level from edge",
        apic.bit(apic::reg::TMR, VECTOR) || !level,
        true
    );
    check_eq!(
        "Remote IRR is set for level only",
        ioapic::entry(PIN) & ioapic::REMOTE_IRR != 0,
        level
    );
    check_eq!("an interrupt of the pin is taken exactly once", take(apic, VECTOR), 1);
    check_eq!("a level that stays comes again after EOI, an edge does not", pending(VECTOR), level);
    g.sync(RAISE, &[]);
    check_eq!("an edge that is raised already does not come again", pending(VECTOR), level);
    g.sync(LOWER, &[]);
    check_eq!("an interrupt that came again is taken", take(apic, VECTOR), u64::from(level));
    check!("a lowered pin does not interrupt", !pending(VECTOR));
    check_eq!("Remote IRR is clear after EOI", ioapic::entry(PIN) & ioapic::REMOTE_IRR, 0);
    ioapic::set_entry(PIN, ioapic::entry(PIN) | ioapic::MASKED);
    g.sync(RAISE, &[]);
    check!("a masked pin does not interrupt", !pending(VECTOR));
    g.sync(LOWER, &[]);
    ioapic::route(PIN, HIGH, 0, 0);
    g.sync(RAISE, &[]);
    check!("a changed vector of the pin is used", pending(HIGH) && !pending(VECTOR));
}

/// What the guest asks the host to do with the pin.
const RAISE: u64 = 1;
const LOWER: u64 = 2;

#[guest]
fn opens_for_one_instruction(_: &mut Guest) {
    let apic = Apic::enable();
    let mut count = 0;
    let on_interrupt = |_: &mut TrapFrame| {
        count += 1;
        apic.eoi();
    };
    with_handler(VECTOR, on_interrupt, || {
        apic.ipi(0, u32::from(VECTOR) | apic::ICR_ASSERT | apic::ICR_SELF);
        sti();
        cli();
    });
    check_eq!("a pending interrupt is taken while RFLAGS.IF is set", count, 1);
}

#[host]
mod host {
    use super::*;

    kvm_tests! { irqchip }

    /// A self-IPI of every vector arrives, by MMIO (xAPIC) and by MSRs (x2APIC).
    #[kvm_test(interrupts_itself, requires(cap::IRQCHIP, cpu::X2APIC), params = [xapic: 0, x2apic: 1])]
    fn every_self_ipi_arrives(t: &mut OneVcpu, x2apic: u64) -> TestResult {
        t.vcpu.set_args(&[x2apic]);
        t.vcpu.run_until_done()
    }

    /// An interrupt is in service from its delivery to its EOI (SDM vol. 3, "Interrupt Acceptance for
    /// Fixed Interrupts").
    #[kvm_test(looks_at_its_isr, requires(cap::IRQCHIP, cpu::X2APIC), params = [xapic: 0, x2apic: 1])]
    fn interrupts_are_in_service_until_eoi(t: &mut OneVcpu, x2apic: u64) -> TestResult {
        t.vcpu.set_args(&[x2apic]);
        t.vcpu.run_until_done()
    }

    /// x2APIC mode has a register for self-IPIs.
    #[kvm_test(uses_the_self_ipi_register, requires(cap::IRQCHIP, cpu::X2APIC))]
    fn self_ipi_register_interrupts_this_cpu(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// CR8 holds back interrupts of its class and below (SDM vol. 3, "Task Priority in IA-32e Mode").
    #[kvm_test(raises_its_priority, requires(cap::IRQCHIP))]
    fn cr8_holds_interrupts_back(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// Runs both vCPUs to their end.
    fn run_both(t: &mut OneVcpu, second: GuestFn, x2apic: u64) -> TestResult {
        let mut other = t.vm.add_vcpu(1, second)?;
        t.vcpu.set_args(&[x2apic]);
        other.set_args(&[x2apic]);
        run_together([&mut t.vcpu, &mut other], Vcpu::run_until_done)?;
        Ok(())
    }

    /// IPIs between vCPUs arrive exactly where they are sent: to an ID, to all others, to all; NMIs too.
    #[kvm_test(sends, vcpus = 2, requires(cap::IRQCHIP, cpu::X2APIC, host::TWO_CPUS), params = [xapic: 0, x2apic: 1])]
    fn ipis_reach_another_vcpu(t: &mut OneVcpu, x2apic: u64) -> TestResult {
        run_both(t, guest_fn!(receives), x2apic)
    }

    /// An IPI ends HLT on another vCPU, whether it is asleep already or about to be.
    #[kvm_test(wakes, vcpus = 2, requires(cap::IRQCHIP, host::TWO_CPUS))]
    fn ipi_wakes_a_halted_vcpu(t: &mut OneVcpu) -> TestResult {
        run_both(t, guest_fn!(sleeps_until_interrupted), 0)
    }

    /// vCPUs have stacks and handlers of their own, and share memory.
    #[kvm_test(has_its_own_state, no_irqchip, vcpus = 2, requires(host::TWO_CPUS))]
    fn vcpus_share_memory_and_nothing_else(t: &mut OneVcpu) -> TestResult {
        run_both(t, guest_fn!(has_its_own_state), 0)
    }

    /// KVM_IRQ_LINE on a pin of the I/O APIC interrupts as its redirection entry says (82093AA).
    #[kvm_test(takes_ioapic_interrupts, requires(cap::IRQCHIP), params = [edge: 0, level: 1])]
    fn ioapic_delivers_by_its_redirection_entry(t: &mut OneVcpu, level: u64) -> TestResult {
        t.vcpu.set_args(&[level]);
        for (stage, active) in [
            (RAISE, true),
            (RAISE, true),
            (LOWER, false),
            (RAISE, true),
            (LOWER, false),
            (RAISE, true),
        ] {
            t.vcpu.run_until_sync(stage)?;
            t.vm.set_irq_line(PIN, active).ioctl("KVM_IRQ_LINE")?;
        }
        t.vcpu.run_until_done()
    }

    /// STI holds interrupts back for one instruction, no longer: `STI; NOP; CLI` lets one in (SDM vol. 2,
    /// STI).
    #[kvm_test(opens_for_one_instruction, requires(cap::IRQCHIP))]
    fn sti_lets_pending_interrupts_in(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }
}
