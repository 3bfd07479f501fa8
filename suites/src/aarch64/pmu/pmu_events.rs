//! Event counters of the virtual PMU: hardware and software events, at 32 and at 64 bits (ARM ARM D13).
use crate::prelude::*;
use pmu::{COUNTERS, WRAP, event, pmcr};

/// Events before a wrap.
const SOON: u64 = 10;
/// PMSWINC writes at a time: past a wrap that is [`SOON`].
const BURST: u64 = 20;

/// What a counter holds of a value, and the value from which it soon wraps.
pub fn width(g: &Guest) -> (u64, u64) {
    let mask = if g.arg(0) != 0 { !0 } else { WRAP - 1 };
    (mask, if g.arg(1) != 0 { 0 } else { WRAP })
}

fn increment(counters: u64) {
    (0..BURST).for_each(|_| PMSWINC_EL0.write(counters));
}

#[guest]
fn counts_software_events(g: &mut Guest) {
    pmu::need_counters(3);
    let (mask, wrap) = width(g);
    let lp = g.arg(1);
    let start = wrap.wrapping_sub(SOON);
    pmu::reset();
    for kind in pmu::TYPES.into_iter().take(3) {
        kind.write(event::SW_INCR);
    }
    PMCNTENSET_EL0.write(0b011);
    PMEVCNTR0_EL0.write(start);
    check_eq!("a counter keeps what is written", PMEVCNTR0_EL0.read(), start & mask);
    PMCR_EL0.write(pmcr::LC | lp);
    check_eq!("PMCR.LP reads as written", PMCR_EL0.read() & pmcr::LP, lp);
    increment(0b111);
    check_eq!("PMSWINC does nothing while PMCR.E is clear", PMEVCNTR0_EL0.read(), start & mask);
    PMCR_EL0.write(pmcr::LC | lp | pmcr::E);
    increment(0b111);
    check_eq!("each PMSWINC counts one", PMEVCNTR1_EL0.read(), BURST);
    check_eq!("a counter that is not enabled stands still", PMEVCNTR2_EL0.read(), 0);
    let wrapped = start.wrapping_add(BURST) & mask;
    check_eq!("a counter wraps at its width", PMEVCNTR0_EL0.read(), wrapped);
    check_eq!("the wrap sets that counter's overflow flag alone", PMOVSCLR_EL0.read(), 1);
    increment(0b010);
    check_eq!("a counter that PMSWINC does not name stands still", PMEVCNTR0_EL0.read(), wrapped);
    check_eq!("a counter that PMSWINC names counts", PMEVCNTR1_EL0.read(), 2 * BURST);
    PMOVSCLR_EL0.write(0b010);
    check_eq!("PMOVSCLR keeps flags that are not named", PMOVSCLR_EL0.read(), 1);
    PMOVSCLR_EL0.write(1);
    check_eq!("PMOVSCLR clears the named flag", PMOVSCLR_EL0.read(), 0);
    PMSWINC_EL0.write(1 << 31 | 1 << 30);
    check_eq!("PMSWINC has no bit for the cycle counter", PMOVSCLR_EL0.read(), 0);

    if lp != 0 {
        PMEVCNTR0_EL0.write(WRAP - SOON);
        increment(1);
        check_eq!("a counter with LP goes on past 32 bits", PMEVCNTR0_EL0.read(), WRAP + SOON);
        check_eq!("crossing bit 32 is no overflow with LP", PMOVSCLR_EL0.read(), 0);
    } else if mask == !0 {
        PMEVCNTR0_EL0.write(!0 - SOON);
        increment(1);
        check_eq!("a wrap of 64 bits is one of 32 bits without LP", PMOVSCLR_EL0.read(), 1);
        check_eq!("a counter that wrapped is at its start", PMEVCNTR0_EL0.read(), BURST - SOON - 1);
    }
    PMEVTYPER0_EL0.write(event::CHAIN);
    let before = PMEVCNTR0_EL0.read();
    increment(1);
    check_eq!("PMSWINC does not touch another event's counter", PMEVCNTR0_EL0.read(), before);
}

#[guest]
fn sets_lp(g: &mut Guest) {
    let wide = g.arg(0) != 0;
    PMCR_EL0.write(pmcr::LC | pmcr::LP);
    check_eq!("PMCR.LP exists from PMUv3p5 on", PMCR_EL0.read() & pmcr::LP != 0, wide);
    PMCR_EL0.write(pmcr::LC);
    check_eq!("PMCR.LP can be cleared", PMCR_EL0.read() & pmcr::LP, 0);
    pmu::need_counters(1);
    PMEVTYPER0_EL0.write(event::CHAIN);
    PMEVCNTR0_EL0.write(0x1234_5678_9abc_def0);
    let kept = if wide { 0x1234_5678_9abc_def0 } else { 0x9abc_def0 };
    check_eq!("event counters have 64 bits from PMUv3p5 on, else 32", PMEVCNTR0_EL0.read(), kept);
}

