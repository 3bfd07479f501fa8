//! PSCI by version, and the power state of vCPUs and of the system (Arm DEN0022; api.rst 4.38, 5, 8).
use crate::prelude::*;
use psci::version::{V0_2, V1_0, V1_1};
use psci::{call, function::*, status::*};
use smccc::{NOT_SUPPORTED as NONE, SMC64, fast, owner};

#[guest]
fn asks_by_version(g: &mut Guest) {
    let version = hvc(PSCI_VERSION, [0; 3])[0];
    check_eq!("PSCI_VERSION is the version that userspace set", version, g.arg(0));
    let features = |id: u32| call(PSCI_FEATURES, [id.into(), 0, 0]);
    if version < V1_0 {
        check_eq!("PSCI 0.2 has no PSCI_FEATURES", features(PSCI_VERSION), NOT_SUPPORTED);
        check_eq!("PSCI 0.2 has no SYSTEM_RESET2", call(SYSTEM_RESET2, [0; 3]), NOT_SUPPORTED);
        return;
    }
    const CPU_SUSPEND_32: u32 = CPU_SUSPEND & !SMC64;
    const CPU_ON_32: u32 = CPU_ON & !SMC64;
    const AFFINITY_INFO_32: u32 = AFFINITY_INFO & !SMC64;
    for id in [
        PSCI_VERSION,
        CPU_SUSPEND,
        CPU_SUSPEND_32,
        CPU_OFF,
        CPU_ON,
        CPU_ON_32,
        AFFINITY_INFO,
        AFFINITY_INFO_32,
        MIGRATE_INFO_TYPE,
        SYSTEM_OFF,
        SYSTEM_RESET,
        PSCI_FEATURES,
        SMCCC_VERSION,
    ] {
        check!("PSCI_FEATURES reports all mandatory functions", features(id) == SUCCESS, "{id:#x}");
    }
    let reset2 = if version >= V1_1 { SUCCESS } else { NOT_SUPPORTED };
    for id in [SYSTEM_RESET2, SYSTEM_RESET2 & !SMC64] {
        check_eq!("PSCI_FEATURES reports SYSTEM_RESET2 from 1.1 on", features(id), reset2);
    }
    check_eq!(
        "PSCI_FEATURES reports no SYSTEM_SUSPEND without its capability",
        features(SYSTEM_SUSPEND),
        NOT_SUPPORTED
    );
    check_eq!(
        "SYSTEM_SUSPEND without its capability is NOT_SUPPORTED",
        call(SYSTEM_SUSPEND, [0; 3]),
        NOT_SUPPORTED
    );
    for id in [UNKNOWN, CPU_OFF | SMC64, fast(owner::VENDOR_HYPERVISOR, 0)] {
        check!("PSCI_FEATURES reports no other function", features(id) == NOT_SUPPORTED, "{id:#x}");
    }
    check_eq!(
        "a 64-bit id of a 32-bit function is NOT_SUPPORTED",
        call(CPU_OFF | SMC64, [0; 3]),
        NOT_SUPPORTED
    );
    check_eq!(
        "MIGRATE_INFO_TYPE says that nothing must migrate",
        call(MIGRATE_INFO_TYPE, [0; 3]),
        psci::NO_MIGRATION
    );
    if version >= V1_1 {
        // Between warm reset (0) and the vendor's types (from 0x80000000).
        for kind in [1, 0x7fff_ffff] {
            let answer = call(SYSTEM_RESET2, [kind, 0, 0]);
            check_eq!(
                "SYSTEM_RESET2 of a reserved type is INVALID_PARAMETERS",
                answer,
                INVALID_PARAMETERS
            );
        }
    }
    // Arguments of a 32-bit call are 32 bits wide.
    const JUNK: u64 = 0xdead_0000_0000_0000;
    let me = gic::affinity();
    check_eq!(
        "a 32-bit call ignores high halves",
        call(AFFINITY_INFO_32, [JUNK | me, JUNK, JUNK]),
        0
    );
    check_eq!(
        "a 64-bit call uses high halves",
        call(AFFINITY_INFO, [JUNK | me, 0, 0]),
        INVALID_PARAMETERS
    );
    check_eq!(
        "CPU_ON by a 32-bit call ignores high halves",
        call(CPU_ON_32, [JUNK | me, JUNK, JUNK]),
        ALREADY_ON
    );
    for (level, answer) in [(1, 0), (2, 0), (3, 0), (4, INVALID_PARAMETERS)] {
        check!(
            "AFFINITY_INFO has levels 0 to 3",
            call(AFFINITY_INFO, [0, level, 0]) == answer,
            "{level}"
        );
    }
}

