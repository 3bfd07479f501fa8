//! The PMU's overflow interrupt (ARM ARM D13.3.1): level, one for each wrap, and none without one.
use crate::prelude::*;
use pmu::{CYCLES, WRAP, event, pmcr};

/// Counts of the interrupts that came.
#[derive(Default)]
struct Taken {
    overflows: AtomicU64,
    /// PMOVSCLR as the handlers saw it, all together.
    flags: AtomicU64,
    /// Interrupts that are not the PMU's.
    others: AtomicU64,
}

impl Taken {
    /// Runs `body` with IRQs enabled and the PMU's interrupt counted; the handler clears all flags.
    fn run(&self, body: impl FnOnce()) {
        let gic = GuestGic::detect();
        gic.enable();
        gic.set_priority(pmu::INTID, 0xa0);
        gic.set_group(pmu::INTID, u32::from(gic == GuestGic::V3));
        gic.set(gicd::ISENABLER, pmu::INTID);
        let take = |_: &mut TrapFrame| {
            let acknowledged = gic.acknowledge();
            if acknowledged == pmu::INTID {
                self.flags.fetch_or(PMOVSCLR_EL0.read(), SeqCst);
                self.overflows.fetch_add(1, SeqCst);
            } else {
                self.others.fetch_add(1, SeqCst);
            }
            PMOVSCLR_EL0.write(!0);
            gic.end(acknowledged);
        };
        with_handler(vector::IRQ, take, || {
            irq_enable();
            body();
            irq_disable();
        });
        check_eq!("no interrupt but the PMU's comes", self.others.load(SeqCst), 0);
    }

    /// Overflows since the last call; waits for one.
    fn wait(&self) -> u64 {
        comes(|| self.overflows.load(SeqCst) > 0);
        self.overflows.swap(0, SeqCst)
    }

    /// Overflows since the last call. A trapped write has let everything in that was pending.
    fn now(&self) -> u64 {
        PMINTENCLR_EL1.write(0);
        isb();
        self.overflows.swap(0, SeqCst)
    }
}

#[guest]
fn overflows_by_software(_: &mut Guest) {
    pmu::need_counters(2);
    pmu::reset();
    PMEVTYPER0_EL0.write(event::SW_INCR);
    PMEVTYPER1_EL0.write(event::SW_INCR);
    PMCNTENSET_EL0.write(0b11);
    PMCR_EL0.write(pmcr::LC | pmcr::E);
    let taken = Taken::default();
    let wrap = || {
        PMEVCNTR0_EL0.write(WRAP - 1);
        PMSWINC_EL0.write(1);
    };
    taken.run(|| {
        wrap();
        check_eq!("an overflow does not interrupt while PMINTENSET is clear", taken.now(), 0);
        check_eq!("an overflow sets its flag while PMINTENSET is clear", PMOVSCLR_EL0.read(), 1);
        PMINTENSET_EL1.write(0b10);
        check_eq!("no interrupt comes while only another counter's enable is set", taken.now(), 0);
        PMINTENSET_EL1.write(0b01);
        check_eq!("setting PMINTENSET brings the interrupt of a set flag", taken.wait(), 1);
        check_eq!("the handler sees the flag of its counter", taken.flags.swap(0, SeqCst), 1);
        for _ in 0..100 {
            wrap();
            check_eq!("every overflow interrupts exactly once", taken.wait(), 1);
        }
        PMEVCNTR1_EL0.write(WRAP - 1);
        PMSWINC_EL0.write(2);
        check_eq!("a second counter's overflow interrupts too", taken.wait(), 1);
        taken.flags.store(0, SeqCst);
        PMEVCNTR0_EL0.write(WRAP - 1);
        PMEVCNTR1_EL0.write(WRAP - 1);
        PMSWINC_EL0.write(3);
        check_eq!("two overflows at once are one interrupt", taken.wait(), 1);
        check_eq!(
            "the handler sees both flags of two overflows",
            taken.flags.swap(0, SeqCst),
            0b11
        );
        PMINTENCLR_EL1.write(0b01);
        wrap();
        check_eq!("PMINTENCLR stops the interrupts", taken.now(), 0);
        PMOVSCLR_EL0.write(!0);
        PMINTENSET_EL1.write(0b01);
        check_eq!("a flag that was cleared interrupts no more", taken.now(), 0);
        PMOVSSET_EL0.write(0b01);
        check_eq!("PMOVSSET interrupts like an overflow", taken.wait(), 1);
        PMCR_EL0.write(pmcr::LC);
        PMOVSSET_EL0.write(0b01);
        check_eq!("no interrupt comes while PMCR.E is clear", taken.now(), 0);
        PMCR_EL0.write(pmcr::LC | pmcr::E);
        check_eq!("the interrupt comes when PMCR.E is set", taken.wait(), 1);
    });
}

