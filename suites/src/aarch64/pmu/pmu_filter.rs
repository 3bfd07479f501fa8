//! What counters leave out: exception levels (PMEVTYPER<n>_EL0, PMCCFILTR_EL0), and the events that
//! userspace denies (vcpu.rst 1.3, KVM_ARM_VCPU_PMU_V3_FILTER).
use crate::prelude::*;
use insn::{AGAIN, COUNT_DOWN, SVC};
use pmu::{CYCLES, WRAP, event, filter, pmcr};

/// Rounds of EL0's loop, far more than what entering and leaving EL0 takes at EL1.
const ROUNDS: u64 = 20_000;

/// What `counter` counts of work at EL1, and at EL0.
fn count(counter: SysReg) -> (u64, u64) {
    PMCR_EL0.write(pmcr::LC | pmcr::E);
    let start = counter.read();
    pmu::instructions(ROUNDS);
    let middle = counter.read();
    let stop = user::run(&[COUNT_DOWN, AGAIN, SVC], [ROUNDS, 0, 0, 0]);
    let end = counter.read();
    PMCR_EL0.write(pmcr::LC);
    check_eq!("EL0's loop ends with its SVC", stop.trap.vector, vector::SVC);
    (middle - start, end - middle)
}

#[guest]
fn filters_levels(g: &mut Guest) {
    let cycle_counter = g.arg(0) != 0;
    pmu::reset();
    let (counter, kind, bit, event) = if cycle_counter {
        (PMCCNTR_EL0, PMCCFILTR_EL0, CYCLES, 0)
    } else {
        pmu::need_counters(1);
        (PMEVCNTR0_EL0, PMEVTYPER0_EL0, 1, event::CPU_CYCLES)
    };
    PMCNTENSET_EL0.write(bit);
    kind.write(event);
    // The first run makes EL0's pages.
    count(counter);
    let (el1, el0) = count(counter);
    check!("EL1 counts without a filter", el1 > 0);
    check!("EL0 counts without a filter", el0 > 0);
    kind.write(event | filter::P);
    check_eq!("PMEVTYPER.P keeps its value", kind.read(), event | filter::P);
    let (el1, el0) = count(counter);
    check_eq!("EL1 does not count with P", el1, 0);
    check!("EL0 counts with P", el0 > 0);
    kind.write(event | filter::U);
    let (el1, both) = count(counter);
    check!("EL1 counts with U", el1 > 0);
    let (_, again) = count(counter);
    kind.write(event);
    let (_, unfiltered) = count(counter);
    // EL1 enters and leaves EL0 in every run, so that the rest is not zero.
    check!(
        "EL0 does not count with U",
        both.min(again) < unfiltered,
        "{both} {again} {unfiltered}"
    );
    kind.write(event | filter::P | filter::U);
    check_eq!("neither level counts with both P and U", count(counter), (0, 0));
    kind.write(event);
    let (el1, el0) = count(counter);
    check!("both levels count again without filters", el1 > 0 && el0 > 0);
    check_eq!("no counter has overflowed while filtered", PMOVSCLR_EL0.read(), 0);
}

#[guest]
fn filters_software_events(_: &mut Guest) {
    pmu::need_counters(1);
    pmu::reset();
    PMCNTENSET_EL0.write(1);
    PMCR_EL0.write(pmcr::LC | pmcr::E);
    let increment = |filters: u64| {
        PMEVTYPER0_EL0.write(event::SW_INCR | filters);
        PMEVCNTR0_EL0.write(0);
        PMSWINC_EL0.write(1);
        PMEVCNTR0_EL0.read()
    };
    check_eq!("a software increment at EL1 counts", increment(0), 1);
    check_eq!("a software increment at EL1 counts with U", increment(filter::U), 1);
    check_eq!("a software increment at EL1 does not count with P", increment(filter::P), 0);
}

