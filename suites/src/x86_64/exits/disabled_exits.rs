//! Instructions that a VM may run without an exit (KVM_CAP_X86_DISABLE_EXITS, api.rst 7.13), and
//! MONITOR and MWAIT where they do exit (KVM_CAP_DISABLE_QUIRKS2, api.rst 7.31). What the capability
//! refuses: `uapi_bounds_caps`, `pv_cpuid`.
use crate::prelude::*;
use cpuid::{feature::MONITOR, leaf};
use insn_table::{Form, Gpr, State};

const VECTOR: u8 = 0x61;
/// Times that the guest halts.
const ROUNDS: u64 = 10;

/// The round in which the guest is about to halt.
#[shared]
static HALTING: AtomicU64 = AtomicU64::new(0);
/// Interrupts taken so far.
#[shared]
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// Halts until interrupted, again and again; with PAUSE before it.
#[guest]
fn halts(_: &mut Guest) {
    let apic = Apic::enable();
    let on_interrupt = |_: &mut TrapFrame| {
        TAKEN.fetch_add(1, SeqCst);
        apic.eoi();
    };
    with_handler(VECTOR, on_interrupt, || {
        for round in 1..=ROUNDS {
            (0..10).for_each(|_| relax());
            HALTING.store(round, SeqCst);
            // A CPU may come out of a HLT that does not exit when the host is interrupted.
            while TAKEN.load(SeqCst) < round {
                sti_hlt();
                cli();
            }
        }
    });
}

const LINE: u64 = layout::SCRATCH;

/// Argument: the vector that both instructions come to; [`NO_FAULT`] for none.
#[guest]
fn waits_for_a_store(g: &mut Guest) {
    let want = u8::try_from(g.arg(0)).ok();
    // So that an interrupt of the host ends MWAIT in every emulator; the guest has none.
    sti();
    for _ in 0..3 {
        let mut state = State { rflags: Rflags::FIXED | Rflags::IF, ..State::default() };
        state[Gpr::Rax] = LINE;
        let monitor = insn::MONITOR.run(Form::Native, &mut state).err().map(|trap| trap.vector);
        check_eq!("MONITOR faults only where the quirk and CPUID say so", monitor, want);
        let mut state = State { rflags: Rflags::FIXED | Rflags::IF, ..State::default() };
        let mwait = insn::MWAIT.run(Form::Native, &mut state).err().map(|trap| trap.vector);
        check_eq!("MWAIT faults only where the quirk and CPUID say so", mwait, want);
    }
}
const NO_FAULT: u64 = u64::MAX;

#[host]
mod host {
    use super::*;
    use {
        bindings::{
            KVM_CAP_DISABLE_QUIRKS2, KVM_CAP_X86_DISABLE_EXITS, KVM_X86_DISABLE_EXITS_HLT,
            KVM_X86_DISABLE_EXITS_MWAIT, kvm_msi,
        },
        std::time::Duration,
    };

    /// Enough for a guest to be in HLT.
    const MOMENT: Duration = Duration::from_micros(500);

    /// The exits that KVM can disable.
    fn offered(vm: &Vm) -> u64 {
        vm.check_extension(KVM_CAP_X86_DISABLE_EXITS) as u64
    }

    fn disable(vm: &Vm, exits: u64) -> TestResult {
        vm.enable_cap(KVM_CAP_X86_DISABLE_EXITS, [exits, 0, 0, 0])
            .ioctl("KVM_ENABLE_CAP(KVM_CAP_X86_DISABLE_EXITS)")
    }

    /// Which exits are disabled.
    #[derive(Clone, Copy, PartialEq)]
    enum Disabled {
        None,
        Hlt,
        All,
    }

