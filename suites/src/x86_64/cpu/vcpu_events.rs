//! Events between userspace and vCPU: KVM_{GET,SET}_VCPU_EVENTS (api.rst 4.31, 4.32).
use crate::prelude::*;
use defs::x86::exception::PageFaultError;

const STOP_PORT: u16 = 0x83;
const ERROR_CODE: u32 = 0x18;
const OLD_CR2: u64 = 0x1111_1000;
const PAYLOAD: u64 = 0x2222_2000;
/// A fault code that says: write, page present.
const PF_CODE: u32 = bits!(PageFaultError::{P | WR});

#[guest]
fn takes_an_exception(_: &mut Guest) {
    let mut seen = None;
    with_handler(vector::GP, |frame| seen = Some(frame.trap()), || outb(STOP_PORT, 0));
    let trap = seen.map(|trap: Trap| (trap.vector, trap.error));
    check_eq!(
        "the guest takes the injected #GP with its code",
        trap,
        Some((vector::GP, ERROR_CODE))
    );
}

#[guest]
fn takes_a_page_fault(g: &mut Guest) {
    let want = g.arg(0);
    write_cr2(OLD_CR2);
    let mut seen = None;
    with_handler(vector::PF, |frame| seen = Some(frame.trap()), || outb(STOP_PORT, 0));
    let want = Some(Trap { vector: vector::PF, error: PF_CODE, addr: want });
    check_eq!("the guest takes the page fault with its code and address", seen, want);
}

#[guest]
fn counts_nmis(g: &mut Guest) {
    let mut taken = 0;
    with_handler(vector::NMI, |_| taken += 1, || outb(STOP_PORT, 0));
    check_eq!("the guest takes exactly the NMIs that were injected", taken, g.arg(0));
}

#[guest]
fn shuts_down(_: &mut Guest) {
    outb(STOP_PORT, 0);
}

#[host]
mod host {
    use super::*;
    use vm::bindings::{
        KVM_CAP_EXCEPTION_PAYLOAD, KVM_CAP_X86_SMM, KVM_CAP_X86_TRIPLE_FAULT_EVENT,
        KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_PAYLOAD, KVM_VCPUEVENT_VALID_SHADOW,
        KVM_VCPUEVENT_VALID_SIPI_VECTOR, KVM_VCPUEVENT_VALID_SMM, KVM_VCPUEVENT_VALID_TRIPLE_FAULT,
        kvm_vcpu_events,
    };

    const INTERRUPT: u8 = 0x66;

    fn get(vcpu: &Vcpu) -> TestResult<kvm_vcpu_events> {
        vcpu.fd().get_vcpu_events().ioctl("KVM_GET_VCPU_EVENTS")
    }

    fn set(vcpu: &Vcpu, events: &kvm_vcpu_events) -> Result<(), Errno> {
        vcpu.fd().set_vcpu_events(events).errno()
    }

    /// Runs to the guest's stop, with the instruction there completed.
    fn run_to_stop(vcpu: &mut Vcpu) -> TestResult {
        vcpu.run_until(Exit::io_out(STOP_PORT))?;
        vcpu.complete_exit()
    }

    /// A new vCPU has no events, and what it reports is taken back.
    #[kvm_test(requires(cap::VCPU_EVENTS))]
    fn new_vcpu_has_no_events(t: &mut OneVm) -> TestResult {
        let vcpu = t.vm.create_vcpu(0)?;
        let events = get(&vcpu)?;
        let exception = events.exception;
        check_eq!("a new vCPU has no exception", (exception.injected, exception.pending), (0, 0));
        let interrupt = events.interrupt;
        check_eq!(
            "a new vCPU has no interrupt",
            (interrupt.injected, interrupt.soft, interrupt.shadow),
            (0, 0, 0)
        );
        let nmi = events.nmi;
        check_eq!("a new vCPU has no NMI", (nmi.injected, nmi.pending, nmi.masked), (0, 0, 0));
        check_eq!("a new vCPU is not in SMM", (events.smi.smm, events.smi.pending), (0, 0));
        check_eq!(
            "a new vCPU has no exception payload",
            (events.exception_has_payload, events.exception_payload),
            (0, 0)
        );
        check_eq!("reserved bytes of kvm_vcpu_events are 0", events.reserved, [0; 26]);
        let flags = events.flags & KVM_VCPUEVENT_VALID_NMI_PENDING;
        check_eq!("nmi.pending is reported as valid", flags, KVM_VCPUEVENT_VALID_NMI_PENDING);
        let payload = events.flags & KVM_VCPUEVENT_VALID_PAYLOAD;
        check_eq!("a payload is not reported without its capability", payload, 0);
        check_eq!("the events that KVM reported are accepted", set(&vcpu, &events), Ok(()));
        Ok(())
    }

