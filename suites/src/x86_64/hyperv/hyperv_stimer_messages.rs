//! Messages of Hyper-V's synthetic timers: what they tell, what becomes of one whose slot is busy, and
//! timers that tick or move to another vCPU (TLFS, "Synthetic Timers").
use crate::prelude::*;
use hyperv::{ENABLE, REFERENCE_TIME_HZ, msr, sint, stimer};
use stimer::{
    AUTO_ENABLE, COUNT, DIRECT, HVMSG_NONE, HVMSG_TIMER_EXPIRED, LAZY, MESSAGE_PENDING, Message,
    PAYLOAD_SIZE, PERIODIC, SINT_SHIFT, SLOT_SIZE, VECTOR_SHIFT, config, count,
};

const VECTOR: u8 = 0x61;
const SOURCE: u64 = 3;
/// Reference time counts 100 ns.
const MS: u64 = REFERENCE_TIME_HZ / 1000;
const HOUR: u64 = 3_600_000 * MS;
const READY: u64 = 1;
const MESSAGE_PAGE: u64 = layout::SCRATCH + 0x2000;
/// A type that no hypervisor's message has.
const HVMSG_OTHER: u32 = 0x1234;
const BY_MESSAGE: u64 = SOURCE << SINT_SHIFT;
const DIRECT_VECTOR: u64 = DIRECT | (VECTOR as u64) << VECTOR_SHIFT;

const fn slot(source: u64) -> u64 {
    MESSAGE_PAGE + source * SLOT_SIZE
}

fn now() -> u64 {
    rdmsr(msr::TIME_REF_COUNT)
}

fn is_enabled(timer: u32) -> bool {
    rdmsr(config(timer)) & ENABLE != 0
}

/// Halts until `taken` has reached `want`.
fn wait(taken: &AtomicU64, want: u64) {
    while taken.load(SeqCst) < want {
        sti_hlt();
        cli();
    }
}

/// Lets what is pending be taken, and `time` pass.
fn pass(time: u64) {
    let end = now() + time;
    loop {
        sti();
        cli();
        if now() >= end {
            return;
        }
    }
}

#[guest]
fn gets_messages(_: &mut Guest) {
    let apic = Apic::enable();
    let taken = AtomicU64::new(0);
    let on_message = |_: &mut TrapFrame| {
        taken.fetch_add(1, SeqCst);
        apic.eoi();
    };
    with_handler(VECTOR, on_message, || {
        for timer in 0..COUNT {
            // Slots from the first to the last that a timer can have.
            let source = [1, 2, 14, 15][timer as usize];
            (0..u64::from(sint::COUNT)).for_each(|s| poke(slot(s), Message::NONE));
            wrmsr(msr::SINT0 + source as u32, VECTOR.into());
            wrmsr(config(timer), source << SINT_SHIFT | AUTO_ENABLE);
            let expiry = now() + MS;
            wrmsr(count(timer), expiry);
            taken.store(0, SeqCst);
            wait(&taken, 1);
            let after = now();
            let got: Message = peek(slot(source));
            let want = Message {
                message_type: HVMSG_TIMER_EXPIRED,
                payload_size: PAYLOAD_SIZE,
                timer_index: timer,
                expiration_time: expiry,
                delivery_time: got.delivery_time,
                ..Message::NONE
            };
            check_eq!("the message has timer {timer} and its expiry", got, want);
            let delivered = (expiry..=after).contains(&got.delivery_time);
            check!(
                "the message of timer {timer} is delivered after expiry",
                delivered,
                "{}",
                got.delivery_time
            );
            let others = (0..u64::from(sint::COUNT)).filter(|s| *s != source);
            let empty = others.into_iter().all(|s| peek::<Message>(slot(s)) == Message::NONE);
            check!("the message of timer {timer} is in its slot only", empty);
            check!("timer {timer} is disabled after its message", !is_enabled(timer));
            check_eq!("one message is one interrupt: timer {timer}", taken.load(SeqCst), 1);
            wrmsr(msr::SINT0 + source as u32, sint::MASKED);
        }
    });
}

