//! PSCI through KVM (api.rst 4.82 and 5, KVM_EXIT_SYSTEM_EVENT; Arm DEN0022).
use crate::prelude::*;
use psci::affinity::{OFF, ON};
use psci::{function::*, status::*, version};

#[guest]
fn asks(_: &mut Guest) {
    let version = psci::call(PSCI_VERSION, [0; 3]) as u64;
    check!("PSCI_VERSION is 0.2 or later", version >= version::V0_2, "{version:#x}");
    check_eq!("an unknown function is NOT_SUPPORTED", psci::call(UNKNOWN, [0; 3]), NOT_SUPPORTED);
    check_eq!(
        "AFFINITY_INFO of the caller is ON",
        psci::call(AFFINITY_INFO, [gic::affinity(), 0, 0]),
        ON
    );
    check_eq!(
        "AFFINITY_INFO of a CPU that does not exist is INVALID_PARAMETERS",
        psci::call(AFFINITY_INFO, [9, 0, 0]),
        INVALID_PARAMETERS
    );
    check_eq!(
        "AFFINITY_INFO of level 4 is INVALID_PARAMETERS",
        psci::call(AFFINITY_INFO, [0, 4, 0]),
        INVALID_PARAMETERS
    );
    check_eq!(
        "CPU_ON of a CPU that does not exist is INVALID_PARAMETERS",
        psci::call(CPU_ON, [9, psci_entry(), 9]),
        INVALID_PARAMETERS
    );
    check_eq!(
        "CPU_ON of the caller is ALREADY_ON",
        psci::call(CPU_ON, [0, psci_entry(), 0]),
        ALREADY_ON
    );
    if version >= version::V1_0 {
        check_eq!(
            "PSCI_FEATURES reports CPU_ON as implemented",
            psci::call(PSCI_FEATURES, [CPU_ON.into(), 0, 0]),
            SUCCESS
        );
        check_eq!(
            "PSCI_FEATURES of an unknown function is NOT_SUPPORTED",
            psci::call(PSCI_FEATURES, [UNKNOWN.into(), 0, 0]),
            NOT_SUPPORTED
        );
        let smccc = psci::call(SMCCC_VERSION, [0; 3]);
        check!("SMCCC_VERSION is 1.1 or later", smccc >= smccc::V1_1);
    }
}

#[shared]
static ARRIVED: AtomicU64 = AtomicU64::new(0);

#[guest]
fn powers_on(_: &mut Guest) {
    check_eq!(
        "AFFINITY_INFO of a CPU that is off is OFF",
        psci::call(AFFINITY_INFO, [1, 0, 0]),
        OFF
    );
    check_eq!(
        "CPU_ON of a CPU that is off succeeds",
        psci::call(CPU_ON, [1, psci_entry(), 1]),
        SUCCESS
    );
    wait_until(|| ARRIVED.load(SeqCst) == 1);
    check_eq!("AFFINITY_INFO of a CPU that is on is ON", psci::call(AFFINITY_INFO, [1, 0, 0]), ON);
    check_eq!(
        "CPU_ON of a CPU that is on is ALREADY_ON",
        psci::call(CPU_ON, [1, psci_entry(), 1]),
        ALREADY_ON
    );
    ARRIVED.store(2, SeqCst);
    wait_until(|| psci::call(AFFINITY_INFO, [1, 0, 0]) == OFF);
    check_eq!(
        "CPU_ON works again after CPU_OFF",
        psci::call(CPU_ON, [1, psci_entry(), 1]),
        SUCCESS
    );
    wait_until(|| ARRIVED.load(SeqCst) == 3);
}

#[guest]
fn powered_on(g: &mut Guest) {
    check_eq!("the context id arrives in X0", g.vcpu(), 1);
    check_eq!("CPU_ON starts the target at EL1", CURRENTEL.read() >> 2, 1);
    check_eq!("CPU_ON starts the target with exceptions masked", DAIF.read(), Spsr::DAIF.bits());
    if ARRIVED.fetch_add(1, SeqCst) == 0 {
        wait_until(|| ARRIVED.load(SeqCst) == 2);
        psci::call(CPU_OFF, [0; 3]);
        check!("CPU_OFF does not return to its caller", false);
    }
}

#[host]
mod host {
    use super::*;
    use vm::bindings::KVM_ARM_VCPU_POWER_OFF;

    /// KVM answers PSCI queries of a guest that asked for PSCI 0.2.
    #[kvm_test(asks)]
    fn queries_are_answered(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// A vCPU made with KVM_ARM_VCPU_POWER_OFF waits for CPU_ON, and starts at its entry point.
    #[kvm_test(powers_on, vcpus = 2)]
    fn cpu_on_starts_a_vcpu_that_is_off(t: &mut OneVcpu) -> TestResult {
        t.vm.features_mut().add(KVM_ARM_VCPU_POWER_OFF);
        let mut other = t.vm.add_vcpu(1, guest_fn!(powered_on))?;
        run_together([&mut t.vcpu, &mut other], Vcpu::run_until_done)?;
        Ok(())
    }
}
