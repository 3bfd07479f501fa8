//! irqfd with KVM_IRQFD_FLAG_RESAMPLE: level-triggered interrupts (api.rst 4.75).
//!
//! An event asserts the GSI; when the guest ends the interrupt, KVM de-asserts it and signals the
//! resamplefds of the GSI.
use crate::prelude::*;

/// Behind the 16 GSIs that the PIC shares by default.
const PIN: u32 = 21;
const VECTOR: u8 = 0x63;
const READY: u64 = 1;
/// A port exit with interrupts on: what is pending is taken here at the latest.
const WINDOW_PORT: u16 = 0x92;
/// Triggers of the endurance test.
const ROUNDS: u64 = 300;

#[shared]
static TAKEN: AtomicU64 = AtomicU64::new(0);
/// Not 0: the handler leaves the interrupt in service.
#[shared]
static HOLD: AtomicU64 = AtomicU64::new(0);
/// Not 0: the guest ends the interrupt in service instead of taking the next.
#[shared]
static END: AtomicU64 = AtomicU64::new(0);

#[guest]
fn takes_level_interrupts(g: &mut Guest) {
    let apic = Apic::enable();
    ioapic::route(PIN, VECTOR, apic.id(), ioapic::LEVEL);
    let handler = |_: &mut TrapFrame| {
        TAKEN.fetch_add(1, SeqCst);
        if HOLD.load(SeqCst) == 0 {
            apic.eoi();
        }
    };
    with_handler(VECTOR, handler, || {
        loop {
            g.sync(READY, &[ioapic::entry(PIN) & ioapic::REMOTE_IRR]);
            if END.swap(0, SeqCst) != 0 {
                apic.eoi();
            } else {
                sti();
            }
            outb(WINDOW_PORT, 0);
            cli();
        }
    });
}

/// The host half has seen enough.
#[shared]
static STOP: AtomicU64 = AtomicU64::new(0);

#[guest]
fn serves_many(g: &mut Guest) {
    let apic = Apic::enable();
    ioapic::route(PIN, VECTOR, apic.id(), ioapic::LEVEL);
    // KVM may also signal resamplefd when a pin is unmasked whose line is up.
    g.sync(READY, &[]);
    let handler = |_: &mut TrapFrame| {
        TAKEN.fetch_add(1, SeqCst);
        apic.eoi();
    };
    with_handler(VECTOR, handler, || {
        while TAKEN.load(SeqCst) < ROUNDS && STOP.load(SeqCst) == 0 {
            sti_hlt();
            cli();
        }
    });
}

#[host]
mod host {
    use super::*;
    use std::os::fd::AsRawFd;

    kvm_tests! { irqchip, requires(cap::IRQFD_RESAMPLE) }

    const GSI: u32 = PIN;

    /// What the guest came to in one step.
    #[derive(Debug, PartialEq)]
    struct Step {
        taken: u64,
        remote_irr: bool,
    }

    fn step(t: &mut OneVcpu) -> TestResult<Step> {
        t.vcpu.run_until(Exit::io_out(WINDOW_PORT))?;
        let args = t.vcpu.run_until_sync(READY)?;
        let taken = t.vm.shared(shared_static!(TAKEN)).swap(0, SeqCst);
        Ok(Step { taken, remote_irr: args[0] != 0 })
    }

    /// The guest takes what is pending and leaves it in service.
    fn take_and_hold(t: &mut OneVcpu) -> TestResult<Step> {
        t.vm.shared(shared_static!(HOLD)).store(1, SeqCst);
        step(t)
    }

    /// The guest ends the interrupt in service.
    fn end(t: &mut OneVcpu) -> TestResult<Step> {
        t.vm.shared(shared_static!(END)).store(1, SeqCst);
        step(t)
    }

    fn line_rises(t: &OneVcpu) -> bool {
        eventually(|| t.vm.ioapic_line(PIN).unwrap_or(false))
    }

    fn arrives(t: &OneVcpu) -> bool {
        eventually(|| t.vcpu.is_pending(VECTOR).unwrap_or(false))
    }

    /// Assigned trigger and resamplefd, with the guest ready.
    fn start(t: &mut OneVcpu) -> TestResult<(Event, Event)> {
        t.vcpu.run_until_sync(READY)?;
        let (trigger, resample) = (Event::new()?, Event::new()?);
        t.vm.assign_level_irqfd(&trigger, GSI, &resample).ioctl("KVM_IRQFD(resample)")?;
        Ok((trigger, resample))
    }

