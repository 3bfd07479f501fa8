//! The multiprocessing state (KVM_{GET,SET}_MP_STATE, api.rst 4.38, 4.39): what moves a vCPU from one
//! state to the next (SDM vol. 3, "Multiple-Processor Initialization", "HLT"). Plain round trips:
//! `registers`.
use crate::prelude::*;

const READY: u64 = 1;
const VECTOR: u8 = 0x61;
/// A port exit at which the guest's vCPU is halted by userspace.
const HALT_PORT: u16 = 0x93;

/// Sends the IPIs that the host half asks for: destination, ICR.
#[guest]
fn sends_ipis(g: &mut Guest) {
    let apic = Apic::enable();
    loop {
        let [destination, icr, ..] = g.sync(READY, &[]);
        apic.ipi(destination as u32, icr as u32);
    }
}

/// Where an application processor stops.
const STARTED: u16 = 0x99;
guest_asm! {
    REPORTS_A_START, bits16:
    "mov al, 0x5a",
    "out {started}, al",
    started = const STARTED,
}

/// Argument 0: whether interrupts are on where userspace halts the vCPU.
#[guest]
fn is_halted(g: &mut Guest) {
    let apic = Apic::enable();
    let (mut taken, mut nmis) = (0, 0);
    let on_interrupt = |_: &mut TrapFrame| {
        taken += 1;
        apic.eoi();
    };
    let body = || {
        if g.arg(0) != 0 {
            sti();
        }
        outb(HALT_PORT, 0);
        cli();
    };
    with_handler(VECTOR, on_interrupt, || with_handler(vector::NMI, |_| nmis += 1, body));
    g.sync(READY, &[taken, nmis]);
}

#[host]
mod host {
    use super::*;
    use bindings::{
        KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE,
        KVM_MP_STATE_SIPI_RECEIVED, KVM_MP_STATE_UNINITIALIZED, KVM_VCPUEVENT_VALID_SIPI_VECTOR,
        kvm_mp_state, kvm_msi,
    };

    kvm_tests! { irqchip, requires(cap::MP_STATE) }
    const INIT: u64 = (apic::ICR_INIT | apic::ICR_ASSERT) as u64;
    const SIPI: u64 = (apic::ICR_STARTUP | apic::ICR_ASSERT) as u64;

    /// Has `sender` send an IPI.
    fn send(sender: &mut Vcpu, destination: u32, icr: u64) -> TestResult {
        sender.answer(&[destination.into(), icr]);
        sender.run_until_sync(READY).map(drop)
    }

    fn state(vcpu: &Vcpu) -> TestResult<u32> {
        vcpu.fd().get_mp_state().map(|s| s.mp_state).ioctl("KVM_GET_MP_STATE")
    }

    fn set(vcpu: &Vcpu, mp_state: u32) -> Result<(), Errno> {
        vcpu.fd().set_mp_state(kvm_mp_state { mp_state }).errno()
    }

    /// Selector and base of CS, and RIP.
    fn position(vcpu: &Vcpu) -> TestResult<(u16, u64, u64)> {
        let cs = vcpu.fd().get_sregs().ioctl("KVM_GET_SREGS")?.cs;
        Ok((cs.selector, cs.base, vcpu.fd().get_regs().ioctl("KVM_GET_REGS")?.rip))
    }

    /// Where a CPU is after INIT.
    const RESET_VECTOR: (u16, u64, u64) = (0xf000, 0xffff_0000, 0xfff0);

    /// States of other architectures, and those that nobody has, are EINVAL.
    #[kvm_test]
    fn states_of_others_are_refused(t: &mut OneVm) -> TestResult {
        let vcpu = t.vm.create_vcpu(0)?;
        // STOPPED, CHECK_STOP, OPERATING, LOAD, SUSPENDED.
        for other in [5, 6, 7, 8, 10, 11, 1 << 31, u32::MAX] {
            check_eq!("setting state {other:#x} is EINVAL", set(&vcpu, other), Err(Errno::EINVAL));
        }
        check_eq!("a refused state leaves the vCPU runnable", state(&vcpu)?, KVM_MP_STATE_RUNNABLE);
        Ok(())
    }

    /// INIT and then SIPI start an application processor, at the vector's page, in real mode; a SIPI that
    /// no INIT came before is ignored.
    #[kvm_test(sends_ipis)]
    fn init_and_sipi_start_a_vcpu(t: &mut OneVcpu) -> TestResult {
        const PAGE: u64 = layout::SCRATCH >> 12;
        t.vm.put_code(layout::SCRATCH, &REPORTS_A_START)?;
        let mut other = t.vm.create_vcpu(1)?;
        let boot = &mut t.vcpu;
        boot.run_until_sync(READY)?;
        check_eq!(
            "a new application processor is uninitialized",
            state(&other)?,
            KVM_MP_STATE_UNINITIALIZED
        );
        send(boot, 1, SIPI | 0x77)?;
        check_eq!(
            "a vCPU that had no INIT ignores a SIPI",
            state(&other)?,
            KVM_MP_STATE_UNINITIALIZED
        );
        send(boot, 1, INIT)?;
        check_eq!(
            "INIT makes the vCPU wait for a SIPI",
            state(&other)?,
            KVM_MP_STATE_INIT_RECEIVED
        );
        check_eq!("INIT puts the vCPU at the reset vector", position(&other)?, RESET_VECTOR);
        send(boot, 1, SIPI | PAGE)?;
        check_eq!("a SIPI makes the vCPU runnable", state(&other)?, KVM_MP_STATE_RUNNABLE);
        let started = ((PAGE << 8) as u16, layout::SCRATCH, 0);
        check_eq!("the vCPU starts at the SIPI's page", position(&other)?, started);
        send(boot, 1, SIPI | 0x77)?;
        check_eq!("a second SIPI leaves it runnable", state(&other)?, KVM_MP_STATE_RUNNABLE);
        check_eq!("a second SIPI does not move the vCPU", position(&other)?, started);
        let value = other.run_until(Exit::io_out(STARTED))?.data().to_vec();
        check_eq!("the started vCPU runs the page's code", value, [0x5a]);
        send(boot, 1, INIT)?;
        check_eq!("a second INIT stops the vCPU", state(&other)?, KVM_MP_STATE_INIT_RECEIVED);
        check_eq!(
            "a second INIT puts the vCPU at the reset vector",
            position(&other)?,
            RESET_VECTOR
        );
        check_eq!("the sender is runnable all along", state(boot)?, KVM_MP_STATE_RUNNABLE);
        Ok(())
    }

