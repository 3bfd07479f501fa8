//! The harness on any architecture: a guest starts, words pass in both directions, a second vCPU
//! runs. Each architecture's own `hello.rs` has its modes, traps and translation tables.
use crate::prelude::*;

const PROOF: u64 = 0x0123_4567_89ab_cdef;
const STAGE: u64 = 3;

#[guest]
fn reports(g: &mut Guest) {
    log!("hello from vCPU {}", g.vcpu());
    check_eq!("the host's arguments arrive in the guest", [g.arg(0), g.arg(1)], [0, PROOF]);
    let answer = g.sync(STAGE, &[g.arg(1), !0]);
    check_eq!("the host's answer arrives in the guest", answer[0], !PROOF);
}

#[shared]
static TURN: AtomicU64 = AtomicU64::new(0);

#[guest]
fn first(g: &mut Guest) {
    check_eq!("vCPU 0 is given its index", g.vcpu(), 0);
    TURN.store(1, SeqCst);
    wait_until(|| TURN.load(SeqCst) == 2);
}

#[guest]
fn second(g: &mut Guest) {
    wait_until(|| TURN.load(SeqCst) == 1);
    check_eq!("vCPU 1 is given its index", g.vcpu(), 1);
    TURN.store(2, SeqCst);
}

#[host]
mod host {
    use super::*;

    /// A guest function starts, and words pass in both directions.
    #[kvm_test(reports)]
    fn guest_starts_and_reports(t: &mut OneVcpu) -> TestResult {
        t.vcpu.set_args(&[0, PROOF]);
        let args = t.vcpu.run_until_sync(STAGE)?;
        check_eq!("the guest's sync arguments arrive in the host", args[..3], [PROOF, !0, 0]);
        t.vcpu.answer(&[!PROOF]);
        t.vcpu.run_until_done()
    }

    /// Two vCPUs run guest functions at the same time on stacks of their own.
    #[kvm_test(first, vcpus = 2)]
    fn second_vcpu_runs(t: &mut OneVcpu) -> TestResult {
        let mut other = t.vm.add_vcpu(1, guest_fn!(second))?;
        run_together([&mut t.vcpu, &mut other], Vcpu::run_until_done)?;
        Ok(())
    }
}
