//! Guests at EL2 (api.rst, KVM_CAP_ARM_EL2; ARM ARM D1, D5): that one starts there, and runs a guest of
//! its own at EL1.
use crate::prelude::*;
use insn::{HVC, NOP, mrs, msr};

#[host]
use vm::bindings::KVM_ARM_VCPU_HAS_EL2;

kvm_tests! { irqchip, features(KVM_ARM_VCPU_HAS_EL2), requires(cap::ARM_EL2) }

/// HCR_EL2.
mod hcr {
    pub const VM: u64 = 1 << 0;
    pub const TWI: u64 = 1 << 13;
    pub const TVM: u64 = 1 << 26;
    pub const TGE: u64 = 1 << 27;
    pub const E2H: u64 = 1 << 34;
}

/// Vectors of the nested guest.
const VECTORS: u64 = layout::SCRATCH + 0x8000;

/// Exception class of HVC.
const HVC64: u8 = 0x16;
/// SCTLR_EL1's RES1 bits: no translation, little-endian.
const SCTLR_RES1: u64 = 0x30d0_0800;

#[guest]
fn runs_at_el2(_: &mut Guest) {
    check_eq!("the guest function runs at EL2", CURRENTEL.read() >> 2, 2);
    check_eq!("ID_AA64PFR0_EL1 reports that EL2 exists", ID_AA64PFR0_EL1.read() >> 8 & 0xf, 1);
    check_eq!(
        "HCR_EL2 has E2H and TGE",
        HCR_EL2.read() & (hcr::E2H | hcr::TGE),
        hcr::E2H | hcr::TGE
    );
    check_eq!("SCTLR_EL1 is SCTLR_EL2 with E2H", SCTLR_EL1.read(), SCTLR_EL2.read());
    check_eq!("VBAR_EL1 is VBAR_EL2 with E2H", VBAR_EL1.read(), VBAR_EL2.read());
    VBAR_EL12.write(0x1_2345_6000 & !0x7ff);
    check_eq!("VBAR_EL12 is a register of its own", VBAR_EL12.read(), 0x1_2345_6000);
    check!("VBAR_EL1 differs from VBAR_EL12", VBAR_EL1.read() != VBAR_EL12.read());
    check_eq!("BRK at EL2 has its exception class", brk_safe().unwrap_err().vector, vector::BRK);
    check_eq!("UDF at EL2 is undefined", udf_safe().unwrap_err().vector, vector::UNKNOWN);
    let trap = read_safe::<u8>(8).unwrap_err();
    check_eq!("null is not mapped at EL2", trap.vector, vector::DATA_ABORT);
    check_eq!(
        "SCR_EL3 is undefined at EL2",
        SCR_EL3.read_safe().map_err(|t| t.vector),
        Err(vector::UNKNOWN)
    );
    check!("PSCI can be called by SMC", smc(psci::function::PSCI_VERSION, [0; 3])[0] as i64 > 0);
    let el0 = user::run(&[insn::SVC], [1, 2, 3, 4]);
    check_eq!("SVC brings EL0 back to EL2", el0.trap.vector, vector::SVC);
    check_eq!("EL0's registers arrive unchanged at EL2", el0.x, [1, 2, 3, 4]);
}

/// A guest with KVM_ARM_VCPU_HAS_EL2 runs at EL2, and EL0 below it.
#[kvm_test(runs_at_el2)]
fn guest_runs_at_el2(t: &mut OneVcpu) -> TestResult {
    t.vcpu.run_until_done()
}

#[guest]
fn interrupts_itself(_: &mut Guest) {
    let gic = GuestGic::detect();
    gic.enable();
    for timer in [timer::VIRTUAL, timer::PHYSICAL] {
        // With E2H and TGE these names are the timers of EL2.
        let intid = if timer.intid == timer::VIRTUAL.intid { 28 } else { 26 };
        gic.set_priority(intid, 0xa0);
        gic.set_group(intid, 1);
        gic.set(gicd::ISENABLER, intid);
        let taken = AtomicU64::new(0);
        let handler = |_: &mut TrapFrame| {
            let acknowledged = gic.acknowledge();
            check_eq!("a timer of EL2 has its own interrupt", acknowledged, intid);
            timer.ctl.write(0);
            taken.fetch_add(1, SeqCst);
            gic.end(acknowledged);
        };
        with_handler(vector::IRQ, handler, || {
            irq_enable();
            timer.cval.write(timer.count.read() + CNTFRQ_EL0.read() / 1000);
            timer.ctl.write(timer::CTL_ENABLE);
            comes(|| taken.load(SeqCst) > 0);
            irq_disable();
        });
        check_eq!("the timer's interrupt is taken at EL2", taken.load(SeqCst), 1);
    }
}

/// Interrupts reach a guest at EL2.
#[kvm_test(interrupts_itself)]
fn timers_of_el2_interrupt(t: &mut OneVcpu) -> TestResult {
    t.vcpu.run_until_done()
}

/// Runs a program at EL1 of a nested guest.
fn el1(program: &[u32], x: [u64; 4]) -> user::Stop {
    user::run_in(user::Mode { el1: true, ..Default::default() }, program, x)
}

