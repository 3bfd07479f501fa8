//! What VMRUN checks before it enters a guest (APM vol. 2, "Canonicalization and Consistency Checks"): one
//! field made wrong at a time is an exit with VMEXIT_INVALID, and what only looks wrong is taken.
use crate::prelude::*;
use defs::x86::vmcb::{Event, Vmcb, attributes, exit, intercept, tlb_control};
use svm::{clgi_safe, invlpga_safe, skinit_safe, stgi_safe, vmload_safe, vmrun_safe, vmsave_safe};

const VMMCALL: u64 = exit::intercepted(intercept::VMMCALL);

/// A change of a valid VMCB, and the rule that it keeps or breaks.
struct Row {
    rule: &'static str,
    change: fn(&mut Vmcb),
}

macro_rules! rows {
    ($($rule:literal: $change:expr;)*) => {
        &[$(Row { rule: $rule, change: $change }),*]
    };
}

/// The lowest bit that no physical address of this CPU has.
fn beyond_physical() -> u64 {
    1 << (cpuid(0x8000_0008, 0)[0] & 0xff)
}

const REFUSED: &[Row] = rows! {
    "VMRUN refuses EFER.SVME = 0": |v| v.save.efer &= !Efer::SVME.bits();
    "VMRUN refuses a reserved bit of EFER": |v| v.save.efer |= 1 << 7;
    "VMRUN refuses the highest bit of EFER": |v| v.save.efer |= 1 << 63;
    "VMRUN refuses CR0.NW without CR0.CD": |v| v.save.cr0 |= Cr0::NW.bits();
    "VMRUN refuses bit 32 of CR0": |v| v.save.cr0 |= 1 << 32;
    "VMRUN refuses bit 63 of CR0": |v| v.save.cr0 |= 1 << 63;
    "VMRUN refuses a CR3 that no physical address is": |v| v.save.cr3 |= beyond_physical();
    "VMRUN refuses a reserved bit of CR4": |v| v.save.cr4 |= 1 << 15;
    "VMRUN refuses bit 32 of CR4": |v| v.save.cr4 |= 1 << 32;
    "VMRUN refuses bit 32 of DR6": |v| v.save.dr6 |= 1 << 32;
    "VMRUN refuses bit 63 of DR6": |v| v.save.dr6 |= 1 << 63;
    "VMRUN refuses bit 32 of DR7": |v| v.save.dr7 |= 1 << 32;
    "VMRUN refuses bit 63 of DR7": |v| v.save.dr7 |= 1 << 63;
    "VMRUN refuses long mode without CR4.PAE": |v| v.save.cr4 &= !Cr4::PAE.bits();
    "VMRUN refuses long mode with paging and without CR0.PE": |v| v.save.cr0 &= !Cr0::PE.bits();
    "VMRUN refuses a code segment with both CS.L and CS.D": |v| v.save.cs.attributes |= attributes::DB;
    "VMRUN refuses a VMCB that does not intercept VMRUN": |v| {
        v.control.intercepts[intercept::VMRUN as usize / 32] &= !(1 << (intercept::VMRUN % 32));
    };
    "VMRUN refuses a guest in address space 0": |v| v.control.guest_asid = 0;
    "VMRUN refuses an MSR map that no physical address is": |v| v.control.msrpm_base_pa = beyond_physical();
    "VMRUN refuses an MSR map whose end no physical address is": |v| {
        v.control.msrpm_base_pa = beyond_physical() - layout::PAGE_SIZE;
    };
    "VMRUN refuses a port map that no physical address is": |v| v.control.iopm_base_pa = beyond_physical();
    "VMRUN refuses a port map whose end no physical address is": |v| {
        v.control.iopm_base_pa = beyond_physical() - 2 * layout::PAGE_SIZE;
    };
};

/// What needs nested paging.
const REFUSED_NESTED: &[Row] = rows! {
    "VMRUN refuses a nested CR3 that no physical address is": |v| v.control.n_cr3 |= beyond_physical();
    "VMRUN refuses the highest bit of a nested CR3": |v| v.control.n_cr3 |= 1 << 63;
};