#[guest]
fn keeps_the_level(_: &mut Guest) {
    pmu::need_counters(1);
    pmu::reset();
    PMCR_EL0.write(pmcr::LC | pmcr::E);
    let gic = GuestGic::detect();
    gic.enable();
    gic.set_priority(pmu::INTID, 0xa0);
    gic.set_group(pmu::INTID, u32::from(gic == GuestGic::V3));
    gic.set(gicd::ISENABLER, pmu::INTID);
    PMINTENSET_EL1.write(1);
    PMOVSSET_EL0.write(1);
    let pending = || gic.get(gicd::ISPENDR, pmu::INTID);
    if !check!("a flag interrupts, whether its counter is enabled or not", comes(pending)) {
        return;
    }
    for _ in 0..3 {
        let acknowledged = gic.acknowledge();
        check_eq!("the interrupt comes again until its flag is cleared", acknowledged, pmu::INTID);
        gic.end(acknowledged);
    }
    let acknowledged = gic.acknowledge();
    PMOVSCLR_EL0.write(1);
    gic.end(acknowledged);
    check!("clearing the flag lowers the interrupt line", !pending());
    check_eq!("no interrupt is left to acknowledge", gic.acknowledge(), gic::SPURIOUS);
    PMOVSSET_EL0.write(1);
    check!("setting the flag raises the line again", comes(pending));
    PMINTENCLR_EL1.write(1);
    check!("clearing the flag's enable lowers the line", !pending());
    PMINTENSET_EL1.write(1);
    check!("setting the flag's enable raises the line again", comes(pending));
}

/// Wraps, and how far before one the counter starts.
const WRAPS: u64 = 40;
const FIRST_PERIOD: u64 = 2000;
/// What a counter counts on after its wrap: many times the first period.
const FURTHER: u64 = 100 * FIRST_PERIOD;

#[guest]
fn counts_on_after_wraps(g: &mut Guest) {
    let cycle_counter = g.arg(0) != 0;
    let lc = g.arg(1);
    pmu::reset();
    let (counter, bit) = if cycle_counter {
        (PMCCNTR_EL0, CYCLES)
    } else {
        pmu::need_counters(1);
        PMEVTYPER0_EL0.write(event::CPU_CYCLES);
        (PMEVCNTR0_EL0, 1)
    };
    // With LC the cycle counter wraps at 64 bits.
    let start = if cycle_counter && lc != 0 { 0 } else { WRAP }.wrapping_sub(FIRST_PERIOD);
    PMCNTENSET_EL0.write(bit);
    PMINTENSET_EL1.write(bit);
    PMCR_EL0.write(lc | pmcr::E);
    let taken = Taken::default();
    let low = || counter.read() & (WRAP - 1);
    taken.run(|| {
        for _ in 0..WRAPS {
            counter.write(start);
            if !check_eq!("a wrap raises the PMU's interrupt", taken.wait(), 1) {
                break;
            }
            check_eq!("a wrap sets its counter's flag alone", taken.flags.swap(0, SeqCst), bit);
            wait_until(|| (FURTHER..WRAP / 2).contains(&low()));
            check_eq!("no further interrupt comes within a whole period", taken.now(), 0);
            check_eq!("no flag is set within a whole period", PMOVSCLR_EL0.read(), 0);
        }
        PMCR_EL0.write(lc);
    });
}

