//! The cycle counter: 64 bits, whatever PMCR_EL0.LC says (ARM ARM D13.3, PMCCNTR_EL0).
use crate::prelude::*;
use pmu::{CYCLES, WRAP, pmcr};

/// Cycles before a wrap, at which counting starts.
const SOON: u64 = 100;

#[guest]
fn counts_cycles(g: &mut Guest) {
    let lc = g.arg(0);
    pmu::reset();
    PMCNTENSET_EL0.write(CYCLES);
    for value in [1, WRAP - 1, WRAP, 0x12_3456_789a, 1 << 63, !0] {
        PMCCNTR_EL0.write(value);
        check_eq!("a stopped cycle counter keeps 64 bits", PMCCNTR_EL0.read(), value);
    }
    PMCCNTR_EL0.write(0x12_0000_0000);
    PMCR_EL0.write(lc | pmcr::E);
    let mut before = PMCCNTR_EL0.read();
    let mut stuck = 0;
    for _ in 0..10 {
        let now = PMCCNTR_EL0.read();
        stuck += u64::from(now <= before);
        before = now;
    }
    check_eq!("the cycle counter counts up", stuck, 0);
    check_eq!("the cycle counter counts on beyond 32 bits", before >> 32, 0x12);
    PMCR_EL0.write(lc);
    let stopped = PMCCNTR_EL0.read();
    pmu::instructions(100);
    check_eq!("the cycle counter stands still while PMCR.E is clear", PMCCNTR_EL0.read(), stopped);
    check_eq!("no counter has overflowed before the wrap", PMOVSCLR_EL0.read(), 0);

    PMCCNTR_EL0.write(WRAP - SOON);
    PMCR_EL0.write(lc | pmcr::E);
    // The host's own interrupt tells KVM of the overflow: it may take a moment.
    comes(|| PMCCNTR_EL0.read() > WRAP && (lc != 0 || PMOVSCLR_EL0.read() & CYCLES != 0));
    PMCR_EL0.write(lc);
    let value = PMCCNTR_EL0.read();
    check!("the cycle counter is not cut off at 32 bits", value >= WRAP, "{value:#x}");
    check!("the cycle counter does not jump at bit 32", value >> 32 == 1, "{value:#x}");
    let overflow = PMOVSCLR_EL0.read();
    if lc == 0 {
        check_eq!("crossing bit 32 is an overflow without LC", overflow, CYCLES);
        PMOVSCLR_EL0.write(!0);
        PMCCNTR_EL0.write(7 * WRAP - SOON);
        PMCR_EL0.write(lc | pmcr::E);
        comes(|| PMOVSCLR_EL0.read() & CYCLES != 0);
        PMCR_EL0.write(lc);
        check_eq!(
            "every further crossing of bit 32 is an overflow without LC",
            PMOVSCLR_EL0.read(),
            CYCLES
        );
        check_eq!(
            "the cycle counter goes on beyond bit 32 without LC",
            PMCCNTR_EL0.read() >> 32,
            7
        );
    } else {
        check_eq!("crossing bit 32 is no overflow with LC", overflow, 0);
        PMCCNTR_EL0.write(!0 - SOON);
        PMCR_EL0.write(lc | pmcr::E);
        comes(|| PMOVSCLR_EL0.read() & CYCLES != 0);
        PMCR_EL0.write(lc);
        check_eq!("crossing bit 64 is an overflow with LC", PMOVSCLR_EL0.read(), CYCLES);
        let value = PMCCNTR_EL0.read();
        check!("the cycle counter wraps at 64 bits", value < WRAP, "{value:#x}");
    }
    PMOVSCLR_EL0.write(!0);
    PMCR_EL0.write(lc | pmcr::C);
    check_eq!("PMCR.C clears the cycle counter", PMCCNTR_EL0.read(), 0);
    check_eq!("clearing the cycle counter is no overflow", PMOVSCLR_EL0.read(), 0);
    PMCNTENCLR_EL0.write(CYCLES);
    PMCR_EL0.write(lc | pmcr::E);
    pmu::instructions(100);
    check_eq!("a cycle counter that is not enabled stands still", PMCCNTR_EL0.read(), 0);
    PMCNTENSET_EL0.write(CYCLES);
    pmu::instructions(100);
    check!("enabling the cycle counter while PMCR.E is set starts it", PMCCNTR_EL0.read() > 0);
    PMCNTENCLR_EL0.write(CYCLES);
    let stopped = PMCCNTR_EL0.read();
    pmu::instructions(100);
    check_eq!("disabling the cycle counter stops it where it is", PMCCNTR_EL0.read(), stopped);
}

#[guest]
fn counts_short_runs(_: &mut Guest) {
    pmu::reset();
    PMCNTENSET_EL0.write(CYCLES);
    for rounds in (2..150).step_by(16) {
        PMCCNTR_EL0.write(0);
        PMCR_EL0.write(pmcr::LC | pmcr::E);
        pmu::instructions(rounds);
        PMCR_EL0.write(pmcr::LC);
        let cycles = PMCCNTR_EL0.read();
        check!("a run of some instructions takes cycles", cycles > 0);
        check_eq!("the high half of a small count is zero", cycles >> 32, 0);
        check_eq!("a stopped counter reads the same again", PMCCNTR_EL0.read(), cycles);
    }
    check_eq!("small counts do not overflow", PMOVSCLR_EL0.read(), 0);
}

#[guest]
fn exits_while_counting(g: &mut Guest) {
    pmu::reset();
    PMCNTENSET_EL0.write(CYCLES);
    PMCCNTR_EL0.write(WRAP - SOON);
    PMCR_EL0.write(pmcr::LC | pmcr::E);
    let mut before = PMCCNTR_EL0.read();
    for stage in 1..=5 {
        g.sync(stage, &[]);
        let now = PMCCNTR_EL0.read();
        check!("the counter goes on over exits to userspace", now > before, "{before:x} {now:x}");
        before = now;
    }
    check_eq!("the cycle counter has passed bit 32 once", before >> 32, 1);
}

#[host]
mod host {
    use super::*;

    kvm_tests! { irqchip, pmu, requires(cap::ARM_PMU_V3, host::FREE_COUNTERS) }

    /// The cycle counter always has 64 bits; PMCR_EL0.LC only says which of them overflows.
    #[kvm_test(counts_cycles)]
    fn counter_has_64_bits(t: &mut OneVcpu) -> TestResult {
        let vcpu = &mut t.vcpu;
        vcpu.set_args(&[pmcr::LC]);
        vcpu.run_until_done()
    }

    /// The same with LC = 0, which needs a host where it is not RES1.
    #[kvm_test(counts_cycles, requires(cpu::AARCH32_EL0))]
    fn counter_has_64_bits_without_lc(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// A few instructions count as a few cycles.
    #[kvm_test(counts_short_runs)]
    fn short_runs_count(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// What the counter has counted survives the vCPU's stay in userspace.
    #[kvm_test(exits_while_counting)]
    fn counting_survives_exits(t: &mut OneVcpu) -> TestResult {
        let vcpu = &mut t.vcpu;
        let mut before = 0;
        for stage in 1..=5 {
            vcpu.run_until_sync(stage)?;
            let now = vcpu.get_sysreg(&PMCCNTR_EL0).ioctl("KVM_GET_ONE_REG")?;
            check!("userspace reads what has been counted so far", now > before.max(WRAP - SOON));
            before = now;
        }
        vcpu.run_until_done()
    }
}
