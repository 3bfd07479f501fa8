//! The virtual PMU (ARM ARM D13; Documentation/virt/kvm/devices/vcpu.rst 1).
use crate::prelude::*;

#[host]
use harness::kvm::bindings::{
    KVM_ARM_VCPU_PMU_V3, KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_INIT,
    KVM_ARM_VCPU_PMU_V3_IRQ, kvm_device_attr,
};

/// The PMU's interrupt in these VMs, a PPI.
const PMU_INTID: u32 = 23;
const PATIENCE: u64 = 10_000;

/// Fields of PMCR_EL0.
mod pmcr {
    pub const E: u64 = 1 << 0;
    pub const P: u64 = 1 << 1;
    pub const C: u64 = 1 << 2;
    pub const LC: u64 = 1 << 6;
    pub const N_SHIFT: u64 = 11;
}

/// Bit of the cycle counter in PMCNTENSET, PMOVSCLR and PMINTENSET.
const CYCLES: u64 = 1 << 31;
/// Events.
const SW_INCR: u64 = 0x00;
const CHAIN: u64 = 0x1e;
const WRAP: u64 = 1 << 32;

/// Stops and clears everything.
fn reset() {
    PMCR_EL0.write(pmcr::LC | pmcr::C | pmcr::P);
    PMCNTENCLR_EL0.write(!0);
    PMOVSCLR_EL0.write(!0);
    PMINTENCLR_EL1.write(!0);
    PMCCFILTR_EL0.write(0);
}

fn nr_counters() -> u64 {
    PMCR_EL0.read() >> pmcr::N_SHIFT & 0x1f
}

/// A VM whose vCPU 0 has a PMU.
#[host]
fn vcpu_with_pmu(t: &mut OneVm) -> TestResult<Vcpu> {
    t.vm.cpuid_mut().add(KVM_ARM_VCPU_PMU_V3);
    let guest = t.guest.ok_or_else(|| Failure::Error("no guest function".into()))?;
    let vcpu = t.vm.add_vcpu(0, guest)?;
    t.vm.state().gic()?.init()?;
    let mut intid = PMU_INTID;
    let attr = |attr: u32, addr: u64| kvm_device_attr {
        group: KVM_ARM_VCPU_PMU_V3_CTRL,
        attr: attr.into(),
        addr,
        flags: 0,
    };
    vcpu.fd()
        .set_device_attr(&attr(KVM_ARM_VCPU_PMU_V3_IRQ, &raw mut intid as u64))
        .ioctl("KVM_ARM_VCPU_PMU_V3_IRQ")?;
    vcpu.fd()
        .set_device_attr(&attr(KVM_ARM_VCPU_PMU_V3_INIT, 0))
        .ioctl("KVM_ARM_VCPU_PMU_V3_INIT")?;
    Ok(vcpu)
}

#[guest]
fn reads_registers(_: &mut Guest) {
    reset();
    let all = (1 << nr_counters()) - 1 | CYCLES;
    check_eq!("PMCR.P and C read as zero", PMCR_EL0.read() & (pmcr::P | pmcr::C), 0);
    check_eq!("PMCR.E reads as zero when cleared", PMCR_EL0.read() & pmcr::E, 0);
    check_eq!("PMCR.LC keeps 1", PMCR_EL0.read() & pmcr::LC, pmcr::LC);
    for (name, set, clear) in [
        ("PMCNTENSET", PMCNTENSET_EL0, PMCNTENCLR_EL0),
        ("PMINTENSET", PMINTENSET_EL1, PMINTENCLR_EL1),
        ("PMOVSSET", PMOVSSET_EL0, PMOVSCLR_EL0),
    ] {
        check_eq!("{name} is zero when cleared", set.read(), 0);
        set.write(!0);
        check_eq!("{name} sets the bits of implemented counters only", set.read(), all);
        check_eq!("the clearing twin of {name} reads the same", clear.read(), all);
        clear.write(CYCLES);
        check_eq!("{name} loses only the bits that are cleared", set.read(), all & !CYCLES);
        clear.write(!0);
    }
    PMSELR_EL0.write(31);
    PMXEVTYPER_EL0.write(1 << 31);
    check_eq!("PMXEVTYPER with PMSELR 31 is PMCCFILTR", PMCCFILTR_EL0.read(), 1 << 31);
    PMCCFILTR_EL0.write(0);
    if nr_counters() > 0 {
        PMSELR_EL0.write(0);
        PMXEVTYPER_EL0.write(CHAIN);
        check_eq!("PMXEVTYPER writes the selected counter's event", PMEVTYPER0_EL0.read(), CHAIN);
        PMXEVCNTR_EL0.write(0xdead_beef);
        check_eq!("PMXEVCNTR writes the selected counter", PMEVCNTR0_EL0.read(), 0xdead_beef);
        PMCR_EL0.write(pmcr::LC | pmcr::P);
        check_eq!("PMCR.P clears event counters", PMEVCNTR0_EL0.read(), 0);
    }
}

