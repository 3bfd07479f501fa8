//! irqfd: an eventfd whose events KVM turns into interrupts (api.rst 4.75), and who else sees them.
use crate::prelude::*;

/// The I/O APIC pin, and by default the GSI, that irqfds trigger.
const PIN: u32 = 20;
const VECTOR: u8 = 0x61;
/// Where a changed route leads.
const OTHER_VECTOR: u8 = 0x72;
const READY: u64 = 1;
/// A port exit with interrupts on: what is pending is taken here at the latest.
const WINDOW_PORT: u16 = 0x92;

/// Interrupts taken: of [`VECTOR`], of [`OTHER_VECTOR`].
#[shared]
static TAKEN: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

#[guest]
fn takes_interrupts(g: &mut Guest) {
    let apic = Apic::enable();
    if g.arg(0) == 0 {
        ioapic::route(PIN, VECTOR, apic.id(), 0);
    }
    let taken = |index: usize| {
        TAKEN[index].fetch_add(1, SeqCst);
        apic.eoi();
    };
    with_handler(
        VECTOR,
        |_| taken(0),
        || {
            with_handler(
                OTHER_VECTOR,
                |_| taken(1),
                || loop {
                    g.sync(READY, &[]);
                    sti();
                    outb(WINDOW_PORT, 0);
                    cli();
                },
            )
        },
    );
}

#[host]
mod host {
    use super::*;
    use {
        nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        nix::sys::resource::{UsageWho, getrusage},
        std::os::fd::AsRawFd,
        std::sync::atomic::Ordering::{Acquire, Release},
        std::time::{Duration, Instant},
    };

    kvm_tests! { requires(cap::IRQFD) }

    const GSI: u32 = PIN;
    /// Longer than anything below takes, unless a waiter is never woken.
    const FOREVER: Duration = Duration::from_secs(3600);
    /// Enough for a thread to be in `poll`, or to come out of it.
    const MOMENT: Duration = Duration::from_millis(2);
    /// Enough for a thread that runs to fall asleep.
    const INSTANT: Duration = Duration::from_micros(50);
    /// Events that a poller must not see.
    const EVENTS: i64 = 100;
    /// Rounds of the race with assign and deassign. Each costs KVM a grace period, so a slow host may stop
    /// at [`ENOUGH`] when its [`BUDGET`] is spent.
    const RACES: u64 = 10_000;
    const ENOUGH: u64 = 100;
    const BUDGET: Duration = Duration::from_millis(2_500);
    /// A round that never comes.
    const STOP: u64 = u64::MAX;
    const TWO_VM_RACES: u64 = 300;

    const IOAPIC: Route = Route::Pin { irqchip: bindings::KVM_IRQCHIP_IOAPIC, pin: PIN };
    /// To APIC ID 0 (SDM vol. 3, "Message Signalled Interrupts").
    const MSI: Route = Route::Msi { address: apic::XAPIC_BASE, data: VECTOR as u32 };

    /// The guest takes interrupts from now on, by `route`.
    fn start(t: &mut OneVcpu, route: Route) -> TestResult {
        t.vcpu.run_until_sync(READY)?;
        t.vm.set_gsi_routing(&[(GSI, route)]).ioctl("KVM_SET_GSI_ROUTING")
    }

    /// How often this thread went to sleep so far.
    fn sleeps() -> TestResult<i64> {
        getrusage(UsageWho::RUSAGE_THREAD)
            .map(|u| u.voluntary_context_switches())
            .ioctl("getrusage")
    }

    /// Lets the guest take what is pending; says how many interrupts of each vector it took.
    fn take(t: &mut OneVcpu) -> TestResult<[u64; 2]> {
        t.vcpu.run_until(Exit::io_out(WINDOW_PORT))?;
        t.vcpu.run_until_sync(READY)?;
        let taken = t.vm.shared(shared_static!(TAKEN));
        Ok([taken[0].swap(0, SeqCst), taken[1].swap(0, SeqCst)])
    }

    fn arrives(t: &OneVcpu, vector: u8) -> bool {
        eventually(|| t.vcpu.is_pending(vector).unwrap_or(false))
    }

