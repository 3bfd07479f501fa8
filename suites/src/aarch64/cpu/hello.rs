//! The harness on this architecture: start, traps as values, translation tables.
use crate::prelude::*;

const PROOF: u64 = 0x0123_4567_89ab_cdef;

#[guest]
fn starts(g: &mut Guest) {
    check_eq!("guest functions run at EL1", CURRENTEL_EL.get(CURRENTEL.read()), 1);
    check_eq!("the affinity is the vCPU's index", gic::affinity(), u64::from(g.vcpu()));
}

#[guest]
fn traps(_: &mut Guest) {
    let trap = brk_safe().unwrap_err();
    check_eq!("BRK has its exception class", trap.vector, vector::BRK);
    check_eq!("BRK's immediate is in the syndrome", trap.iss() & 0xffff, 0x42);
    check_eq!(
        "UDF has the unknown exception class",
        udf_safe().unwrap_err().vector,
        vector::UNKNOWN
    );
    let trap = read_safe::<u8>(8).unwrap_err();
    check_eq!("a load from null is a data abort", trap.vector, vector::DATA_ABORT);
    check_eq!("null is not mapped", trap.iss() & esr::FSC, esr::FSC_TRANSLATION_L3);
    check_eq!("FAR_EL1 has the aborted address", trap.addr, 8);
    check!("the abort of a load is a read", trap.iss() & esr::WNR == 0);
    let trap = write_safe::<u64>(16, 1).unwrap_err();
    check!("the abort of a store is a write", trap.iss() & esr::WNR != 0);
    let trap = HCR_EL2.read_safe().unwrap_err();
    check_eq!("a register of EL2 is undefined", trap.vector, vector::UNKNOWN);
    check_eq!(
        "a register read that does not fault returns its value",
        MIDR_EL1.read_safe(),
        Ok(MIDR_EL1.read())
    );
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

#[guest]
fn maps(_: &mut Guest) {
    const GVA: u64 = layout::FREE + 0x1000;
    mmu::map(GVA, layout::SCRATCH, mmu::Size::Small, mmu::DEFAULT);
    poke(GVA, PROOF);
    check_eq!("a new mapping reaches its page", peek::<u64>(layout::SCRATCH), PROOF);
    mmu::protect(GVA, mmu::Size::Small, mmu::DEFAULT | Descriptor::AP_READ_ONLY);
    check_eq!("a read-only page can be read", read_safe::<u64>(GVA), Ok(PROOF));
    let trap = write_safe(GVA, 0_u64).unwrap_err();
    check_eq!(
        "a store to a read-only page is a permission fault",
        trap.iss() & esr::FSC,
        esr::FSC_PERMISSION_L3
    );
    check_eq!("a store that faulted changed nothing", peek::<u64>(layout::SCRATCH), PROOF);
    mmu::unmap(GVA, mmu::Size::Small);
    let trap = read_safe::<u64>(GVA).unwrap_err();
    check_eq!(
        "an unmapped page is a translation fault",
        trap.iss() & esr::FSC,
        esr::FSC_TRANSLATION_L3
    );
}

#[host]
mod host {
    use super::*;

    /// A guest function starts at EL1, on every vCPU.
    #[kvm_test(starts, vcpus = 2)]
    fn guest_functions_start_at_el1(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()?;
        t.vm.add_vcpu(1, guest_fn!(starts))?.run_until_done()
    }

    /// Faults of instructions that may fault are values, on every vCPU.
    #[kvm_test(traps, vcpus = 2)]
    fn faults_are_values(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()?;
        t.vm.add_vcpu(1, guest_fn!(traps))?.run_until_done()
    }

    /// Handlers take traps within their scope, nested ones too.
    #[kvm_test(handles)]
    fn handlers_are_scoped(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// The guest edits its own translation tables.
    #[kvm_test(maps)]
    fn translation_tables_can_be_edited(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }
}
