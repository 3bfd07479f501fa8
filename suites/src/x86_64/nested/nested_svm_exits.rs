//! What userspace sees of a guest of a guest on SVM: its accesses, its shutdown, INIT, and the end of the VM
//! while it runs; and what a hypervisor sees of hypercalls that it does not intercept.
use crate::prelude::*;
use defs::x86::vmcb::{exit, intercept};
use svm::vmmcall_safe;

const PORT: u16 = 0x98;
const DEVICE: u64 = layout::FREE;

fn hypervisor(g: &Guest) -> Svm {
    let mut svm = Svm::new();
    if g.arg(0) != 0 {
        svm.use_nested_paging();
    }
    svm
}

fn accesses(_: &mut Guest) {
    outb(PORT, 0x5a);
    check_eq!("level 2 reads from a port what userspace gave", inw(PORT), 0x1234);
    poke(DEVICE, 0x1122_3344_5566_7788_u64);
    check_eq!("level 2 reads from MMIO what userspace gave", peek::<u32>(DEVICE + 8), 0x9abc_def0);
}

#[guest]
fn lets_its_guest_access(g: &mut Guest) {
    let mut svm = hypervisor(g);
    svm.complete(accesses);
}

fn writes_a_port(_: &mut Guest) {
    outb(PORT, 1);
    ud2();
}

#[guest]
fn shuts_its_guest_down(g: &mut Guest) {
    let mut svm = hypervisor(g);
    svm.context().set_entry(writes_a_port, [0; 6]);
    svm.reset();
    svm.vmcb().save.idtr.limit = 0;
    let exit = svm.resume();
    check!("level 1 does not go on behind the shutdown of its guest", false, "{exit:x?}");
}

fn waits_at_a_port(_: &mut Guest) {
    outb(PORT, 1);
    outb(PORT, 2);
}

#[guest]
fn is_initialized(g: &mut Guest) {
    Apic::enable();
    let mut svm = hypervisor(g);
    if g.arg(1) != 0 {
        svm.intercept(intercept::INIT);
    }
    let exit = svm.enter(waits_at_a_port);
    check_eq!("INIT is an exit with its intercept", exit.code, exit::intercepted(intercept::INIT));
}

/// Faults of hypercalls that the guest has taken.
static FAULTS: AtomicU64 = AtomicU64::new(0);

fn calls_in_vain(_: &mut Guest) {
    let vector = vmmcall_safe(7).map_err(|trap| trap.vector);
    check_eq!("a hypercall that nobody intercepts is #UD", vector, Err(vector::UD));
    FAULTS.fetch_add(1, SeqCst);
    outb(PORT, 1);
}

#[guest]
fn ignores_hypercalls(g: &mut Guest) {
    let mut svm = hypervisor(g);
    let control = &mut svm.vmcb().control;
    control.intercepts[1] &= !(1 << (intercept::VMMCALL % 32));
    svm.intercept_exception(vector::UD);
    svm.context().set_entry(calls_in_vain, [0; 6]);
    svm.reset();
    let exit = svm.resume();
    let ud = exit::EXCP0 + u64::from(vector::UD);
    check_eq!("an intercepted #UD of a hypercall is the exit", exit.code, ud);
    svm.vmcb().control.intercept_exceptions = 0;
    let map = svm.intercept_ports();
    poke(map + u64::from(PORT / 8), u8::MAX);
    let exit = svm.resume();
    let ioio = exit::intercepted(intercept::IOIO_PROT);
    check_eq!("the guest goes on behind its #UD", (exit.code, FAULTS.load(SeqCst)), (ioio, 1));
}

/// What TSC_OFFSET adds.
const OFFSET: u64 = 1 << 50;

fn reads_tsc(g: &mut Guest) {
    let (before, offset) = (g.arg(0), g.arg(1));
    let tsc = rdtsc_ordered();
    check!(
        "level 2 reads the TSC with its offset",
        tsc.wrapping_sub(offset) >= before,
        "{tsc:#x}, {before:#x}"
    );
    let msr = rdmsr(msr::IA32_TIME_STAMP_COUNTER);
    check!("RDMSR of the TSC has the offset too", msr >= tsc, "{msr:#x}, {tsc:#x}");
    SEEN.store(rdtsc_ordered(), SeqCst);
}

static SEEN: AtomicU64 = AtomicU64::new(0);

#[guest]
fn offsets_tsc(_: &mut Guest) {
    for offset in [0, OFFSET, OFFSET.wrapping_neg()] {
        let mut svm = Svm::new();
        svm.vmcb().control.tsc_offset = offset;
        let before = rdtsc_ordered();
        let exit = svm.enter_with(reads_tsc, [before, offset, 0, 0, 0, 0]);
        check!("the guest ends that reads its TSC", svm.has_returned(&exit), "{exit:x?}");
        let after = rdtsc_ordered();
        let seen = SEEN.load(SeqCst).wrapping_sub(offset);
        check!(
            "the TSC of level 1 goes on behind its guest without the offset",
            before <= seen && seen <= after,
            "{before:#x}, {seen:#x}, {after:#x}"
        );
    }
}

