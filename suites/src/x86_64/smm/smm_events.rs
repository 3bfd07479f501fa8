//! What comes to a vCPU in system management mode, and how SMIs come to one: other events wait until
//! RSM (SDM vol. 3, "SMI Handler Execution Environment", "NMI Handling While in SMM"; APM vol. 2,
//! "Interrupts and Exceptions in SMM").
use crate::prelude::*;
use crate::x86_64::smm::smm::{ENTERED, LEAVING, STOP};

const VECTOR: u8 = 0x61;
/// The NMI handler's port.
const NMI_PORT: u16 = 0x97;
const PIN: u32 = 5;

/// Interrupts taken, and NMIs.
#[shared]
static INTERRUPTS: AtomicU64 = AtomicU64::new(0);
#[shared]
static NMIS: AtomicU64 = AtomicU64::new(0);

/// Between its two stops everything may come.
#[guest]
fn counts(_: &mut Guest) {
    let apic = Apic::enable();
    let on_interrupt = |_: &mut TrapFrame| {
        INTERRUPTS.fetch_add(1, SeqCst);
        apic.eoi();
    };
    let on_nmi = |_: &mut TrapFrame| {
        NMIS.fetch_add(1, SeqCst);
    };
    let stop = || {
        sti();
        outb(STOP, 0);
        outb(STOP, 0);
        cli();
    };
    with_handler(VECTOR, on_interrupt, || with_handler(vector::NMI, on_nmi, stop));
}

/// Stops twice in each NMI.
#[guest]
fn stops_in_nmis(_: &mut Guest) {
    let on_nmi = |_: &mut TrapFrame| {
        NMIS.fetch_add(1, SeqCst);
        outb(NMI_PORT, 0);
        outb(NMI_PORT, 0);
    };
    with_handler(vector::NMI, on_nmi, || {
        outb(STOP, 0);
        outb(STOP, 0);
    });
}

/// Where a vCPU stops that was reset.
const RESET: u16 = 0x98;
guest_asm! {
    REPORTS_A_RESET, bits16:
    "out {reset}, al",
    reset = const RESET,
}

/// Sends itself an SMI: by an IPI, or by whatever the host half does at the stop.
#[guest]
fn gets_an_smi(g: &mut Guest) {
    let apic = Apic::enable();
    if g.arg(0) != 0 {
        // A shorthand for oneself holds for fixed interrupts alone.
        apic.ipi(apic.id(), apic::ICR_SMI | apic::ICR_ASSERT);
    } else {
        ioapic::set_entry(PIN, ioapic::SMI | u64::from(apic.id()) << 56);
        outb(STOP, 0);
    }
    outb(STOP, 0);
}

#[host]
mod host {
    use super::*;
    use crate::x86_64::smm::smm::{enter, events, is_in_smm, make_smram, run_past, smi};
    use bindings::{KVM_MP_STATE_HALTED, KVM_MP_STATE_RUNNABLE, kvm_mp_state, kvm_msi};

    kvm_tests! { irqchip, requires(cap::X86_SMM) }

    fn taken(vm: &Vm) -> [u64; 2] {
        [
            vm.shared(shared_static!(INTERRUPTS)).load(SeqCst),
            vm.shared(shared_static!(NMIS)).load(SeqCst),
        ]
    }

    fn nmi(vcpu: &Vcpu) -> TestResult {
        vcpu.fd().nmi().ioctl("KVM_NMI")
    }

    /// A message to the local APIC of vCPU 0: delivery mode and vector.
    fn send(vm: &Vm, data: u32) -> TestResult {
        let msi = kvm_msi { address_lo: apic::XAPIC_BASE as u32, data, ..Default::default() };
        let sent = vm.fd().signal_msi(msi).ioctl("KVM_SIGNAL_MSI")?;
        check_eq!("the vCPU accepts the message", sent, 1);
        Ok(())
    }

    /// Interrupts that come in SMM are taken after RSM, once.
    #[kvm_test(counts)]
    fn interrupts_wait_until_rsm(t: &mut OneVcpu) -> TestResult {
        enter(t)?;
        send(&t.vm, VECTOR.into())?;
        run_past(&mut t.vcpu, LEAVING)?;
        check_eq!("an interrupt is not taken in SMM", taken(&t.vm), [0, 0]);
        run_past(&mut t.vcpu, STOP)?;
        check_eq!("an interrupt from SMM is taken exactly once after RSM", taken(&t.vm), [1, 0]);
        t.vcpu.run_until_done()
    }

    /// NMIs that come in SMM are taken after RSM, which unmasks them without an IRET.
    #[kvm_test(counts)]
    fn nmis_wait_until_rsm(t: &mut OneVcpu) -> TestResult {
        enter(t)?;
        check_eq!("NMIs are masked in SMM", events(&t.vcpu)?.nmi.masked, 1);
        nmi(&t.vcpu)?;
        run_past(&mut t.vcpu, LEAVING)?;
        check_eq!("an NMI is not taken in SMM", taken(&t.vm), [0, 0]);
        check_eq!("an NMI in SMM stays pending", events(&t.vcpu)?.nmi.pending, 1);
        run_past(&mut t.vcpu, STOP)?;
        check_eq!("an NMI from SMM is taken exactly once after RSM", taken(&t.vm), [0, 1]);
        check_eq!("NMIs are not masked after RSM", events(&t.vcpu)?.nmi.masked, 0);
        t.vcpu.run_until_done()
    }