    /// Each event is one interrupt, and KVM takes the event: nothing is left to read (api.rst 4.75;
    /// eventfd(2)).
    #[kvm_test(takes_interrupts, moved, requires(cap::IRQ_ROUTING), irqchip, params = [ioapic: IOAPIC, msi: MSI])]
    fn event_becomes_an_interrupt(t: &mut OneVcpu, route: Route) -> TestResult {
        start(t, route)?;
        let event = Event::new()?;
        t.vm.assign_irqfd(&event, GSI).ioctl("KVM_IRQFD")?;
        check!("assigning an irqfd injects nothing", !t.vcpu.is_pending(VECTOR)?);
        for _ in 0..3 {
            event.signal(1)?;
            check!("the interrupt arrives at the local APIC", arrives(t, VECTOR));
            check_eq!("no count is left to read", event.take(), Err(Errno::EAGAIN));
            check_eq!("the guest takes the interrupt exactly once", take(t)?, [1, 0]);
        }
        check_eq!("the guest takes nothing without an event", take(t)?, [0, 0]);
        t.vm.deassign_irqfd(&event, GSI).ioctl("KVM_IRQFD(deassign)")?;
        event.signal(7)?;
        check!("an event after deassign injects nothing", !t.vcpu.is_pending(VECTOR)?);
        check_eq!("the guest takes nothing after deassign", take(t)?, [0, 0]);
        check_eq!("an event after deassign is read by userspace", event.take(), Ok(7));
        Ok(())
    }

    /// MSI routes need no I/O APIC in the kernel: a split irqchip takes irqfds too (api.rst, 7.5
    /// KVM_CAP_SPLIT_IRQCHIP).
    #[kvm_test(takes_interrupts, requires(cap::SPLIT_IRQCHIP), split_irqchip)]
    fn split_irqchip_delivers_messages(t: &mut OneVcpu) -> TestResult {
        // Keeps the guest off the I/O APIC, which would be userspace's.
        t.vcpu.set_args(&[1]);
        t.vcpu.run_until_sync(READY)?;
        t.vm.set_gsi_routing(&[(GSI, MSI)]).ioctl("KVM_SET_GSI_ROUTING")?;
        let event = Event::new()?;
        t.vm.assign_irqfd(&event, GSI).ioctl("KVM_IRQFD")?;
        event.signal(1)?;
        check!("the message arrives at the local APIC", arrives(t, VECTOR));
        check_eq!("the guest takes the message's interrupt exactly once", take(t)?, [1, 0]);
        check_eq!("no count is left to read", event.take(), Err(Errno::EAGAIN));
        Ok(())
    }

    /// However many events come before the vCPU runs, the counter is empty afterwards and the guest
    /// sees at least one interrupt (KVM takes the counter whole, as a read does).
    #[kvm_test(takes_interrupts, requires(cap::IRQ_ROUTING), irqchip, params = [ioapic: IOAPIC, msi: MSI])]
    fn events_before_the_vcpu_runs_are_drained(t: &mut OneVcpu, route: Route) -> TestResult {
        const WRITES: u64 = 20;
        start(t, route)?;
        let event = Event::new()?;
        t.vm.assign_irqfd(&event, GSI).ioctl("KVM_IRQFD")?;
        for count in 1..=WRITES {
            event.signal(count)?;
            check!("POLLIN is off after every write", !event.is_readable()?);
        }
        check_eq!("a read of the drained eventfd is EAGAIN", event.take(), Err(Errno::EAGAIN));
        check!("an interrupt is pending before the vCPU runs", arrives(t, VECTOR));
        let taken = take(t)?[0] + take(t)?[0];
        check!("the guest takes at least one interrupt", taken >= 1, "{taken}");
        check!("the guest takes no more interrupts than events", taken <= WRITES, "{taken}");
        // One below the largest count: the write would fail had anything been left.
        event.signal(u64::MAX - 1)?;
        check_eq!("the largest count is drained too", event.take(), Err(Errno::EAGAIN));
        check!("the largest count is an interrupt", arrives(t, VECTOR));
        Ok(())
    }