    /// Flags without a meaning, or without their capability, are EINVAL.
    #[kvm_test(requires(cap::VCPU_EVENTS))]
    fn unknown_flags_are_refused(t: &mut OneVm) -> TestResult {
        let vcpu = t.vm.create_vcpu(0)?;
        let before = get(&vcpu)?;
        let with = |flags| set(&vcpu, &kvm_vcpu_events { flags, ..before });
        for bit in 6..32 {
            check_eq!(
                "an unknown flag of kvm_vcpu_events is EINVAL",
                with(1 << bit),
                Err(Errno::EINVAL)
            );
        }
        let payload = with(KVM_VCPUEVENT_VALID_PAYLOAD);
        check_eq!("VALID_PAYLOAD without its capability is EINVAL", payload, Err(Errno::EINVAL));
        let triple = with(KVM_VCPUEVENT_VALID_TRIPLE_FAULT);
        check_eq!(
            "VALID_TRIPLE_FAULT without its capability is EINVAL",
            triple,
            Err(Errno::EINVAL)
        );
        check_eq!(
            "the flag VALID_NMI_PENDING is accepted",
            with(KVM_VCPUEVENT_VALID_NMI_PENDING),
            Ok(())
        );
        check_eq!(
            "the flag VALID_SIPI_VECTOR is accepted",
            with(KVM_VCPUEVENT_VALID_SIPI_VECTOR),
            Ok(())
        );
        check_eq!("the flag VALID_SHADOW is accepted", with(KVM_VCPUEVENT_VALID_SHADOW), Ok(()));
        check_eq!("kvm_vcpu_events without any flag are accepted", with(0), Ok(()));
        check_eq!("accepted events without content change nothing", get(&vcpu)?, before);
        Ok(())
    }

    /// A KVM without system management mode refuses to put a vCPU there.
    #[kvm_test(requires(cap::VCPU_EVENTS))]
    fn smm_is_refused_where_there_is_none(t: &mut OneVm) -> TestResult {
        require!(t.vm.check_extension(KVM_CAP_X86_SMM) == 0, "a KVM without KVM_CAP_X86_SMM");
        let vcpu = t.vm.create_vcpu(0)?;
        let before = get(&vcpu)?;
        let mut events = kvm_vcpu_events { flags: KVM_VCPUEVENT_VALID_SMM, ..before };
        events.smi.smm = 1;
        check_eq!("smi.smm without SMM is EINVAL", set(&vcpu, &events), Err(Errno::EINVAL));
        (events.smi.smm, events.smi.pending) = (0, 1);
        check_eq!("smi.pending without SMM is EINVAL", set(&vcpu, &events), Err(Errno::EINVAL));
        (events.smi.pending, events.smi.smm_inside_nmi) = (0, 1);
        check_eq!(
            "smi.smm_inside_nmi without SMM is EINVAL",
            set(&vcpu, &events),
            Err(Errno::EINVAL)
        );
        check_eq!("refused events do not enter SMM", get(&vcpu)?.smi.smm, 0);
        Ok(())
    }

    /// Vectors that are no exception cannot be injected as one.
    #[kvm_test(requires(cap::VCPU_EVENTS))]
    fn impossible_exceptions_are_refused(t: &mut OneVm) -> TestResult {
        let vcpu = t.vm.create_vcpu(0)?;
        let before = get(&vcpu)?;
        let inject = |nr| {
            let mut events = before;
            (events.exception.injected, events.exception.nr) = (1, nr);
            set(&vcpu, &events)
        };
        for nr in [32, 33, 128, 255] {
            check_eq!("an exception vector above 31 is EINVAL", inject(nr), Err(Errno::EINVAL));
        }
        check_eq!(
            "an exception with the NMI's vector is EINVAL",
            inject(vector::NMI),
            Err(Errno::EINVAL)
        );
        check_eq!("a refused exception is not injected", get(&vcpu)?, before);
        let mut events = before;
        events.exception.nr = 255;
        check_eq!(
            "the vector does not matter where nothing is injected",
            set(&vcpu, &events),
            Ok(())
        );
        Ok(())
    }

    /// An injected exception comes back until the guest runs, which takes it at once.
    #[kvm_test(takes_an_exception, requires(cap::VCPU_EVENTS))]
    fn injected_exception_is_taken(t: &mut OneVcpu) -> TestResult {
        run_to_stop(&mut t.vcpu)?;
        let mut events = get(&t.vcpu)?;
        let exception = &mut events.exception;
        (exception.injected, exception.nr) = (1, vector::GP);
        (exception.has_error_code, exception.error_code) = (1, ERROR_CODE);
        set(&t.vcpu, &events).ioctl("KVM_SET_VCPU_EVENTS")?;
        let got = get(&t.vcpu)?.exception;
        check_eq!("the injected exception reads as it was set", got, events.exception);
        t.vcpu.run_until_done()?;
        check_eq!(
            "no exception is injected after it was taken",
            get(&t.vcpu)?.exception.injected,
            0
        );
        Ok(())
    }