    /// An SMI that comes in SMM waits too; of several, one is kept.
    #[kvm_test(counts)]
    fn one_smi_waits_until_rsm(t: &mut OneVcpu) -> TestResult {
        enter(t)?;
        let vcpu = &mut t.vcpu;
        check_eq!("no SMI is pending in SMM at first", events(vcpu)?.smi.pending, 0);
        smi(vcpu)?;
        smi(vcpu)?;
        check_eq!("an SMI in SMM stays pending", events(vcpu)?.smi.pending, 1);
        run_past(vcpu, LEAVING)?;
        check_eq!("a second SMI in SMM leaves one pending", events(vcpu)?.smi.pending, 1);
        run_past(vcpu, ENTERED)?;
        check!("RSM leads into the handler of the pending SMI", is_in_smm(vcpu));
        check_eq!("no SMI is pending in the second handler", events(vcpu)?.smi.pending, 0);
        run_past(vcpu, LEAVING)?;
        run_past(vcpu, STOP)?;
        check!("the second RSM leaves SMM", !is_in_smm(vcpu));
        vcpu.run_until_done()
    }

    /// NMIs that were masked before an SMI are so after RSM: their handler is not done.
    #[kvm_test(stops_in_nmis)]
    fn nmi_handler_goes_on_after_rsm(t: &mut OneVcpu) -> TestResult {
        make_smram(&t.vm)?;
        let vcpu = &mut t.vcpu;
        run_past(vcpu, STOP)?;
        nmi(vcpu)?;
        run_past(vcpu, NMI_PORT)?;
        smi(vcpu)?;
        run_past(vcpu, ENTERED)?;
        check_eq!("SMM interrupts the NMI's handler", events(vcpu)?.smi.smm_inside_nmi, 1);
        nmi(vcpu)?;
        run_past(vcpu, LEAVING)?;
        run_past(vcpu, NMI_PORT)?;
        check!("RSM returns to the NMI's handler", !is_in_smm(vcpu));
        let seen = events(vcpu)?.nmi;
        check_eq!(
            "NMIs stay masked after RSM, one is pending",
            (seen.masked, seen.pending),
            (1, 1)
        );
        check_eq!("no second NMI is taken inside the first's handler", taken(&t.vm), [0, 1]);
        run_past(vcpu, NMI_PORT)?;
        check_eq!("the second NMI is taken after the first's handler", taken(&t.vm), [0, 2]);
        run_past(vcpu, NMI_PORT)?;
        run_past(vcpu, STOP)?;
        vcpu.run_until_done()
    }

    /// INIT waits as well, and resets the vCPU after RSM.
    #[kvm_test(counts)]
    fn init_waits_until_rsm(t: &mut OneVcpu) -> TestResult {
        /// The last page below 4 GiB, and where in it a CPU starts.
        const ROM: u64 = 0xffff_f000;
        const VECTOR: usize = 0xff0;
        let rom = t.vm.add_memory(1, 0, ROM, layout::PAGE_SIZE)?;
        rom.write(VECTOR, code_bytes(&REPORTS_A_RESET)?);
        enter(t)?;
        send(&t.vm, apic::ICR_INIT)?;
        run_past(&mut t.vcpu, LEAVING)?;
        check!("an INIT leaves a vCPU in SMM running", is_in_smm(&mut t.vcpu));
        check_eq!("an INIT in SMM stays pending", events(&t.vcpu)?.smi.latched_init, 1);
        t.vcpu.run_until(Exit::io_out(RESET))?;
        check!("an INIT from SMM resets the vCPU after RSM", !is_in_smm(&mut t.vcpu));
        check_eq!("no INIT is pending after the reset", events(&t.vcpu)?.smi.latched_init, 0);
        Ok(())
    }

    /// An SMI ends a halt.
    #[kvm_test(counts)]
    fn smi_wakes_a_halted_vcpu(t: &mut OneVcpu) -> TestResult {
        make_smram(&t.vm)?;
        let vcpu = &mut t.vcpu;
        run_past(vcpu, STOP)?;
        vcpu.fd()
            .set_mp_state(kvm_mp_state { mp_state: KVM_MP_STATE_HALTED })
            .ioctl("KVM_SET_MP_STATE")?;
        smi(vcpu)?;
        run_past(vcpu, ENTERED)?;
        check!("an SMI takes the halted vCPU into SMM", is_in_smm(vcpu));
        let state = vcpu.fd().get_mp_state().ioctl("KVM_GET_MP_STATE")?.mp_state;
        check_eq!("an SMI makes the halted vCPU runnable", state, KVM_MP_STATE_RUNNABLE);
        Ok(())
    }

    /// Whence an SMI comes.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Source {
        Ipi,
        Msi,
        Ioapic,
    }

    /// Delivery mode SMI leads into SMM, whoever sends it (SDM vol. 3, "Delivery Mode").
    #[kvm_test(gets_an_smi, params = [
    ipi: Source::Ipi, msi: Source::Msi, ioapic: Source::Ioapic,
])]
    fn apic_delivers_smis(t: &mut OneVcpu, source: Source) -> TestResult {
        make_smram(&t.vm)?;
        t.vcpu.set_args(&[u64::from(source == Source::Ipi)]);
        if source != Source::Ipi {
            run_past(&mut t.vcpu, STOP)?;
        }
        match source {
            Source::Ipi => {}
            Source::Msi => send(&t.vm, apic::ICR_SMI)?,
            Source::Ioapic => {
                t.vm.set_irq_line(PIN, true).ioctl("KVM_IRQ_LINE")?;
                t.vm.set_irq_line(PIN, false).ioctl("KVM_IRQ_LINE")?;
            }
        }
        run_past(&mut t.vcpu, ENTERED)?;
        check!("the APIC's SMI leads into SMM", is_in_smm(&mut t.vcpu));
        run_past(&mut t.vcpu, LEAVING)?;
        run_past(&mut t.vcpu, STOP)?;
        check!("the APIC's SMI is taken exactly once", !is_in_smm(&mut t.vcpu));
        t.vcpu.run_until_done()
    }
}
