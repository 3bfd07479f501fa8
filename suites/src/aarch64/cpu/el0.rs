//! User mode: what EL0 of a guest may do, and where its exceptions go (ARM ARM D1).
use crate::prelude::*;
use insn::{AGAIN, COUNT_DOWN, LOAD, NOP, STORE, SVC};
use pmu::{event, pmcr, userenr};
use regs::Cntkctl;
use timer::CTL_ENABLE;

/// Runs one instruction at EL0 with X0 and X1, and gives X0, or the class of its exception.
fn el0(instruction: insn::Insn, x0: u64, x1: u64) -> Result<u64, u8> {
    user::run(&[instruction, SVC], [x0, x1, 0, 0]).value()
}

#[guest]
fn runs_at_el0(_: &mut Guest) {
    let stop = user::run(&[NOP, SVC], [1, 2, 3, 4]);
    check_eq!("SVC at EL0 goes to EL1", stop.trap.vector, vector::SVC);
    check_eq!("SVC returns to the instruction behind it", stop.next, 2);
    check_eq!("EL0's registers arrive unchanged at EL1", stop.x, [1, 2, 3, 4]);
    let stop = user::run(&[COUNT_DOWN, AGAIN, SVC], [1000, 7, 0, 0]);
    check_eq!("a loop at EL0 runs to its end", stop.x, [0, 7, 0, 0]);
    for (name, instruction, class) in [
        ("UDF", insn::UDF, vector::UNKNOWN),
        ("HVC", insn::HVC, vector::UNKNOWN),
        ("SMC", insn::SMC, vector::UNKNOWN),
        ("BRK", insn::BRK, vector::BRK),
        ("ERET", insn::ERET, vector::UNKNOWN),
    ] {
        let stop = user::run(&[NOP, instruction, SVC], [0; 4]);
        check_eq!("{name} at EL0 has its exception class", stop.trap.vector, class);
        check_eq!("{name} at EL0 stops at its instruction", stop.next, 1);
    }
}

#[guest]
fn reaches_for_registers(_: &mut Guest) {
    let undefined = Err(vector::UNKNOWN);
    for register in [SCTLR_EL1, VBAR_EL1, TTBR0_EL1, ESR_EL1, CNTKCTL_EL1, HCR_EL2, SCR_EL3] {
        let name = register.name;
        check_eq!("reading {name} at EL0 is undefined", el0(insn::mrs(&register), 0, 0), undefined);
        check_eq!("writing {name} at EL0 is undefined", el0(insn::msr(&register), 0, 0), undefined);
    }
    TPIDR_EL0.write(77);
    TPIDRRO_EL0.write(78);
    check_eq!("EL0 can read TPIDR_EL0", el0(insn::mrs(&TPIDR_EL0), 0, 0), Ok(77));
    check_eq!("EL0 can write TPIDR_EL0", el0(insn::msr(&TPIDR_EL0), 79, 0), Ok(79));
    check_eq!("EL1 reads the TPIDR_EL0 that EL0 wrote", TPIDR_EL0.read(), 79);
    check_eq!("EL0 can read TPIDRRO_EL0", el0(insn::mrs(&TPIDRRO_EL0), 0, 0), Ok(78));
    check_eq!("EL0 cannot write TPIDRRO_EL0", el0(insn::msr(&TPIDRRO_EL0), 0, 0), undefined);
    let sctlr = SCTLR_EL1.read();
    check_eq!("EL0 reads CTR_EL0 with UCT", el0(insn::mrs(&CTR_EL0), 0, 0), Ok(CTR_EL0.read()));
    SCTLR_EL1.write(sctlr & !Sctlr::UCT.bits());
    check_eq!("CTR_EL0 traps at EL0 without UCT", el0(insn::mrs(&CTR_EL0), 0, 0), Err(vector::SYS));
    SCTLR_EL1.write(sctlr);
    check_eq!("DAIF traps at EL0 without UMA", el0(insn::mrs(&DAIF), 0, 0), Err(vector::SYS));
}

