//! The harness on this architecture: start, report, traps as values, a second vCPU.
use crate::prelude::*;

const PROOF: u64 = 0x0123_4567_89ab_cdef;

#[guest]
fn reports(g: &mut Guest) {
    log!("hello from vCPU {} at EL{}", g.vcpu(), CURRENTEL.read() >> 2);
    check_eq!("guest functions run at EL1", CURRENTEL.read() >> 2, 1);
    check_eq!("arguments arrive", g.arg(1), PROOF);
    let answer = g.sync(3, &[g.arg(1), !0]);
    check_eq!("the host's answer arrives", answer[0], !PROOF);
}

/// A guest function starts at EL1, and words pass in both directions.
#[kvm_test(reports)]
fn guest_starts_and_reports(t: &mut OneVcpu) -> TestResult {
    t.vcpu.set_args(&[0, PROOF]);
    let args = t.vcpu.run_until_sync(3)?;
    check_eq!("the guest's words arrive", args[..3], [PROOF, !0, 0]);
    t.vcpu.answer(&[!PROOF]);
    t.vcpu.run_until_done()
}

#[guest]
fn traps(_: &mut Guest) {
    let trap = brk_safe().unwrap_err();
    check_eq!("BRK has its class", trap.vector, vector::BRK);
    check_eq!("BRK's immediate is in the syndrome", trap.iss() & 0xffff, 0x42);
    check_eq!("UDF has the unknown class", udf_safe().unwrap_err().vector, vector::UNKNOWN);
    let trap = read_safe::<u8>(8).unwrap_err();
    check_eq!("a load from null is a data abort", trap.vector, vector::DATA_ABORT);
    check_eq!("null is not mapped", trap.iss() & esr::FSC, esr::FSC_TRANSLATION_L3);
    check_eq!("FAR_EL1 has the address", trap.addr, 8);
    check!("the abort is a read", trap.iss() & esr::WNR == 0);
    let trap = write_safe::<u64>(16, 1).unwrap_err();
    check!("a store to null is told as a write", trap.iss() & esr::WNR != 0);
    let trap = HCR_EL2.read_safe().unwrap_err();
    check_eq!("a register of EL2 is undefined", trap.vector, vector::UNKNOWN);
    check_eq!(
        "what may fault and does not gives its value",
        MIDR_EL1.read_safe(),
        Ok(MIDR_EL1.read())
    );
}

/// Faults of instructions that may fault are values.
#[kvm_test(traps)]
fn faults_are_values(t: &mut OneVcpu) -> TestResult {
    t.vcpu.run_until_done()
}

#[guest]
fn handles(_: &mut Guest) {
    let mut outer = 0;
    let mut inner = 0;
    with_handler(
        vector::BRK,
        |frame| {
            outer += 1;
            // A trap in a handler, on the trap stack.
            with_handler(vector::SVC, |_| inner += 1, svc);
            frame.elr += 4;
        },
        || {
            brk();
            brk();
        },
    );
    check_eq!("the handler runs once for each trap", outer, 2);
    check_eq!("a trap inside a handler is handled", inner, 2);
    let x = core::hint::black_box(PROOF);
    with_handler(vector::SVC, |frame| frame.x = frame.x.map(|x| x), svc);
    check_eq!("registers survive a trap", core::hint::black_box(x), PROOF);
}

/// Handlers take traps within their scope, nested ones too.
#[kvm_test(handles)]
fn handlers_are_scoped(t: &mut OneVcpu) -> TestResult {
    t.vcpu.run_until_done()
}

#[shared]
static TURN: AtomicU64 = AtomicU64::new(0);

#[guest]
fn first(g: &mut Guest) {
    check_eq!("vCPU 0 is told its index", g.vcpu(), 0);
    check_eq!("vCPU 0 has affinity 0", gic::affinity(), 0);
    TURN.store(1, SeqCst);
    wait_until(|| TURN.load(SeqCst) == 2);
}

#[guest]
fn second(g: &mut Guest) {
    wait_until(|| TURN.load(SeqCst) == 1);
    check_eq!("vCPU 1 is told its index", g.vcpu(), 1);
    check_eq!("vCPU 1 has affinity 1", gic::affinity(), 1);
    check_eq!("vCPU 1 takes its own trap", brk_safe().unwrap_err().vector, vector::BRK);
    TURN.store(2, SeqCst);
}

/// Two vCPUs run guest functions at the same time on stacks of their own.
#[kvm_test(first, vcpus = 2)]
fn second_vcpu_runs(t: &mut OneVcpu) -> TestResult {
    let mut other = t.vm.add_vcpu(1, guest_fn!(second))?;
    std::thread::scope(|scope| {
        let other = scope.spawn(move || other.run_until_done());
        t.vcpu.run_until_done()?;
        other.join().unwrap_or_else(|_| fail!("the second vCPU's thread panicked"))
    })
}

#[guest]
fn maps(_: &mut Guest) {
    const GVA: u64 = layout::FREE + 0x1000;
    mmu::map(GVA, layout::SCRATCH, mmu::Size::Small, mmu::flags::DEFAULT);
    poke(GVA, PROOF);
    check_eq!("a new mapping reaches its page", peek::<u64>(layout::SCRATCH), PROOF);
    mmu::protect(GVA, mmu::Size::Small, mmu::flags::DEFAULT | mmu::flags::AP_READ_ONLY);
    check_eq!("a read-only page can be read", read_safe::<u64>(GVA), Ok(PROOF));
    let trap = write_safe(GVA, 0_u64).unwrap_err();
    check_eq!("a store to it is a permission fault", trap.iss() & esr::FSC, esr::FSC_PERMISSION_L3);
    check_eq!("the store changed nothing", peek::<u64>(layout::SCRATCH), PROOF);
    mmu::unmap(GVA, mmu::Size::Small);
    let trap = read_safe::<u64>(GVA).unwrap_err();
    check_eq!(
        "an unmapped page is a translation fault",
        trap.iss() & esr::FSC,
        esr::FSC_TRANSLATION_L3
    );
}

/// The guest edits its own translation tables.
#[kvm_test(maps)]
fn translation_tables_can_be_edited(t: &mut OneVcpu) -> TestResult {
    t.vcpu.run_until_done()
}
