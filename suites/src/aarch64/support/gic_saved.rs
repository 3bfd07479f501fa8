//! A GIC's state in another VM, for the tests that move one in the middle of interrupts.
use crate::prelude::host;

use crate::aarch64::support::gic_bench::Bench;
use crate::prelude::*;
pub use vm::state::{ControlIs, GicState, ItsState};

/// SPIs end here in the VMs of these tests: few, since each register is a call.
const NR_INTIDS: u32 = 96;

/// Prepares the GIC of such a VM.
pub fn few_interrupts(gic: &Gic) -> TestResult {
    gic.set_nr_irqs(NR_INTIDS).ioctl("KVM_DEV_ARM_VGIC_GRP_NR_IRQS")
}

/// The state of a bench's GIC, with the vCPUs stopped.
pub fn state_of(bench: &Bench) -> TestResult<GicState> {
    GicState::of(&bench.gic, bench.vcpus.len() as u32)
}

/// The same VM a second time, with the GIC's state and `guest` on vCPU 0.
pub fn restored(
    saved: &GicState,
    version: GicVersion,
    order: ControlIs,
    guest: GuestFn,
) -> TestResult<(Vm, Bench)> {
    let mut vm = Vm::new(VmConfig::new())?;
    let others = vec![guest; saved.nr_vcpus() - 1];
    let bench = Bench::of(&mut vm, version, guest, &others, few_interrupts)?;
    saved.restore(&bench.gic, order)?;
    Ok((vm, bench))
}