#[guest]
fn counts_hardware_events(g: &mut Guest) {
    pmu::need_counters(2);
    let (mask, wrap) = width(g);
    let lp = g.arg(1);
    let start = wrap.wrapping_sub(SOON);
    pmu::reset();
    let retired = pmu::offers(event::INST_RETIRED);
    PMEVTYPER0_EL0.write(event::CPU_CYCLES);
    PMEVTYPER1_EL0.write(if retired { event::INST_RETIRED } else { event::CPU_CYCLES });
    PMEVCNTR0_EL0.write(start);
    PMEVCNTR1_EL0.write(0);
    check_eq!("a preset counter reads as written", PMEVCNTR0_EL0.read(), start & mask);
    check_eq!("a second preset counter reads as written", PMEVCNTR1_EL0.read(), 0);
    PMCNTENSET_EL0.write(0b11);
    check_eq!("PMCNTENSET enables two counters", PMCNTENSET_EL0.read(), 0b11);
    PMCR_EL0.write(pmcr::LC | lp | pmcr::E);
    comes(|| {
        pmu::instructions(20);
        PMOVSCLR_EL0.read() != 0
    });
    PMCR_EL0.write(pmcr::LC | lp);
    check_eq!("the counter that wraps sets its flag, and no other", PMOVSCLR_EL0.read(), 1);
    let value = PMEVCNTR0_EL0.read();
    check!(
        "the counter that wraps goes on from zero",
        value.wrapping_sub(wrap & mask) < WRAP / 2,
        "{value:#x}"
    );
    let count = PMEVCNTR1_EL0.read();
    check!("the counter that does not wrap has counted", count > 0);
    pmu::instructions(100);
    check_eq!("a stopped counter reads the same again", PMEVCNTR1_EL0.read(), count);
    if lp != 0 {
        PMOVSCLR_EL0.write(!0);
        PMEVCNTR0_EL0.write(WRAP - SOON);
        PMCR_EL0.write(pmcr::LC | lp | pmcr::E);
        comes(|| PMEVCNTR0_EL0.read() > WRAP);
        PMCR_EL0.write(pmcr::LC | lp);
        check_eq!(
            "a hardware event's counter with LP goes on past 32 bits",
            PMEVCNTR0_EL0.read() >> 32,
            1
        );
        check_eq!(
            "a hardware event's counter with LP overflows at 64 bits only",
            PMOVSCLR_EL0.read(),
            0
        );
    } else if mask == !0 {
        check_eq!("a hardware event's counter without LP goes on past its wrap", value >> 32, 1);
    }
    PMCNTENCLR_EL0.write(0b01);
    PMEVCNTR0_EL0.write(3);
    PMEVCNTR1_EL0.write(3);
    PMCR_EL0.write(pmcr::LC | lp | pmcr::E);
    pmu::instructions(100);
    check_eq!("a counter that is not enabled stands still", PMEVCNTR0_EL0.read(), 3);
    check!("an enabled counter counts on from what was written", PMEVCNTR1_EL0.read() > 3);
}

/// Loads of one run. CPUs count a few more or less than a program makes.
const LOADS: u64 = 250;
const MARGIN: u64 = 100;

