//! The harness on this architecture: start, report, traps as values, a second vCPU.
use crate::prelude::*;

const PROOF: u64 = 0x0123_4567_89ab_cdef;

#[guest]
fn reports(g: &mut Guest) {
    log!("hello from vCPU {}", g.vcpu());
    check_eq!("arguments arrive", g.arg(1), PROOF);
    let answer = g.sync(3, &[g.arg(1), !0]);
    check_eq!("the host's answer arrives", answer[0], !PROOF);
}

/// A guest function starts in 64-bit mode without translation, and words pass in both directions.
#[kvm_test(reports)]
fn guest_starts_and_reports(t: &mut OneVcpu) -> TestResult {
    t.vcpu.set_args(&[0, PROOF]);
    let args = t.vcpu.run_until_sync(3)?;
    check_eq!("the guest's words arrive", args[..3], [PROOF, !0, 0]);
    let addressing = t.vcpu.kvm_run().psw_mask & 0x0000_0001_8000_0000;
    check_eq!("the vCPU is in 64-bit mode", addressing, 0x0000_0001_8000_0000);
    t.vcpu.answer(&[!PROOF]);
    t.vcpu.run_until_done()
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
    check_eq!("a store into memory is taken", write_safe(layout::SCRATCH, PROOF), Ok(()));
    check_eq!(
        "what may fault and does not gives its value",
        read_safe::<u64>(layout::SCRATCH),
        Ok(PROOF)
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
                    check_eq!("SVC has its code", frame.svc_code, 42);
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
    check_eq!("vCPU 0 has CPU address 0", cpu_address(), 0);
    TURN.store(1, SeqCst);
    wait_until(|| TURN.load(SeqCst) == 2);
}

#[guest]
fn second(g: &mut Guest) {
    wait_until(|| TURN.load(SeqCst) == 1);
    check_eq!("vCPU 1 is told its index", g.vcpu(), 1);
    check_eq!("vCPU 1 has CPU address 1", cpu_address(), 1);
    let trap = zero_instruction_safe().unwrap_err();
    check_eq!("vCPU 1 takes its own trap", trap.vector, vector::OPERATION);
    TURN.store(2, SeqCst);
}

/// Two vCPUs run guest functions at the same time on stacks and low cores of their own.
#[kvm_test(first, vcpus = 2)]
fn second_vcpu_runs(t: &mut OneVcpu) -> TestResult {
    let mut other = t.vm.add_vcpu(1, guest_fn!(second))?;
    std::thread::scope(|scope| {
        let other = scope.spawn(move || other.run_until_done());
        t.vcpu.run_until_done()?;
        other.join().unwrap_or_else(|_| fail!("the second vCPU's thread panicked"))
    })
}