#[guest]
fn reaches_for_memory(_: &mut Guest) {
    user::run(&[SVC], [0; 4]);
    poke::<u64>(user::DATA_GPA, 41);
    check_eq!("EL0 loads from its page", el0(LOAD, 0, user::DATA), Ok(41));
    check_eq!("EL0 stores to its page", el0(STORE, 42, user::DATA), Ok(42));
    check_eq!("EL1 sees EL0's store", peek::<u64>(user::DATA_GPA), 42);
    for (name, instruction, write) in [("load", LOAD, 0), ("store", STORE, esr::WNR)] {
        let stop = user::run(&[instruction, SVC], [0, layout::SCRATCH, 0, 0]);
        check_eq!("EL0's {name} of EL1's page aborts", stop.trap.vector, vector::DATA_ABORT_LOWER);
        check_eq!("the abort of EL0's {name} has its address", stop.trap.addr, layout::SCRATCH);
        check_eq!(
            "the abort of EL0's {name} is a permission fault",
            stop.trap.iss() & esr::FSC,
            esr::FSC_PERMISSION_L3
        );
        check_eq!(
            "the abort of EL0's {name} has its kind of access",
            stop.trap.iss() & esr::WNR,
            write
        );
        check_eq!("EL0's {name} of EL1's page stops at its instruction", stop.next, 0);
    }
    let stop = user::run(&[STORE, SVC], [0, user::CODE, 0, 0]);
    check_eq!("a store to EL0's read-only page aborts", stop.trap.vector, vector::DATA_ABORT_LOWER);
    let stop = user::run(&[LOAD, SVC], [0, 8, 0, 0]);
    check_eq!("null is not mapped for EL0", stop.trap.iss() & esr::FSC, esr::FSC_TRANSLATION_L3);
}

#[guest]
fn reaches_for_timers(_: &mut Guest) {
    let cases = [
        (CNTPCT_EL0, Cntkctl::EL0PCTEN.bits()),
        (CNTVCT_EL0, Cntkctl::EL0VCTEN.bits()),
        (CNTV_CTL_EL0, Cntkctl::EL0VTEN.bits()),
        (CNTV_CVAL_EL0, Cntkctl::EL0VTEN.bits()),
        (CNTP_CTL_EL0, Cntkctl::EL0PTEN.bits()),
        (CNTP_CVAL_EL0, Cntkctl::EL0PTEN.bits()),
    ];
    let all = bits!(Cntkctl::{EL0PCTEN | EL0VCTEN | EL0VTEN | EL0PTEN});
    for (register, bit) in cases {
        let name = register.name;
        CNTKCTL_EL1.write(bit);
        check!(
            "EL0 reads {name} where CNTKCTL_EL1 allows it",
            el0(insn::mrs(&register), 0, 0).is_ok()
        );
        CNTKCTL_EL1.write(all & !bit);
        check_eq!(
            "EL0's read of {name} traps where CNTKCTL_EL1 forbids it",
            el0(insn::mrs(&register), 0, 0),
            Err(vector::SYS)
        );
    }
    CNTKCTL_EL1.write(bits!(Cntkctl::{EL0PTEN | EL0VTEN}));
    for (name, timer) in [("virtual", timer::VIRTUAL), ("physical", timer::PHYSICAL)] {
        let far = timer.count.read() + (1 << 40);
        check_eq!("EL0 can set the {name} timer", el0(insn::msr(&timer.cval), far, 0), Ok(far));
        check_eq!("EL1 reads EL0's {name} timer", timer.cval.read(), far);
        check!("EL0 can start the {name} timer", el0(insn::msr(&timer.ctl), CTL_ENABLE, 0).is_ok());
        check_eq!("EL0's {name} timer runs", timer.ctl.read(), CTL_ENABLE);
        timer.ctl.write(0);
    }
}

