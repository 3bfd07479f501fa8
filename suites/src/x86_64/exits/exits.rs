//! KVM_RUN's other exits (api.rst 5): HLT, shutdown, internal errors, EINTR, and the fields of
//! `kvm_run` that go both ways.
use crate::prelude::*;
use cpuid::leaf;
use insn_table::{Form, Gpr::*, State};

/// A port without a device in the kernel.
const PORT: u16 = 0x7d4;
/// Marks a point of the guest for the host.
const MARK: u16 = 0x7d8;
/// An address without memory.
const DEVICE: u64 = layout::FREE;

#[guest]
fn writes_many_times(g: &mut Guest) {
    for i in 0..g.arg(0) {
        outl(PORT, i as u32);
    }
}

#[guest]
fn runs_what_kvm_completes(_: &mut Guest) {
    for leaf in [leaf::VENDOR, leaf::FEATURES, leaf::HYPERVISOR, leaf::EXTENDED] {
        cpuid(leaf, 0);
    }
    write_cr3(read_cr3());
    invlpg(0);
    let efer = rdmsr(msr::IA32_EFER);
    wrmsr(msr::IA32_EFER, efer);
    check!("two reads of the TSC differ", rdtsc() != rdtsc());
    check_eq!(
        "UD2 raises #UD in the guest",
        ud2_safe().map_err(|trap| trap.vector),
        Err(vector::UD)
    );
}

/// A leaf between KVM's ranges, for userspace to fill.
const CPUID_LEAF: u32 = 0x4000_0800;
const CPUID_VALUE: [u32; 4] = [0x8123_4567, 0x89ab_cdef, 0xfedc_ba98, 0x7654_3210];

#[guest]
fn reads_cpuid(_: &mut Guest) {
    check_eq!("EAX to EDX are what userspace set", cpuid(CPUID_LEAF, 0), CPUID_VALUE);
    check_eq!("an insignificant subleaf is ignored", cpuid(CPUID_LEAF, 5), CPUID_VALUE);
    let subleaf = CPUID_VALUE.map(|register| !register);
    check_eq!("a significant subleaf has its own values", cpuid(CPUID_LEAF + 1, 3), subleaf);
    check_eq!("a subleaf that was not set reads as 0", cpuid(CPUID_LEAF + 1, 4), [0; 4]);
    let mut state = State { gprs: [!0; 16], ..State::default() };
    (state[Rsp], state[Rax], state[Rcx]) = (0, u64::from(CPUID_LEAF) | !0 << 32, !0 << 32);
    check_eq!("CPUID does not fault", insn::CPUID.run(Form::Native, &mut state), Ok(()));
    check_eq!(
        "CPUID clears the upper halves",
        [state[Rax], state[Rbx], state[Rcx], state[Rdx]],
        CPUID_VALUE.map(u64::from)
    );
}

#[guest]
fn halts(g: &mut Guest) {
    if g.arg(0) != 0 {
        sti();
    }
    hlt();
    outb(MARK, 1);
    hlt();
    hlt();
    outb(MARK, 2);
}

/// Wakes the guest.
const VECTOR: u8 = 0x41;

#[shared]
static WOKEN: AtomicU64 = AtomicU64::new(0);

#[guest]
fn halts_until_interrupted(_: &mut Guest) {
    let apic = Apic::enable();
    let count = |_: &mut TrapFrame| {
        WOKEN.fetch_add(1, SeqCst);
        apic.eoi();
    };
    with_handler(VECTOR, count, || {
        apic.ipi(0, u32::from(VECTOR) | apic::ICR_SELF);
        sti_hlt();
        check_eq!("a pending interrupt ends HLT at once", WOKEN.load(SeqCst), 1);
        cli();
        outb(MARK, 0);
        sti_hlt();
        check_eq!("an interrupt that comes later ends HLT", WOKEN.load(SeqCst), 2);
        cli();
    });
}

#[guest]
fn triple_faults(_: &mut Guest) {
    triple_fault();
}

#[guest]
fn reads_ports(_: &mut Guest) {
    outb(MARK, 0);
    check_eq!("IN returns what was placed before the interruption", inb(PORT), 0x5a);
    check_eq!(
        "a load returns what was placed before the interruption",
        peek::<u32>(DEVICE),
        0x1234_5678
    );
}