/// Argument 0: whether the interrupt's end, not the message's, tells that the slot is free.
#[guest]
fn has_a_busy_slot(g: &mut Guest) {
    let by_eoi = g.arg(0) != 0;
    let apic = Apic::enable();
    let taken = AtomicU64::new(0);
    let end = || apic.eoi();
    let on_interrupt = |_: &mut TrapFrame| {
        if taken.fetch_add(1, SeqCst) > 0 || !by_eoi {
            end();
        }
    };
    let timer = COUNT - 1;
    let busy =
        Message { message_type: HVMSG_OTHER, payload_size: 8, timer_index: 77, ..Message::NONE };
    let address = slot(SOURCE);
    poke(address, busy);
    wrmsr(msr::SINT0 + SOURCE as u32, VECTOR.into());
    with_handler(VECTOR, on_interrupt, || {
        if by_eoi {
            // An interrupt of the source's vector that is not ended yet.
            apic.ipi(0, apic::ICR_SELF | apic::ICR_ASSERT | u32::from(VECTOR));
            wait(&taken, 1);
        }
        let before = taken.load(SeqCst);
        let expiry = now() + MS;
        wrmsr(config(timer), BY_MESSAGE | AUTO_ENABLE);
        wrmsr(count(timer), expiry);
        // The host's own timer may be late.
        wait_until(|| {
            pass(MS);
            peek::<Message>(address).message_flags != 0
        });
        let marked = Message { message_flags: MESSAGE_PENDING, ..busy };
        check_eq!("a busy slot keeps its message and is marked", peek::<Message>(address), marked);
        check_eq!("no interrupt is taken while the slot is busy", taken.load(SeqCst), before);
        check!("the timer stays enabled while its slot is busy", is_enabled(timer));
        poke(address, Message::NONE);
        let freed = now();
        if by_eoi {
            end();
        } else {
            wrmsr(msr::EOM, 0);
        }
        wait(&taken, before + 1);
        let got: Message = peek(address);
        let want = (HVMSG_TIMER_EXPIRED, 0, timer, expiry);
        check_eq!(
            "the delayed message comes when the slot is free",
            (got.message_type, got.message_flags, got.timer_index, got.expiration_time),
            want
        );
        check!(
            "the delayed message is delivered after the slot was freed",
            got.delivery_time >= freed,
            "{}",
            got.delivery_time
        );
        check!("the timer is disabled after its delayed message", !is_enabled(timer));
        wrmsr(msr::EOM, 0);
        pass(MS);
        check_eq!("the delayed message comes exactly once", taken.load(SeqCst), before + 1);
    });
}

#[guest]
fn misses_ticks(_: &mut Guest) {
    const PERIOD: u64 = MS;
    let apic = Apic::enable();
    let timer = 0;
    let taken = AtomicU64::new(0);
    let on_tick = |_: &mut TrapFrame| {
        taken.fetch_add(1, SeqCst);
        apic.eoi();
    };
    let address = slot(SOURCE);
    let busy =
        Message { message_type: HVMSG_OTHER, payload_size: 8, timer_index: 77, ..Message::NONE };
    poke(address, busy);
    wrmsr(msr::SINT0 + SOURCE as u32, VECTOR.into());
    with_handler(VECTOR, on_tick, || {
        wrmsr(count(timer), PERIOD);
        wrmsr(config(timer), BY_MESSAGE | PERIODIC | ENABLE);
        pass(4 * PERIOD);
        let kept = Message { message_flags: 0, ..peek(address) };
        check_eq!("a busy slot keeps its message", kept, busy);
        check_eq!("ticks with a busy slot interrupt nobody", taken.load(SeqCst), 0);
        check!("the timer goes on while its slot is busy", is_enabled(timer));
        poke(address, Message::NONE);
        let freed = now();
        wrmsr(msr::EOM, 0);
        wait(&taken, 1);
        let got: Message = peek(address);
        check_eq!(
            "a tick after the slot was freed leaves a message",
            got.message_type,
            HVMSG_TIMER_EXPIRED
        );
        check!(
            "a tick's message is delivered after the slot was freed",
            got.delivery_time >= freed,
            "{} before {freed}",
            got.delivery_time
        );
        let regular = got.expiration_time <= got.delivery_time;
        check!(
            "a tick's message is delivered after the tick expired",
            regular,
            "{} > {}",
            got.expiration_time,
            got.delivery_time
        );
        pass(4 * PERIOD);
        check_eq!(
            "later ticks leave the unread message alone",
            peek::<Message>(address).expiration_time,
            got.expiration_time
        );
        check_eq!("later ticks with an unread message interrupt nobody", taken.load(SeqCst), 1);
    });
}