    /// Event → asserted → taken → ended → de-asserted and told, and the same once more.
    #[kvm_test(takes_level_interrupts)]
    fn line_is_asserted_until_the_guest_ends_the_interrupt(t: &mut OneVcpu) -> TestResult {
        let (trigger, resample) = start(t)?;
        check!("assigning does not assert the line", !t.vm.ioapic_line(PIN)?);
        for _ in 0..3 {
            trigger.signal(1)?;
            check!("an event asserts the line", line_rises(t));
            check!("the interrupt arrives at the local APIC", arrives(t));
            check_eq!("the event is drained", trigger.take(), Err(Errno::EAGAIN));
            let held = take_and_hold(t)?;
            check_eq!("the guest takes the interrupt exactly once", held.taken, 1);
            check!("Remote IRR is set while it is in service", held.remote_irr);
            check!("the line stays asserted while it is in service", t.vm.ioapic_line(PIN)?);
            check_eq!("resamplefd is quiet before the EOI", resample.take(), Err(Errno::EAGAIN));
            check_eq!("no second interrupt comes before the EOI", step(t)?.taken, 0);
            let ended = end(t)?;
            check!("Remote IRR is clear after the EOI", !ended.remote_irr);
            check!("the line is de-asserted at the EOI", !t.vm.ioapic_line(PIN)?);
            check!("resamplefd is readable after the EOI", resample.is_readable()?);
            check_eq!("resamplefd is signalled exactly once", resample.take(), Ok(1));
            check_eq!("no interrupt comes without a new event", step(t)?.taken, 0);
            check_eq!("the trigger has no count left to read", trigger.take(), Err(Errno::EAGAIN));
        }
        Ok(())
    }

    /// Milliseconds in which KVM's work for events that came already is done. The host may be busy: what
    /// is still not done then is waited for again, and longer.
    const SETTLED_MS: [u64; 3] = [20, 200, 2000];

    /// A line that is asserted already cannot be asserted more: one interrupt, one EOI, one signal.
    #[kvm_test(takes_level_interrupts)]
    fn events_before_the_eoi_are_one_interrupt(t: &mut OneVcpu) -> TestResult {
        let (trigger, resample) = start(t)?;
        let (mut asserted, mut more) = (true, 1);
        for settled in SETTLED_MS {
            for _ in 0..10 {
                trigger.signal(1)?;
            }
            // Work of KVM's own asserts the line, once for one or for several of the events: all of it
            // before the EOI.
            std::thread::sleep(std::time::Duration::from_millis(settled));
            check!("ten events raise an interrupt", arrives(t));
            check_eq!("ten events are one interrupt", take_and_hold(t)?.taken, 1);
            check_eq!("the ten events are drained", trigger.take(), Err(Errno::EAGAIN));
            end(t)?;
            check_eq!("one EOI signals resamplefd once", resample.take(), Ok(1));
            (asserted, more) = (t.vm.ioapic_line(PIN)?, step(t)?.taken);
            if !asserted && more == 0 {
                break;
            }
            // Behind its EOI, what came late is over.
            let _ = resample.take();
        }
        check!("the EOI de-asserts the line after ten events", !asserted);
        check_eq!("no second interrupt follows ten events", more, 0);
        Ok(())
    }

    /// An event from before the assignment asserts the line, like one after it.
    #[kvm_test(takes_level_interrupts)]
    fn count_at_assign_asserts_the_line(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_sync(READY)?;
        let (trigger, resample) = (Event::with_count(3)?, Event::new()?);
        t.vm.assign_level_irqfd(&trigger, GSI, &resample).ioctl("KVM_IRQFD(resample)")?;
        check!("an event from before the assignment raises the line", line_rises(t));
        check!("an event from before the assignment interrupts", arrives(t));
        check_eq!("the guest takes exactly one interrupt", take_and_hold(t)?.taken, 1);
        end(t)?;
        check_eq!("the EOI signals resamplefd", resample.take(), Ok(1));
        check!("the EOI de-asserts the line", !t.vm.ioapic_line(PIN)?);
        Ok(())
    }