    /// Events from before the assignment are not missed: they are one interrupt together.
    #[kvm_test(takes_interrupts, requires(cap::IRQ_ROUTING), irqchip, params = [ioapic: IOAPIC, msi: MSI])]
    fn count_at_assign_is_one_interrupt(t: &mut OneVcpu, route: Route) -> TestResult {
        start(t, route)?;
        let event = Event::with_count(5)?;
        check!("nothing is pending before the assignment", !t.vcpu.is_pending(VECTOR)?);
        t.vm.assign_irqfd(&event, GSI).ioctl("KVM_IRQFD")?;
        check!("events from before the assignment raise an interrupt", arrives(t, VECTOR));
        check_eq!("the earlier events are one interrupt", take(t)?, [1, 0]);
        event.signal(1)?;
        check!("the next event raises an interrupt", arrives(t, VECTOR));
        check_eq!("the next event is one interrupt", take(t)?, [1, 0]);
        check_eq!("the next event leaves nothing to read", event.take(), Err(Errno::EAGAIN));
        t.vm.deassign_irqfd(&event, GSI).ioctl("KVM_IRQFD(deassign)")?;
        check_eq!("deassign gives no event back", event.take(), Err(Errno::EAGAIN));
        check_eq!("the guest takes nothing after the deassign", take(t)?, [0, 0]);
        Ok(())
    }

