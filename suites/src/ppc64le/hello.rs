//! The harness on this architecture: start, report, traps as values, MMIO exits, a second vCPU.
use crate::prelude::*;

const PROOF: u64 = 0x0123_4567_89ab_cdef;
/// MSR.LE.
const MSR_LE: u64 = 1 << 0;
/// MSR.PR: problem state.
const MSR_PR: u64 = 1 << 14;

#[guest]
fn reports(g: &mut Guest) {
    log!("hello from vCPU {}", g.vcpu());
    check_eq!("guest functions run in supervisor state", msr() & MSR_PR, 0);
    check_eq!("guest functions run in little-endian mode", msr() & MSR_LE, MSR_LE);
    check_eq!("arguments arrive", g.arg(1), PROOF);
    let answer = g.sync(3, &[g.arg(1), !0]);
    check_eq!("the host's answer arrives", answer[0], !PROOF);
}

/// A guest function starts in supervisor state, and words pass in both directions.
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
    let trap = trap_safe().unwrap_err();
    check_eq!("TRAP is a program interrupt", trap.vector, vector::PROGRAM);
    check!("its reason is a trap", trap.srr1 & SRR1_TRAP != 0, "{:#x}", trap.srr1);
    let trap = zero_instruction_safe().unwrap_err();
    check_eq!("an instruction of zeroes is a program interrupt", trap.vector, vector::PROGRAM);
    check!(
        "its reason is an illegal instruction",
        trap.srr1 & SRR1_ILLEGAL != 0,
        "{:#x}",
        trap.srr1
    );
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

/// Handlers take traps within their scope, nested ones too.
#[kvm_test(handles)]
fn handlers_are_scoped(t: &mut OneVcpu) -> TestResult {
    t.vcpu.run_until_done()
}

#[guest]
fn accesses(_: &mut Guest) {
    poke(layout::FREE, PROOF);
    check_eq!("a read gets what userspace gives", peek::<u64>(layout::FREE + 8), !PROOF);
    poke(layout::FREE + 16, 0x5a_u8);
    check_eq!("a word gets what userspace gives", peek::<u32>(layout::FREE + 24), 0x89ab_cdef);
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

#[shared]
static TURN: AtomicU64 = AtomicU64::new(0);

#[guest]
fn first(g: &mut Guest) {
    check_eq!("vCPU 0 is told its index", g.vcpu(), 0);
    TURN.store(1, SeqCst);
    wait_until(|| TURN.load(SeqCst) == 2);
}

#[guest]
fn second(g: &mut Guest) {
    wait_until(|| TURN.load(SeqCst) == 1);
    check_eq!("vCPU 1 is told its index", g.vcpu(), 1);
    check_eq!("vCPU 1 takes its own trap", trap_safe().unwrap_err().vector, vector::PROGRAM);
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