#[guest]
fn asks_psci_0_1(_: &mut Guest) {
    check_eq!("PSCI 0.1 has no PSCI_VERSION", hvc(PSCI_VERSION, [0; 3])[0], NONE);
    check_eq!("PSCI 0.1 has no SYSTEM_OFF", hvc(SYSTEM_OFF, [0; 3])[0], NONE);
}

#[guest]
fn suspends_itself(_: &mut Guest) {
    let timer = timer::VIRTUAL;
    let gic = GuestGic::detect();
    gic.enable();
    gic.set_priority(timer.intid, 0xa0);
    gic.set_group(timer.intid, u32::from(gic == GuestGic::V3));
    gic.set(gicd::ISENABLER, timer.intid);
    timer.cval.write(timer.count.read() + CNTFRQ_EL0.read() / 1000);
    timer.ctl.write(timer::CTL_ENABLE);
    let mut answer = SUCCESS;
    // It is a WFI: it may return early, but not never.
    wait_until(|| {
        answer = call(CPU_SUSPEND, [0, 0, 0]);
        answer != SUCCESS || timer.ctl.read() & timer::CTL_ISTATUS != 0
    });
    check_eq!("CPU_SUSPEND returns SUCCESS when an interrupt is pending", answer, SUCCESS);
    check_eq!(
        "the interrupt that ended CPU_SUSPEND is still pending",
        gic.acknowledge(),
        timer.intid
    );
}

#[guest]
fn ends_the_system(g: &mut Guest) {
    let answer = hvc(g.arg(0) as u32, [g.arg(1), 0, 0])[0] as i32;
    check_eq!("a system event's call fails if the guest runs on", answer, INTERNAL_FAILURE);
}

#[guest]
fn suspends_the_system(_: &mut Guest) {
    check_eq!(
        "PSCI_FEATURES reports SYSTEM_SUSPEND with its capability",
        call(PSCI_FEATURES, [SYSTEM_SUSPEND.into(), 0, 0]),
        SUCCESS
    );
    let answer = hvc(SYSTEM_SUSPEND, [0x1_2345_6000, 77, 0])[0];
    check_eq!("SYSTEM_SUSPEND returns userspace's answer", answer as i32, DENIED);
}

#[guest]
fn wakes_the_other(g: &mut Guest) {
    check_eq!("CPU_ON of a stopped vCPU succeeds", call(CPU_ON, [1, psci_entry(), 1]), SUCCESS);
    g.sync(1, &[]);
}

#[guest]
fn idles(_: &mut Guest) {}

#[host]
mod host {
    use super::*;
    use crate::aarch64::firmware::smccc::fw;
    use vm::bindings::{
        KVM_ARM_VCPU_POWER_OFF, KVM_ARM_VCPU_PSCI_0_2, KVM_CAP_ARM_SYSTEM_SUSPEND,
        KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_STOPPED, KVM_SYSTEM_EVENT_RESET,
        KVM_SYSTEM_EVENT_RESET_FLAG_PSCI_RESET2, KVM_SYSTEM_EVENT_SHUTDOWN,
        KVM_SYSTEM_EVENT_SUSPEND, kvm_mp_state,
    };