/// Reads registers at EL0 under each right alone.
fn reads_by_right(cases: &[(SysReg, u64)]) {
    for &(register, rights) in cases {
        let name = register.name;
        for right in [userenr::EN, userenr::SW, userenr::CR, userenr::ER] {
            PMUSERENR_EL0.write(right);
            let got = el0(insn::mrs(&register), 0, 0);
            if rights & right == 0 {
                check!(
                    "EL0 cannot read {name} without its right",
                    got.is_err(),
                    "{right:#x} {got:x?}"
                );
            } else {
                check_eq!("EL0 reads {name} as EL1 does with its right", got, Ok(register.read()));
            }
        }
    }
}

/// Values in counters that stand still.
fn set_up_pmu() {
    pmu::need_counters(1);
    pmu::reset();
    PMEVTYPER0_EL0.write(event::SW_INCR);
    PMEVCNTR0_EL0.write(5);
    PMCCNTR_EL0.write(6);
    PMCNTENSET_EL0.write(1);
    PMSELR_EL0.write(0);
}

#[guest]
fn reaches_for_the_pmu(_: &mut Guest) {
    set_up_pmu();
    reads_by_right(&[
        (PMCR_EL0, userenr::EN),
        (PMCNTENSET_EL0, userenr::EN),
        (PMOVSCLR_EL0, userenr::EN),
        (PMCEID0_EL0, userenr::EN),
        (PMEVTYPER0_EL0, userenr::EN),
        (PMCCFILTR_EL0, userenr::EN),
    ]);
    PMUSERENR_EL0.write(userenr::CR | userenr::ER | userenr::SW);
    for register in [PMCCNTR_EL0, PMEVCNTR0_EL0, PMCR_EL0] {
        let name = register.name;
        check!("EL0 can write {name} with EN only", el0(insn::msr(&register), 0, 0).is_err());
    }
    check_eq!("refused writes leave the cycle counter", PMCCNTR_EL0.read(), 6);
    check_eq!("refused writes leave the event counter", PMEVCNTR0_EL0.read(), 5);
    PMCR_EL0.write(pmcr::LC | pmcr::E);
    PMUSERENR_EL0.write(userenr::EN);
    check!("EL0 with EN can stop the PMU", el0(insn::msr(&PMCR_EL0), pmcr::LC, 0).is_ok());
    check_eq!("the PMU that EL0 stopped stands still", PMCR_EL0.read() & pmcr::E, 0);
    PMUSERENR_EL0.write(!0);
    check!("EL0 can read PMUSERENR_EL0", el0(insn::mrs(&PMUSERENR_EL0), 0, 0).is_ok());
    check!("EL0 cannot write PMUSERENR_EL0", el0(insn::msr(&PMUSERENR_EL0), 0, 0).is_err());
    let refused = el0(insn::mrs(&PMINTENSET_EL1), 0, 0);
    check_eq!("PMINTENSET_EL1 is undefined at EL0", refused, Err(vector::UNKNOWN));
}

#[guest]
fn reaches_for_counters(_: &mut Guest) {
    set_up_pmu();
    reads_by_right(&[
        (PMCCNTR_EL0, userenr::EN | userenr::CR),
        (PMEVCNTR0_EL0, userenr::EN | userenr::ER),
        (PMXEVCNTR_EL0, userenr::EN | userenr::ER),
        (PMSELR_EL0, userenr::EN | userenr::ER),
    ]);
    PMCR_EL0.write(pmcr::LC | pmcr::E);
    let mut count = PMEVCNTR0_EL0.read();
    for right in [userenr::EN, userenr::SW, userenr::CR, userenr::ER] {
        PMUSERENR_EL0.write(right);
        let may = right & (userenr::EN | userenr::SW) != 0;
        let written = el0(insn::msr(&PMSWINC_EL0), 1, 0);
        check_eq!("EL0 can write PMSWINC_EL0 with EN or SW", written.is_ok(), may);
        count += u64::from(may);
        check_eq!(
            "EL0's software increment counts with EN or SW only",
            PMEVCNTR0_EL0.read(),
            count
        );
    }
}