extern "C" fn load_a_float(gva: u64) -> u64 {
    insn::fld32_safe(gva).map_or_else(|trap| trap.vector.into(), |()| 0)
}

#[guest]
fn loads_a_float_from_mmio(g: &mut Guest) {
    let ring_3 = g.arg(0) != 0;
    let fld = insn::FLD_M32;
    g.sync(1, &[fld.address(), fld.bytes().len() as u64]);
    let vector = if ring_3 {
        user::run(Rflags::empty(), load_a_float, DEVICE)
    } else {
        load_a_float(DEVICE)
    };
    outb(MARK, vector as u8);
}

#[guest]
fn executes_mmio(_: &mut Guest) {
    insn::call(DEVICE);
}

const LOW_PRIORITY: u64 = 5;
const HIGH_PRIORITY: u64 = 9;

#[guest]
fn shows_its_state(_: &mut Guest) {
    cli();
    write_cr8(LOW_PRIORITY);
    outb(MARK, 0);
    check_eq!("CR8 is what userspace wrote to kvm_run", read_cr8(), HIGH_PRIORITY);
    sti();
    outb(MARK, 0);
    cli();
}

#[guest]
fn opens_its_interrupt_window(_: &mut Guest) {
    cli();
    let mut woken = 0;
    with_handler(
        VECTOR,
        |_| woken += 1,
        || {
            outb(MARK, 0);
            outb(MARK, 1);
            sti();
            cli();
        },
    );
    check_eq!("the injected interrupt is taken exactly once", woken, 1);
}

#[host]
mod host {
    use super::*;