/// Argument 0: the configuration.
#[guest]
fn expires_again_and_again(g: &mut Guest) {
    const PERIOD: u64 = 2 * MS;
    const TICKS: u64 = 3;
    let apic = Apic::enable();
    let timer = 1;
    let taken = AtomicU64::new(0);
    wrmsr(msr::SINT0 + SOURCE as u32, VECTOR.into());
    poke(slot(SOURCE), Message::NONE);
    let on_timer = |_: &mut TrapFrame| {
        taken.fetch_add(1, SeqCst);
        poke(slot(SOURCE), HVMSG_NONE);
        apic.eoi();
    };
    with_handler(VECTOR, on_timer, || {
        let wanted = g.arg(0) | PERIODIC;
        wrmsr(config(timer), wanted);
        wrmsr(count(timer), PERIOD);
        let start = now();
        wrmsr(config(timer), wanted | ENABLE);
        for tick in 1..=TICKS {
            wait(&taken, tick);
            let (ticks, time) = (taken.load(SeqCst), now() - start);
            let most = time / PERIOD;
            check!("no tick comes before its time", ticks <= most, "{ticks} ticks in {time}");
        }
        check_eq!("a periodic timer stays enabled", rdmsr(config(timer)), wanted | ENABLE);
        check_eq!("a periodic timer keeps its period", rdmsr(count(timer)), PERIOD);
        wrmsr(config(timer), wanted);
        // One that was on its way already.
        pass(MS);
        let before = taken.load(SeqCst);
        pass(2 * PERIOD);
        check_eq!("a disabled periodic timer ticks no more", taken.load(SeqCst), before);
    });
}

/// Where timers come from: sets three of them, and tells when they expire.
#[guest]
fn leaves_timers(g: &mut Guest) {
    let start = now();
    wrmsr(config(0), BY_MESSAGE | AUTO_ENABLE);
    wrmsr(count(0), start + HOUR);
    wrmsr(count(1), HOUR);
    wrmsr(config(1), BY_MESSAGE | PERIODIC | ENABLE);
    // Done: only another write by the guest would enable it.
    wrmsr(config(2), BY_MESSAGE | AUTO_ENABLE);
    g.sync(READY, &[start + HOUR]);
}

/// Where they go to.
#[guest]
fn gets_timers(g: &mut Guest) {
    let apic = Apic::enable();
    let taken = AtomicU64::new(0);
    let on_message = |_: &mut TrapFrame| {
        taken.fetch_add(1, SeqCst);
        apic.eoi();
    };
    wrmsr(msr::SINT0 + SOURCE as u32, VECTOR.into());
    poke(slot(SOURCE), Message::NONE);
    let [expiry, ..] = g.sync(READY, &[now() + MS]);
    with_handler(VECTOR, on_message, || {
        wait(&taken, 1);
        let got: Message = peek(slot(SOURCE));
        check_eq!(
            "the timer that moved expires as it was set",
            (got.timer_index, got.expiration_time),
            (0, expiry)
        );
        check!(
            "the timer that moved does not expire early",
            now() >= expiry && got.delivery_time >= expiry
        );
        pass(2 * MS);
        check_eq!("no timer but the one that was due expires", taken.load(SeqCst), 1);
        check!("an expired one-shot timer is disabled after the move", !is_enabled(0));
        check!("the periodic timer goes on after the move", is_enabled(1));
        check!("a timer that was done stays disabled after the move", !is_enabled(2));
    });
}

#[host]
mod host {
    use super::*;
    use bindings::KVM_CAP_HYPERV_SYNIC2;
    use hyperv::cpuid::Features;

    kvm_tests! { irqchip, requires(cap::HYPERV_SYNIC2, cap::HYPERV_CPUID) }

    /// vCPU `index` of a VM that offers Hyper-V, with a SynIC.
    fn vcpu_with_timers(vm: &mut Vm, index: u32, guest: GuestFn) -> TestResult<Vcpu> {
        let vcpu = vm.add_vcpu(index, guest)?;
        vcpu.enable_cap(KVM_CAP_HYPERV_SYNIC2, [0; 4]).ioctl("KVM_ENABLE_CAP(SYNIC2)")?;
        Ok(vcpu)
    }

    fn require_direct_mode(vm: &mut Vm) -> TestResult {
        let direct = vm.hyperv_features()?.contains(Features::DIRECT_SYNTHETIC_TIMERS);
        require!(direct, "HV_STIMER_DIRECT_MODE_AVAILABLE");
        Ok(())
    }

    /// A timer not in direct mode leaves a message in the slot of its source, with its number, when it
    /// expired and when that was told, and interrupts at the source's vector (TLFS, "Timer Expiration
    /// Messages").
    #[kvm_test]
    fn expiry_is_told_by_message(t: &mut OneVm) -> TestResult {
        t.vm.offer_hyperv()?;
        let mut vcpu = vcpu_with_timers(&mut t.vm, 0, guest_fn!(gets_messages))?;
        check!(
            "userspace can enable the message page",
            vcpu.set_msr(msr::SIMP, MESSAGE_PAGE | ENABLE)?
        );
        vcpu.run_until_done()
    }