const TAKEN: &[Row] = rows! {
    "VMRUN takes a VMCB in which nothing is wrong": |_| ();
    "VMRUN takes the lowest bits of an MSR map's address": |v| v.control.msrpm_base_pa |= 0xfff;
    "VMRUN takes the lowest bits of a port map's address": |v| v.control.iopm_base_pa |= 0xfff;
    "VMRUN takes another address space": |v| v.control.guest_asid = 2;
    "VMRUN takes RFLAGS without the bit that is always 1": |v| v.save.rflags = 0;
    "VMRUN takes a nested CR3 without nested paging that no physical address is": |v| {
        if v.control.nested_paging == 0 {
            v.control.n_cr3 = beyond_physical();
        }
    };
    "VMRUN takes a request to flush every translation": |v| v.control.tlb_control = tlb_control::FLUSH_ALL;
    "VMRUN takes DR6 without the bits that are always 1": |v| v.save.dr6 = 0;
    "VMRUN takes DR7 without the bit that is always 1": |v| v.save.dr7 = 0;
    "VMRUN takes a limit of the code segment that long mode ignores": |v| v.save.cs.limit = 0;
    "VMRUN takes a data segment that long mode ignores": |v| v.save.ds.attributes = 0;
    "VMRUN takes a CR2 that is no address": |v| v.save.cr2 = 1 << 62;
    "VMRUN takes the clean bits of fields that did not change": |v| v.control.clean_bits = 0x1fff;
};

/// The fields that VMRUN is to leave alone when it refuses the VMCB.
fn saved(svm: &mut Svm) -> [u64; 8] {
    let save = &svm.vmcb().save;
    [save.rip, save.rsp, save.rax, save.rflags, save.cr0, save.cr3, save.cr4, save.efer]
}

guest_asm! {
    CALLS, bits64:
    "vmmcall",
}

/// A hypervisor whose guest calls it at once.
fn ready(nested_paging: bool) -> Svm {
    let mut svm = Svm::new();
    if nested_paging {
        svm.use_nested_paging();
    }
    svm.intercept_msrs();
    svm.intercept_ports();
    svm.start(&CALLS);
    svm
}

/// Runs the guest of the valid VMCB that was saved with a change: its exit, and whether its registers are as
/// they were.
fn with_change(svm: &mut Svm, valid: u64, change: fn(&mut Vmcb)) -> (svm::Exit, bool) {
    svm.restore_vmcb(valid);
    change(svm.vmcb());
    let wanted = saved(svm);
    let exit = svm.run();
    let kept = saved(svm) == wanted;
    (exit, kept)
}

#[guest]
fn checks(g: &mut Guest) {
    let mut svm = ready(g.arg(0) != 0);
    let valid = svm.saved_vmcb();
    let nested = if g.arg(0) != 0 { REFUSED_NESTED } else { &[] };
    for Row { rule, change } in REFUSED.iter().chain(nested) {
        let (exit, kept) = with_change(&mut svm, valid, *change);
        check_eq!("VMRUN refuses the VMCB: {rule}", exit.code, exit::INVALID);
        check_eq!("{rule}: EXITINFO is zero", exit.info, [0, 0]);
        check!("{rule}: the guest's registers stay as they were", kept);
        let (exit, _) = with_change(&mut svm, valid, |_| ());
        check_eq!("{rule}: the guest runs without the change", exit.code, VMMCALL);
    }
    for Row { rule, change } in TAKEN {
        let (exit, _) = with_change(&mut svm, valid, *change);
        check_eq!("VMRUN takes the VMCB: {rule}", exit.code, VMMCALL);
    }
}

#[guest]
fn drops_an_event(_: &mut Guest) {
    let mut svm = ready(false);
    // #UD, for a guest that VMRUN does not enter.
    svm.vmcb().control.event_injection = Event::exception(vector::UD);
    svm.vmcb().control.guest_asid = 0;
    let exit = svm.run();
    check_eq!("a refused VMRUN is an exit with VMEXIT_INVALID", exit.code, exit::INVALID);
    let left = svm.vmcb().control.event_injection;
    check_eq!("a refused VMRUN leaves no event to inject", left.is_valid(), false);
    svm.vmcb().control.guest_asid = 1;
    svm.vmcb().control.event_injection = Event::new();
    let exit = svm.run();
    check_eq!("the guest does not take the event of a refused VMRUN", exit.code, VMMCALL);
    check_eq!("no event was being delivered at a hypercall", exit.int_info.is_valid(), false);
}

