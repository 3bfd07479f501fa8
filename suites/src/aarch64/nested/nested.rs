//! Guests at EL2 (api.rst, KVM_CAP_ARM_EL2; ARM ARM D1, D5): that one starts there, and runs a guest of
//! its own at EL1.
use crate::prelude::*;
use defs::aarch64::id::mmfr0;
use defs::aarch64::regs::{CURRENTEL_EL, HPFAR_FIPA, Hcr, Sctlr, mpidr, tcr, vtcr};
use guest_runtime::arch::stack_pointer;
use guest_runtime::asm::Blob;

#[guest]
fn runs_at_el2(_: &mut Guest) {
    check_eq!("the guest function runs at EL2", CURRENTEL_EL.get(CURRENTEL.read()), 2);
    check_eq!("ID_AA64PFR0_EL1 reports that EL2 exists", ID_AA64PFR0_EL1.read() >> 8 & 0xf, 1);
    check_eq!(
        "HCR_EL2 has E2H and TGE",
        HCR_EL2.read() & bits!(Hcr::{E2H | TGE}),
        bits!(Hcr::{E2H | TGE})
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

/// Runs code at EL1 of a nested guest from its first instruction, with X0 to X3.
fn run_at_el1(el2: &mut El2, code: &Blob, x: [u64; 4]) -> el2::Exit {
    el2.reset();
    el2.elr = code.address();
    el2.x[..4].copy_from_slice(&x);
    el2.run()
}

/// What level 2 has seen.
static LEVEL_AND_STACK: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

fn notes_where_it_runs(g: &mut Guest) {
    LEVEL_AND_STACK[0].store(g.level().into(), SeqCst);
    LEVEL_AND_STACK[1].store(layout::area_of_stack(stack_pointer()), SeqCst);
    check_eq!("the function of level 2 runs at EL1", CURRENTEL_EL.get(CURRENTEL.read()), 1);
    check_eq!("level 2 reads its hypervisor's arguments", g.arg(2), 77);
    check_eq!("level 2 has faults as values", brk_safe().unwrap_err().vector, vector::BRK);
    let answer = g.sync(7, &[g.level().into()]);
    check_eq!("level 2 gets the host's answer", answer[0], 30);
}

#[guest]
fn runs_a_function(g: &mut Guest) {
    let mut el2 = El2::new();
    let exit = el2.enter_with(notes_where_it_runs, [0, 0, 77, 0, 0, 0]);
    check!("the function of level 2 returns", el2.has_returned(&exit), "{exit:x?}");
    let [level, stack] = LEVEL_AND_STACK.each_ref().map(|seen| seen.load(SeqCst));
    check_eq!("the guest of level 1 is level 2", (g.level(), level), (1, 2));
    check_eq!("level 2 runs on its own stack", stack, el2.context().area());
    let answer = g.sync(8, &[]);
    check_eq!("level 1 gets the host's answer", answer[0], 31);
    let taken = AtomicU64::new(0);
    let count = |frame: &mut TrapFrame| {
        taken.fetch_add(1, SeqCst);
        frame.elr += 4;
    };
    with_handler(vector::BRK, count, || {
        el2.complete(|_| {
            with_handler(vector::BRK, |frame| frame.elr += 4, brk);
        });
        check_eq!("level 2 has handlers of its own", taken.load(SeqCst), 0);
        brk();
        check_eq!("level 1 has its handler still", taken.load(SeqCst), 1);
    });
}

guest_asm! {
    READS_ITS_LEVEL, bits64:
    "nop",
    "mrs x0, CurrentEL",
    "hvc #0",
}

guest_asm! {
    READS_MIDR, bits64:
    "mrs x0, midr_el1",
    "hvc #0",
}

guest_asm! {
    READS_MPIDR, bits64:
    "mrs x0, mpidr_el1",
    "hvc #0",
}

guest_asm! {
    /// X0 goes to VBAR_EL1, and comes back from there.
    WRITES_VBAR, bits64:
    "msr vbar_el1, x0",
    "mrs x0, vbar_el1",
    "hvc #0",
}

guest_asm! {
    WRITES_TPIDR, bits64:
    "msr tpidr_el1, x0",
    "hvc #0",
}

guest_asm! {
    READS_HCR, bits64:
    "mrs x0, hcr_el2",
    "hvc #0",
}

guest_asm! {
    /// Vectors that report the level of what they take.
    REPORT_THEIR_LEVEL, bits64 align(2048):
    ".rept 16; .balign 128; mrs x0, CurrentEL; hvc #0; .endr",
}

#[guest]
fn runs_a_guest(_: &mut Guest) {
    let mut el2 = El2::new();
    let exit = run_at_el1(&mut el2, &READS_ITS_LEVEL, [0, 5, 6, 7]);
    check_eq!("HVC of the nested guest comes to EL2", exit.trap.vector, vector::HVC);
    check_eq!("HVC returns to the instruction behind it", exit.elr, READS_ITS_LEVEL.end());
    check_eq!(
        "the nested guest ran at EL1",
        [el2.x[0], el2.x[1], el2.x[3]],
        [CURRENTEL_EL.of(1), 5, 7]
    );
    check_eq!("EL2 goes on at EL2", CURRENTEL_EL.get(CURRENTEL.read()), 2);
    for (name, virtual_id, id, reads, value) in [
        ("MIDR_EL1", VPIDR_EL2, MIDR_EL1, &READS_MIDR, 0x410f_d0c1),
        ("MPIDR_EL1", VMPIDR_EL2, MPIDR_EL1, &READS_MPIDR, mpidr::RES1 | 0x77),
    ] {
        virtual_id.write(value);
        run_at_el1(&mut el2, reads, [0; 4]);
        check_eq!("the nested guest reads {name} as EL2 gave it", el2.x[0], value);
        check!("EL2 reads its own {name}", id.read() != value);
    }
    run_at_el1(&mut el2, &WRITES_VBAR, [0x7_7000, 0, 0, 0]);
    check_eq!("the nested guest has its own VBAR_EL1", el2.x[0], 0x7_7000);
    check_eq!("EL2 sees the nested guest's VBAR_EL1 as VBAR_EL12", VBAR_EL12.read(), 0x7_7000);
    let exit = run_at_el1(&mut el2, &WRITES_TPIDR, [0x1234, 0, 0, 0]);
    check_eq!(
        "the nested guest can write a register of EL1",
        [exit.trap.vector.into(), TPIDR_EL1.read()],
        [u64::from(vector::HVC), 0x1234]
    );
    // Its vectors: a synchronous exception of EL1 itself tells EL2, with another X0.
    el2.reset();
    VBAR_EL12.write(REPORT_THEIR_LEVEL.address());
    el2.elr = READS_HCR.address();
    let exit = el2.run();
    check_eq!(
        "a register of EL2 is undefined at EL1, whose own vector takes it",
        el2.x[0],
        CURRENTEL_EL.of(1)
    );
    check!(
        "the nested guest does not go on behind the undefined access",
        exit.elr != READS_HCR.end()
    );
}

guest_asm! {
    WRITES_SCTLR, bits64:
    "nop",
    "msr sctlr_el1, x0",
    "hvc #0",
}

guest_asm! {
    WAITS, bits64:
    "nop",
    "wfi",
    "hvc #0",
}

#[guest]
fn traps_a_guest(_: &mut Guest) {
    let mut el2 = El2::new();
    let plain = el2.hcr;
    let sctlr = SCTLR_EL1.read();
    for (name, bit, code, class) in [
        ("TVM", Hcr::TVM.bits(), &WRITES_SCTLR, vector::SYS),
        ("TWI", Hcr::TWI.bits(), &WAITS, vector::WFX),
    ] {
        el2.hcr = plain | bit;
        let exit = run_at_el1(&mut el2, code, [sctlr, 0, 0, 0]);
        check_eq!("HCR_EL2.{name} traps the nested guest to EL2", exit.trap.vector, class);
        check_eq!("HCR_EL2.{name} traps at the instruction", exit.elr, code.address() + 4);
    }
    el2.hcr = plain;
    let exit = run_at_el1(&mut el2, &WRITES_SCTLR, [sctlr, 0, 0, 0]);
    check_eq!("no access traps without TVM", exit.trap.vector, vector::HVC);

    /// Bits of address by ID_AA64MMFR0_EL1.PARange, which VTCR_EL2.PS has too.
    const ADDRESS_BITS: [u64; 3] = [32, 36, 40];
    // As many bits of address as there are, at most 40: from level 1 on, 4 KiB granule, write-back, RES1.
    let range = tcr::IPS_40_BITS.min(mmfr0::PARANGE.get(ID_AA64MMFR0_EL1.read()));
    let vtcr = tcr::T0SZ.of(64 - ADDRESS_BITS[range as usize])
        | vtcr::SL0.of(vtcr::SL0_LEVEL_1)
        | tcr::IRGN0_WRITE_BACK
        | tcr::ORGN0_WRITE_BACK
        | tcr::SH0_INNER
        | tcr::TG0.of(tcr::TG0_4K)
        | vtcr::PS.of(range)
        | vtcr::RES1;
    /// A table without entries: two pages, for 40 bits of address.
    const EMPTY: u64 = layout::SCRATCH;
    (EMPTY..EMPTY + 0x2000).step_by(8).for_each(|a| poke::<u64>(a, 0));
    VTCR_EL2.write(vtcr);
    VTTBR_EL2.write(EMPTY);
    el2.hcr = plain | Hcr::VM.bits();
    // Without translation of its own, the guest's first access is the fetch.
    el2.reset();
    SCTLR_EL12.write(Sctlr::RES1.bits());
    el2.elr = WAITS.address();
    let exit = el2.run();
    check_eq!(
        "the first fetch without stage 2 entries aborts",
        exit.trap.vector,
        vector::INSTRUCTION_ABORT_LOWER
    );
    check_eq!(
        "the first fetch's abort is a translation fault of level 1",
        exit.trap.iss() & esr::FSC,
        esr::FSC_TRANSLATION_L1
    );
    check_eq!("the first fetch aborts before the first instruction", exit.elr, WAITS.address());
    let page = WAITS.address() & !(layout::PAGE_SIZE - 1);
    check_eq!("HPFAR_EL2 has the aborted page", HPFAR_FIPA.get(HPFAR_EL2.read()) << 12, page);
    el2.hcr = plain;
    let exit = run_at_el1(&mut el2, &READS_ITS_LEVEL, [0; 4]);
    check_eq!("the nested guest runs without stage 2", exit.trap.vector, vector::HVC);
}

#[host]
mod host {
    use super::*;
    use vm::bindings::KVM_ARM_VCPU_HAS_EL2;

    kvm_tests! { irqchip, features(KVM_ARM_VCPU_HAS_EL2), requires(cap::ARM_EL2) }

    /// A guest with KVM_ARM_VCPU_HAS_EL2 runs at EL2, and EL0 below it.
    #[kvm_test(runs_at_el2)]
    fn guest_runs_at_el2(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// Interrupts reach a guest at EL2.
    #[kvm_test(interrupts_itself)]
    fn timers_of_el2_interrupt(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// A guest at EL2 runs a function at EL1 on a context of its own, which takes its exceptions and talks to
    /// the host.
    #[kvm_test(runs_a_function)]
    fn level_2_runs_a_function(t: &mut OneVcpu) -> TestResult {
        let args = t.vcpu.run_until_sync(7)?;
        check_eq!("the sync comes from level 2", args[0], 2);
        t.vcpu.answer(&[30]);
        t.vcpu.run_until_sync(8)?;
        t.vcpu.answer(&[31]);
        t.vcpu.run_until_done()
    }

    /// A guest at EL2 runs a guest of its own at EL1, with registers of its own.
    #[kvm_test(runs_a_guest)]
    fn nested_guest_runs_at_el1(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// Traps and stage 2 of a guest hypervisor work on its guest.
    #[kvm_test(traps_a_guest)]
    fn guest_hypervisor_controls_its_guest(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }
}
