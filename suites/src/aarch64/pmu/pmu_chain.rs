//! Chained event counters: the odd counter counts overflows of the even one below (ARM ARM D13, CHAIN).
use crate::prelude::*;
use pmu::{WRAP, event, pmcr};

/// Events before a wrap.
const SOON: u64 = 10;
/// PMSWINC writes at a time: past a wrap that is [`SOON`].
const BURST: u64 = 20;

/// What makes the even counter wrap.
#[derive(Clone, Copy)]
struct Pair {
    /// PMSWINC, or cycles.
    software: bool,
    /// Number of the even counter.
    even: u64,
}

impl Pair {
    fn bits(self) -> u64 {
        0b11 << self.even
    }

    fn flags(self) -> u64 {
        PMOVSCLR_EL0.read() >> self.even
    }

    fn even(self) -> u64 {
        pmu::selected_counter(self.even).read()
    }

    fn odd(self) -> u64 {
        pmu::selected_counter(self.even + 1).read()
    }

    /// Event of the odd counter.
    fn set_odd_event(self, event: u64) {
        pmu::selected_type(self.even + 1).write(event);
    }

    /// Sets both counters while they are stopped, and clears all flags.
    fn preset(self, even: u64, odd: u64) {
        PMCR_EL0.write(pmcr::LC);
        PMOVSCLR_EL0.write(!0);
        pmu::selected_counter(self.even).write(even);
        pmu::selected_counter(self.even + 1).write(odd);
    }

    /// Lets the even counter count past a wrap that is near, and stops it.
    fn run(self) {
        let odd = self.odd();
        PMCR_EL0.write(pmcr::LC | pmcr::E);
        if self.software {
            (0..BURST).for_each(|_| PMSWINC_EL0.write(self.bits()));
        } else {
            comes(|| {
                pmu::instructions(20);
                self.flags() & 1 != 0
                    || PMCNTENSET_EL0.read() & 2 << self.even != 0 && self.odd() != odd
            });
        }
        PMCR_EL0.write(pmcr::LC);
    }

    /// The same where it must not wrap: there is nothing to wait for.
    fn run_shortly(self) {
        PMCR_EL0.write(pmcr::LC | pmcr::E);
        if self.software {
            (0..BURST).for_each(|_| PMSWINC_EL0.write(self.bits()));
        } else {
            pmu::instructions(200);
        }
        PMCR_EL0.write(pmcr::LC);
    }
}

/// A pair with the odd counter on CHAIN and both enabled, as the arguments want it.
fn set_up(g: &Guest) -> Pair {
    let pair = Pair { software: g.arg(2) != 0, even: g.arg(3) };
    pmu::need_counters(pair.even + 2);
    pmu::reset();
    let event = if pair.software { event::SW_INCR } else { event::CPU_CYCLES };
    pmu::selected_type(pair.even).write(event);
    pair.set_odd_event(event::CHAIN);
    PMCNTENSET_EL0.write(pair.bits());
    pair
}

#[guest]
fn chains(g: &mut Guest) {
    let pair = set_up(g);
    let wide = g.arg(0) != 0;
    pair.preset(0, 0);
    pair.run_shortly();
    check_eq!("CHAIN counts nothing while the even counter does not wrap", pair.odd(), 0);
    check!("the even counter counts by itself", pair.even() > 0);
    check_eq!("no overflow flag is set before a wrap", pair.flags(), 0);
    for (before, after) in [(0, 1), (1, 2), (7, 8)] {
        pair.preset(WRAP - SOON, before);
        pair.run();
        check_eq!("CHAIN counts the overflow of the counter below", pair.odd(), after);
        check_eq!("the even counter's flag alone is set", pair.flags(), 0b01);
        let even = pair.even() & (WRAP - 1);
        if pair.software {
            check_eq!("the even counter goes on after its wrap", even, BURST - SOON);
        } else {
            check!("the even counter goes on after its wrap", even < WRAP / 2, "{even:#x}");
        }
    }
    pair.preset(WRAP - SOON, WRAP - 1);
    pair.run();
    check_eq!("the odd counter wraps at its width", pair.odd(), if wide { WRAP } else { 0 });
    check_eq!("both flags are set when both counters wrap", pair.flags(), 0b11);
}

