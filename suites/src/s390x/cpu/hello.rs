//! The harness on this architecture: start, traps as values.
use crate::prelude::*;

const PROOF: u64 = 0x0123_4567_89ab_cdef;

#[guest]
fn starts(g: &mut Guest) {
    check_eq!("the CPU address is the vCPU's index", u32::from(cpu_address()), g.vcpu());
    g.sync(1, &[]);
}

#[guest]
fn traps(_: &mut Guest) {
    let trap = zero_instruction_safe().unwrap_err();
    check_eq!("an instruction of zeroes is an operation exception", trap.vector, vector::OPERATION);
    let trap = misaligned_lpswe_safe().unwrap_err();
    check_eq!(
        "a PSW that is not on a doubleword is a specification exception",
        trap.vector,
        vector::SPECIFICATION
    );
    let trap = read_safe::<u8>(layout::FREE).unwrap_err();
    check_eq!("a load behind memory is an addressing exception", trap.vector, vector::ADDRESSING);
    let trap = write_safe::<u64>(layout::FREE, 1).unwrap_err();
    check_eq!("a store behind memory is an addressing exception", trap.vector, vector::ADDRESSING);
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
        vector::OPERATION,
        |_| {
            outer += 1;
            // A trap in a handler, on the trap stack.
            with_handler(
                vector::SVC,
                |frame| {
                    inner += 1;
                    check_eq!("SVC has its interruption code", frame.svc_code, 42);
                },
                svc,
            );
        },
        || {
            zero_instruction();
            zero_instruction();
        },
    );
    check_eq!("the handler runs once for each trap", outer, 2);
    check_eq!("a trap inside a handler is handled", inner, 2);
    check_eq!("registers survive a trap", core::hint::black_box(proof), PROOF);
}

#[host]
mod host {
    use super::*;
    use defs::s390x::psw::Psw;

    /// A guest function starts in 64-bit mode without translation, on every vCPU.
    #[kvm_test(starts, vcpus = 2)]
    fn guest_functions_start_in_64_bit_mode(t: &mut OneVcpu) -> TestResult {
        let mut second = t.vm.add_vcpu(1, guest_fn!(starts))?;
        for vcpu in [&mut t.vcpu, &mut second] {
            vcpu.run_until_sync(1)?;
            let mask = vcpu.kvm_run().psw_mask & bits!(Psw::{DAT | AMODE_64});
            check_eq!(
                "the vCPU is in 64-bit mode, without translation",
                mask,
                Psw::AMODE_64.bits()
            );
            vcpu.run_until_done()?;
        }
        Ok(())
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
}