#[guest]
fn is_refused_the_pmu(_: &mut Guest) {
    pmu::reset();
    PMUSERENR_EL0.write(0);
    for register in [PMCR_EL0, PMCNTENSET_EL0, PMOVSCLR_EL0] {
        let name = register.name;
        let got = el0(insn::mrs(&register), 0, 0);
        check!("EL0 cannot read {name} without its right", got.is_err(), "{got:x?}");
        check_eq!("the refused read of {name} is a trapped access", got, Err(vector::SYS));
    }
}

#[guest]
fn is_interrupted_at_el0(_: &mut Guest) {
    let timer = timer::VIRTUAL;
    let gic = GuestGic::detect();
    gic.enable();
    gic.set_priority(timer.intid, 0xa0);
    gic.set_group(timer.intid, u32::from(gic == GuestGic::V3));
    gic.set(gicd::ISENABLER, timer.intid);
    let at_el0 = AtomicU64::new(0);
    let elsewhere = AtomicU64::new(0);
    let handler = |frame: &mut TrapFrame| {
        let acknowledged = gic.acknowledge();
        let count = if frame.spsr & 0xf == 0 { &at_el0 } else { &elsewhere };
        count.fetch_add(1, SeqCst);
        timer.ctl.write(0);
        // Ends EL0's loop at its next round.
        frame.x[0] = 1;
        gic.end(acknowledged);
    };
    with_handler(vector::IRQ, handler, || {
        timer.cval.write(timer.count.read() + CNTFRQ_EL0.read() / 1000);
        timer.ctl.write(CTL_ENABLE);
        let mode = user::Mode { interrupts: true, ..Default::default() };
        let stop = user::run_in(mode, &[COUNT_DOWN, AGAIN, SVC], [!0, 9, 0, 0]);
        check_eq!("EL0 goes on after an interrupt", stop.trap.vector, vector::SVC);
        check_eq!("EL0 keeps its registers across an interrupt", [stop.x[0], stop.x[1]], [0, 9]);
    });
    check_eq!("the interrupt is taken at EL0", at_el0.load(SeqCst), 1);
    check_eq!("the interrupt is not taken elsewhere", elsewhere.load(SeqCst), 0);
}

#[host]
mod host {
    use super::*;

    /// EL0 runs, and its exceptions come to EL1 with their classes.
    #[kvm_test(runs_at_el0)]
    fn exceptions_go_to_el1(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// Registers of EL1 are undefined at EL0, and those of EL0 are there.
    #[kvm_test(reaches_for_registers)]
    fn registers_of_el1_are_out_of_reach(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// EL0 reaches pages that are its own, and a permission fault tells of others.
    #[kvm_test(reaches_for_memory)]
    fn pages_of_el1_are_out_of_reach(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// CNTKCTL_EL1 gives EL0 counters and timers one by one (ARM ARM D12; the physical ones are KVM's to
    /// emulate on some hosts).
    #[kvm_test(reaches_for_timers, irqchip)]
    fn timers_are_given_one_by_one(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// PMUSERENR_EL0.EN gives EL0 the PMU but for interrupts (ARM ARM D13, PMUSERENR_EL0).
    #[kvm_test(reaches_for_the_pmu, irqchip, pmu, requires(cap::ARM_PMU_V3))]
    fn pmu_is_given_to_el0(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// PMUSERENR_EL0.CR, ER and SW give EL0 counters to read, and software increments.
    #[kvm_test(reaches_for_counters, irqchip, pmu, requires(cap::ARM_PMU_V3))]
    fn counters_are_given_to_el0(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// An access that PMUSERENR_EL0 refuses is trapped to EL1 with the class of a system register access
    /// (0x18), not as an undefined instruction (ARM ARM D13, PMCR_EL0, accessibility).
    #[kvm_test(is_refused_the_pmu, irqchip, pmu, requires(cap::ARM_PMU_V3))]
    fn refused_pmu_accesses_are_traps(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// EL0 is interrupted, and goes on.
    #[kvm_test(is_interrupted_at_el0, irqchip)]
    fn interrupts_are_taken_from_el0(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }
}