    fn page_fault(t: &mut OneVcpu, pending: bool) -> TestResult {
        t.vm.enable_cap(KVM_CAP_EXCEPTION_PAYLOAD, [1, 0, 0, 0]).ioctl("KVM_ENABLE_CAP")?;
        t.vcpu.set_args(&[if pending { PAYLOAD } else { OLD_CR2 }]);
        run_to_stop(&mut t.vcpu)?;
        let mut events = get(&t.vcpu)?;
        let payload_flag = events.flags & KVM_VCPUEVENT_VALID_PAYLOAD;
        check_eq!("payloads are reported as valid", payload_flag, KVM_VCPUEVENT_VALID_PAYLOAD);
        let exception = &mut events.exception;
        (exception.injected, exception.pending) = (1, pending.into());
        (exception.nr, exception.has_error_code) = (vector::PF, 1);
        exception.error_code = PF_CODE;
        (events.exception_has_payload, events.exception_payload) = (1, PAYLOAD);
        set(&t.vcpu, &events).ioctl("KVM_SET_VCPU_EVENTS")?;
        let got = get(&t.vcpu)?;
        let state = (got.exception.injected == 1, got.exception.pending == 1);
        check_eq!("the exception is injected or pending as it was set", state, (!pending, pending));
        check_eq!(
            "only a pending exception has a payload",
            got.exception_has_payload,
            u8::from(pending)
        );
        if pending {
            check_eq!("the payload reads as it was set", got.exception_payload, PAYLOAD);
        }
        t.vcpu.run_until_done()?;
        let after = get(&t.vcpu)?.exception;
        check_eq!(
            "no exception is left after it was taken",
            (after.injected, after.pending),
            (0, 0)
        );
        Ok(())
    }

    /// The payload of a pending page fault is its address, which delivery moves to CR2
    /// (KVM_CAP_EXCEPTION_PAYLOAD, api.rst 7.10).
    #[kvm_test(takes_a_page_fault, requires(cap::EXCEPTION_PAYLOAD))]
    fn payload_of_a_pending_page_fault_becomes_cr2(t: &mut OneVcpu) -> TestResult {
        page_fault(t, true)
    }

    /// An injected page fault has had its effect on CR2 already.
    #[kvm_test(takes_a_page_fault, requires(cap::EXCEPTION_PAYLOAD))]
    fn injected_page_fault_leaves_cr2(t: &mut OneVcpu) -> TestResult {
        page_fault(t, false)
    }

    /// `nmi.pending` counts with its flag, and is left alone without.
    #[kvm_test(counts_nmis, requires(cap::VCPU_EVENTS), params = [with_flag: true, without_flag: false])]
    fn pending_nmi_needs_its_flag(t: &mut OneVcpu, flag: bool) -> TestResult {
        t.vcpu.set_args(&[flag.into()]);
        run_to_stop(&mut t.vcpu)?;
        let mut events = get(&t.vcpu)?;
        events.flags = if flag { KVM_VCPUEVENT_VALID_NMI_PENDING } else { 0 };
        events.nmi.pending = 1;
        set(&t.vcpu, &events).ioctl("KVM_SET_VCPU_EVENTS")?;
        check_eq!(
            "the NMI is pending if its flag was set",
            get(&t.vcpu)?.nmi.pending,
            u8::from(flag)
        );
        t.vcpu.run_until_done()?;
        check_eq!("no NMI is pending in the end", get(&t.vcpu)?.nmi.pending, 0);
        Ok(())
    }

    /// An NMI that userspace injects is taken without being pending first.
    #[kvm_test(counts_nmis, requires(cap::VCPU_EVENTS))]
    fn injected_nmi_is_taken(t: &mut OneVcpu) -> TestResult {
        t.vcpu.set_args(&[1]);
        run_to_stop(&mut t.vcpu)?;
        let mut events = get(&t.vcpu)?;
        events.nmi.injected = 1;
        set(&t.vcpu, &events).ioctl("KVM_SET_VCPU_EVENTS")?;
        check_eq!("the injected NMI reads as it was set", get(&t.vcpu)?.nmi.injected, 1);
        t.vcpu.run_until_done()?;
        check_eq!("no NMI is injected after it was taken", get(&t.vcpu)?.nmi.injected, 0);
        Ok(())
    }