#[host]
mod host {
    use super::*;
    use crate::x86_64::nested::nested_svm_state::is_in_guest_mode;
    use bindings::kvm_msi;

    kvm_tests! { requires(cpu::SVM) }

    /// Ports and MMIO of level 2 that level 1 does not intercept are exits to userspace, which answers them.
    #[kvm_test(lets_its_guest_access, params = [shadow: 0, nested: 1])]
    fn userspace_serves_level_2(t: &mut OneVcpu, nested_paging: u64) -> TestResult {
        t.vcpu.set_args(&[nested_paging]);
        let vcpu = &mut t.vcpu;
        let data = vcpu.run_until(Exit::io_out(PORT))?.data().to_vec();
        check_eq!("userspace gets the byte that level 2 writes", data, [0x5a]);
        check!("the vCPU is in guest mode at level 2's access", is_in_guest_mode(vcpu)?);
        vcpu.run_until(Exit::io_in(PORT))?.set_data(&0x1234_u16.to_ne_bytes());
        let data = vcpu.run_until(Exit::mmio_write(DEVICE))?.data().to_vec();
        check_eq!("userspace gets level 2's store", data, 0x1122_3344_5566_7788_u64.to_le_bytes());
        vcpu.run_until(Exit::mmio_read(DEVICE + 8))?.set_data(&0x9abc_def0_u32.to_le_bytes());
        vcpu.run_until_done()?;
        check!("the vCPU is not in guest mode behind level 2's end", !is_in_guest_mode(vcpu)?);
        Ok(())
    }

    /// A VM can be given up while level 2 runs: nothing of it is left, and the host is as it was.
    #[kvm_test(lets_its_guest_access, params = [shadow: 0, nested: 1])]
    fn vm_is_closed_while_level_2_runs(t: &mut OneVcpu, nested_paging: u64) -> TestResult {
        t.vcpu.set_args(&[nested_paging]);
        t.vcpu.run_until(Exit::io_out(PORT))?;
        check!("the vCPU is in guest mode when its VM is closed", is_in_guest_mode(&t.vcpu)?);
        Ok(())
    }

    /// A triple fault of level 2 that level 1 does not intercept is the VM's, and leaves guest mode.
    #[kvm_test(shuts_its_guest_down, params = [shadow: 0, nested: 1])]
    fn shutdown_of_level_2_reaches_userspace(t: &mut OneVcpu, nested_paging: u64) -> TestResult {
        t.vcpu.set_args(&[nested_paging]);
        let vcpu = &mut t.vcpu;
        vcpu.run_until(Exit::io_out(PORT))?;
        check!("the vCPU is in guest mode before its shutdown", is_in_guest_mode(vcpu)?);
        vcpu.run_until(Exit::exactly(Exit::Shutdown))?;
        check!("a shutdown leaves guest mode", !is_in_guest_mode(vcpu)?);
        Ok(())
    }

    /// INIT while level 2 runs is an exit where level 1 intercepts it; else it resets the vCPU, which leaves guest
    /// mode.
    #[kvm_test(is_initialized, irqchip, params = [shadow: 0, nested: 1])]
    fn init_comes_while_level_2_runs(_: &mut OneVm, nested_paging: u64) -> TestResult {
        for intercepted in [false, true] {
            let mut vm = Vm::new(VmConfig::new().irqchip(Irqchip::Kernel))?;
            let mut vcpu = vm.add_vcpu(0, guest_fn!(is_initialized))?;
            vcpu.set_args(&[nested_paging, intercepted.into()]);
            vcpu.run_until(Exit::io_out(PORT))?;
            vcpu.complete_exit()?;
            let msi = kvm_msi {
                address_lo: apic::XAPIC_BASE as u32,
                data: apic::ICR_INIT | apic::ICR_ASSERT,
                ..Default::default()
            };
            let sent = vm.fd().signal_msi(msi).ioctl("KVM_SIGNAL_MSI")?;
            check_eq!("the vCPU of a guest accepts INIT", sent, 1);
            if intercepted {
                vcpu.run_until_done()?;
            } else {
                // Takes INIT in.
                vcpu.fd().get_mp_state().ioctl("KVM_GET_MP_STATE")?;
                check!("INIT leaves guest mode", !is_in_guest_mode(&vcpu)?);
                let rip = vcpu.fd().get_regs().ioctl("KVM_GET_REGS")?.rip;
                check_eq!("INIT puts the vCPU of a guest at the reset vector", rip, 0xfff0);
            }
        }
        Ok(())
    }

    /// VMMCALL that level 1 does not intercept is #UD, whatever KVM makes of hypercalls of level 1.
    #[kvm_test(ignores_hypercalls, params = [shadow: 0, nested: 1])]
    fn hypercalls_without_the_intercept_are_undefined(
        t: &mut OneVcpu,
        nested_paging: u64,
    ) -> TestResult {
        t.vcpu.set_args(&[nested_paging]);
        t.vcpu.run_until_done()
    }

    /// TSC_OFFSET is added to the TSC of level 2, and to nothing else.
    #[kvm_test(offsets_tsc)]
    fn tsc_offset_is_the_guests(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }
}