#[guest]
fn counts_filtered_events(g: &mut Guest) {
    let (cycles, software, neighbours) = (g.arg(0) != 0, g.arg(1) != 0, g.arg(2) != 0);
    pmu::need_counters(2);
    pmu::reset();
    check_eq!("PMCEID offers CPU_CYCLES if it is allowed", pmu::offers(event::CPU_CYCLES), cycles);
    check_eq!("PMCEID offers SW_INCR if it is allowed", pmu::offers(event::SW_INCR), software);
    let others = (1..event::COMMON_END).filter(|&e| e != event::CPU_CYCLES && e != event::CHAIN);
    check_eq!(
        "PMCEID offers other events if they are allowed",
        others.into_iter().any(pmu::offers),
        neighbours
    );
    PMEVTYPER0_EL0.write(event::CPU_CYCLES);
    PMEVTYPER1_EL0.write(event::SW_INCR);
    PMCNTENSET_EL0.write(0b11 | CYCLES);
    PMCR_EL0.write(pmcr::LC | pmcr::E);
    pmu::instructions(100);
    PMSWINC_EL0.write(0b11);
    PMCR_EL0.write(pmcr::LC);
    check_eq!("an event counts if it is allowed", PMEVCNTR0_EL0.read() > 0, cycles);
    check_eq!("the cycle counter counts if CPU_CYCLES is allowed", PMCCNTR_EL0.read() > 0, cycles);
    check_eq!("SW_INCR counts whatever the filter", PMEVCNTR1_EL0.read(), 1);
    PMEVTYPER0_EL0.write(event::SW_INCR);
    PMEVTYPER1_EL0.write(event::CHAIN);
    PMEVCNTR0_EL0.write(WRAP - 1);
    PMEVCNTR1_EL0.write(0);
    PMCR_EL0.write(pmcr::LC | pmcr::E);
    PMSWINC_EL0.write(0b01);
    check_eq!("CHAIN counts whatever the filter", PMEVCNTR1_EL0.read() & (WRAP - 1), 1);
}

#[guest]
fn idles(_: &mut Guest) {}

#[host]
mod host {
    use super::*;
    use crate::aarch64::pmu::pmu::host_events;
    use vm::bindings::{
        KVM_ARM_VCPU_PMU_V3, KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_FILTER,
        KVM_PMU_EVENT_ALLOW, KVM_PMU_EVENT_DENY, kvm_pmu_event_filter,
    };

    kvm_tests! { irqchip, features(KVM_ARM_VCPU_PMU_V3), requires(cap::ARM_PMU_V3) }