/// Set, clear and select registers agree, for the counters that there are.
#[kvm_test(reads_registers, irqchip, requires(cap::ARM_PMU_V3))]
fn registers_agree(t: &mut OneVm) -> TestResult {
    vcpu_with_pmu(t)?.run_until_done()
}

#[guest]
fn clears_lc(_: &mut Guest) {
    PMCR_EL0.write(0);
    check_eq!("PMCR.LC is RES1 without AArch32", PMCR_EL0.read() & pmcr::LC, pmcr::LC);
}

/// PMCR_EL0.LC is RES1 where no exception level runs AArch32 code.
#[kvm_test(clears_lc, irqchip, requires(cap::ARM_PMU_V3, cpu::AARCH64_ONLY))]
fn lc_is_res1(t: &mut OneVm) -> TestResult {
    vcpu_with_pmu(t)?.run_until_done()
}

#[guest]
fn counts_cycles(g: &mut Guest) {
    let lc = g.arg(0);
    reset();
    PMCNTENSET_EL0.write(CYCLES);
    PMCCNTR_EL0.write(0x12_3456_789a);
    check_eq!("a stopped cycle counter keeps 64 bits", PMCCNTR_EL0.read(), 0x12_3456_789a);
    PMCR_EL0.write(lc | pmcr::E);
    let before = PMCCNTR_EL0.read();
    let between = PMCCNTR_EL0.read();
    let after = PMCCNTR_EL0.read();
    check!(
        "the cycle counter counts",
        before < between && between < after,
        "{before:x} {between:x} {after:x}"
    );
    PMCR_EL0.write(lc);
    PMOVSCLR_EL0.write(!0);
    PMCCNTR_EL0.write(WRAP - 100);
    PMCR_EL0.write(lc | pmcr::E);
    // The host's own interrupt tells KVM of the overflow: it may take a moment.
    spin_for(PATIENCE, || {
        PMCCNTR_EL0.read() > WRAP && (lc != 0 || PMOVSCLR_EL0.read() & CYCLES != 0)
    });
    PMCR_EL0.write(lc);
    let value = PMCCNTR_EL0.read();
    check!("the cycle counter is not cut off at 32 bits", value >= WRAP, "{value:#x}");
    let overflow = PMOVSCLR_EL0.read() & CYCLES;
    if lc == 0 {
        check_eq!("without LC crossing bit 32 is an overflow", overflow, CYCLES);
    } else {
        check_eq!("with LC crossing bit 32 is no overflow", overflow, 0);
        PMCCNTR_EL0.write(!0 - 100);
        PMCR_EL0.write(lc | pmcr::E);
        spin_for(PATIENCE, || PMOVSCLR_EL0.read() & CYCLES != 0);
        PMCR_EL0.write(lc);
        check_eq!("with LC crossing bit 64 is an overflow", PMOVSCLR_EL0.read() & CYCLES, CYCLES);
    }
    PMCR_EL0.write(lc | pmcr::C);
    check_eq!("PMCR.C clears the cycle counter", PMCCNTR_EL0.read(), 0);
    PMCNTENCLR_EL0.write(CYCLES);
    PMCR_EL0.write(lc | pmcr::E);
    check_eq!("a cycle counter that is not enabled stands still", PMCCNTR_EL0.read(), 0);
}

/// The cycle counter always has 64 bits; PMCR_EL0.LC only says which of them overflows.
#[kvm_test(counts_cycles, irqchip, requires(cap::ARM_PMU_V3))]
fn cycle_counter(t: &mut OneVm) -> TestResult {
    let mut vcpu = vcpu_with_pmu(t)?;
    vcpu.set_args(&[pmcr::LC]);
    vcpu.run_until_done()
}

/// The same with LC = 0, which needs a host where it is not RES1.
#[kvm_test(counts_cycles, irqchip, requires(cap::ARM_PMU_V3, cpu::AARCH32_EL0))]
fn cycle_counter_without_lc(t: &mut OneVm) -> TestResult {
    vcpu_with_pmu(t)?.run_until_done()
}