    /// While an irqfd is assigned, whoever polls the same eventfd sees none of its events and sleeps
    /// through them, however early it began to poll; from deassign on it sees them again.
    #[kvm_test(takes_interrupts, requires(cap::IRQ_ROUTING), irqchip, params = [ioapic: IOAPIC, msi: MSI])]
    fn pollers_see_events_only_when_unassigned(t: &mut OneVcpu, route: Route) -> TestResult {
        start(t, route)?;
        let event = Event::new()?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).ioctl("epoll_create1")?;
        let edge = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0);
        epoll.add(&event, edge).ioctl("epoll_ctl")?;
        let ready =
            || epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::ZERO).ioctl("epoll_wait");
        together(|threads| {
            let poller = threads.spawn(|| {
                let before = sleeps()?;
                let woken = event.readable_within(FOREVER)?;
                Ok((woken, sleeps()? - before))
            });
            std::thread::sleep(MOMENT);
            t.vm.assign_irqfd(&event, GSI).ioctl("KVM_IRQFD")?;
            for _ in 0..EVENTS {
                event.signal(1)?;
                check!("every event is an interrupt", arrives(t, VECTOR));
                t.vcpu.drop_pending(VECTOR)?;
                check_eq!("edge-triggered epoll has nothing to report", ready()?, 0);
                // A thread that was woken by mistake gets the time to fall asleep again.
                std::thread::sleep(INSTANT);
            }
            std::thread::sleep(MOMENT);
            check!("a poller from before the assignment sleeps on", !poller.is_finished());
            t.vm.deassign_irqfd(&event, GSI).ioctl("KVM_IRQFD(deassign)")?;
            event.signal(3)?;
            let (woken, slept) = poller.join()?;
            check!("the poller wakes up for an event after deassign", woken);
            check!(
                "the poller sleeps through events before the deassign",
                slept < EVENTS / 2,
                "{slept} times"
            );
            check_eq!("epoll reports an event after deassign", ready()?, 1);
            check_eq!("the event after deassign can be read", event.take(), Ok(3));
            check!("an event after deassign is no interrupt", !t.vcpu.is_pending(VECTOR)?);
            Ok(())
        })
    }

    /// An irqfd follows KVM_SET_GSI_ROUTING at once (api.rst 4.52): to another vector, to another kind of
    /// target, and to nowhere.
    #[kvm_test(takes_interrupts, requires(cap::IRQ_ROUTING), irqchip)]
    fn routing_changes_apply_at_once(t: &mut OneVcpu) -> TestResult {
        start(t, IOAPIC)?;
        let event = Event::new()?;
        t.vm.assign_irqfd(&event, GSI).ioctl("KVM_IRQFD")?;
        let other = Route::Msi { address: apic::XAPIC_BASE, data: OTHER_VECTOR.into() };
        for (route, vector, want) in
            [(MSI, VECTOR, [1, 0]), (other, OTHER_VECTOR, [0, 1]), (IOAPIC, VECTOR, [1, 0])]
        {
            t.vm.set_gsi_routing(&[(GSI, route)]).ioctl("KVM_SET_GSI_ROUTING")?;
            check_eq!("a new route replays no old event", take(t)?, [0, 0]);
            event.signal(1)?;
            check!("an event arrives by route {route:x?}", arrives(t, vector));
            check_eq!("an event takes only route {route:x?}", take(t)?, want);
        }
        t.vm.set_gsi_routing(&[]).ioctl("KVM_SET_GSI_ROUTING(none)")?;
        event.signal(1)?;
        check_eq!("an event without a route is drained", event.take(), Err(Errno::EAGAIN));
        // Waits for what KVM still does for the event, which would take a route made meanwhile.
        t.vm.deassign_irqfd(&event, GSI).ioctl("KVM_IRQFD(deassign)")?;
        check_eq!("an event without a route is no interrupt", take(t)?, [0, 0]);
        t.vm.set_gsi_routing(&[(GSI, MSI)]).ioctl("KVM_SET_GSI_ROUTING")?;
        t.vm.assign_irqfd(&event, GSI).ioctl("KVM_IRQFD")?;
        check_eq!("an event without a route is not kept", take(t)?, [0, 0]);
        Ok(())
    }

    /// Several eventfds may trigger one GSI, and a GSI's irqfds are taken off one by one.
    #[kvm_test(takes_interrupts, requires(cap::IRQ_ROUTING), irqchip)]
    fn gsi_takes_several_eventfds(t: &mut OneVcpu) -> TestResult {
        start(t, MSI)?;
        let events = [Event::new()?, Event::new()?];
        for event in &events {
            t.vm.assign_irqfd(event, GSI).ioctl("KVM_IRQFD")?;
        }
        for event in &events {
            event.signal(1)?;
            check!("an event of either eventfd triggers the GSI", arrives(t, VECTOR));
            check_eq!("one event of either is one interrupt", take(t)?, [1, 0]);
        }
        let wrong = t.vm.deassign_irqfd(&events[0], GSI + 1);
        check_eq!("deassign from another GSI succeeds", wrong, Ok(()));
        events[0].signal(1)?;
        check!("deassign from another GSI changes nothing", arrives(t, VECTOR));
        take(t)?;
        t.vm.deassign_irqfd(&events[0], GSI).ioctl("KVM_IRQFD(deassign)")?;
        events[0].signal(1)?;
        check_eq!("the eventfd taken off triggers nothing", take(t)?, [0, 0]);
        events[1].signal(1)?;
        check!("the other eventfd still triggers the GSI", arrives(t, VECTOR));
        check_eq!("the other eventfd's event is one interrupt", take(t)?, [1, 0]);
        Ok(())
    }

    /// KVM holds the eventfd, not the descriptor; its last close takes the irqfd off.
    #[kvm_test(takes_interrupts, requires(cap::IRQ_ROUTING), irqchip)]
    fn irqfd_lives_as_long_as_the_eventfd(t: &mut OneVcpu) -> TestResult {
        start(t, MSI)?;
        let event = Event::new()?;
        let closed = event.duplicate()?;
        t.vm.assign_irqfd(&closed, GSI).ioctl("KVM_IRQFD")?;
        drop(closed);
        event.signal(1)?;
        check!("an event arrives though the descriptor is closed", arrives(t, VECTOR));
        check_eq!("an event of the closed descriptor is one interrupt", take(t)?, [1, 0]);
        let off = t.vm.deassign_irqfd(&event, GSI);
        check_eq!("another descriptor of the eventfd deassigns it", off, Ok(()));
        event.signal(1)?;
        check_eq!("an event after the deassign stays with userspace", event.take(), Ok(1));
        t.vm.assign_irqfd(&event, GSI).ioctl("KVM_IRQFD")?;
        drop(event);
        check_eq!("the last close injects nothing", take(t)?, [0, 0]);
        let next = Event::new()?;
        check_eq!(
            "the GSI takes a new eventfd after the last close",
            t.vm.assign_irqfd(&next, GSI),
            Ok(())
        );
        next.signal(1)?;
        check!("the new eventfd triggers the GSI", arrives(t, VECTOR));
        check_eq!("the new eventfd's event is one interrupt", take(t)?, [1, 0]);
        Ok(())
    }

    /// Malformed requests are refused with EINVAL or EBADF, on assign and on deassign (api.rst 4.75).
    #[kvm_test(irqchip)]
    fn malformed_requests_are_refused(t: &mut OneVm) -> TestResult {
        let event = Event::new()?;
        let good = Irqfd { fd: event.as_raw_fd(), gsi: GSI, ..Default::default() };
        for flags in [1 << 2, 1 << 16, 1 << 31] {
            let refused = t.vm.irqfd(Irqfd { flags, ..good });
            check_eq!("unknown flags {flags:#x} are EINVAL", refused, Err(Errno::EINVAL));
            let refused = t.vm.irqfd(Irqfd { flags: flags | DEASSIGN, ..good });
            check_eq!("deassign with flags {flags:#x} is EINVAL", refused, Err(Errno::EINVAL));
        }
        for (what, flags) in [("assign", 0), ("deassign", DEASSIGN)] {
            let refused = t.vm.irqfd(Irqfd { fd: -1, flags, ..good });
            check_eq!("{what} of descriptor -1 is EBADF", refused, Err(Errno::EBADF));
            let refused = t.vm.irqfd(Irqfd { fd: t.vm.as_raw_fd(), flags, ..good });
            check_eq!("{what} of what is no eventfd is EINVAL", refused, Err(Errno::EINVAL));
        }
        let never = t.vm.deassign_irqfd(&event, GSI);
        check_eq!("deassign of what was never assigned succeeds", never, Ok(()));
        check_eq!("the well-formed request is accepted", t.vm.irqfd(good), Ok(()));
        Ok(())
    }

    const DEASSIGN: u32 = bindings::KVM_IRQFD_FLAG_DEASSIGN;

    /// Without an interrupt controller in the kernel there is nothing to inject into.
    #[kvm_test]
    fn irqfd_needs_an_irqchip(t: &mut OneVm) -> TestResult {
        let event = Event::new()?;
        let refused = t.vm.assign_irqfd(&event, GSI);
        check_eq!("assign without an irqchip is EINVAL", refused, Err(Errno::EINVAL));
        event.signal(1)?;
        check_eq!("the refused eventfd keeps its events", event.take(), Ok(1));
        Ok(())
    }

    /// An eventfd triggers one GSI: whose events they are must not be in doubt.
    #[kvm_test(irqchip)]
    fn eventfd_triggers_one_gsi(t: &mut OneVm) -> TestResult {
        let busy = Err(Errno::EBUSY);
        let event = Event::new()?;
        t.vm.assign_irqfd(&event, GSI).ioctl("KVM_IRQFD")?;
        check_eq!(
            "assigning an eventfd again to its GSI is EBUSY",
            t.vm.assign_irqfd(&event, GSI),
            busy
        );
        check_eq!(
            "assigning an eventfd to another GSI is EBUSY",
            t.vm.assign_irqfd(&event, GSI + 1),
            busy
        );
        let other = Vm::new(Irqchip::Kernel)?;
        check_eq!(
            "assigning an eventfd in another VM is EBUSY",
            other.assign_irqfd(&event, GSI),
            busy
        );
        t.vm.deassign_irqfd(&event, GSI).ioctl("KVM_IRQFD(deassign)")?;
        other.deassign_irqfd(&event, GSI).ioctl("KVM_IRQFD(deassign, other VM)")?;
        check_eq!(
            "another GSI takes the eventfd after deassign",
            t.vm.assign_irqfd(&event, GSI + 1),
            Ok(())
        );
        t.vm.deassign_irqfd(&event, GSI + 1).ioctl("KVM_IRQFD(deassign)")?;
        check_eq!(
            "another VM takes the eventfd after deassign",
            other.assign_irqfd(&event, GSI),
            Ok(())
        );
        drop(other);
        check_eq!(
            "the eventfd is free when its VM is gone",
            t.vm.assign_irqfd(&event, GSI),
            Ok(())
        );
        Ok(())
    }

    /// Sleeps until `done` holds: the other thread makes it hold, then wakes this one.
    fn sleep_until(mut done: impl FnMut() -> bool) {
        while !spin_for(100, &mut done) {
            std::thread::park();
        }
    }

    /// An event that races with assign and deassign goes to exactly one side: it is an interrupt, or it
    /// is left for userspace.
    #[kvm_test(
        takes_interrupts,
        requires(cap::IRQ_ROUTING, host::TWO_CPUS),
        irqchip,
        vcpus = 2,
        groups("race")
    )]
    fn event_is_neither_lost_nor_doubled(t: &mut OneVcpu) -> TestResult {
        race_with_assign(t, BUDGET)
    }

    /// The same, [`RACES`] times however long it takes.
    #[kvm_test(
        takes_interrupts,
        requires(cap::IRQ_ROUTING, host::TWO_CPUS),
        irqchip,
        vcpus = 2,
        groups("race", "nodefault")
    )]
    fn event_is_neither_lost_nor_doubled_in_ten_thousand_races(t: &mut OneVcpu) -> TestResult {
        race_with_assign(t, Duration::MAX)
    }

    fn race_with_assign(t: &mut OneVcpu, budget: Duration) -> TestResult {
        start(t, MSI)?;
        let event = Event::new()?;
        let (begun, ended) = (AtomicU64::new(0), AtomicU64::new(0));
        let (mut rounds, mut lost, mut doubled, mut injected) = (0, 0, 0, 0);
        let main = std::thread::current();
        together(|threads| {
            let signaller = threads.spawn(|| {
                for round in 1..=RACES {
                    sleep_until(|| begun.load(Acquire) >= round);
                    if begun.load(Acquire) == STOP {
                        break;
                    }
                    (0..round % 64 * 8).for_each(|_| std::hint::spin_loop());
                    let signalled = event.signal(1).is_ok();
                    ended.store(if signalled { round } else { STOP }, Release);
                    main.unpark();
                }
                Ok(())
            });
            let begin = |round| {
                begun.store(round, Release);
                signaller.unpark();
            };
            let start = Instant::now();
            let unfinished = |round: &u64| *round <= ENOUGH || start.elapsed() < budget;
            let outcome = (1..=RACES).take_while(unfinished).try_for_each(|round| {
                begin(round);
                t.vm.assign_irqfd(&event, GSI).ioctl("KVM_IRQFD")?;
                t.vm.deassign_irqfd(&event, GSI).ioctl("KVM_IRQFD(deassign)")?;
                sleep_until(|| ended.load(Acquire) >= round);
                let interrupt = t.vcpu.drop_pending(VECTOR)?;
                let left = event.count() != 0;
                injected += u64::from(interrupt);
                lost += u64::from(!interrupt && !left);
                doubled += u64::from(interrupt && left);
                rounds = round;
                Ok(())
            });
            begin(STOP);
            outcome
        })?;
        log!("{injected} of {rounds} events were interrupts");
        check!(
            "enough races of assign and deassign were run",
            rounds >= if budget == Duration::MAX { RACES } else { ENOUGH }
        );
        check_eq!("no event is lost in a race", lost, 0);
        check_eq!("no event is both an interrupt and left for userspace", doubled, 0);
        Ok(())
    }

    /// Two VMs that fight for an eventfd leave it free: the loser gets EBUSY, if anything.
    #[kvm_test(requires(host::TWO_CPUS), irqchip, vcpus = 2, groups("race"))]
    fn two_vms_leave_the_eventfd_free(t: &mut OneVm) -> TestResult {
        let other = Vm::new(Irqchip::Kernel)?;
        for _ in 0..TWO_VM_RACES {
            let event = Event::new()?;
            let assign = |vm: &Vm| (vm.assign_irqfd(&event, GSI), vm.deassign_irqfd(&event, GSI));
            let results = together(|threads| {
                let theirs = threads.spawn(|| Ok(assign(&other)));
                Ok([assign(&t.vm), theirs.join()?])
            })?;
            for (assigned, deassigned) in results {
                check!(
                    "a race of two VMs succeeds or is EBUSY",
                    matches!(assigned, Ok(()) | Err(Errno::EBUSY)),
                    "{assigned:?}"
                );
                check_eq!("deassign succeeds for winner and loser", deassigned, Ok(()));
            }
            let after = t.vm.assign_irqfd(&event, GSI);
            check_eq!("the eventfd is free after both VMs deassign it", after, Ok(()));
        }
        Ok(())
    }
}