#[guest]
fn counts_memory_accesses(g: &mut Guest) {
    pmu::need_counters(2);
    if !pmu::offers(event::MEM_ACCESS) {
        guest_runtime::ucall::skip(format_args!("the PMU event MEM_ACCESS"));
    }
    let lp = g.arg(1);
    let wrap = if lp != 0 { 0 } else { WRAP };
    let run = |start: u64| {
        PMCR_EL0.write(pmcr::LC | lp | pmcr::P);
        PMOVSCLR_EL0.write(!0);
        PMEVCNTR0_EL0.write(start);
        PMEVCNTR1_EL0.write(start);
        PMCR_EL0.write(pmcr::LC | lp | pmcr::E);
        pmu::loads(LOADS, layout::SCRATCH);
        PMCR_EL0.write(pmcr::LC | lp);
    };
    pmu::reset();
    PMEVTYPER0_EL0.write(event::MEM_ACCESS);
    PMEVTYPER1_EL0.write(event::MEM_ACCESS);
    PMCNTENSET_EL0.write(0b11);
    run(0);
    for counter in COUNTERS.into_iter().take(2) {
        let count = counter.read();
        check!("every load is a MEM_ACCESS event", count >= LOADS - MARGIN, "{count}");
        check!("little but the loads is a MEM_ACCESS event", count <= LOADS + MARGIN, "{count}");
    }
    check_eq!("small counts do not overflow", PMOVSCLR_EL0.read(), 0);
    run(wrap.wrapping_sub(SOON));
    comes(|| PMOVSCLR_EL0.read() == 0b11);
    check_eq!("counters that wrap set their flags", PMOVSCLR_EL0.read(), 0b11);
    let (mut least, mut most) = (u64::MAX, 0);
    for _ in 0..100 {
        run(wrap.wrapping_sub(LOADS + MARGIN));
        let count = PMEVCNTR0_EL0.read().wrapping_sub(wrap.wrapping_sub(LOADS + MARGIN));
        (least, most) = (least.min(count), most.max(count));
        check_eq!("counts are reliable enough to stay short of a wrap", PMOVSCLR_EL0.read(), 0);
    }
    guest_runtime::ucall::metric("fewest loads counted", "loads", least);
    guest_runtime::ucall::metric("most loads counted", "loads", most);
}

#[host]
pub use host::*;

#[host]
mod host {
    use super::*;

    kvm_tests! { irqchip, pmu, requires(cap::ARM_PMU_V3, host::FREE_COUNTERS) }

    /// Whether event counters have 64 bits, as arguments for the guest.
    pub fn tell_width(vcpu: &mut Vcpu, lp: u64) -> TestResult {
        let dfr0 = vcpu.get_sysreg(&ID_AA64DFR0_EL1).ioctl("KVM_GET_ONE_REG")?;
        vcpu.set_args(&[u64::from(dfr0::PMUVER.get(dfr0) >= dfr0::PMUV3P5), lp]);
        Ok(())
    }

    /// PMSWINC_EL0 counts in the counters that it names, that are enabled, and whose event is SW_INCR.
    #[kvm_test(counts_software_events)]
    fn software_increments(t: &mut OneVcpu) -> TestResult {
        let vcpu = &mut t.vcpu;
        tell_width(vcpu, 0)?;
        vcpu.run_until_done()
    }

    /// The same with PMCR_EL0.LP: counters overflow at 64 bits.
    #[kvm_test(counts_software_events, requires(cpu::PMUV3P5))]
    fn software_increments_at_64_bits(t: &mut OneVcpu) -> TestResult {
        let vcpu = &mut t.vcpu;
        tell_width(vcpu, pmcr::LP)?;
        vcpu.run_until_done()
    }

    /// PMCR_EL0.LP and the high halves of event counters are RES0 before PMUv3p5.
    #[kvm_test(sets_lp)]
    fn lp_follows_the_version(t: &mut OneVcpu) -> TestResult {
        let vcpu = &mut t.vcpu;
        tell_width(vcpu, 0)?;
        vcpu.run_until_done()
    }

    /// CPU_CYCLES and INST_RETIRED (where it exists) count; a wrap sets the flag of its counter alone.
    #[kvm_test(counts_hardware_events)]
    fn hardware_events(t: &mut OneVcpu) -> TestResult {
        let vcpu = &mut t.vcpu;
        tell_width(vcpu, 0)?;
        vcpu.run_until_done()
    }

    /// The same with PMCR_EL0.LP: counters overflow at 64 bits.
    #[kvm_test(counts_hardware_events, requires(cpu::PMUV3P5))]
    fn hardware_events_at_64_bits(t: &mut OneVcpu) -> TestResult {
        let vcpu = &mut t.vcpu;
        tell_width(vcpu, pmcr::LP)?;
        vcpu.run_until_done()
    }

    /// MEM_ACCESS counts loads, where the host has that event.
    #[kvm_test(counts_memory_accesses)]
    fn memory_accesses(t: &mut OneVcpu) -> TestResult {
        let vcpu = &mut t.vcpu;
        tell_width(vcpu, 0)?;
        vcpu.run_until_done()
    }

    /// The same with PMCR_EL0.LP: counters overflow at 64 bits.
    #[kvm_test(counts_memory_accesses, requires(cpu::PMUV3P5))]
    fn memory_accesses_at_64_bits(t: &mut OneVcpu) -> TestResult {
        let vcpu = &mut t.vcpu;
        tell_width(vcpu, pmcr::LP)?;
        vcpu.run_until_done()
    }
}