    /// The guest has the version that userspace sets, with the functions of that version.
    #[kvm_test(asks_by_version, params = [v0_2: V0_2, v1_0: V1_0, v1_1: V1_1])]
    fn version_is_userspaces(t: &mut OneVcpu, version: u64) -> TestResult {
        let newest = t.vcpu.get_reg(fw(0)).ioctl("KVM_GET_ONE_REG of KVM_REG_ARM_PSCI_VERSION")?;
        require!(newest >= version, "PSCI {}.{}", version >> 16, version & 0xffff);
        check_eq!("the PSCI version can be set", t.vcpu.set_reg(fw(0), version), Ok(()));
        check_eq!("the PSCI version reads back as set", t.vcpu.get_reg(fw(0)), Ok(version));
        for unknown in [1, 3, 0x1_00ff, 0x2_0000, u64::MAX] {
            let set = t.vcpu.set_reg(fw(0), unknown);
            check!(
                "an unknown PSCI version is EINVAL",
                set == Err(Errno::EINVAL),
                "{unknown:#x} {set:?}"
            );
        }
        t.vcpu.set_args(&[version]);
        t.vcpu.run_until_done()
    }

    /// A vCPU without KVM_ARM_VCPU_PSCI_0_2 has PSCI 0.1, which has no such functions (api.rst 4.82).
    #[kvm_test(asks_psci_0_1, no_features(KVM_ARM_VCPU_PSCI_0_2))]
    fn psci_0_1_has_no_version(t: &mut OneVcpu) -> TestResult {
        let later = t.vcpu.set_reg(fw(0), V1_0);
        check_eq!("a later version without PSCI 0.2 is EINVAL", later, Err(Errno::EINVAL));
        t.vcpu.run_until_done()
    }