    /// P and U of PMEVTYPER<n>_EL0 and PMCCFILTR_EL0 leave out EL1 and EL0.
    #[kvm_test(filters_levels, pmu, requires(host::FREE_COUNTERS), params = [
    event_counter: 0,
    cycle_counter: 1,
])]
    fn exception_levels_are_left_out(t: &mut OneVcpu, counter: u64) -> TestResult {
        t.vcpu.set_args(&[counter]);
        t.vcpu.run_until_done()
    }

    /// PMSWINC_EL0 written at EL1 is an event of EL1, and is left out like others (ARM ARM D13.7, "Events
    /// that are filtered by exception level"; pseudocode CountPMUEvents).
    #[kvm_test(filters_software_events, pmu)]
    fn software_increments_are_left_out(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// A vCPU with a PMU that is not yet initialized, and takes filters.
    fn raw_vcpu(t: &mut OneVcpu) -> TestResult<&mut Vcpu> {
        let has = t.vcpu.has_attr(KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_FILTER);
        require!(has, "KVM_ARM_VCPU_PMU_V3_FILTER");
        t.vm.state().gic()?.init()?;
        Ok(&mut t.vcpu)
    }

    fn set_filter(vcpu: &Vcpu, base: u64, n: u16, action: u32) -> Result<(), Errno> {
        let filter = kvm_pmu_event_filter {
            base_event: base as u16,
            nevents: n,
            action: action as u8,
            ..Default::default()
        };
        vcpu.set_attr(KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_FILTER, filter)
    }

    fn finish(vcpu: &Vcpu) -> TestResult {
        vcpu.set_pmu_irq(pmu::INTID).ioctl("KVM_ARM_VCPU_PMU_V3_IRQ")?;
        vcpu.init_pmu().ioctl("KVM_ARM_VCPU_PMU_V3_INIT")
    }

    /// Numbers in filters.
    const CPU_CYCLES: u64 = event::CPU_CYCLES;
    const COMMON_EVENTS: u16 = event::COMMON_END as u16;

    /// The first filter decides what happens to events that no filter names; later ones add to it. SW_INCR
    /// and CHAIN are counted whatever the filters say, the cycle counter follows CPU_CYCLES (vcpu.rst 1.3).
    #[kvm_test(counts_filtered_events, irqchip, requires(cap::ARM_PMU_V3, host::FREE_COUNTERS), params = [
    deny_cycles: (&[(CPU_CYCLES, 1, KVM_PMU_EVENT_DENY)], [false, true, true]),
    allow_cycles_alone: (&[(CPU_CYCLES, 1, KVM_PMU_EVENT_ALLOW)], [true, false, false]),
    deny_all_but_cycles: (
        &[(0, COMMON_EVENTS, KVM_PMU_EVENT_DENY), (CPU_CYCLES, 1, KVM_PMU_EVENT_ALLOW)],
        [true, false, false],
    ),
    deny_neighbours: (
        &[(CPU_CYCLES - 1, 1, KVM_PMU_EVENT_DENY), (CPU_CYCLES + 1, 1, KVM_PMU_EVENT_DENY)],
        [true, true, true],
    ),
    allow_then_deny: (
        &[(0, COMMON_EVENTS, KVM_PMU_EVENT_ALLOW), (CPU_CYCLES, 1, KVM_PMU_EVENT_DENY)],
        [false, true, true],
    ),
])]
    fn userspace_filters_events(
        t: &mut OneVcpu,
        (filters, allowed): (&[(u64, u16, u32)], [bool; 3]),
    ) -> TestResult {
        let vcpu = raw_vcpu(t)?;
        for &(base, n, action) in filters {
            check_eq!("an event filter is accepted", set_filter(vcpu, base, n, action), Ok(()));
        }
        finish(vcpu)?;
        // Some CPUs count nothing but increments by software, cycles and overflows.
        let events = host_events();
        let others = events.is_empty() || events.iter().any(|e| ![0, 0x11, 0x1e].contains(e));
        let [cycles, software, neighbours] = allowed;
        vcpu.set_args(&[cycles, software, neighbours && others].map(u64::from));
        vcpu.run_until_done()
    }

    /// A filter names a range of events that the architecture has, allows or denies it, and comes before
    /// KVM_ARM_VCPU_PMU_V3_INIT; else EINVAL, EBUSY, EFAULT (vcpu.rst 1.3).
    #[kvm_test(idles)]
    fn bad_event_filters_are_refused(t: &mut OneVcpu) -> TestResult {
        let vcpu = raw_vcpu(t)?;
        let dfr0 = vcpu.get_sysreg(&ID_AA64DFR0_EL1).ioctl("KVM_GET_ONE_REG")?;
        // PMUv3 has event numbers of 10 bits, PMUv3p1 of 16.
        let v3p1 = dfr0::PMUVER.get(dfr0) >= dfr0::PMUV3P1;
        let last: u64 = if v3p1 { event::LAST_V3P1 } else { event::LAST };
        let (allow, deny) = (KVM_PMU_EVENT_ALLOW, KVM_PMU_EVENT_DENY);
        for (what, base, n, action) in [
            ("one event behind the last", last, 2, allow),
            ("more events than there are", 2, last as u16, deny),
        ] {
            check_eq!(
                "an event filter with {what} is EINVAL",
                set_filter(vcpu, base, n, action),
                Err(Errno::EINVAL)
            );
        }
        for action in [deny + 1, 0xff] {
            check_eq!(
                "an unknown filter action is EINVAL",
                set_filter(vcpu, 0, 1, action),
                Err(Errno::EINVAL)
            );
        }
        let nowhere = vcpu.set_attr_at(KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_FILTER, 0);
        check_eq!("an event filter at address 0 is EFAULT", nowhere, Err(Errno::EFAULT));
        check_eq!("a filter may name the last event", set_filter(vcpu, last, 1, deny), Ok(()));
        finish(vcpu)?;
        check_eq!(
            "an event filter after INIT is EBUSY",
            set_filter(vcpu, 0, 1, deny),
            Err(Errno::EBUSY)
        );
        vcpu.run_until_done()?;
        check_eq!(
            "an event filter after KVM_RUN is EBUSY",
            set_filter(vcpu, 0, 1, deny),
            Err(Errno::EBUSY)
        );
        Ok(())
    }
}