    /// All resamplefds of a GSI are signalled at its EOI, whoever asserted it, and only the last
    /// deassign lets go of the line.
    #[kvm_test(takes_level_interrupts)]
    fn irqfds_of_one_gsi_share_the_line(t: &mut OneVcpu) -> TestResult {
        let (first, first_resample) = start(t)?;
        let (second, second_resample) = (Event::new()?, Event::new()?);
        t.vm.assign_level_irqfd(&second, GSI, &second_resample).ioctl("KVM_IRQFD(second)")?;
        for trigger in [&first, &second] {
            trigger.signal(1)?;
            check!("an event of either trigger raises the interrupt", arrives(t));
            check_eq!("an event of either trigger is one interrupt", take_and_hold(t)?.taken, 1);
            end(t)?;
            check_eq!("the EOI signals the first resamplefd", first_resample.take(), Ok(1));
            check_eq!("the EOI signals the second resamplefd", second_resample.take(), Ok(1));
            check!("the EOI de-asserts the shared line", !t.vm.ioapic_line(PIN)?);
        }
        first.signal(1)?;
        check!("the line rises before the deassigns", line_rises(t));
        t.vm.deassign_irqfd(&first, GSI).ioctl("KVM_IRQFD(deassign first)")?;
        check!("deassign of one of two keeps the line asserted", t.vm.ioapic_line(PIN)?);
        t.vm.deassign_irqfd(&second, GSI).ioctl("KVM_IRQFD(deassign second)")?;
        check!("deassign of the last de-asserts the line", !t.vm.ioapic_line(PIN)?);
        let taken = take_and_hold(t)?.taken;
        check!("no interrupt but the one already accepted is taken", taken <= 1, "{taken}");
        end(t)?;
        check_eq!("the first resamplefd is quiet after its deassign", first_resample.count(), 0);
        check_eq!("the second resamplefd is quiet after its deassign", second_resample.count(), 0);
        Ok(())
    }

    /// Deassign needs no KVM_IRQFD_FLAG_RESAMPLE (api.rst 4.75), and the GSI can be used anew.
    #[kvm_test(takes_level_interrupts)]
    fn deassign_lets_go_of_an_asserted_line(t: &mut OneVcpu) -> TestResult {
        let (trigger, resample) = start(t)?;
        trigger.signal(1)?;
        check!("an event raises an interrupt", arrives(t));
        check_eq!("the guest takes the interrupt before the deassign", take_and_hold(t)?.taken, 1);
        let off = t.vm.deassign_irqfd(&trigger, GSI);
        check_eq!("deassign without the resample flag succeeds", off, Ok(()));
        check!("the line falls though the guest has not made its EOI", !t.vm.ioapic_line(PIN)?);
        end(t)?;
        check_eq!("the EOI after deassign signals nothing", resample.take(), Err(Errno::EAGAIN));
        trigger.signal(1)?;
        check!("an event after deassign leaves the line alone", !t.vm.ioapic_line(PIN)?);
        check_eq!("an event after deassign is userspace's", trigger.take(), Ok(1));
        t.vm.assign_level_irqfd(&trigger, GSI, &resample).ioctl("KVM_IRQFD(again)")?;
        trigger.signal(1)?;
        check!("an event is an interrupt when assigned again", arrives(t));
        check_eq!("the guest takes the interrupt when assigned again", take_and_hold(t)?.taken, 1);
        end(t)?;
        check_eq!("the EOI signals resamplefd when assigned again", resample.take(), Ok(1));
        Ok(())
    }

    /// The line is the OR of all sources: KVM's de-assert at the EOI takes back its own share only, so
    /// what KVM_IRQ_LINE asserts interrupts again (api.rst 4.25).
    #[kvm_test(takes_level_interrupts)]
    fn eoi_leaves_other_sources_asserted(t: &mut OneVcpu) -> TestResult {
        let (trigger, resample) = start(t)?;
        trigger.signal(1)?;
        check!("the event asserts the line", line_rises(t));
        t.vm.set_irq_line(GSI, true).ioctl("KVM_IRQ_LINE(1)")?;
        check!("the asserted line raises an interrupt", arrives(t));
        check_eq!("two sources of the line are one interrupt", take_and_hold(t)?.taken, 1);
        check_eq!("the event is drained before the EOI", trigger.take(), Err(Errno::EAGAIN));
        end(t)?;
        check_eq!("the EOI signals resamplefd", resample.take(), Ok(1));
        check!("the line stays asserted by KVM_IRQ_LINE", t.vm.ioapic_line(PIN)?);
        check!("the asserted line interrupts again", arrives(t));
        check_eq!("the guest takes the second interrupt", take_and_hold(t)?.taken, 1);
        t.vm.set_irq_line(GSI, false).ioctl("KVM_IRQ_LINE(0)")?;
        check!("KVM_IRQ_LINE de-asserts the line", !t.vm.ioapic_line(PIN)?);
        end(t)?;
        check_eq!("every EOI of the GSI signals resamplefd", resample.take(), Ok(1));
        check_eq!("no interrupt comes after both sources de-assert", step(t)?.taken, 0);
        Ok(())
    }

    /// Closing the resamplefd does not disable the irqfd (api.rst 4.75); the last close of the trigger
    /// does, and lets go of the line.
    #[kvm_test(takes_level_interrupts)]
    fn closing_the_trigger_not_the_resamplefd_detaches(t: &mut OneVcpu) -> TestResult {
        let (trigger, resample) = start(t)?;
        drop(resample);
        trigger.signal(1)?;
        check!("an event interrupts without a reader of resamplefd", arrives(t));
        check_eq!(
            "the guest takes the interrupt without a reader of resamplefd",
            take_and_hold(t)?.taken,
            1
        );
        end(t)?;
        check!(
            "the EOI de-asserts the line without a reader of resamplefd",
            !t.vm.ioapic_line(PIN)?
        );
        trigger.signal(1)?;
        check!("an event raises the line again", line_rises(t));
        drop(trigger);
        let falls = eventually(|| t.vm.ioapic_line(PIN).is_ok_and(|asserted| !asserted));
        check!("the last close of the trigger de-asserts the line", falls);
        Ok(())
    }