    /// A message whose slot is taken waits, which the slot's flag tells, until the guest ends the other
    /// message by EOM or EOI (TLFS, "Message Buffers").
    #[kvm_test(params = [by_eom: false, by_eoi: true])]
    fn busy_slots_delay_messages(t: &mut OneVm, by_eoi: bool) -> TestResult {
        t.vm.offer_hyperv()?;
        let mut vcpu = vcpu_with_timers(&mut t.vm, 0, guest_fn!(has_a_busy_slot))?;
        check!(
            "userspace can enable the message page",
            vcpu.set_msr(msr::SIMP, MESSAGE_PAGE | ENABLE)?
        );
        vcpu.set_args(&[by_eoi.into()]);
        vcpu.run_until_done()
    }

    /// Ticks of a periodic timer whose slot is busy change nothing of its message, and the timer goes on.
    #[kvm_test]
    fn busy_slots_lose_ticks(t: &mut OneVm) -> TestResult {
        t.vm.offer_hyperv()?;
        let mut vcpu = vcpu_with_timers(&mut t.vm, 0, guest_fn!(misses_ticks))?;
        check!(
            "userspace can enable the message page",
            vcpu.set_msr(msr::SIMP, MESSAGE_PAGE | ENABLE)?
        );
        vcpu.run_until_done()
    }

    /// A periodic timer expires once a period until it is disabled, by vector as by message.
    #[kvm_test(params = [
    direct: DIRECT_VECTOR, direct_lazy: DIRECT_VECTOR | LAZY, message: BY_MESSAGE, message_lazy: BY_MESSAGE | LAZY,
])]
    fn periodic_timers_tick(t: &mut OneVm, bits: u64) -> TestResult {
        t.vm.offer_hyperv()?;
        if bits & DIRECT != 0 {
            require_direct_mode(&mut t.vm)?;
        }
        let mut vcpu = vcpu_with_timers(&mut t.vm, 0, guest_fn!(expires_again_and_again))?;
        check!(
            "userspace can enable the message page",
            vcpu.set_msr(msr::SIMP, MESSAGE_PAGE | ENABLE)?
        );
        vcpu.set_args(&[bits]);
        vcpu.run_until_done()
    }

    /// What userspace reads of timers and writes to another vCPU's, in either order, makes the same timers
    /// (migration); its writes of counts enable nothing.
    #[kvm_test(params = [
    config_first: false, count_first: true,
])]
    fn timers_move_with_their_msrs(t: &mut OneVm, count_first: bool) -> TestResult {
        t.vm.offer_hyperv()?;
        let mut from = vcpu_with_timers(&mut t.vm, 0, guest_fn!(leaves_timers))?;
        let mut to = vcpu_with_timers(&mut t.vm, 1, guest_fn!(gets_timers))?;
        check!(
            "userspace can enable the message page",
            to.set_msr(msr::SIMP, MESSAGE_PAGE | ENABLE)?
        );
        let [expiry, ..] = from.run_until_sync(READY)?;
        let [soon, ..] = to.run_until_sync(READY)?;
        let want = [
            BY_MESSAGE | AUTO_ENABLE | ENABLE,
            BY_MESSAGE | PERIODIC | ENABLE,
            BY_MESSAGE | AUTO_ENABLE,
        ];
        for (timer, (config_then, count_then)) in (0..).zip(want.into_iter().zip([expiry, HOUR, 0]))
        {
            let read = [from.msr(config(timer))?, from.msr(count(timer))?];
            check_eq!(
                "userspace can read timer {timer}",
                read,
                [Some(config_then), Some(count_then)]
            );
            // Nobody waits an hour for the first, and the last has a count that would enable it.
            let counted = if timer == 1 { count_then } else { soon };
            let mut moves = [(config(timer), config_then), (count(timer), counted)];
            if count_first {
                moves.reverse();
            }
            for (index, value) in moves {
                check!(
                    "userspace can write MSR {index:#x} on another vCPU",
                    to.set_msr(index, value)?
                );
            }
            for (index, value) in moves {
                check_eq!("userspace reads back MSR {index:#x}", to.msr(index)?, Some(value));
            }
        }
        to.answer(&[soon]);
        to.run_until_done()
    }
}