#[guest]
fn overflows_in_a_chain(g: &mut Guest) {
    pmu::need_counters(2);
    let software = g.arg(0) != 0;
    pmu::reset();
    PMEVTYPER0_EL0.write(if software { event::SW_INCR } else { event::CPU_CYCLES });
    PMEVTYPER1_EL0.write(event::CHAIN);
    PMINTENSET_EL1.write(0b11);
    PMCNTENSET_EL0.write(0b11);
    let taken = Taken::default();
    let run = |odd: u64| {
        PMEVCNTR0_EL0.write(WRAP - 10);
        PMEVCNTR1_EL0.write(odd);
        PMCR_EL0.write(pmcr::LC | pmcr::E);
        if software {
            (0..20).for_each(|_| PMSWINC_EL0.write(0b11));
        }
        let came = taken.wait();
        PMCR_EL0.write(pmcr::LC);
        came
    };
    taken.run(|| {
        check_eq!("the even counter's overflow interrupts once", run(0), 1);
        check_eq!(
            "the even counter's overflow sets its flag alone",
            taken.flags.swap(0, SeqCst),
            0b01
        );
        check_eq!("overflows of both chained counters interrupt once", run(WRAP - 1), 1);
        check_eq!(
            "overflows of both chained counters set both flags",
            taken.flags.swap(0, SeqCst),
            0b11
        );
    });
}

#[host]
mod host {
    use super::*;

    kvm_tests! { irqchip, pmu, requires(cap::ARM_PMU_V3, host::FREE_COUNTERS) }

    /// An overflow flag raises the PMU's interrupt while PMINTENSET_EL1 and PMCR_EL0.E let it.
    #[kvm_test(overflows_by_software)]
    fn software_overflows_interrupt(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// The PMU's interrupt is level-sensitive.
    #[kvm_test(keeps_the_level)]
    fn interrupt_is_a_level(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// After an overflow the next one is a whole period away, 2^32 or 2^64 events, for the guest, and for
    /// the host, which takes about one interrupt of its own for each (the rule that commit 8c3252c06516,
    /// "Reset sample period on overflow handling", restored).
    #[kvm_test(counts_on_after_wraps, exclusive, params = [
    event_counter: (0, pmcr::LC),
    cycle_counter: (1, pmcr::LC),
])]
    fn one_interrupt_a_wrap(t: &mut OneVcpu, args: (u64, u64)) -> TestResult {
        run_wraps(t, args)
    }

    /// The same for the cycle counter with LC = 0, which wraps at 32 bits.
    #[kvm_test(counts_on_after_wraps, exclusive, requires(cpu::AARCH32_EL0))]
    fn one_interrupt_a_wrap_without_lc(t: &mut OneVcpu) -> TestResult {
        run_wraps(t, (1, 0))
    }

    fn run_wraps(t: &mut OneVcpu, (cycle_counter, lc): (u64, u64)) -> TestResult {
        /// Interrupts of the host for each of the guest's, and some that belong to nobody.
        const PROPORTION: u64 = 3;
        let vcpu = &mut t.vcpu;
        vcpu.set_args(&[cycle_counter, lc]);
        let before = host_pmu_interrupts();
        vcpu.run_until_done()?;
        if let (Some(before), Some(after)) = (before, host_pmu_interrupts()) {
            check!(
                "the host takes interrupts in proportion to the guest's wraps",
                after - before <= PROPORTION * WRAPS,
                "{} for {WRAPS}",
                after - before
            );
        }
        Ok(())
    }

    /// Interrupts of the host's PMU so far, on all CPUs.
    fn host_pmu_interrupts() -> Option<u64> {
        let table = std::fs::read_to_string("/proc/interrupts").ok()?;
        // One row, or one a CPU where each has an interrupt of its own.
        let rows = table.lines().filter(|line| line.contains("arm-pmu"));
        let counts = |row: &str| -> u64 {
            row.split_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok()).sum()
        };
        rows.map(counts).reduce(|all, one| all + one)
    }

    /// Both counters of a chain have their own overflow flags and enables.
    #[kvm_test(overflows_in_a_chain, params = [cycles: 0, software: 1])]
    fn chained_overflows_interrupt(t: &mut OneVcpu, software: u64) -> TestResult {
        let vcpu = &mut t.vcpu;
        vcpu.set_args(&[software]);
        vcpu.run_until_done()
    }
}