    /// CPU_SUSPEND waits for an interrupt, masked or not, and keeps the state.
    #[kvm_test(suspends_itself, irqchip)]
    fn suspended_cpu_wakes_by_an_interrupt(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    fn mp_state(vcpu: &Vcpu) -> TestResult<u32> {
        Ok(vcpu.fd().get_mp_state().ioctl("KVM_GET_MP_STATE")?.mp_state)
    }

    fn set_mp_state(vcpu: &Vcpu, mp_state: u32) -> Result<(), Errno> {
        let set = vcpu.fd().set_mp_state(kvm_mp_state { mp_state });
        set.errno()
    }

    /// The end of the system is for userspace: all vCPUs are stopped, and one that userspace runs again finds
    /// INTERNAL_FAILURE (api.rst 5, KVM_EXIT_SYSTEM_EVENT).
    #[kvm_test(ends_the_system, vcpus = 2, params = [
    off: (SYSTEM_OFF, 0, KVM_SYSTEM_EVENT_SHUTDOWN, 0),
    reset: (SYSTEM_RESET, 0, KVM_SYSTEM_EVENT_RESET, 0),
    warm_reset: (SYSTEM_RESET2, 0, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_RESET_FLAG_PSCI_RESET2),
    vendor_reset: (
        SYSTEM_RESET2, 0x8000_0000, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_RESET_FLAG_PSCI_RESET2,
    ),
])]
    fn system_events_stop_all(
        t: &mut OneVcpu,
        (id, kind, event, flags): (u32, u64, u32, u32),
    ) -> TestResult {
        let other = t.vm.add_vcpu(1, guest_fn!(ends_the_system))?;
        let version = t.vcpu.get_reg(fw(0)).ioctl("KVM_GET_ONE_REG of KVM_REG_ARM_PSCI_VERSION")?;
        require!(id != SYSTEM_RESET2 || version >= V1_1, "PSCI 1.1");
        t.vcpu.set_args(&[id.into(), kind]);
        t.vcpu.run_until(Exit::SystemEvent { kind: event })?;
        if t.vm.check_extension(vm::bindings::KVM_CAP_SYSTEM_EVENT_DATA) > 0 {
            check_eq!(
                "the event's data name the call",
                t.vcpu.system_event_data(),
                Some(flags.into())
            );
        }
        check_eq!(
            "the caller of a system event is stopped",
            mp_state(&t.vcpu)?,
            KVM_MP_STATE_STOPPED
        );
        check_eq!(
            "the other vCPU is stopped by a system event",
            mp_state(&other)?,
            KVM_MP_STATE_STOPPED
        );
        check_eq!(
            "userspace can make a stopped vCPU runnable",
            set_mp_state(&t.vcpu, KVM_MP_STATE_RUNNABLE),
            Ok(())
        );
        t.vcpu.run_until_done()
    }

    /// SYSTEM_SUSPEND is userspace's to carry out or to deny: it finds the call's registers as the guest set
    /// them (api.rst 8, KVM_CAP_ARM_SYSTEM_SUSPEND).
    #[kvm_test(suspends_the_system, requires(cap::ARM_SYSTEM_SUSPEND))]
    fn userspace_decides_on_suspend(t: &mut OneVcpu) -> TestResult {
        check_eq!(
            "KVM_CAP_ARM_SYSTEM_SUSPEND can be enabled",
            t.vm.enable_cap(KVM_CAP_ARM_SYSTEM_SUSPEND, [0; 4]),
            Ok(())
        );
        t.vcpu.run_until(Exit::SystemEvent { kind: KVM_SYSTEM_EVENT_SUSPEND })?;
        for (n, want) in (0..3).zip([SYSTEM_SUSPEND.into(), 0x1_2345_6000, 77]) {
            check_eq!(
                "X{n} is as the caller of SYSTEM_SUSPEND set it",
                t.vcpu.get_reg(core_reg::x(n)),
                Ok(want)
            );
        }
        check_eq!(
            "the caller of SYSTEM_SUSPEND is not stopped",
            mp_state(&t.vcpu)?,
            KVM_MP_STATE_RUNNABLE
        );
        t.vcpu.set_reg(core_reg::x(0), DENIED as u64).ioctl("KVM_SET_ONE_REG of X0")?;
        t.vcpu.run_until_done()
    }

    /// A vCPU made with KVM_ARM_VCPU_POWER_OFF is KVM_MP_STATE_STOPPED until CPU_ON; userspace can set both
    /// states, and no other (api.rst 4.38, 4.39).
    #[kvm_test(wakes_the_other, vcpus = 2)]
    fn power_state_is_the_mp_state(t: &mut OneVcpu) -> TestResult {
        t.vm.features_mut().add(KVM_ARM_VCPU_POWER_OFF);
        let other = t.vm.add_vcpu(1, guest_fn!(idles))?;
        check_eq!("a running vCPU is RUNNABLE", mp_state(&t.vcpu)?, KVM_MP_STATE_RUNNABLE);
        check_eq!("a vCPU that is off is STOPPED", mp_state(&other)?, KVM_MP_STATE_STOPPED);
        for state in [KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_STOPPED] {
            check_eq!(
                "userspace can set RUNNABLE and STOPPED",
                set_mp_state(&other, state),
                Ok(())
            );
            check_eq!("userspace reads back the MP state that it set", mp_state(&other)?, state);
        }
        for state in [1, 2, 3, 4, 6, 7, 8, 9, u32::MAX] {
            let set = set_mp_state(&other, state);
            check!(
                "states of other architectures are EINVAL",
                set == Err(Errno::EINVAL),
                "{state}: {set:?}"
            );
        }
        check_eq!("a refused MP state changes nothing", mp_state(&other)?, KVM_MP_STATE_STOPPED);
        t.vcpu.run_until_sync(1)?;
        check_eq!("CPU_ON makes a stopped vCPU RUNNABLE", mp_state(&other)?, KVM_MP_STATE_RUNNABLE);
        t.vcpu.run_until_done()
    }
}
