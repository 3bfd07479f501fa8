//! The harness on this architecture: start, traps as values, page tables.
use crate::prelude::*;

const PROOF: u64 = 0x0123_4567_89ab_cdef;

#[guest]
fn starts(g: &mut Guest) {
    g.sync(1, &[]);
}

#[guest]
fn traps(_: &mut Guest) {
    check_eq!("EBREAK has its cause", ebreak_safe().unwrap_err().vector, vector::BREAKPOINT);
    let trap = illegal_safe().unwrap_err();
    check_eq!("an illegal instruction has its cause", trap.vector, vector::ILLEGAL_INSTRUCTION);
    check!(
        "stval is the illegal instruction, or 0",
        trap.stval == 0 || trap.stval == 0xffff_ffff,
        "{:#x}",
        trap.stval
    );
    let trap = read_safe::<u8>(8).unwrap_err();
    check_eq!("a load from null is a load page fault", trap.vector, vector::LOAD_PAGE);
    check_eq!("stval has the load's address", trap.stval, 8);
    let trap = write_safe::<u64>(16, 1).unwrap_err();
    check_eq!("a store to null is a store page fault", trap.vector, vector::STORE_PAGE);
    check_eq!("stval has the store's address", trap.stval, 16);
    for (register, trap) in
        [("mstatus", csr::mstatus::read_safe()), ("hstatus", csr::hstatus::read_safe())]
    {
        check_eq!(
            "reading {register} is an illegal instruction",
            trap.map_err(|trap| trap.vector),
            Err(vector::ILLEGAL_INSTRUCTION)
        );
    }
    check_eq!(
        "a register read that does not fault returns its value",
        csr::satp::read_safe(),
        Ok(csr::satp::read())
    );
}

#[guest]
fn handles(_: &mut Guest) {
    let mut outer = 0;
    let mut inner = 0;
    let proof = core::hint::black_box(PROOF);
    with_handler(
        vector::BREAKPOINT,
        |frame| {
            outer += 1;
            // A trap in a handler, on the trap stack.
            with_handler(
                vector::LOAD_PAGE,
                |frame| {
                    inner += 1;
                    frame.sepc += 4;
                },
                load_from_null,
            );
            frame.sepc += 4;
        },
        || {
            ebreak();
            ebreak();
        },
    );
    check_eq!("the handler runs once for each trap", outer, 2);
    check_eq!("a trap inside a handler is handled", inner, 2);
    check_eq!("registers survive a trap", core::hint::black_box(proof), PROOF);
}

#[guest]
fn maps(_: &mut Guest) {
    const GVA: u64 = layout::FREE + 0x1000;
    const READ_ONLY: Pte = mmu::DEFAULT.difference(Pte::W);
    mmu::map(GVA, layout::SCRATCH, mmu::Size::Small, mmu::DEFAULT);
    poke(GVA, PROOF);
    check_eq!("a new mapping reaches its page", peek::<u64>(layout::SCRATCH), PROOF);
    mmu::protect(GVA, mmu::Size::Small, READ_ONLY);
    check_eq!("a read-only page can be read", read_safe::<u64>(GVA), Ok(PROOF));
    let trap = write_safe(GVA, 0_u64).unwrap_err();
    check_eq!("a store to a read-only page is a store page fault", trap.vector, vector::STORE_PAGE);
    check_eq!("a store that faulted changed nothing", peek::<u64>(layout::SCRATCH), PROOF);
    mmu::unmap(GVA, mmu::Size::Small);
    let trap = read_safe::<u64>(GVA).unwrap_err();
    check_eq!("an unmapped page is a load page fault", trap.vector, vector::LOAD_PAGE);
}

#[host]
mod host {
    use super::*;

    /// A guest function starts in VS-mode, on every vCPU.
    #[kvm_test(starts, vcpus = 2)]
    fn guest_functions_start_in_vs_mode(t: &mut OneVcpu) -> TestResult {
        let mut second = t.vm.add_vcpu(1, guest_fn!(starts))?;
        for vcpu in [&mut t.vcpu, &mut second] {
            vcpu.run_until_sync(1)?;
            check_eq!("the vCPU is in VS-mode", vcpu.get_reg(reg::MODE), Ok(1));
            vcpu.run_until_done()?;
        }
        Ok(())
    }

    /// Faults of instructions that may fault are values; registers of other modes are illegal, on every vCPU.
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

    /// The guest edits its own page tables.
    #[kvm_test(maps)]
    fn page_tables_can_be_edited(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }
}
