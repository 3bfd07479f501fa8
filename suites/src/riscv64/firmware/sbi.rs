//! The supervisor binary interface that KVM implements for its guests (SBI specification): what it
//! answers, what it delivers, and what it leaves to userspace.
use crate::prelude::*;
use csr::{Sie, Sstatus};
use sbi::base::{
    GET_IMPL_ID, GET_MVENDORID, GET_SPEC_VERSION, IMPL_KVM, PROBE_EXTENSION, SPEC_MAJOR_SHIFT,
};
use sbi::{Ret, error, extension, hsm};

/// An extension that nobody has, outside the ranges that go to userspace.
const UNKNOWN_EXTENSION: u64 = 0x7fff_fff0;

fn base(function: u64, argument: u64) -> Ret {
    sbi::call(extension::BASE, function, [argument, 0, 0, 0, 0, 0])
}

#[guest]
fn asks(g: &mut Guest) {
    check_eq!(
        "sbi_get_spec_version returns the specification's version",
        base(GET_SPEC_VERSION, 0).error,
        0
    );
    let major = base(GET_SPEC_VERSION, 0).value >> SPEC_MAJOR_SHIFT;
    check!("the specification's version is 0.2 or later", base(GET_SPEC_VERSION, 0).value >= 2);
    check!("bit 31 of the specification's version is 0", major < 0x80, "{major:#x}");
    let kvm = Ret { error: error::SUCCESS, value: IMPL_KVM };
    check_eq!("the implementation's id is KVM's", base(GET_IMPL_ID, 0), kvm);
    for (name, id) in [
        ("BASE", extension::BASE),
        ("TIME", extension::TIME),
        ("IPI", extension::IPI),
        ("RFENCE", extension::RFENCE),
        ("HSM", extension::HSM),
        ("SRST", extension::SRST),
    ] {
        let probe = base(PROBE_EXTENSION, id);
        check!(
            "sbi_probe_extension finds the extension {name}",
            probe.error == 0 && probe.value != 0,
            "{probe:?}"
        );
    }
    let probe = base(PROBE_EXTENSION, UNKNOWN_EXTENSION);
    check_eq!("sbi_probe_extension finds no unknown extension", probe, Ret { error: 0, value: 0 });
    let got = sbi::call(UNKNOWN_EXTENSION, 0, [0; 6]).error;
    check_eq!("a call of an unknown extension is ERR_NOT_SUPPORTED", got, error::ERR_NOT_SUPPORTED);
    let got = base(0xffff, 0).error;
    check_eq!("an unknown function is ERR_NOT_SUPPORTED", got, error::ERR_NOT_SUPPORTED);
    check_eq!("mvendorid is what userspace sees", base(GET_MVENDORID, 0).value, g.arg(0));
}

/// Runs `body` with the interrupts of `mask` enabled.
fn with_interrupts(mask: Sie, body: impl FnOnce()) {
    csr::sie::write(mask.bits());
    csr::sstatus::write(csr::sstatus::read() | Sstatus::SIE.bits());
    body();
    csr::sstatus::write(csr::sstatus::read() & !Sstatus::SIE.bits());
    csr::sie::write(0);
}

fn set_timer(time: u64) -> i64 {
    sbi::call(extension::TIME, 0, [time, 0, 0, 0, 0, 0]).error
}

#[guest]
fn sets_timer(_: &mut Guest) {
    /// Ticks until the timer is due.
    const DELAY: u64 = 10_000;
    let fired = AtomicU64::new(0);
    let due = csr::rdtime() + DELAY;
    with_handler(
        vector::TIMER_INTERRUPT,
        |_| {
            fired.store(csr::rdtime(), SeqCst);
            set_timer(u64::MAX);
        },
        || {
            with_interrupts(Sie::STI, || {
                check_eq!("sbi_set_timer accepts a time", set_timer(due), error::SUCCESS);
                wait_until(|| fired.load(SeqCst) != 0);
            });
        },
    );
    let at = fired.load(SeqCst);
    check!("the timer interrupt comes when it is due, not before", at >= due, "{at} before {due}");
    check_eq!(
        "a new time clears the pending timer interrupt",
        csr::sip::read() & Sie::STI.bits(),
        0
    );
}

#[guest]
fn sends_to_itself(_: &mut Guest) {
    let send = |mask: u64, base: u64| sbi::call(extension::IPI, 0, [mask, base, 0, 0, 0, 0]).error;
    let taken = AtomicU64::new(0);
    check_eq!(
        "no software interrupt is pending before the call",
        csr::sip::read() & Sie::SSI.bits(),
        0
    );
    with_handler(
        vector::SOFTWARE_INTERRUPT,
        |_| {
            taken.fetch_add(1, SeqCst);
            csr::sip::write(csr::sip::read() & !Sie::SSI.bits());
        },
        || {
            with_interrupts(Sie::SSI, || {
                check_eq!("an IPI to a hart of the mask succeeds", send(1, 0), error::SUCCESS);
                wait_until(|| taken.load(SeqCst) == 1);
                check_eq!("an IPI to all harts succeeds", send(0, sbi::ALL_HARTS), error::SUCCESS);
                wait_until(|| taken.load(SeqCst) == 2);
            });
        },
    );
    check_eq!("each call is one software interrupt", taken.load(SeqCst), 2);
    check_eq!(
        "a cleared software interrupt is not taken again",
        csr::sip::read() & Sie::SSI.bits(),
        0
    );
}