    /// A halted vCPU is woken by an interrupt whether HLT exits or not, and KVM counts the halts that did
    /// exit: all of them, or none.
    #[kvm_test(halts, irqchip, vcpus = 2, requires(cap::X86_DISABLE_EXITS, cap::SIGNAL_MSI), params = [
    none: Disabled::None,
    hlt: Disabled::Hlt,
    all: Disabled::All,
])]
    fn interrupt_wakes_a_vcpu_from_hlt(t: &mut OneVm, disabled: Disabled) -> TestResult {
        let hlt = u64::from(KVM_X86_DISABLE_EXITS_HLT);
        require!(offered(&t.vm) & hlt != 0, "KVM_X86_DISABLE_EXITS_HLT");
        match disabled {
            Disabled::None => {}
            Disabled::Hlt => disable(&t.vm, hlt)?,
            // As api.rst says: what KVM_CHECK_EXTENSION gave disables all.
            Disabled::All => disable(&t.vm, offered(&t.vm))?,
        }
        let mut vcpu = t.vm.add_vcpu(0, guest_fn!(halts))?;
        let vm = &t.vm;
        let (halting, taken) =
            (vm.shared(shared_static!(HALTING)), vm.shared(shared_static!(TAKEN)));
        together(|threads| {
            let _guest = threads.run(&mut vcpu, Vcpu::run_until_done);
            for round in 1..=ROUNDS {
                threads.wait_until("the guest halts", || halting.load(SeqCst) == round)?;
                std::thread::sleep(MOMENT);
                let early = taken.load(SeqCst);
                check_eq!("no interrupt is taken before it is sent", early, round - 1);
                let msi = kvm_msi {
                    address_lo: apic::XAPIC_BASE as u32,
                    data: VECTOR.into(),
                    ..Default::default()
                };
                let sent = vm.fd().signal_msi(msi).ioctl("KVM_SIGNAL_MSI")?;
                check_eq!("a vCPU in HLT accepts the interrupt", sent, 1);
            }
            Ok(())
        })?;
        check_eq!("the guest takes every interrupt that was sent", taken.load(SeqCst), ROUNDS);
        if let Some(halts) = vcpu.stat("halt_exits") {
            let want = if disabled == Disabled::None { ROUNDS } else { 0 };
            check_eq!("KVM counts exactly the halts that exit", halts, want);
        }
        Ok(())
    }

    /// `KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS`.
    const MWAIT_NEVER_UD_FAULTS: u64 = 1 << 6;

    /// Gives the VM's CPUID a MONITOR bit, or takes it.
    fn set_monitor(vm: &mut Vm, on: bool) {
        for entry in
            vm.cpuid_mut().as_mut_slice().iter_mut().filter(|e| e.function == leaf::FEATURES)
        {
            entry.ecx = if on { entry.ecx | MONITOR.mask() } else { entry.ecx & !MONITOR.mask() };
        }
    }

    /// Without the feature the CPU raises #UD before KVM can have its exit.
    fn require_monitor() -> TestResult {
        require!(cpuid_has(MONITOR), "a host CPU with MONITOR");
        Ok(())
    }

    /// MONITOR and MWAIT that exit do nothing; #UD only where the quirk is off and CPUID lacks them
    /// (KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS).
    #[kvm_test(waits_for_a_store, requires(cap::DISABLE_QUIRKS2), params = [
    quirk_in_cpuid: (true, true),
    quirk_not_in_cpuid: (true, false),
    no_quirk_in_cpuid: (false, true),
    no_quirk_not_in_cpuid: (false, false),
])]
    fn monitor_and_mwait_do_nothing(t: &mut OneVm, (quirk, offered): (bool, bool)) -> TestResult {
        require_monitor()?;
        let quirks = t.vm.check_extension(KVM_CAP_DISABLE_QUIRKS2) as u64;
        require!(quirks & MWAIT_NEVER_UD_FAULTS != 0, "KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS");
        if !quirk {
            t.vm.enable_cap(KVM_CAP_DISABLE_QUIRKS2, [MWAIT_NEVER_UD_FAULTS, 0, 0, 0])
                .ioctl("KVM_ENABLE_CAP(KVM_CAP_DISABLE_QUIRKS2)")?;
        }
        set_monitor(&mut t.vm, offered);
        let mut vcpu = t.vm.add_vcpu(0, guest_fn!(waits_for_a_store))?;
        let faults = !quirk && !offered;
        vcpu.set_args(&[if faults { vector::UD.into() } else { NO_FAULT }]);
        vcpu.run_until_done()
    }

    /// MWAIT whose exits are disabled is the CPU's own: it is there whatever CPUID and the quirk say, and
    /// ends with a store to the line.
    #[kvm_test(waits_for_a_store, vcpus = 2, requires(cap::X86_DISABLE_EXITS, cap::DISABLE_QUIRKS2), params = [
    in_cpuid: true,
    not_in_cpuid: false,
])]
    fn mwait_without_exits_waits_for_a_store(t: &mut OneVm, in_cpuid: bool) -> TestResult {
        let mwait = u64::from(KVM_X86_DISABLE_EXITS_MWAIT);
        require!(offered(&t.vm) & mwait != 0, "KVM_X86_DISABLE_EXITS_MWAIT");
        let quirks = t.vm.check_extension(KVM_CAP_DISABLE_QUIRKS2) as u64;
        t.vm.enable_cap(KVM_CAP_DISABLE_QUIRKS2, [quirks & MWAIT_NEVER_UD_FAULTS, 0, 0, 0])
            .ioctl("KVM_ENABLE_CAP(KVM_CAP_DISABLE_QUIRKS2)")?;
        disable(&t.vm, mwait)?;
        set_monitor(&mut t.vm, in_cpuid);
        let mut vcpu = t.vm.add_vcpu(0, guest_fn!(waits_for_a_store))?;
        vcpu.set_args(&[NO_FAULT]);
        let ram = t.vm.ram();
        together(|threads| {
            let _guest = threads.run(&mut vcpu, Vcpu::run_until_done);
            while threads.is_running() {
                ram.write(LINE, &[0]).expect("the line is RAM");
                std::thread::sleep(MOMENT);
            }
            Ok(())
        })
    }
}