#[guest]
fn runs_a_guest(_: &mut Guest) {
    SCTLR_EL12.write(SCTLR_RES1);
    let stop = el1(&[NOP, mrs(&CURRENTEL), HVC], [0, 5, 6, 7]);
    check_eq!("HVC of the nested guest comes to EL2", stop.trap.vector, HVC64);
    check_eq!("HVC returns to the instruction behind it", stop.next, 3);
    check_eq!("the nested guest ran at EL1", stop.x, [1 << 2, 5, 6, 7]);
    check_eq!("EL2 goes on at EL2", CURRENTEL.read() >> 2, 2);
    for (name, virtual_id, id, value) in [
        ("MIDR_EL1", VPIDR_EL2, MIDR_EL1, 0x410f_d0c1),
        ("MPIDR_EL1", VMPIDR_EL2, MPIDR_EL1, 1 << 31 | 0x77),
    ] {
        virtual_id.write(value);
        check_eq!(
            "the nested guest reads {name} as EL2 gave it",
            el1(&[mrs(&id), HVC], [0; 4]).x[0],
            value
        );
        check!("EL2 reads its own {name}", id.read() != value);
    }
    let stop = el1(&[msr(&VBAR_EL1), mrs(&VBAR_EL1), HVC], [0x7_7000, 0, 0, 0]);
    check_eq!("the nested guest has its own VBAR_EL1", stop.x[0], 0x7_7000);
    check_eq!("EL2 sees the nested guest's VBAR_EL1 as VBAR_EL12", VBAR_EL12.read(), 0x7_7000);
    let stop = el1(&[msr(&TPIDR_EL1), HVC], [0x1234, 0, 0, 0]);
    check_eq!(
        "the nested guest can write a register of EL1",
        [stop.trap.vector.into(), TPIDR_EL1.read()],
        [u64::from(HVC64), 0x1234]
    );
    // Its vectors: a synchronous exception of EL1 itself tells EL2, with another X0.
    user::place(VECTORS + 0x200, &[mrs(&CURRENTEL), HVC]);
    VBAR_EL12.write(VECTORS);
    let stop = el1(&[mrs(&HCR_EL2), HVC], [0; 4]);
    check_eq!(
        "a register of EL2 is undefined at EL1, whose own vector takes it",
        stop.x[0],
        1 << 2
    );
    check!("the nested guest does not go on behind the undefined access", stop.next != 2);
}

/// A guest at EL2 runs a guest of its own at EL1, with registers of its own.
#[kvm_test(runs_a_guest)]
fn nested_guest_runs_at_el1(t: &mut OneVcpu) -> TestResult {
    t.vcpu.run_until_done()
}

#[guest]
fn traps_a_guest(_: &mut Guest) {
    SCTLR_EL12.write(SCTLR_RES1);
    let plain = HCR_EL2.read();
    for (name, bit, instruction, class) in
        [("TVM", hcr::TVM, msr(&SCTLR_EL1), vector::SYS), ("TWI", hcr::TWI, insn::WFI, vector::WFX)]
    {
        HCR_EL2.write(plain | bit);
        let stop = el1(&[NOP, instruction, HVC], [SCTLR_RES1, 0, 0, 0]);
        check_eq!("HCR_EL2.{name} traps the nested guest to EL2", stop.trap.vector, class);
        check_eq!("HCR_EL2.{name} traps at the instruction", stop.next, 1);
    }
    HCR_EL2.write(plain);
    let stop = el1(&[NOP, msr(&SCTLR_EL1), HVC], [SCTLR_RES1, 0, 0, 0]);
    check_eq!("no access traps without TVM", stop.trap.vector, HVC64);

    /// VTCR_EL2: 40 bits of address from level 1 on, 4 KiB granule, write-back, RES1.
    const VTCR: u64 = 24 | 1 << 6 | 1 << 8 | 1 << 10 | 3 << 12 | 2 << 16 | 1 << 31;
    /// A table without entries: two pages, for 40 bits of address.
    const EMPTY: u64 = layout::SCRATCH;
    (EMPTY..EMPTY + 0x2000).step_by(8).for_each(|a| poke::<u64>(a, 0));
    VTCR_EL2.write(VTCR);
    VTTBR_EL2.write(EMPTY);
    HCR_EL2.write(plain | hcr::VM);
    let stop = el1(&[NOP, HVC], [0; 4]);
    check_eq!(
        "the first fetch without stage 2 entries aborts",
        stop.trap.vector,
        vector::INSTRUCTION_ABORT_LOWER
    );
    check_eq!(
        "the first fetch's abort is a translation fault of level 1",
        stop.trap.iss() & esr::FSC,
        esr::FSC_TRANSLATION_L1
    );
    check_eq!("the first fetch aborts before the first instruction", stop.next, 0);
    let page = layout::SCRATCH_END - layout::PAGE_SIZE;
    check_eq!("HPFAR_EL2 has the aborted page", HPFAR_EL2.read() >> 4 << 12, page);
    HCR_EL2.write(plain);
    check_eq!("the nested guest runs without stage 2", el1(&[NOP, HVC], [0; 4]).trap.vector, HVC64);
}

/// Traps and stage 2 of a guest hypervisor work on its guest.
#[kvm_test(traps_a_guest)]
fn guest_hypervisor_controls_its_guest(t: &mut OneVcpu) -> TestResult {
    t.vcpu.run_until_done()
}