/// An address that is RAM for nobody, below what physical addresses reach.
const NO_RAM: u64 = 0x40_0000_0000;

/// An instruction, whose fault is a value.
type Run = fn() -> Result<(), Trap>;
/// The same with the address of a VMCB.
type RunAt = fn(u64) -> Result<(), Trap>;

/// The instructions of SVM beside VMMCALL, with operands that do no harm.
const INSTRUCTIONS: [(&str, Run); 7] = [
    ("VMRUN", || vmrun_safe(layout::SCRATCH)),
    ("VMLOAD", || vmload_safe(layout::SCRATCH)),
    ("VMSAVE", || vmsave_safe(layout::SCRATCH)),
    ("STGI", stgi_safe),
    ("CLGI", clgi_safe),
    ("INVLPGA", || invlpga_safe(0, 0)),
    ("SKINIT", || skinit_safe(0)),
];

#[guest]
fn faults(_: &mut Guest) {
    for (name, run) in INSTRUCTIONS {
        let vector = run().map_err(|trap| trap.vector);
        check_eq!("{name} without EFER.SVME is #UD", vector, Err(vector::UD));
    }
    let _on = Svm::new();
    check_eq!("STGI with EFER.SVME is taken", stgi_safe(), Ok(()));
    check_eq!("VMSAVE with EFER.SVME is taken", vmsave_safe(layout::SCRATCH), Ok(()));
    check_eq!("VMLOAD of what VMSAVE stored is taken", vmload_safe(layout::SCRATCH), Ok(()));
    check_eq!("INVLPGA with EFER.SVME is taken", invlpga_safe(layout::SCRATCH, 1), Ok(()));
    let addressed: [(&str, RunAt); 3] =
        [("VMRUN", vmrun_safe), ("VMLOAD", vmload_safe), ("VMSAVE", vmsave_safe)];
    for (name, run) in addressed {
        for (what, gpa) in [
            ("an address inside a page", layout::SCRATCH + 8),
            ("an address that no physical address is", beyond_physical()),
            ("an address where there is no RAM", NO_RAM),
        ] {
            let trap = run(gpa).map_err(|trap| (trap.vector, trap.error));
            check_eq!("{name} of {what} is #GP(0)", trap, Err((vector::GP, 0)));
        }
    }
}

/// Runs instruction `nth` of SVM in ring 3: the vector and error code of its fault, or [`NO_FAULT`].
extern "C" fn privileged(nth: u64) -> u64 {
    let result = INSTRUCTIONS[nth as usize].1();
    result.map_or_else(|trap| u64::from(trap.vector) << 32 | u64::from(trap.error), |()| NO_FAULT)
}

const NO_FAULT: u64 = u64::MAX;

#[guest]
fn is_privileged(_: &mut Guest) {
    let _on = Svm::new();
    for (nth, (name, _)) in
        INSTRUCTIONS.iter().enumerate().filter(|(_, (name, _))| *name != "SKINIT")
    {
        let fault = user::run(Rflags::empty(), privileged, nth as u64);
        check_eq!("{name} in ring 3 is #GP(0)", fault, u64::from(vector::GP) << 32);
    }
}

#[host]
mod host {
    use super::*;

    /// Each check by itself.
    #[kvm_test(checks, requires(cpu::SVM), params = [shadow: 0, nested: 1])]
    fn vmrun_checks_the_vmcb(t: &mut OneVcpu, nested_paging: u64) -> TestResult {
        t.vcpu.set_args(&[nested_paging]);
        t.vcpu.run_until_done()
    }

    /// An event that was to be injected by a VMRUN that fails is not left for the next one.
    #[kvm_test(drops_an_event, requires(cpu::SVM))]
    fn event_of_a_refused_vmrun_is_dropped(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// The instructions of SVM fault without EFER.SVME and with addresses that hold no VMCB (APM vol. 3).
    #[kvm_test(faults, requires(cpu::SVM))]
    fn svm_instructions_fault(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// The instructions of SVM are ring 0's.
    #[kvm_test(is_privileged, requires(cpu::SVM))]
    fn svm_instructions_are_privileged(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }
}