    /// Bad resamplefds are refused, and a refused assign leaves what was assigned alone.
    #[kvm_test(takes_level_interrupts)]
    fn refused_assign_changes_nothing(t: &mut OneVcpu) -> TestResult {
        let (trigger, resample) = start(t)?;
        let other = Event::new()?;
        let request = Irqfd {
            fd: other.as_raw_fd(),
            gsi: GSI,
            flags: bindings::KVM_IRQFD_FLAG_RESAMPLE,
            resamplefd: -1,
        };
        check_eq!("a resamplefd of -1 is EBADF", t.vm.irqfd(request), Err(Errno::EBADF));
        let no_event = Irqfd { resamplefd: t.vm.as_raw_fd(), ..request };
        check_eq!(
            "a resamplefd that is no eventfd is EINVAL",
            t.vm.irqfd(no_event),
            Err(Errno::EINVAL)
        );
        let again = t.vm.assign_level_irqfd(&trigger, GSI, &other);
        check_eq!("a trigger that is in use is EBUSY", again, Err(Errno::EBUSY));
        other.signal(1)?;
        check_eq!("the refused eventfd triggers nothing", step(t)?.taken, 0);
        check_eq!("the refused eventfd keeps its event", other.take(), Ok(1));
        trigger.signal(1)?;
        check!("the assigned trigger still interrupts", arrives(t));
        check_eq!("the assigned trigger's interrupt is taken", take_and_hold(t)?.taken, 1);
        end(t)?;
        check_eq!("the assigned trigger's resamplefd is still signalled", resample.take(), Ok(1));
        check_eq!("the refused resamplefd is not signalled", other.take(), Err(Errno::EAGAIN));
        Ok(())
    }

    /// The lines of a level-triggered pin are the kernel's only with the I/O APIC in the kernel.
    #[kvm_test(no_irqchip, params = [none: Irqchip::None, split: Irqchip::Split])]
    fn resampling_needs_the_ioapic_in_the_kernel(t: &mut HostOnly, irqchip: Irqchip) -> TestResult {
        let _ = t;
        let vm = Vm::new(irqchip)?;
        let (trigger, resample) = (Event::new()?, Event::new()?);
        let refused = vm.assign_level_irqfd(&trigger, GSI, &resample);
        check_eq!(
            "resampling without an in-kernel I/O APIC is EINVAL",
            refused,
            Err(Errno::EINVAL)
        );
        trigger.signal(1)?;
        check_eq!("the refused trigger keeps its event", trigger.take(), Ok(1));
        Ok(())
    }

    /// A device that asserts its line again as soon as resamplefd says so, while the vCPU runs: every
    /// round is one interrupt and one signal.
    #[kvm_test(serves_many, vcpus = 2)]
    fn requeued_events_are_served_one_by_one(t: &mut OneVcpu) -> TestResult {
        let (trigger, resample) = (Event::new()?, Event::new()?);
        t.vm.assign_level_irqfd(&trigger, GSI, &resample).ioctl("KVM_IRQFD(resample)")?;
        t.vcpu.run_until_sync(READY)?;
        let (vcpu, vm) = (&mut t.vcpu, &t.vm);
        together(|threads| {
            let guest = threads.run(vcpu, Vcpu::run_until_done);
            let taken = vm.shared(shared_static!(TAKEN));
            for round in 1..=ROUNDS {
                trigger.signal(1)?;
                let told = resample.readable_within(std::time::Duration::from_secs(3))?;
                check!("resamplefd is signalled for every EOI", told, "not in round {round}");
                let in_order = taken.load(SeqCst) == round;
                check!(
                    "the handler has run when its EOI is signalled",
                    in_order,
                    "not in round {round}"
                );
                if !told || !in_order {
                    // Events may have run into one: the guest would wait for the missing ones for ever.
                    vm.shared(shared_static!(STOP)).store(1, SeqCst);
                    trigger.signal(1)?;
                    return Ok(());
                }
                check_eq!("one EOI signals resamplefd once", resample.take(), Ok(1));
            }
            guest.join()?;
            check_eq!("every round is one interrupt", taken.load(SeqCst), ROUNDS);
            check!("the line is de-asserted after the last round", !vm.ioapic_line(PIN)?);
            Ok(())
        })
    }
}
