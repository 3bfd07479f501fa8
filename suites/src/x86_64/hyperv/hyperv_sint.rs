//! Interrupts through Hyper-V's synthetic interrupt sources: GSI routes to them
//! (KVM_IRQ_ROUTING_HV_SINT, api.rst 4.52), irqfds, and how they end (TLFS, "Synthetic Interrupt
//! Sources").
use crate::prelude::*;
use hyperv::{msr, sint};

const VECTOR: u8 = 0x61;
const OTHER_VECTOR: u8 = 0x72;
const READY: u64 = 1;

/// What the host asks the guest to do.
const TAKE: u64 = 1;
const EOI: u64 = 2;
const WRITE_MSR: u64 = 3;

/// Does what the host asks. Answers with the interrupts taken so far of either vector, and whether
/// either is in service.
#[guest]
fn obeys(g: &mut Guest) {
    let apic = Apic::enable();
    let taken = [const { AtomicU64::new(0) }; 2];
    let count = |index: usize| {
        taken[index].fetch_add(1, SeqCst);
    };
    with_handler(
        VECTOR,
        |_| count(0),
        || {
            with_handler(
                OTHER_VECTOR,
                |_| count(1),
                || {
                    loop {
                        let in_service =
                            [VECTOR, OTHER_VECTOR].map(|v| apic.bit(apic::reg::ISR, v).into());
                        let counts = [taken[0].load(SeqCst), taken[1].load(SeqCst)];
                        let told = [counts[0], counts[1], in_service[0], in_service[1]];
                        let [request, index, value, ..] = g.sync(READY, &told);
                        match request {
                            TAKE => {
                                sti();
                                cli();
                            }
                            EOI => apic.eoi(),
                            _ => wrmsr(index as u32, value),
                        }
                    }
                },
            )
        },
    );
}

#[host]
mod host {
    use super::*;
    use bindings::KVM_CAP_HYPERV_SYNIC2;

    kvm_tests! { requires(cap::HYPERV_SYNIC2) }

    /// A GSI that has no pin.
    const GSI: u32 = 40;
    const SOURCE: u32 = 2;
    const LAST_SOURCE: u32 = sint::COUNT - 1;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Told {
        taken: [u64; 2],
        in_service: [bool; 2],
    }

    /// A vCPU that does as it is told.
    struct Obedient(Vcpu);

    impl Obedient {
        fn new(vm: &mut Vm, index: u32) -> TestResult<Self> {
            let mut vcpu = vm.add_vcpu(index, guest_fn!(obeys))?;
            vcpu.enable_cap(KVM_CAP_HYPERV_SYNIC2, [0; 4]).ioctl("KVM_ENABLE_CAP(SYNIC2)")?;
            vcpu.run_until_sync(READY)?;
            Ok(Self(vcpu))
        }

        fn order(&mut self, request: &[u64]) -> TestResult<Told> {
            self.0.answer(request);
            let [first, second, isr, other, ..] = self.0.run_until_sync(READY)?;
            Ok(Told { taken: [first, second], in_service: [isr != 0, other != 0] })
        }

        /// Lets it take what is pending: interrupts taken since it began.
        fn take(&mut self) -> TestResult<[u64; 2]> {
            Ok(self.order(&[TAKE])?.taken)
        }

        fn end(&mut self) -> TestResult<Told> {
            self.order(&[EOI])
        }

        /// The guest writes a source.
        fn set_source(&mut self, source: u32, value: u64) -> TestResult {
            self.order(&[WRITE_MSR, (msr::SINT0 + source).into(), value]).map(drop)
        }

        fn end_of_message(&mut self) -> TestResult {
            self.order(&[WRITE_MSR, msr::EOM.into(), 0]).map(drop)
        }

        fn arrives(&self, vector: u8) -> bool {
            eventually(|| self.0.is_pending(vector).unwrap_or(false))
        }

        /// How many of all sources' vectors are pending.
        fn pending(&self) -> TestResult<[bool; 2]> {
            Ok([self.0.is_pending(VECTOR)?, self.0.is_pending(OTHER_VECTOR)?])
        }
    }

    fn route(vm: &Vm, routes: &[(u32, u32, u32)]) -> TestResult {
        let routes: Vec<_> =
            routes.iter().map(|&(gsi, vcpu, sint)| (gsi, Route::HvSint { vcpu, sint })).collect();
        vm.set_gsi_routing(&routes).ioctl("KVM_SET_GSI_ROUTING(HV_SINT)")
    }