#[guest]
fn asks_for_status(_: &mut Guest) {
    use hsm::{HART_GET_STATUS, HART_START, STARTED, STOPPED};
    let hsm = |function, hart| sbi::call(extension::HSM, function, [hart, 0, 0, 0, 0, 0]);
    let status = |value| Ret { error: error::SUCCESS, value };
    check_eq!("a hart that runs is STARTED", hsm(HART_GET_STATUS, 0), status(STARTED));
    check_eq!("a new hart is STOPPED", hsm(HART_GET_STATUS, 1), status(STOPPED));
    let got = hsm(HART_GET_STATUS, 9).error;
    check_eq!("the status of no hart is ERR_INVALID_PARAM", got, error::ERR_INVALID_PARAM);
    let got = hsm(HART_START, 0).error;
    check_eq!(
        "starting a hart that runs is ERR_ALREADY_AVAILABLE",
        got,
        error::ERR_ALREADY_AVAILABLE
    );
    let got = hsm(HART_START, 9).error;
    check_eq!("starting no hart is ERR_INVALID_PARAM", got, error::ERR_INVALID_PARAM);
}

#[guest]
fn resets(g: &mut Guest) {
    sbi::call(extension::SRST, 0, [g.arg(0), 0, 0, 0, 0, 0]);
    check!("sbi_system_reset does not return to its caller", false);
}

#[guest]
fn calls_userspace(g: &mut Guest) {
    let got = sbi::call(g.arg(0), 5, [1, 2, 3, 4, 5, 6]);
    check_eq!("a0 and a1 are what userspace answers", got, Ret { error: -77, value: 99 });
    let got = sbi::call(g.arg(0), 6, [0; 6]).error;
    check_eq!("a call without an answer is ERR_NOT_SUPPORTED", got, error::ERR_NOT_SUPPORTED);
}

#[host]
mod host {
    use super::*;
    use bindings::{KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN};
    use sbi::srst;

    /// The base extension tells what there is, and what there is not.
    #[kvm_test(asks)]
    fn base_extension_tells_what_there_is(t: &mut OneVcpu) -> TestResult {
        let vendor = t.vcpu.get_reg(reg::MVENDORID).ioctl("KVM_GET_ONE_REG(mvendorid)")?;
        t.vcpu.set_args(&[vendor]);
        t.vcpu.run_until_done()
    }

    /// sbi_set_timer: the timer interrupt comes when the counter has reached the time.
    #[kvm_test(sets_timer)]
    fn timer_interrupts_when_due(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// sbi_send_ipi: a software interrupt for every hart of the mask.
    #[kvm_test(sends_to_itself)]
    fn ipi_is_a_software_interrupt(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// Hart state management knows every vCPU: the first runs, the others wait to be started.
    #[kvm_test(asks_for_status)]
    fn hart_states_are_told(t: &mut OneVcpu) -> TestResult {
        let _second = t.vm.create_vcpu(1)?;
        t.vcpu.run_until_done()
    }

    /// sbi_system_reset is userspace's: KVM_EXIT_SYSTEM_EVENT says whether to stop or to start again.
    #[kvm_test(resets, params = [
    shutdown: (srst::SHUTDOWN, KVM_SYSTEM_EVENT_SHUTDOWN),
    cold_reboot: (srst::COLD_REBOOT, KVM_SYSTEM_EVENT_RESET),
    warm_reboot: (srst::WARM_REBOOT, KVM_SYSTEM_EVENT_RESET),
])]
    fn system_reset_is_a_system_event(t: &mut OneVcpu, (kind, event): (u64, u32)) -> TestResult {
        t.vcpu.set_args(&[kind]);
        let exit = t.vcpu.run_until_exit()?.map(|stop| stop.exit());
        let want = Some(Exit::SystemEvent { kind: event });
        check_eq!("a reset ends in KVM_EXIT_SYSTEM_EVENT of its type", exit, want);
        Ok(())
    }

    /// api.rst 5 (KVM_EXIT_RISCV_SBI): calls in the experimental and the vendors' range are userspace's.
    #[kvm_test(calls_userspace, params = [
    experimental: extension::EXPERIMENTAL, vendor: extension::VENDOR_END,
])]
    fn other_calls_are_left_to_userspace(t: &mut OneVcpu, extension: u64) -> TestResult {
        t.vcpu.set_args(&[extension]);
        let args = [1, 2, 3, 4, 5, 6];
        t.vcpu.run_until(Exit::RiscvSbi { extension, function: 5, args })?.complete_sbi(-77, 99);
        t.vcpu.run_until(Exit::RiscvSbi { extension, function: 6, args: [0; 6] })?;
        t.vcpu.run_until_done()
    }
}