    /// INIT of the boot processor resets it, and leaves it runnable: it needs no SIPI.
    #[kvm_test]
    fn init_restarts_the_boot_processor(t: &mut OneVm) -> TestResult {
        let boot = t.vm.add_vcpu(0, guest_fn!(sends_ipis))?;
        let mut sender = t.vm.add_vcpu(1, guest_fn!(sends_ipis))?;
        sender.run_until_sync(READY)?;
        check!("the boot processor is elsewhere before the INIT", position(&boot)? != RESET_VECTOR);
        send(&mut sender, 0, INIT)?;
        check_eq!("the boot processor stays runnable", state(&boot)?, KVM_MP_STATE_RUNNABLE);
        check_eq!(
            "INIT puts the boot processor at the reset vector",
            position(&boot)?,
            RESET_VECTOR
        );
        let pe = boot.fd().get_sregs().ioctl("KVM_GET_SREGS")?.cr0 & 1;
        check_eq!("INIT puts the boot processor into real mode", pe, 0);
        Ok(())
    }

    /// SIPI_RECEIVED from userspace starts the vCPU at the vector of KVM_SET_VCPU_EVENTS.
    #[kvm_test(requires(cap::VCPU_EVENTS))]
    fn sipi_received_starts_at_the_vector(t: &mut OneVm) -> TestResult {
        let _boot = t.vm.create_vcpu(0)?;
        let vcpu = t.vm.create_vcpu(1)?;
        let mut events = vcpu.fd().get_vcpu_events().ioctl("KVM_GET_VCPU_EVENTS")?;
        events.flags = KVM_VCPUEVENT_VALID_SIPI_VECTOR;
        events.sipi_vector = 0x34;
        vcpu.fd().set_vcpu_events(&events).ioctl("KVM_SET_VCPU_EVENTS")?;
        check_eq!(
            "userspace can set SIPI_RECEIVED",
            set(&vcpu, KVM_MP_STATE_SIPI_RECEIVED),
            Ok(())
        );
        check_eq!(
            "a vCPU with SIPI_RECEIVED becomes runnable",
            state(&vcpu)?,
            KVM_MP_STATE_RUNNABLE
        );
        check_eq!(
            "a vCPU with SIPI_RECEIVED starts at its vector's page",
            position(&vcpu)?,
            (0x3400, 0x3_4000, 0)
        );
        Ok(())
    }

    /// What gets a vCPU out of HALTED.
    #[derive(Clone, Copy, PartialEq)]
    enum Wake {
        Interrupt,
        Nmi,
        Userspace,
    }

    /// A vCPU that userspace sets HALTED goes on as behind a HLT: with an interrupt, with an NMI though
    /// interrupts are off, or when userspace makes it runnable.
    #[kvm_test(is_halted, requires(cap::USER_NMI, cap::SIGNAL_MSI), params = [
    interrupt: Wake::Interrupt,
    nmi: Wake::Nmi,
    userspace: Wake::Userspace,
])]
    fn halted_vcpu_is_woken(t: &mut OneVcpu, wake: Wake) -> TestResult {
        t.vcpu.set_args(&[u64::from(wake == Wake::Interrupt)]);
        t.vcpu.run_until(Exit::io_out(HALT_PORT))?;
        t.vcpu.complete_exit()?;
        check_eq!("userspace can set HALTED", set(&t.vcpu, KVM_MP_STATE_HALTED), Ok(()));
        t.vcpu.complete_exit()?;
        check_eq!(
            "an interrupted KVM_RUN leaves the vCPU halted",
            state(&t.vcpu)?,
            KVM_MP_STATE_HALTED
        );
        match wake {
            Wake::Interrupt => {
                let (address_lo, data) = (apic::XAPIC_BASE as u32, VECTOR.into());
                let msi = kvm_msi { address_lo, data, ..Default::default() };
                t.vm.fd().signal_msi(msi).map(drop).ioctl("KVM_SIGNAL_MSI")?;
            }
            Wake::Nmi => t.vcpu.fd().nmi().ioctl("KVM_NMI")?,
            Wake::Userspace => set(&t.vcpu, KVM_MP_STATE_RUNNABLE).ioctl("KVM_SET_MP_STATE")?,
        }
        let [taken, nmis, ..] = t.vcpu.run_until_sync(READY)?;
        check_eq!(
            "the guest takes the interrupt that woke it",
            taken,
            u64::from(wake == Wake::Interrupt)
        );
        check_eq!("the guest takes the NMI exactly once", nmis, u64::from(wake == Wake::Nmi));
        check_eq!("the woken vCPU is runnable again", state(&t.vcpu)?, KVM_MP_STATE_RUNNABLE);
        t.vcpu.run_until_done()
    }
}