    /// Each event is one interrupt of the source's vector at its virtual processor, whatever the vector
    /// is by then; a masked source loses it.
    fn events_arrive(vm: &mut Vm) -> TestResult {
        vm.offer_hyperv()?;
        let mut vcpu = Obedient::new(vm, 0)?;
        let mut other = Obedient::new(vm, 1)?;
        route(vm, &[(GSI, 0, SOURCE), (GSI + 1, 0, LAST_SOURCE), (GSI + 2, 1, SOURCE)])?;
        let events = [Event::new()?, Event::new()?, Event::new()?];
        for (event, gsi) in events.iter().zip(GSI..) {
            vm.assign_irqfd(event, gsi).ioctl("KVM_IRQFD")?;
        }
        events[0].signal(1)?;
        check_eq!("the event of a masked source is drained", events[0].take(), Err(Errno::EAGAIN));
        check_eq!("a masked source interrupts nobody", vcpu.pending()?, [false; 2]);
        vcpu.set_source(SOURCE, VECTOR.into())?;
        check_eq!("a masked source keeps no event for later", vcpu.take()?, [0, 0]);
        events[0].signal(1)?;
        check!("an event arrives at the source's vector", vcpu.arrives(VECTOR));
        check_eq!(
            "the eventfd of a delivered event is drained",
            events[0].take(),
            Err(Errno::EAGAIN)
        );
        check_eq!("the guest takes the event's interrupt exactly once", vcpu.take()?, [1, 0]);
        check_eq!("the interrupt is in service until its EOI", vcpu.end()?.in_service, [false; 2]);
        vcpu.set_source(SOURCE, OTHER_VECTOR.into())?;
        events[0].signal(1)?;
        check!("the next event arrives at the new vector", vcpu.arrives(OTHER_VECTOR));
        check_eq!("no event arrives at the old vector", vcpu.take()?, [1, 1]);
        vcpu.end()?;
        vcpu.set_source(LAST_SOURCE, OTHER_VECTOR.into())?;
        for (i, event) in events[..2].iter().enumerate() {
            event.signal(1)?;
            check!("the vector is raised by {i} of two sources", vcpu.arrives(OTHER_VECTOR));
            check_eq!("an event of {i} is one interrupt", vcpu.take()?, [1, 2 + i as u64]);
            vcpu.end()?;
        }
        vcpu.set_source(SOURCE, u64::from(VECTOR) | sint::MASKED)?;
        events[0].signal(1)?;
        events[1].signal(1)?;
        check!("an unmasked source interrupts while another is masked", vcpu.arrives(OTHER_VECTOR));
        check_eq!(
            "a masked source interrupts nobody while another is unmasked",
            vcpu.take()?,
            [1, 4]
        );
        check_eq!("the other processor is not interrupted", other.take()?, [0, 0]);
        other.set_source(SOURCE, VECTOR.into())?;
        events[2].signal(1)?;
        check!("the other processor's own source interrupts it", other.arrives(VECTOR));
        check_eq!("the other processor takes its interrupt exactly once", other.take()?, [1, 0]);
        check_eq!(
            "the first processor is not interrupted by the other's source",
            vcpu.take()?,
            [1, 4]
        );
        Ok(())
    }

    /// A GSI leads to a source of a virtual processor (api.rst 4.52, KVM_IRQ_ROUTING_HV_SINT).
    #[kvm_test(requires(cap::IRQFD), irqchip)]
    fn routed_events_arrive(t: &mut OneVm) -> TestResult {
        events_arrive(&mut t.vm)
    }

    /// Sources need local APICs alone.
    #[kvm_test(requires(cap::IRQFD, cap::SPLIT_IRQCHIP), split_irqchip)]
    fn routed_events_arrive_with_split_irqchip(t: &mut OneVm) -> TestResult {
        events_arrive(&mut t.vm)
    }

