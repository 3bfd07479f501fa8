//! The harness on this architecture: start, traps as values, MMIO exits.
use crate::prelude::*;
use defs::ppc64le::msr::Msr;

const PROOF: u64 = 0x0123_4567_89ab_cdef;

#[guest]
fn starts(_: &mut Guest) {
    check_eq!("guest functions run in supervisor state", msr() & Msr::PR.bits(), 0);
    check_eq!("guest functions run in little-endian mode", msr() & Msr::LE.bits(), Msr::LE.bits());
}

#[guest]
fn traps(_: &mut Guest) {
    let trap = trap_safe().unwrap_err();
    check_eq!("TRAP is a program interrupt", trap.vector, vector::PROGRAM);
    check!("TRAP's SRR1 names a trap", trap.srr1 & SRR1_TRAP != 0, "{:#x}", trap.srr1);
    let trap = zero_instruction_safe().unwrap_err();
    check_eq!("an instruction of zeroes is a program interrupt", trap.vector, vector::PROGRAM);
    check!(
        "SRR1 of an instruction of zeroes names an illegal instruction",
        trap.srr1 & SRR1_ILLEGAL != 0,
        "{:#x}",
        trap.srr1
    );
    check_eq!("a store into memory is done", write_safe(layout::SCRATCH, PROOF), Ok(()));
    check_eq!(
        "a load that does not fault returns its value",
        read_safe::<u64>(layout::SCRATCH),
        Ok(PROOF)
    );
}

#[guest]
fn handles(_: &mut Guest) {
    let mut outer = 0;
    let mut inner = 0;
    let proof = core::hint::black_box(PROOF);
    with_handler(
        vector::PROGRAM,
        |frame| {
            outer += 1;
            // A trap in a handler, on the trap stack.
            with_handler(vector::SYSTEM_CALL, |_| inner += 1, sc);
            frame.srr0 += 4;
        },
        || {
            trap();
            trap();
        },
    );
    check_eq!("the handler runs once for each trap", outer, 2);
    check_eq!("a trap inside a handler is handled", inner, 2);
    check_eq!("registers survive a trap", core::hint::black_box(proof), PROOF);
}

#[guest]
fn accesses(_: &mut Guest) {
    poke(layout::FREE, PROOF);
    check_eq!("a 64-bit read gets what userspace returns", peek::<u64>(layout::FREE + 8), !PROOF);
    poke(layout::FREE + 16, 0x5a_u8);
    check_eq!(
        "a 32-bit read gets what userspace returns",
        peek::<u32>(layout::FREE + 24),
        0x89ab_cdef
    );
}

#[host]
mod host {
    use super::*;

    /// A guest function starts in supervisor state, on every vCPU.
    #[kvm_test(starts, vcpus = 2)]
    fn guest_functions_start_in_supervisor_state(t: &mut OneVcpu) -> TestResult {
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

    /// api.rst 5 (KVM_EXIT_MMIO): where there is no memory, loads and stores are userspace's.
    #[kvm_test(accesses)]
    fn accesses_without_memory_are_mmio(t: &mut OneVcpu) -> TestResult {
        const BASE: u64 = layout::FREE;
        let mut stop = t.vcpu.run_until(Exit::Mmio { gpa: BASE, len: 8, is_write: true })?;
        check_eq!("a store of 8 bytes has its data", stop.data(), PROOF.to_ne_bytes());
        let mut stop = t.vcpu.run_until(Exit::Mmio { gpa: BASE + 8, len: 8, is_write: false })?;
        stop.set_data(&(!PROOF).to_ne_bytes());
        let mut stop = t.vcpu.run_until(Exit::Mmio { gpa: BASE + 16, len: 1, is_write: true })?;
        check_eq!("a store of 1 byte has its data", stop.data(), [0x5a]);
        let mut stop = t.vcpu.run_until(Exit::Mmio { gpa: BASE + 24, len: 4, is_write: false })?;
        stop.set_data(&0x89ab_cdef_u32.to_ne_bytes());
        t.vcpu.run_until_done()
    }
}