    /// While NMIs are masked, as in an NMI handler, a pending one waits.
    #[kvm_test(counts_nmis, requires(cap::VCPU_EVENTS))]
    fn masked_nmi_waits(t: &mut OneVcpu) -> TestResult {
        t.vcpu.set_args(&[0]);
        run_to_stop(&mut t.vcpu)?;
        let mut events = get(&t.vcpu)?;
        events.flags = KVM_VCPUEVENT_VALID_NMI_PENDING;
        (events.nmi.masked, events.nmi.pending) = (1, 1);
        set(&t.vcpu, &events).ioctl("KVM_SET_VCPU_EVENTS")?;
        let nmi = get(&t.vcpu)?.nmi;
        check_eq!("a masked, pending NMI reads as it was set", (nmi.masked, nmi.pending), (1, 1));
        t.vcpu.run_until_done()?;
        let nmi = get(&t.vcpu)?.nmi;
        check_eq!(
            "an NMI stays masked and pending without an IRET",
            (nmi.masked, nmi.pending),
            (1, 1)
        );
        Ok(())
    }

    /// An interrupt that was acknowledged and not yet taken comes back with its vector.
    #[kvm_test(requires(cap::VCPU_EVENTS))]
    fn injected_interrupt_round_trips(t: &mut OneVm) -> TestResult {
        let vcpu = t.vm.create_vcpu(0)?;
        let mut events = get(&vcpu)?;
        (events.interrupt.injected, events.interrupt.nr) = (1, INTERRUPT);
        set(&vcpu, &events).ioctl("KVM_SET_VCPU_EVENTS")?;
        let got = get(&vcpu)?.interrupt;
        check_eq!(
            "the injected interrupt reads as it was set",
            (got.injected, got.nr, got.soft),
            (1, INTERRUPT, 0)
        );
        let bitmap = vcpu.fd().get_sregs().ioctl("KVM_GET_SREGS")?.interrupt_bitmap;
        let want = 1 << (INTERRUPT % 64);
        check_eq!("KVM_GET_SREGS has the interrupt in its bitmap", bitmap, [0, want, 0, 0]);
        events.interrupt.injected = 0;
        set(&vcpu, &events).ioctl("KVM_SET_VCPU_EVENTS")?;
        check_eq!("an injected interrupt can be taken back", get(&vcpu)?.interrupt.injected, 0);
        Ok(())
    }

    /// An interrupt shadow, after STI or MOV SS, is set with its flag only.
    #[kvm_test(requires(cap::VCPU_EVENTS), params = [sti: 2, mov_ss: 1])]
    fn interrupt_shadow_needs_its_flag(t: &mut OneVm, shadow: u8) -> TestResult {
        let vcpu = t.vm.create_vcpu(0)?;
        let before = get(&vcpu)?;
        // No KVM lists KVM_CAP_INTR_SHADOW: the flag that it reports stands for it.
        let reported = before.flags & KVM_VCPUEVENT_VALID_SHADOW != 0;
        require!(reported, "KVM_VCPUEVENT_VALID_SHADOW in KVM_GET_VCPU_EVENTS");
        let mut events = kvm_vcpu_events { flags: 0, ..before };
        events.interrupt.shadow = shadow;
        set(&vcpu, &events).ioctl("KVM_SET_VCPU_EVENTS")?;
        check_eq!("a shadow without its flag is left alone", get(&vcpu)?.interrupt.shadow, 0);
        events.flags = KVM_VCPUEVENT_VALID_SHADOW;
        set(&vcpu, &events).ioctl("KVM_SET_VCPU_EVENTS")?;
        // AMD's one bit stands for both.
        let got = get(&vcpu)?.interrupt.shadow;
        check_eq!("a shadow with its flag reads as it was set", got & shadow, shadow);
        events.interrupt.shadow = 0;
        set(&vcpu, &events).ioctl("KVM_SET_VCPU_EVENTS")?;
        check_eq!("an interrupt shadow can be taken away", get(&vcpu)?.interrupt.shadow, 0);
        Ok(())
    }

    /// A pending triple fault shuts the vCPU down (KVM_CAP_X86_TRIPLE_FAULT_EVENT, api.rst 7.32).
    #[kvm_test(shuts_down, requires(cap::X86_TRIPLE_FAULT_EVENT))]
    fn triple_fault_event_shuts_down(t: &mut OneVcpu) -> TestResult {
        t.vm.enable_cap(KVM_CAP_X86_TRIPLE_FAULT_EVENT, [1, 0, 0, 0]).ioctl("KVM_ENABLE_CAP")?;
        run_to_stop(&mut t.vcpu)?;
        let mut events = get(&t.vcpu)?;
        let valid = KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
        check_eq!("the triple fault event is reported as valid", events.flags & valid, valid);
        check_eq!("no triple fault is pending at first", events.triple_fault.pending, 0);
        events.triple_fault.pending = 1;
        set(&t.vcpu, &events).ioctl("KVM_SET_VCPU_EVENTS")?;
        check_eq!(
            "the pending triple fault reads as it was set",
            get(&t.vcpu)?.triple_fault.pending,
            1
        );
        t.vcpu.run_until(Exit::Shutdown)?;
        Ok(())
    }
}
