//! PMU state leaves one VM and goes on in another (KVM_GET_ONE_REG, KVM_SET_ONE_REG).
use crate::prelude::*;
use pmu::{CYCLES, WRAP, event, pmcr};

/// Counter 0 wrapped in the source, and its interrupt was not taken there.
const PENDING: u64 = 0b001;
/// How far the cycle counter is from bit 32 when the source stops it.
const BEFORE_WRAP: u64 = 1 << 20;

#[guest]
fn leaves(g: &mut Guest) {
    pmu::need_counters(3);
    pmu::reset();
    PMEVTYPER0_EL0.write(event::SW_INCR);
    PMEVTYPER1_EL0.write(event::CHAIN);
    PMEVTYPER2_EL0.write(event::CPU_CYCLES);
    PMEVCNTR0_EL0.write(WRAP - 1);
    PMEVCNTR1_EL0.write(41);
    PMEVCNTR2_EL0.write(0);
    PMCCNTR_EL0.write(WRAP - BEFORE_WRAP);
    PMCCFILTR_EL0.write(pmu::filter::U);
    PMUSERENR_EL0.write(pmu::userenr::CR);
    PMSELR_EL0.write(2);
    PMCNTENSET_EL0.write(0b111 | CYCLES);
    PMINTENSET_EL1.write(PENDING | CYCLES);
    PMCR_EL0.write(pmcr::LC | pmcr::E);
    PMSWINC_EL0.write(1);
    pmu::instructions(100);
    g.sync(1, &[PMCCNTR_EL0.read(), PMEVCNTR2_EL0.read(), PMCR_EL0.read()]);
}

#[guest]
fn arrives(g: &mut Guest) {
    let (cycles, events, control) = (g.arg(0), g.arg(1), g.arg(2));
    check!("the cycle counter goes on from where it was", PMCCNTR_EL0.read() > cycles);
    check!("the moved cycle counter is not far off", PMCCNTR_EL0.read() < 2 * WRAP);
    check!("an event counter goes on from where it was", PMEVCNTR2_EL0.read() > events);
    check_eq!("PMCR is moved with the PMU", PMCR_EL0.read(), control);
    check_eq!("a software counter is moved with the PMU", PMEVCNTR0_EL0.read() & (WRAP - 1), 0);
    check_eq!("a chained counter is moved with the PMU", PMEVCNTR1_EL0.read(), 42);
    check_eq!("the events are moved with the PMU", PMEVTYPER1_EL0.read(), event::CHAIN);
    check_eq!(
        "the cycle counter's filter is moved with the PMU",
        PMCCFILTR_EL0.read(),
        pmu::filter::U
    );
    check_eq!("the enables are moved with the PMU", PMCNTENSET_EL0.read(), 0b111 | CYCLES);
    check_eq!(
        "the interrupt enables are moved with the PMU",
        PMINTENSET_EL1.read(),
        PENDING | CYCLES
    );
    check_eq!("the selection is moved with the PMU", PMSELR_EL0.read(), 2);
    check_eq!("EL0's rights are moved with the PMU", PMUSERENR_EL0.read(), pmu::userenr::CR);
    check_eq!("the overflow flag is moved with the PMU", PMOVSCLR_EL0.read(), PENDING);
    let gic = GuestGic::detect();
    gic.enable();
    gic.set_priority(pmu::INTID, 0xa0);
    gic.set_group(pmu::INTID, u32::from(gic == GuestGic::V3));
    gic.set(gicd::ISENABLER, pmu::INTID);
    let acknowledged = gic.acknowledge();
    check_eq!("the moved overflow's interrupt is pending", acknowledged, pmu::INTID);
    PMOVSCLR_EL0.write(!0);
    gic.end(acknowledged);
    check_eq!("no interrupt but the PMU's is pending", gic.acknowledge(), gic::SPURIOUS);
    PMEVCNTR0_EL0.write(WRAP - 1);
    PMSWINC_EL0.write(1);
    check_eq!("the moved counters still form a chain", PMEVCNTR1_EL0.read(), 43);
}

#[guest]
fn reads_what_userspace_set(g: &mut Guest) {
    let all = pmu::implemented();
    g.sync(1, &[all]);
    check_eq!("the guest reads userspace's PMCNTENSET", PMCNTENSET_EL0.read(), all);
    check_eq!("the guest reads userspace's PMINTENSET", PMINTENSET_EL1.read(), all);
    check_eq!("the guest reads userspace's PMOVSSET", PMOVSSET_EL0.read(), all);
    check_eq!("the guest reads userspace's PMCCNTR", PMCCNTR_EL0.read(), 0x1_2345_6789);
    check_eq!("the guest reads userspace's PMUSERENR", PMUSERENR_EL0.read(), 5);
    g.sync(2, &[]);
    check_eq!("PMCNTENSET loses what userspace cleared", PMCNTENSET_EL0.read(), 0);
    check_eq!("PMINTENSET loses what userspace cleared", PMINTENSET_EL1.read(), 0);
    check_eq!("PMOVSSET loses what userspace cleared", PMOVSSET_EL0.read(), 0);
}

#[host]
mod host {
    use super::*;
    use crate::aarch64::cpu::sysreg::register_list;

    kvm_tests! { irqchip, pmu, requires(cap::ARM_PMU_V3, host::FREE_COUNTERS) }

