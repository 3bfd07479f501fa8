//! SVM's instructions while they are off (APM vol. 3, "System Instruction Reference").
use crate::prelude::*;
use insn_table::{Form, Insn, State};

const ALL: [&Insn; 7] = [
    &insn::INVLPGA,
    &insn::VMRUN,
    &insn::VMLOAD,
    &insn::VMSAVE,
    &insn::STGI,
    &insn::CLGI,
    &insn::SKINIT,
];

/// A fault as a number; 0 for none. Addresses and ASIDs are 0.
fn code(insn: &Insn) -> u64 {
    insn.run(Form::Native, &mut State::default())
        .map_or_else(|trap| 1 << 63 | u64::from(trap.vector) << 32 | u64::from(trap.error), |()| 0)
}

const UNDEFINED: u64 = 1 << 63 | (vector::UD as u64) << 32;

#[guest]
fn executes_them_without_svme(_: &mut Guest) {
    check_eq!("EFER.SVME is 0 at reset", rdmsr(msr::IA32_EFER) & Efer::SVME.bits(), 0);
    for insn in ALL {
        let name = insn.name;
        check_eq!("{name} without EFER.SVME is #UD in ring 0", code(insn), UNDEFINED);
    }
}

#[guest]
fn turns_svme_on_and_off(_: &mut Guest) {
    let efer = rdmsr(msr::IA32_EFER);
    wrmsr(msr::IA32_EFER, efer | Efer::SVME.bits());
    check_eq!("INVLPGA with EFER.SVME is no fault in ring 0", code(&insn::INVLPGA), 0);
    check_eq!("STGI with EFER.SVME is no fault in ring 0", code(&insn::STGI), 0);
    wrmsr(msr::IA32_EFER, efer);
    for insn in ALL {
        let name = insn.name;
        check_eq!("{name} is #UD again when EFER.SVME is cleared", code(insn), UNDEFINED);
    }
}

#[host]
mod host {
    use super::*;

    /// Without EFER.SVME none of them exists, whatever CPUID says. (In ring 3 the CPU, whose own EFER.SVME KVM has
    /// set, may raise #GP before KVM sees the instruction.)
    #[kvm_test(executes_them_without_svme)]
    fn undefined_without_svme(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// EFER.SVME turns them on and off again.
    #[kvm_test(turns_svme_on_and_off, requires(host::NESTED, cpu::SVM))]
    fn svme_turns_them_on(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }
}