    /// Each access is one exit, in program order: none is lost, none comes twice.
    #[kvm_test(writes_many_times)]
    fn every_access_exits_exactly_once(t: &mut OneVcpu) -> TestResult {
        const ACCESSES: u64 = 1000;
        t.vcpu.set_args(&[ACCESSES]);
        let mut seen = Vec::new();
        while let Some(mut stop) = t.vcpu.run_until_exit()? {
            seen.push(
                stop.data().iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)),
            );
        }
        check_eq!("each access exits exactly once", seen.len() as u64, ACCESSES);
        check!("the exits come in program order", seen.iter().copied().eq(0..ACCESSES));
        Ok(())
    }

    /// CPUID, control registers, EFER, RDTSC and exceptions are no business of userspace.
    #[kvm_test(runs_what_kvm_completes)]
    fn what_kvm_completes_does_not_exit(t: &mut OneVcpu) -> TestResult {
        let exit = t.vcpu.run_until_exit()?.map(|stop| stop.exit());
        check_eq!("the guest finishes without an exit to userspace", exit, None);
        Ok(())
    }

    /// CPUID in the guest returns the entries of KVM_SET_CPUID2 (api.rst 4.20).
    #[kvm_test(reads_cpuid)]
    fn cpuid_returns_what_userspace_set(t: &mut OneVm) -> TestResult {
        let entry =
            |function, index, flags, [eax, ebx, ecx, edx]: [u32; 4]| bindings::kvm_cpuid_entry2 {
                function,
                index,
                flags,
                eax,
                ebx,
                ecx,
                edx,
                ..Default::default()
            };
        let inverted = CPUID_VALUE.map(|register| !register);
        let significant = bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
        for entry in [
            entry(leaf::HYPERVISOR, 0, 0, [CPUID_LEAF + 1, 0, 0, 0]),
            entry(CPUID_LEAF, 0, 0, CPUID_VALUE),
            entry(CPUID_LEAF + 1, 3, significant, inverted),
        ] {
            t.vm.cpuid_mut().retain(|e| e.function != entry.function);
            t.vm.cpuid_mut().push(entry).map_err(|e| Failure::Error(format!("{e:?}")))?;
        }
        let guest = guest_fn!(reads_cpuid);
        t.vm.add_vcpu(0, guest)?.run_until_done()
    }

    /// Without an interrupt controller in the kernel HLT is userspace's to handle (api.rst 5,
    /// KVM_EXIT_HLT), whatever RFLAGS.IF says; the next KVM_RUN goes on behind it.
    #[kvm_test(halts, params = [interrupts_off: 0, interrupts_on: 1])]
    fn hlt_exits_without_irqchip(t: &mut OneVcpu, interrupts: u64) -> TestResult {
        t.vcpu.set_args(&[interrupts]);
        let mut exits = Vec::new();
        while let Some(stop) = t.vcpu.run_until_exit()? {
            exits.push(stop.exit());
            if exits.len() > 5 {
                break;
            }
        }
        let mark = Exit::Io { direction: IoDirection::Out, size: 1, port: MARK, count: 1 };
        check_eq!(
            "each HLT exits once, in order",
            exits,
            [Exit::Hlt, mark, Exit::Hlt, Exit::Hlt, mark]
        );
        Ok(())
    }

    /// With an interrupt controller in the kernel HLT does not exit: the vCPU sleeps in KVM_RUN until an
    /// interrupt comes (api.rst 5, KVM_EXIT_HLT).
    #[kvm_test(
        halts_until_interrupted,
        irqchip,
        vcpus = 2,
        requires(cap::IRQCHIP, cap::SIGNAL_MSI)
    )]
    fn hlt_sleeps_with_irqchip(t: &mut OneVcpu) -> TestResult {
        const SLEEP: std::time::Duration = std::time::Duration::from_millis(5);
        t.vcpu.run_until(Exit::io_out(MARK))?;
        let vm = &t.vm;
        let vcpu = &mut t.vcpu;
        together(|threads| {
            let waker = threads.spawn(|| {
                std::thread::sleep(SLEEP);
                let woken_early = vm.shared(shared_static!(WOKEN)).load(SeqCst);
                let msi = bindings::kvm_msi {
                    address_lo: apic::XAPIC_BASE as u32,
                    data: VECTOR.into(),
                    ..Default::default()
                };
                vm.fd().signal_msi(msi).ioctl("KVM_SIGNAL_MSI").map(|sent| (woken_early, sent))
            });
            vcpu.run_until_done()?;
            let (woken_early, sent) = waker.join()?;
            check_eq!("the guest sleeps in HLT until its interrupt", woken_early, 1);
            check!(
                "the MSI is delivered to the sleeping vCPU",
                sent > 0,
                "KVM_SIGNAL_MSI returned {sent}"
            );
            Ok(())
        })
    }

    /// A triple fault is KVM_EXIT_SHUTDOWN, also with an interrupt controller in the kernel (api.rst 5).
    #[kvm_test(triple_faults)]
    fn triple_fault_exits_with_shutdown(t: &mut OneVcpu) -> TestResult {
        let exit = t.vcpu.run_until_exit()?.map(|stop| stop.exit());
        check_eq!("a triple fault is KVM_EXIT_SHUTDOWN", exit, Some(Exit::Shutdown));
        Ok(())
    }

    /// The same with KVM_CREATE_IRQCHIP.
    #[kvm_test(triple_faults, irqchip, requires(cap::IRQCHIP))]
    fn triple_fault_exits_with_shutdown_with_irqchip(t: &mut OneVcpu) -> TestResult {
        let exit = t.vcpu.run_until_exit()?.map(|stop| stop.exit());
        check_eq!("a triple fault is KVM_EXIT_SHUTDOWN", exit, Some(Exit::Shutdown));
        Ok(())
    }

    /// Userspace can make a triple fault pending, and it is delivered on the next KVM_RUN; without the
    /// capability enabled its flag is refused (api.rst 4.32 and 7, KVM_CAP_X86_TRIPLE_FAULT_EVENT).
    #[kvm_test(writes_many_times, requires(cap::X86_TRIPLE_FAULT_EVENT))]
    fn pending_triple_fault_is_delivered(t: &mut OneVcpu) -> TestResult {
        const FLAG: u32 = bindings::KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
        t.vcpu.set_args(&[1]);
        let mut events = t.vcpu.fd().get_vcpu_events().ioctl("KVM_GET_VCPU_EVENTS")?;
        check_eq!("the triple fault flag is clear without the capability", events.flags & FLAG, 0);
        events.flags = FLAG;
        events.triple_fault.pending = 1;
        let refused = t.vcpu.fd().set_vcpu_events(&events).errno();
        check_eq!(
            "the triple fault flag is EINVAL without the capability",
            refused,
            Err(Errno::EINVAL)
        );
        t.vm.enable_cap(bindings::KVM_CAP_X86_TRIPLE_FAULT_EVENT, [1, 0, 0, 0])
            .ioctl("KVM_ENABLE_CAP")?;
        t.vcpu.fd().set_vcpu_events(&events).ioctl("KVM_SET_VCPU_EVENTS")?;
        let events = t.vcpu.fd().get_vcpu_events().ioctl("KVM_GET_VCPU_EVENTS")?;
        check_eq!("the triple fault flag is set with the capability", events.flags & FLAG, FLAG);
        check_eq!("the injected triple fault reads as pending", events.triple_fault.pending, 1);
        let exit = t.vcpu.run_until_exit()?.map(|stop| stop.exit());
        check_eq!(
            "a pending triple fault exits with KVM_EXIT_SHUTDOWN",
            exit,
            Some(Exit::Shutdown)
        );
        Ok(())
    }

    /// With `immediate_exit` set KVM_RUN fails with EINTR and the guest does not run; KVM does not clear
    /// the flag (api.rst 5, immediate_exit).
    #[kvm_test(reads_ports, requires(cap::IMMEDIATE_EXIT))]
    fn immediate_exit_keeps_the_guest_out(t: &mut OneVcpu) -> TestResult {
        let before = t.vcpu.fd().get_regs().ioctl("KVM_GET_REGS")?;
        t.vcpu.set_immediate_exit(true);
        check_eq!("KVM_RUN with immediate_exit fails with EINTR", t.vcpu.run_once()?, Exit::Intr);
        check_eq!(
            "immediate_exit stays set until userspace clears it",
            t.vcpu.run_once()?,
            Exit::Intr
        );
        let after = t.vcpu.fd().get_regs().ioctl("KVM_GET_REGS")?;
        check_eq!("KVM_RUN with immediate_exit changes no register", after, before);
        t.vcpu.set_immediate_exit(false);
        let mark = Exit::Io { direction: IoDirection::Out, size: 1, port: MARK, count: 1 };
        check_eq!("the guest runs after immediate_exit is cleared", t.vcpu.run_once()?, mark);
        Ok(())
    }

    /// An I/O or MMIO operation is completed by the next KVM_RUN even if that enters no guest: so
    /// userspace gets to a consistent state (api.rst 5, note at KVM_EXIT_IO and KVM_EXIT_MMIO).
    #[kvm_test(reads_ports, requires(cap::IMMEDIATE_EXIT))]
    fn immediate_exit_completes_pending_operations(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until(Exit::io_out(MARK))?;
        t.vcpu.run_until(Exit::io_in(PORT))?.set_data(&[0x5a]);
        let pending = t.vcpu.fd().get_regs().ioctl("KVM_GET_REGS")?;
        t.vcpu.set_immediate_exit(true);
        check_eq!("KVM_RUN with a pending IN fails with EINTR", t.vcpu.run_once()?, Exit::Intr);
        let regs = t.vcpu.fd().get_regs().ioctl("KVM_GET_REGS")?;
        check_eq!("the completed IN has put its value into AL", regs.rax & 0xff, 0x5a);
        check!(
            "RIP is behind the completed IN",
            regs.rip > pending.rip && regs.rip <= pending.rip + 2,
            "{:x} → {:x}",
            pending.rip,
            regs.rip
        );
        t.vcpu.set_immediate_exit(false);
        t.vcpu.run_until(Exit::mmio_read(DEVICE))?.set_data(&0x1234_5678_u32.to_ne_bytes());
        let pending = t.vcpu.fd().get_regs().ioctl("KVM_GET_REGS")?;
        t.vcpu.set_immediate_exit(true);
        check_eq!("KVM_RUN with a pending load fails with EINTR", t.vcpu.run_once()?, Exit::Intr);
        let regs = t.vcpu.fd().get_regs().ioctl("KVM_GET_REGS")?;
        check!(
            "RIP is behind the completed load",
            regs.rip > pending.rip,
            "{:x} → {:x}",
            pending.rip,
            regs.rip
        );
        t.vcpu.set_immediate_exit(false);
        t.vcpu.run_until_done()
    }

    /// How a floating-point load from MMIO, which KVM does not emulate, must come out.
    struct EmulationFailure {
        ring_3: bool,
        /// KVM_CAP_EXIT_ON_EMULATION_FAILURE.
        exit_on_failure: bool,
    }

    /// What KVM cannot emulate is KVM_EXIT_INTERNAL_ERROR with suberror EMULATION if it comes from ring
    /// 0. From ring 3 it is the guest's #UD, unless KVM_CAP_EXIT_ON_EMULATION_FAILURE is enabled; then
    /// each exit also has the instruction's bytes, and userspace may skip the instruction (api.rst 7).
    #[kvm_test(loads_a_float_from_mmio, requires(cap::EXIT_ON_EMULATION_FAILURE), params = [
    ring_0: EmulationFailure { ring_3: false, exit_on_failure: false },
    ring_3: EmulationFailure { ring_3: true, exit_on_failure: false },
    ring_0_exits: EmulationFailure { ring_3: false, exit_on_failure: true },
    ring_3_exits: EmulationFailure { ring_3: true, exit_on_failure: true },
])]
    fn emulation_failure(t: &mut OneVcpu, case: EmulationFailure) -> TestResult {
        t.vcpu.set_args(&[case.ring_3.into()]);
        if case.exit_on_failure {
            t.vm.enable_cap(bindings::KVM_CAP_EXIT_ON_EMULATION_FAILURE, [1, 0, 0, 0])
                .ioctl("KVM_ENABLE_CAP")?;
        }
        let [address, len, ..] = t.vcpu.run_until_sync(1)?;
        let mut code = vec![0; len as usize];
        t.vm.ram().read(address, &mut code);
        if case.ring_3 && !case.exit_on_failure {
            let exit = t.vcpu.run_until_exit()?.map(|mut stop| (stop.exit(), stop.data().to_vec()));
            let mark = Exit::Io { direction: IoDirection::Out, size: 1, port: MARK, count: 1 };
            check_eq!("a failed emulation in ring 3 is #UD", exit, Some((mark, vec![vector::UD])));
            return Ok(());
        }
        let exit = t.vcpu.run_until_exit()?.map(|stop| stop.exit());
        let Some(Exit::InternalError(error)) = exit else {
            fail!("{exit:x?} instead of an internal error")
        };
        check_eq!(
            "the internal error has the suberror EMULATION",
            error.suberror,
            bindings::KVM_INTERNAL_ERROR_EMULATION
        );
        let mut regs = t.vcpu.fd().get_regs().ioctl("KVM_GET_REGS")?;
        check_eq!("RIP is at the instruction that was not emulated", regs.rip, address);
        if case.exit_on_failure {
            let bytes = error.insn_bytes().unwrap_or_default();
            check!("the exit has the instruction's bytes", bytes.starts_with(&code), "{bytes:x?}");
            regs.rip += len;
            t.vcpu.fd().set_regs(&regs).ioctl("KVM_SET_REGS")?;
            let mut stop = t.vcpu.run_until(Exit::io_out(MARK))?;
            check_eq!("the guest goes on behind the instruction", stop.data(), [0]);
            t.vcpu.run_until_done()?;
        }
        Ok(())
    }

    /// Instructions cannot be fetched from MMIO: KVM gives up with suberror EMULATION, at the address.
    #[kvm_test(executes_mmio)]
    fn fetching_from_mmio_is_an_internal_error(t: &mut OneVcpu) -> TestResult {
        let exit = t.vcpu.run_until_exit()?.map(|stop| stop.exit());
        let suberror = match exit {
            Some(Exit::InternalError(error)) => Some(error.suberror),
            _ => None,
        };
        let want = Some(bindings::KVM_INTERNAL_ERROR_EMULATION);
        check!(
            "the exit is an internal error of suberror EMULATION",
            suberror == want,
            "{exit:x?}"
        );
        let rip = t.vcpu.fd().get_regs().ioctl("KVM_GET_REGS")?.rip;
        check_eq!("RIP is the address that cannot be fetched from", rip, DEVICE);
        Ok(())
    }

    /// Without a local APIC in the kernel `kvm_run` shows RFLAGS.IF, CR8 and IA32_APIC_BASE at each exit,
    /// and CR8 goes back into the guest (api.rst 5).
    #[kvm_test(shows_its_state)]
    fn kvm_run_shows_interrupt_state(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until(Exit::io_out(MARK))?;
        let apic_base = t.vcpu.fd().get_sregs().ioctl("KVM_GET_SREGS")?.apic_base;
        let run = t.vcpu.kvm_run();
        check_eq!("if_flag is 0 after CLI", run.if_flag, 0);
        check_eq!(
            "nothing can be injected while IF is clear",
            run.ready_for_interrupt_injection,
            0
        );
        check_eq!("kvm_run's cr8 is the guest's CR8", run.cr8, LOW_PRIORITY);
        check_eq!("kvm_run's apic_base is IA32_APIC_BASE", run.apic_base, apic_base);
        run.cr8 = HIGH_PRIORITY;
        t.vcpu.run_until(Exit::io_out(MARK))?;
        let run = t.vcpu.kvm_run();
        check_eq!("if_flag is 1 after STI", run.if_flag, 1);
        check_eq!("kvm_run's cr8 keeps what userspace wrote", run.cr8, HIGH_PRIORITY);
        run.cr8 = 1 << 4;
        let refused = Exit::RunFailed { errno: Errno::EINVAL as i32 };
        check_eq!(
            "a reserved bit in cr8 makes KVM_RUN fail with EINVAL",
            t.vcpu.run_once()?,
            refused
        );
        t.vcpu.kvm_run().cr8 = 0;
        t.vcpu.run_until_done()
    }

    /// With `request_interrupt_window` set KVM_RUN returns as soon as the guest can take an interrupt, and
    /// no sooner; KVM_INTERRUPT then injects one (api.rst 5 and 4.16).
    #[kvm_test(opens_its_interrupt_window)]
    fn interrupt_window_is_told(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until(Exit::io_out(MARK))?;
        t.vcpu.kvm_run().request_interrupt_window = 1;
        let exit = t.vcpu.run_until_exit()?.map(|stop| stop.exit());
        let mark = Exit::Io { direction: IoDirection::Out, size: 1, port: MARK, count: 1 };
        check_eq!("no interrupt window opens while IF is clear", exit, Some(mark));
        let exit = t.vcpu.run_until_exit()?.map(|stop| stop.exit());
        if !check_eq!("STI opens the interrupt window", exit, Some(Exit::IrqWindowOpen)) {
            return Ok(());
        }
        let run = t.vcpu.kvm_run();
        check_eq!(
            "an interrupt can be injected in an open window",
            run.ready_for_interrupt_injection,
            1
        );
        check_eq!("if_flag is set in an open window", run.if_flag, 1);
        run.request_interrupt_window = 0;
        t.vcpu.interrupt(VECTOR.into()).ioctl("KVM_INTERRUPT")?;
        t.vcpu.run_until_done()
    }

    /// KVM_INTERRUPT takes vectors of one byte (api.rst 4.16).
    #[kvm_test(reads_ports)]
    fn interrupt_vectors_have_one_byte(t: &mut OneVcpu) -> TestResult {
        check_eq!("vector 256 is EINVAL", t.vcpu.interrupt(256), Err(Errno::EINVAL));
        check_eq!("vector 2^32 - 1 is EINVAL", t.vcpu.interrupt(u32::MAX), Err(Errno::EINVAL));
        check_eq!("vector 255 is accepted", t.vcpu.interrupt(255), Ok(()));
        Ok(())
    }

    /// KVM_INTERRUPT is not for VMs with a PIC in the kernel (api.rst 4.16).
    #[kvm_test(reads_ports, irqchip, requires(cap::IRQCHIP))]
    fn interrupt_is_enxio_with_irqchip(t: &mut OneVcpu) -> TestResult {
        check_eq!(
            "KVM_INTERRUPT fails with ENXIO beside a PIC",
            t.vcpu.interrupt(VECTOR.into()),
            Err(Errno::ENXIO)
        );
        Ok(())
    }
}
