//! PMCR_EL0 as userspace restores it and the guest writes it (ARM ARM D11; KVM_SET_ONE_REG): what only triggers
//! is not kept, and what this PMU lacks reads as 0.
use crate::prelude::*;
use pmu::pmcr;

const TRIGGERS: u64 = pmcr::C | pmcr::P;

/// Reports PMCR_EL0 as it comes, and again after each write that the host half asks for.
#[guest]
fn reports_pmcr(g: &mut Guest) {
    loop {
        let [value, go_on, ..] = g.sync(1, &[PMCR_EL0.read(), PMCCNTR_EL0.read()]);
        if go_on == 0 {
            return;
        }
        PMCR_EL0.write(value);
    }
}

#[host]
mod host {
    use super::*;
    use defs::aarch64::id::dfr0;

    kvm_tests! { irqchip, pmu, requires(cap::ARM_PMU_V3) }

    /// PMCR_EL0.C and P, restored before the first run, are not kept; nor does a later run reset the counters.
    #[kvm_test(reports_pmcr)]
    fn triggers_are_not_kept(t: &mut OneVcpu) -> TestResult {
        const CYCLES: u64 = 0x1234_5678;
        let vcpu = &mut t.vcpu;
        let reset = vcpu.get_sysreg(&PMCR_EL0).ioctl("KVM_GET_ONE_REG")?;
        vcpu.set_sysreg(&PMCR_EL0, reset | TRIGGERS).ioctl("KVM_SET_ONE_REG")?;
        let [seen, ..] = vcpu.run_until_sync(1)?;
        check_eq!("the guest reads PMCR_EL0.C and P as 0", seen & TRIGGERS, 0);
        let kept = vcpu.get_sysreg(&PMCR_EL0).ioctl("KVM_GET_ONE_REG")?;
        check_eq!("userspace reads PMCR_EL0.C and P as 0 after a run", kept & TRIGGERS, 0);
        check_eq!("the rest of PMCR_EL0 is as before", kept, reset);
        vcpu.set_sysreg(&PMCCNTR_EL0, CYCLES).ioctl("KVM_SET_ONE_REG")?;
        vcpu.answer(&[reset, 1]);
        let [_, cycles, ..] = vcpu.run_until_sync(1)?;
        check_eq!("a stopped counter keeps what userspace set", cycles, CYCLES);
        vcpu.answer(&[reset | TRIGGERS, 1]);
        let [seen, cycles, ..] = vcpu.run_until_sync(1)?;
        check_eq!("PMCR_EL0.C resets the cycle counter", cycles, 0);
        check_eq!("PMCR_EL0.C and P read as 0 after the guest wrote them", seen & TRIGGERS, 0);
        let kept = vcpu.get_sysreg(&PMCR_EL0).ioctl("KVM_GET_ONE_REG")?;
        check_eq!(
            "userspace reads PMCR_EL0.C and P as 0 after the guest's write",
            kept & TRIGGERS,
            0
        );
        vcpu.answer(&[0, 0]);
        vcpu.run_until_done()
    }

    /// PMCR_EL0.LP, restored for a PMU before PMUv3p5, reads as 0 after the first run.
    #[kvm_test(reports_pmcr)]
    fn long_overflow_is_of_newer_pmus(t: &mut OneVcpu) -> TestResult {
        let vcpu = &mut t.vcpu;
        let dfr0 = vcpu.get_sysreg(&ID_AA64DFR0_EL1).ioctl("KVM_GET_ONE_REG")?;
        let has_it = dfr0::PMUVER.get(dfr0) >= dfr0::PMUV3P5;
        let reset = vcpu.get_sysreg(&PMCR_EL0).ioctl("KVM_GET_ONE_REG")?;
        vcpu.set_sysreg(&PMCR_EL0, reset | pmcr::LP).ioctl("KVM_SET_ONE_REG")?;
        let [seen, ..] = vcpu.run_until_sync(1)?;
        check_eq!("the guest has PMCR_EL0.LP exactly with PMUv3p5", seen & pmcr::LP != 0, has_it);
        let kept = vcpu.get_sysreg(&PMCR_EL0).ioctl("KVM_GET_ONE_REG")? & pmcr::LP != 0;
        check_eq!("userspace has PMCR_EL0.LP exactly with PMUv3p5", kept, has_it);
        vcpu.answer(&[reset | pmcr::LP, 1]);
        let [seen, ..] = vcpu.run_until_sync(1)?;
        check_eq!("the guest sets PMCR_EL0.LP exactly with PMUv3p5", seen & pmcr::LP != 0, has_it);
        vcpu.answer(&[0, 0]);
        vcpu.run_until_done()
    }
}