    /// Routes name VP indices, which userspace may change (api.rst, KVM_CAP_HYPERV_VP_INDEX), not vCPUs.
    #[kvm_test(requires(cap::HYPERV_VP_INDEX), irqchip)]
    fn routes_name_vp_indices(t: &mut OneVm) -> TestResult {
        const INDEX: u32 = 77;
        t.vm.offer_hyperv()?;
        let mut vcpus = [Obedient::new(&mut t.vm, 0)?, Obedient::new(&mut t.vm, 1)?];
        for vcpu in &mut vcpus {
            vcpu.set_source(SOURCE, VECTOR.into())?;
        }
        check!(
            "userspace can write the VP index",
            vcpus[1].0.set_msr(msr::VP_INDEX, INDEX.into())?
        );
        route(&t.vm, &[(GSI, INDEX, SOURCE), (GSI + 1, 1, SOURCE), (GSI + 2, 0, SOURCE)])?;
        let raise = |gsi| t.vm.set_irq_line(gsi, true);
        check!("a line of a new VP index can be raised", raise(GSI).is_ok());
        check_eq!("a line interrupts the vCPU of the new VP index", vcpus[1].take()?, [1, 0]);
        vcpus[1].end()?;
        t.vm.set_irq_line(GSI, false).ioctl("KVM_IRQ_LINE")?;
        check_eq!("a line that falls interrupts nobody", vcpus[1].take()?, [1, 0]);
        // KVM may say that nobody was there.
        let _ = raise(GSI + 1);
        check_eq!("a line of the old VP index reaches no vCPU", vcpus[1].take()?, [1, 0]);
        check_eq!("lines of changed VP indices do not reach vCPU 0", vcpus[0].take()?, [0, 0]);
        check!("a line of an unchanged VP index can be raised", raise(GSI + 2).is_ok());
        check_eq!("a line of an unchanged VP index interrupts its vCPU", vcpus[0].take()?, [1, 0]);
        vcpus[0].end()?;
        for (vcpu, sint) in [(0, sint::COUNT), (0, u32::MAX), (u32::MAX, SOURCE)] {
            let set = t.vm.set_gsi_routing(&[(GSI, Route::HvSint { vcpu, sint })]);
            let known = matches!(set, Ok(()) | Err(Errno::EINVAL));
            check!("a route to {vcpu:#x}:{sint:#x} is accepted or EINVAL", known, "{set:?}");
            let _ = raise(GSI);
            let taken = [vcpus[0].take()?, vcpus[1].take()?];
            check_eq!("a line to {vcpu:#x}:{sint:#x} interrupts nobody", taken, [[1, 0], [1, 0]]);
            let _ = t.vm.set_irq_line(GSI, false);
        }
        Ok(())
    }

    /// With automatic EOI an interrupt is over when it is taken: it is never in service, and the next one
    /// needs no EOI (TLFS, "SINTx Registers").
    #[kvm_test(requires(cap::IRQFD), irqchip)]
    fn automatic_eoi_ends_interrupts(t: &mut OneVm) -> TestResult {
        t.vm.offer_hyperv()?;
        let mut vcpu = Obedient::new(&mut t.vm, 0)?;
        route(&t.vm, &[(GSI, 0, SOURCE)])?;
        let event = Event::new()?;
        t.vm.assign_irqfd(&event, GSI).ioctl("KVM_IRQFD")?;
        let next = |vcpu: &mut Obedient| -> TestResult<Told> {
            event.signal(1)?;
            check!("an event arrives at the source's vector", vcpu.arrives(VECTOR));
            vcpu.order(&[TAKE])
        };
        let mut taken = 0;
        for round in 0..2 {
            vcpu.set_source(SOURCE, u64::from(VECTOR) | sint::AUTO_EOI)?;
            for i in 0..3 {
                taken += 1;
                let want = Told { taken: [taken, 0], in_service: [false; 2] };
                check_eq!(
                    "automatic EOI, {round}: interrupt {i} is taken and over",
                    next(&mut vcpu)?,
                    want
                );
            }
            vcpu.set_source(SOURCE, VECTOR.into())?;
            taken += 1;
            let serving = Told { taken: [taken, 0], in_service: [true, false] };
            check_eq!(
                "explicit EOI, {round}: the interrupt is in service",
                next(&mut vcpu)?,
                serving
            );
            check_eq!(
                "explicit EOI, {round}: a second interrupt waits meanwhile",
                next(&mut vcpu)?,
                serving
            );
            taken += 1;
            let ended = Told { taken: [taken - 1, 0], in_service: [false; 2] };
            check_eq!("explicit EOI, {round}: nothing is in service after it", vcpu.end()?, ended);
            check_eq!(
                "explicit EOI, {round}: the second interrupt is taken after it",
                vcpu.take()?,
                [taken, 0]
            );
            vcpu.end()?;
        }
        vcpu.set_source(SOURCE, u64::from(VECTOR) | sint::AUTO_EOI)?;
        vcpu.set_source(SOURCE, u64::from(OTHER_VECTOR) | sint::AUTO_EOI)?;
        let message = Route::Msi { address: apic::XAPIC_BASE, data: VECTOR.into() };
        t.vm.set_gsi_routing(&[(GSI, message)]).ioctl("KVM_SET_GSI_ROUTING(MSI)")?;
        let want = Told { taken: [taken + 1, 0], in_service: [true, false] };
        check_eq!("a vector that its source left needs an explicit EOI", next(&mut vcpu)?, want);
        Ok(())
    }