#[guest]
fn promotes(g: &mut Guest) {
    let pair = set_up(g);
    let (even_bit, odd_bit) = (1 << pair.even, 2 << pair.even);

    PMCNTENCLR_EL0.write(even_bit);
    pair.preset(WRAP - SOON, 0);
    pair.run_shortly();
    check_eq!(
        "the even counter stands while only the odd one is enabled",
        pair.even(),
        WRAP - SOON
    );
    check_eq!("the odd counter stands while the even one does", pair.odd(), 0);
    check_eq!("no counter overflows while the even one stands", pair.flags(), 0);

    PMCNTENSET_EL0.write(even_bit);
    PMCNTENCLR_EL0.write(odd_bit);
    pair.preset(WRAP - SOON, 0);
    pair.run();
    check_eq!("the even counter alone sets its flag", pair.flags(), 0b01);
    check_eq!("the odd counter stands while only the even one is enabled", pair.odd(), 0);

    // From chained to unchained by PMCNTENCLR, with counts in between.
    PMCNTENSET_EL0.write(odd_bit);
    pair.preset(0, 0);
    pair.run_shortly();
    let middle = pair.even();
    PMCNTENCLR_EL0.write(odd_bit);
    check_eq!("disabling the odd counter keeps the even one's count", pair.even(), middle);
    pair.preset(WRAP - SOON, 0);
    pair.run();
    check_eq!("a disabled odd counter counts no overflow", pair.odd(), 0);
    check_eq!("the even counter's flag is set beside a disabled odd one", pair.flags(), 0b01);

    // From unchained to chained by PMCNTENSET.
    pair.preset(0, 0);
    pair.run_shortly();
    let middle = pair.even();
    PMCNTENSET_EL0.write(odd_bit);
    check_eq!("enabling the odd counter keeps the even one's count", pair.even(), middle);
    pair.preset(WRAP - SOON, 0);
    pair.run();
    check_eq!("an enabled odd counter counts overflows", pair.odd(), 1);
    check_eq!("the even counter's flag is set when the odd one counts", pair.flags(), 0b01);

    // From two counters to a chain by the event.
    let own_event = if pair.software { event::SW_INCR } else { event::CPU_CYCLES };
    pair.set_odd_event(own_event);
    pair.preset(0, 0);
    pair.run_shortly();
    check!("two counters without CHAIN count each for itself", pair.even() > 0 && pair.odd() > 0);
    let middle = pair.even();
    pair.set_odd_event(event::CHAIN);
    check_eq!("changing the odd counter's event keeps the even one's count", pair.even(), middle);
    pair.preset(WRAP - SOON, 0);
    pair.run();
    check_eq!("an odd counter changed to CHAIN counts overflows", pair.odd(), 1);
    check_eq!("the even counter's flag alone is set after a change to CHAIN", pair.flags(), 0b01);

    // And back.
    let middle = pair.odd();
    pair.set_odd_event(own_event);
    check_eq!("changing the event keeps the odd counter's count", pair.odd(), middle);
    pair.preset(WRAP - SOON, WRAP / 2);
    pair.run();
    let odd = pair.odd();
    check!(
        "an odd counter changed from CHAIN counts its own event",
        odd > WRAP / 2 && (!pair.software || odd == WRAP / 2 + BURST),
        "{odd:#x}"
    );
    check_eq!("the even counter's flag alone is set after a change from CHAIN", pair.flags(), 0b01);
}

#[guest]
fn misplaces_chain(_: &mut Guest) {
    pmu::need_counters(3);
    pmu::reset();
    PMEVTYPER0_EL0.write(event::CHAIN);
    PMEVTYPER1_EL0.write(event::SW_INCR);
    PMEVTYPER2_EL0.write(event::CHAIN);
    PMCNTENSET_EL0.write(0b111);
    PMEVCNTR1_EL0.write(WRAP - 1);
    PMCR_EL0.write(pmcr::LC | pmcr::E);
    PMSWINC_EL0.write(0b111);
    check_eq!("an odd counter wraps", PMOVSCLR_EL0.read(), 0b010);
    check_eq!("CHAIN in the even counter above counts nothing", PMEVCNTR2_EL0.read(), 0);
    check_eq!("CHAIN in the even counter below counts nothing", PMEVCNTR0_EL0.read(), 0);
}

#[guest]
fn chains_at_64_bits(_: &mut Guest) {
    pmu::need_counters(2);
    pmu::reset();
    PMEVTYPER0_EL0.write(event::SW_INCR);
    PMEVTYPER1_EL0.write(event::CHAIN);
    PMCNTENSET_EL0.write(0b11);
    PMCR_EL0.write(pmcr::LC | pmcr::LP | pmcr::E);
    for even in [WRAP - SOON, 0_u64.wrapping_sub(SOON)] {
        PMEVCNTR0_EL0.write(even);
        (0..BURST).for_each(|_| PMSWINC_EL0.write(1));
        check_eq!("counters with LP are not chained", PMEVCNTR1_EL0.read(), 0);
    }
    check_eq!("the even counter's flag alone is set with LP", PMOVSCLR_EL0.read(), 0b01);
}

#[host]
mod host {
    use super::*;
    use crate::aarch64::pmu::pmu_events::tell_width;

    kvm_tests! { irqchip, pmu, requires(cap::ARM_PMU_V3, host::FREE_COUNTERS) }

    /// An overflow of the even counter counts as one CHAIN event, and sets the even counter's flag.
    #[kvm_test(chains, params = [
    cycles: (0, 0),
    software: (1, 0),
    software_in_counters_2_and_3: (1, 2),
])]
    fn odd_counter_counts_overflows(t: &mut OneVcpu, (software, even): (u64, u64)) -> TestResult {
        run(t, software, even)
    }

    /// Runs the guest with events of that kind, in that pair of counters.
    fn run(t: &mut OneVcpu, software: u64, even: u64) -> TestResult {
        let vcpu = &mut t.vcpu;
        tell_width(vcpu, 0)?;
        let dfr0 = vcpu.get_sysreg(&ID_AA64DFR0_EL1).ioctl("KVM_GET_ONE_REG")?;
        let wide = dfr0::PMUVER.get(dfr0) >= dfr0::PMUV3P5;
        vcpu.set_args(&[wide.into(), 0, software, even]);
        vcpu.run_until_done()
    }

    /// Counters become a chain, and cease to be one, by enables and by events, and lose no count.
    #[kvm_test(promotes, params = [
    cycles: (0, 0),
    software: (1, 0),
    cycles_in_counters_2_and_3: (0, 2),
])]
    fn chains_come_and_go(t: &mut OneVcpu, (software, even): (u64, u64)) -> TestResult {
        run(t, software, even)
    }

    /// Only an odd counter can be chained, and only to the even one below.
    #[kvm_test(misplaces_chain)]
    fn even_counters_are_not_chained(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// With PMCR_EL0.LP counters have 64 bits of their own, and CHAIN counts nothing.
    #[kvm_test(chains_at_64_bits, requires(cpu::PMUV3P5))]
    fn lp_undoes_chains(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }
}