    /// Whether a register is one of the PMU.
    fn is_pmu(id: u64) -> bool {
        /// CRn and CRm of an id.
        const CRN_CRM: u64 = 0x7f8;
        let group = PMCR_EL0.one_reg() & !CRN_CRM & !0x7;
        let el1 = PMINTENSET_EL1.one_reg() & !CRN_CRM & !0x7;
        let (crn, crm) = (id >> 7 & 0xf, id >> 3 & 0xf);
        let prefix = id & !CRN_CRM & !0x7;
        prefix == group && (crn == 9 || crn == 14 && crm >= 8)
            || prefix == el1 && crn == 9 && crm == 14
    }

    /// How userspace restores the pairs of set and clear registers.
    #[derive(Clone, Copy, PartialEq)]
    enum Pairs {
        /// Each register gets its value, in the order of the list.
        Listed,
        /// The clear register gets all bits, then the set register its value.
        ClearThenSet,
    }

    /// The set registers, and their clearing twins.
    const PAIRS: [(SysReg, SysReg); 3] = [
        (PMCNTENSET_EL0, PMCNTENCLR_EL0),
        (PMINTENSET_EL1, PMINTENCLR_EL1),
        (PMOVSSET_EL0, PMOVSCLR_EL0),
    ];

    /// All that `KVM_GET_REG_LIST` has of the PMU, saved in the middle of counting and restored into another
    /// VM, makes its PMU go on: counts, events, enables, and a pending interrupt.
    #[kvm_test(leaves, params = [
    as_listed: Pairs::Listed,
    clear_then_set: Pairs::ClearThenSet,
])]
    fn pmu_state_migrates(t: &mut OneVcpu, pairs: Pairs) -> TestResult {
        let source = &mut t.vcpu;
        let seen = source.run_until_sync(1)?;
        let mut saved = Vec::new();
        for id in register_list(source)?.into_iter().filter(|&id| is_pmu(id)) {
            saved.push((id, source.get_reg(id).ioctl("KVM_GET_ONE_REG")?));
        }
        let all = saved.clone();
        let value = |register: SysReg| all.iter().find(|s| s.0 == register.one_reg()).map(|s| s.1);
        for register in
            [PMCR_EL0, PMCCNTR_EL0, PMEVCNTR2_EL0, PMEVTYPER2_EL0, PMOVSSET_EL0, PMUSERENR_EL0]
        {
            let name = register.name;
            check!("{name} is in KVM_GET_REG_LIST", value(register).is_some());
        }
        let cycles = value(PMCCNTR_EL0).unwrap_or(0);
        check!(
            "the cycle counter is saved with what it has counted",
            cycles > seen[0],
            "{cycles:#x}"
        );
        let events = value(PMEVCNTR2_EL0).unwrap_or(0);
        check!(
            "the event counter is saved with what it has counted",
            events > seen[1],
            "{events:#x}"
        );

        let config = VmConfig::from(Irqchip::Kernel).pmu();
        let setup = Setup { guests: &[guest_fn!(arrives)], config };
        let OneVcpu { vcpu: mut target, vm: _other } = OneVcpu::new(setup)?;
        if pairs == Pairs::ClearThenSet {
            for (_, clear) in PAIRS {
                target.set_sysreg(&clear, u64::MAX).ioctl("KVM_SET_ONE_REG")?;
            }
            saved.retain(|(id, _)| PAIRS.iter().all(|(_, clear)| clear.one_reg() != *id));
        }
        for &(id, value) in &saved {
            target.set_reg(id, value).ioctl("KVM_SET_ONE_REG")?;
        }
        for register in [PMCCNTR_EL0, PMEVCNTR2_EL0] {
            let name = register.name;
            check_eq!(
                "{name} stands still until KVM_RUN",
                target.get_sysreg(&register).ok(),
                value(register)
            );
        }
        target.set_args(&[cycles, events, seen[2]]);
        target.run_until_done()
    }

    /// Userspace's writes set registers to a value: what is not in it is cleared, in the set registers too
    /// (they and their clearing twins are one register for KVM_SET_ONE_REG).
    #[kvm_test(reads_what_userspace_set)]
    fn userspace_writes_whole_values(t: &mut OneVcpu) -> TestResult {
        let vcpu = &mut t.vcpu;
        let all = vcpu.run_until_sync(1)?[0];
        let sets = [PMCNTENSET_EL0, PMINTENSET_EL1, PMOVSSET_EL0];
        for register in sets {
            vcpu.set_sysreg(&register, u64::MAX).ioctl("KVM_SET_ONE_REG")?;
            let name = register.name;
            check_eq!(
                "{name} takes bits of implemented counters only",
                vcpu.get_sysreg(&register),
                Ok(all)
            );
        }
        vcpu.set_sysreg(&PMCCNTR_EL0, 0x1_2345_6789).ioctl("KVM_SET_ONE_REG")?;
        vcpu.set_sysreg(&PMUSERENR_EL0, 5).ioctl("KVM_SET_ONE_REG")?;
        vcpu.run_until_sync(2)?;
        for register in sets {
            vcpu.set_sysreg(&register, 0).ioctl("KVM_SET_ONE_REG")?;
        }
        vcpu.run_until_done()
    }
}