    /// The end of a source's interrupt or message is told to whoever resamples its GSI (api.rst 4.75;
    /// TLFS, "EOM Register"); with automatic EOI only the end of the message.
    #[kvm_test(requires(cap::IRQFD_RESAMPLE), irqchip)]
    fn ends_are_told_to_resamplers(t: &mut OneVm) -> TestResult {
        t.vm.offer_hyperv()?;
        let mut vcpu = Obedient::new(&mut t.vm, 0)?;
        vcpu.set_source(LAST_SOURCE, VECTOR.into())?;
        vcpu.set_source(SOURCE, OTHER_VECTOR.into())?;
        route(&t.vm, &[(GSI, 0, LAST_SOURCE), (GSI + 1, 0, SOURCE)])?;
        let (event, other) = (Event::new()?, Event::new()?);
        let resample = Event::new()?;
        t.vm.assign_level_irqfd(&event, GSI, &resample).ioctl("KVM_IRQFD(resample)")?;
        t.vm.assign_irqfd(&other, GSI + 1).ioctl("KVM_IRQFD")?;
        const NOTHING: Result<u64, Errno> = Err(Errno::EAGAIN);
        other.signal(1)?;
        check!("an event of the other source arrives", vcpu.arrives(OTHER_VECTOR));
        vcpu.take()?;
        check_eq!("the guest takes the other source's interrupt", vcpu.end()?.taken, [0, 1]);
        check_eq!("the EOI of another source is not signalled", resample.take(), NOTHING);
        for round in 0..2 {
            event.signal(1)?;
            check!("an event of the resampled source arrives", vcpu.arrives(VECTOR));
            check_eq!(
                "{round}: the guest takes the resampled interrupt",
                vcpu.take()?,
                [round + 1, 1]
            );
            check_eq!(
                "{round}: nothing is signalled before the interrupt ends",
                resample.take(),
                NOTHING
            );
            vcpu.end()?;
            check_eq!(
                "{round}: the interrupt's end is signalled exactly once",
                resample.take(),
                Ok(1)
            );
        }
        vcpu.end_of_message()?;
        check_eq!("the end of a message is signalled", resample.take(), Ok(1));
        vcpu.set_source(LAST_SOURCE, u64::from(VECTOR) | sint::AUTO_EOI)?;
        event.signal(1)?;
        check!("an event with automatic EOI arrives", vcpu.arrives(VECTOR));
        check_eq!("an interrupt with automatic EOI is taken", vcpu.take()?, [3, 1]);
        check_eq!("an interrupt with automatic EOI signals no end", resample.take(), NOTHING);
        vcpu.end_of_message()?;
        check_eq!("the end of a message is signalled with automatic EOI", resample.take(), Ok(1));
        Ok(())
    }

    /// What userspace reads of a SynIC and writes to another vCPU's works there (migration).
    #[kvm_test(requires(cap::IRQFD), irqchip)]
    fn sources_move_with_their_msrs(t: &mut OneVm) -> TestResult {
        t.vm.offer_hyperv()?;
        let mut from = Obedient::new(&mut t.vm, 0)?;
        let mut to = Obedient::new(&mut t.vm, 1)?;
        from.set_source(SOURCE, u64::from(VECTOR) | sint::AUTO_EOI)?;
        from.set_source(LAST_SOURCE, u64::from(OTHER_VECTOR) | sint::MASKED)?;
        for index in msr::SINT0..=msr::SINT15 {
            let value = from.0.msr(index)?.unwrap_or(0);
            check!(
                "userspace can write MSR {index:#x} on another vCPU",
                to.0.set_msr(index, value)?
            );
            check_eq!("userspace reads back MSR {index:#x}", to.0.msr(index)?, Some(value));
        }
        // As a reset does, whose values the guest could not write.
        check!("userspace can write 0 to a source", to.0.set_msr(msr::SINT0, 0)?);
        route(&t.vm, &[(GSI, 1, SOURCE), (GSI + 1, 1, LAST_SOURCE)])?;
        let events = [Event::new()?, Event::new()?];
        for (event, gsi) in events.iter().zip(GSI..) {
            t.vm.assign_irqfd(event, gsi).ioctl("KVM_IRQFD")?;
            event.signal(1)?;
        }
        check!("the source interrupts the vCPU that it moved to", to.arrives(VECTOR));
        let told = to.order(&[TAKE])?;
        let want = Told { taken: [1, 0], in_service: [false; 2] };
        check_eq!("the automatic EOI and the mask of sources move too", told, want);
        check_eq!("the source does not interrupt the vCPU that it left", from.take()?, [0, 0]);
        Ok(())
    }
}