#[guest]
fn counts_software_events(g: &mut Guest) {
    if nr_counters() < 2 {
        guest_runtime::ucall::skip(format_args!("two event counters"));
    }
    let wide = g.arg(0) != 0;
    let mask = if wide { !0 } else { WRAP - 1 };
    reset();
    PMEVTYPER0_EL0.write(SW_INCR);
    PMEVTYPER1_EL0.write(SW_INCR);
    PMCNTENSET_EL0.write(3);
    let before_wrap = WRAP - 10;
    PMEVCNTR0_EL0.write(before_wrap);
    PMEVCNTR1_EL0.write(0);
    let increment = |counters: u64| (0..20).for_each(|_| PMSWINC_EL0.write(counters));
    increment(3);
    check_eq!("PMSWINC does nothing while PMCR.E is clear", PMEVCNTR0_EL0.read(), before_wrap);
    PMCR_EL0.write(pmcr::LC | pmcr::E);
    increment(3);
    check_eq!("each PMSWINC counts one", PMEVCNTR1_EL0.read(), 20);
    check_eq!("a counter wraps at its width", PMEVCNTR0_EL0.read(), (before_wrap + 20) & mask);
    check_eq!("the wrap at 32 bits sets that counter's overflow flag", PMOVSCLR_EL0.read(), 1);
    increment(2);
    check_eq!(
        "a counter that PMSWINC does not name stands still",
        PMEVCNTR0_EL0.read(),
        (before_wrap + 20) & mask
    );
    PMOVSCLR_EL0.write(1);
    check_eq!("PMOVSCLR clears the flag", PMOVSCLR_EL0.read(), 0);

    PMCR_EL0.write(pmcr::LC);
    PMEVTYPER1_EL0.write(CHAIN);
    PMEVCNTR0_EL0.write(WRAP - 10);
    PMEVCNTR1_EL0.write(7);
    PMCR_EL0.write(pmcr::LC | pmcr::E);
    increment(1);
    check_eq!("CHAIN counts the overflow of the counter below", PMEVCNTR1_EL0.read(), 8);
    check_eq!("the lower counter's flag is set too", PMOVSCLR_EL0.read(), 1);
    PMOVSCLR_EL0.write(!0);
    PMCR_EL0.write(pmcr::LC);
    PMEVCNTR0_EL0.write(WRAP - 10);
    PMEVCNTR1_EL0.write(WRAP - 1);
    PMCR_EL0.write(pmcr::LC | pmcr::E);
    increment(1);
    check_eq!("a chained counter wraps at its width", PMEVCNTR1_EL0.read(), WRAP & mask);
    check_eq!("both flags are set when both wrap", PMOVSCLR_EL0.read(), 3);
}

/// Event counters count SW_INCR and CHAIN, and flag a wrap at 32 bits.
#[kvm_test(counts_software_events, irqchip, requires(cap::ARM_PMU_V3))]
fn event_counters(t: &mut OneVm) -> TestResult {
    let mut vcpu = vcpu_with_pmu(t)?;
    let version = vcpu.get_sysreg(&ID_AA64DFR0_EL1).ioctl("KVM_GET_ONE_REG")? >> 8 & 0xf;
    vcpu.set_args(&[u64::from(version >= 6)]);
    vcpu.run_until_done()
}

#[guest]
fn overflows(_: &mut Guest) {
    if nr_counters() < 1 {
        guest_runtime::ucall::skip(format_args!("an event counter"));
    }
    let gic = GuestGic::detect();
    gic.enable();
    gic.set_priority(PMU_INTID, 0xa0);
    gic.set_group(PMU_INTID, u32::from(gic == GuestGic::V3));
    gic.set(gicd::ISENABLER, PMU_INTID);
    reset();
    PMEVTYPER0_EL0.write(SW_INCR);
    PMCNTENSET_EL0.write(1);
    PMCR_EL0.write(pmcr::LC | pmcr::E);
    let (taken, flags, other) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let take = |_: &mut TrapFrame| {
        let acknowledged = gic.acknowledge();
        if acknowledged == PMU_INTID {
            taken.fetch_add(1, SeqCst);
            flags.fetch_or(PMOVSCLR_EL0.read(), SeqCst);
        } else {
            other.fetch_add(1, SeqCst);
        }
        PMOVSCLR_EL0.write(!0);
        gic.end(acknowledged);
    };
    let wrap = || {
        PMEVCNTR0_EL0.write(WRAP - 1);
        PMSWINC_EL0.write(1);
        spin_for(PATIENCE, || taken.load(SeqCst) > 0);
        taken.swap(0, SeqCst)
    };
    with_handler(vector::IRQ, take, || {
        irq_enable();
        check_eq!("an overflow does not interrupt while PMINTENSET is clear", wrap(), 0);
        check_eq!("its flag is set all the same", PMOVSCLR_EL0.read(), 1);
        PMOVSCLR_EL0.write(!0);
        PMINTENSET_EL1.write(1);
        check_eq!("an overflow interrupts once", wrap(), 1);
        check_eq!("the handler sees the flag of its counter", flags.swap(0, SeqCst), 1);
        check_eq!("the next overflow interrupts again", wrap(), 1);
        PMINTENCLR_EL1.write(1);
        check_eq!("PMINTENCLR stops the interrupts", wrap(), 0);
        irq_disable();
    });
    check_eq!("no other interrupt comes", other.load(SeqCst), 0);
}

/// An overflow raises the PMU's interrupt once, if its counter may.
#[kvm_test(overflows, irqchip, requires(cap::ARM_PMU_V3))]
fn overflow_interrupt(t: &mut OneVm) -> TestResult {
    vcpu_with_pmu(t)?.run_until_done()
}
