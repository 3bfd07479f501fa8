//! Guests of guests on VMX (SDM vol. 3, "Virtual Machine Extensions"): level 2 runs functions of the payload
//! on a context of its own; VMX operation, the current VMCS, and what its instructions refuse.
use crate::prelude::*;
use defs::x86::vmcs::{Field, Kind, Width, error, feature_control, reason};
use vmx::{Exit as VmxExit, VmFail};

/// What level 2 has seen.
static LEVEL_AND_STACK: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

fn notes_where_it_runs(g: &mut Guest) {
    LEVEL_AND_STACK[0].store(g.level().into(), SeqCst);
    LEVEL_AND_STACK[1].store(layout::area_of_stack(&raw const g as u64), SeqCst);
    check_eq!("level 2 reads its hypervisor's arguments", g.arg(2), 77);
    let answer = g.sync(7, &[g.level().into()]);
    check_eq!("level 2 gets the host's answer", answer[0], 30);
}

#[guest]
fn runs_a_function(g: &mut Guest) {
    let mut vmx = Vmx::new();
    let exit = vmx.enter_with(notes_where_it_runs, [0, 0, 77, 0, 0, 0]);
    check_eq!("the return of level 2 is a VMCALL", exit.reason(), Some(reason::VMCALL));
    check!("the hypervisor sees that level 2 has returned", vmx.has_returned(&exit));
    let [level, stack] = LEVEL_AND_STACK.each_ref().map(|seen| seen.load(SeqCst));
    check_eq!("the guest of level 1 is level 2", (g.level(), level), (1, 2));
    check_eq!("level 2 runs on its own stack", stack, vmx.context().area());
    vmx.clear();
    vmx.complete(|_| ());
    let answer = g.sync(8, &[]);
    check_eq!("level 1 gets the host's answer behind its guest", answer[0], 31);
}

/// Invalid opcodes taken, by the level of the handler.
static TAKEN: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

fn counts_at(level: usize) -> impl FnMut(&mut TrapFrame) {
    move |frame| {
        TAKEN[level - 1].fetch_add(1, SeqCst);
        frame.rip += 2;
    }
}

fn takes_an_invalid_opcode(_: &mut Guest) {
    with_handler(vector::UD, counts_at(2), ud2);
    check_eq!("level 2 has faults as values", ud2_safe().map_err(|t| t.vector), Err(vector::UD));
}

#[guest]
fn keeps_handlers_apart(_: &mut Guest) {
    let taken = || TAKEN.each_ref().map(|count| count.load(SeqCst));
    let mut vmx = Vmx::new();
    with_handler(vector::UD, counts_at(1), || {
        vmx.complete(takes_an_invalid_opcode);
        check_eq!("level 2 has handlers of its own", taken(), [0, 1]);
        ud2();
        check_eq!("level 1 has its handler still", taken(), [1, 1]);
    });
    vmx.set(Field::EXCEPTION_BITMAP, 1 << vector::UD);
    let exit = vmx.enter(|_| ud2());
    check_eq!("an intercepted #UD is an exit", exit.reason(), Some(reason::EXCEPTION_OR_NMI));
    let info = vmx.read(Field::VM_EXIT_INTR_INFO);
    check_eq!(
        "the exit of #UD describes the exception",
        info,
        1 << 31 | 3 << 8 | u64::from(vector::UD)
    );
    check_eq!("no handler takes an intercepted #UD", taken(), [1, 1]);
}

fn reads_cpuid(_: &mut Guest) {
    check_eq!("CPUID of level 2 is what its hypervisor gave", cpuid(0, 0), [1, 2, 3, 4]);
}

#[guest]
fn emulates_cpuid(_: &mut Guest) {
    let mut vmx = Vmx::new();
    let exit = vmx.enter(reads_cpuid);
    check_eq!("CPUID of level 2 is an exit", exit.reason(), Some(reason::CPUID));
    let gprs = &mut vmx.gprs;
    (gprs.rax, gprs.rbx, gprs.rcx, gprs.rdx) = (1, 2, 3, 4);
    vmx.skip();
    let exit = vmx.resume();
    check!("level 2 goes on behind its CPUID", vmx.has_returned(&exit), "{exit:x?}");
}

#[guest]
fn refuses_pointers(_: &mut Guest) {
    use vmx::{vmclear, vmptrld, vmptrst, vmread, vmwrite, vmxoff_safe, vmxon};
    let on = vmx::region();
    check_eq!("VMXON without CR4.VMXE is #UD", vmxon(on).map_err(|t| t.vector), Err(vector::UD));
    check_eq!(
        "VMXOFF without CR4.VMXE is #UD",
        vmxoff_safe().map_err(|t| t.vector),
        Err(vector::UD)
    );
    vmx::prepare();
    let control = rdmsr(msr::IA32_FEATURE_CONTROL);
    check_eq!(
        "IA32_FEATURE_CONTROL is locked with VMX on",
        control & (feature_control::LOCK | feature_control::VMX_OUTSIDE_SMX),
        feature_control::LOCK | feature_control::VMX_OUTSIDE_SMX
    );
    let locked = wrmsr_safe(msr::IA32_FEATURE_CONTROL, control & !feature_control::VMX_OUTSIDE_SMX);
    check_eq!(
        "a write of IA32_FEATURE_CONTROL when locked is #GP",
        locked.map_err(|t| t.vector),
        Err(vector::GP)
    );
    check_eq!("VMXON of an address inside a page fails", vmxon(on + 8), Ok(Err(VmFail::Invalid)));
    poke(on, peek::<u32>(on) ^ 1);
    check_eq!("VMXON of another revision fails", vmxon(on), Ok(Err(VmFail::Invalid)));
    poke(on, peek::<u32>(on) ^ 1);
    check_eq!("VMXON of its region is taken", vmxon(on), Ok(Ok(())));
    check_eq!(
        "CR4.VMXE cannot be cleared in VMX operation",
        write_cr4_safe(read_cr4() & !Cr4::VMXE.bits()).map_err(|t| t.vector),
        Err(vector::GP)
    );
    check_eq!("no VMCS is current at first", vmptrst(), u64::MAX);
    check_eq!("VMREAD without a VMCS fails", vmread(Field::GUEST_RIP), Err(VmFail::Invalid));
    check_eq!("VMWRITE without a VMCS fails", vmwrite(Field::GUEST_RIP, 0), Err(VmFail::Invalid));
    let vmcs = vmx::region();
    check_eq!("VMCLEAR of a region is taken", vmclear(vmcs), Ok(()));
    check_eq!("VMPTRLD of a region is taken", vmptrld(vmcs), Ok(()));
    check_eq!("VMPTRST stores the current VMCS", vmptrst(), vmcs);
    let valid = |number| Err(VmFail::Valid(number));
    check_eq!("VMXON in VMX operation fails", vmxon(on), Ok(valid(error::VMXON_IN_ROOT)));
    check_eq!(
        "VMCLEAR of an address inside a page fails",
        vmclear(vmcs + 8),
        valid(error::VMCLEAR_ADDRESS)
    );
    check_eq!(
        "VMCLEAR of the VMXON region fails",
        vmclear(on),
        valid(error::VMCLEAR_VMXON_POINTER)
    );
    check_eq!(
        "VMPTRLD of an address inside a page fails",
        vmptrld(vmcs + 8),
        valid(error::VMPTRLD_ADDRESS)
    );
    check_eq!(
        "VMPTRLD of the VMXON region fails",
        vmptrld(on),
        valid(error::VMPTRLD_VMXON_POINTER)
    );
    let other = vmx::region();
    poke(other, peek::<u32>(other) ^ 1);
    check_eq!("VMPTRLD of another revision fails", vmptrld(other), valid(error::VMPTRLD_REVISION));
    check_eq!("a VMPTRLD that fails leaves the current VMCS", vmptrst(), vmcs);
    let unknown = Field(0x7ffe);
    check_eq!(
        "VMREAD of a field that there is not fails",
        vmread(unknown),
        Err(VmFail::Valid(error::UNSUPPORTED_FIELD))
    );
    check_eq!(
        "VMWRITE of a field that there is not fails",
        vmwrite(unknown, 0),
        valid(error::UNSUPPORTED_FIELD)
    );
    check_eq!("VMCLEAR of the current VMCS is taken", vmclear(vmcs), Ok(()));
    check_eq!("no VMCS is current behind its VMCLEAR", vmptrst(), u64::MAX);
    check_eq!("VMXOFF in VMX operation is taken", vmxoff_safe(), Ok(()));
    check_eq!(
        "CR4.VMXE can be cleared behind VMXOFF",
        write_cr4_safe(read_cr4() & !Cr4::VMXE.bits()),
        Ok(())
    );
}

guest_asm! { CALLS, bits64: "vmcall" }

#[guest]
fn launches_once(_: &mut Guest) {
    let mut vmx = Vmx::new();
    vmx.start(&CALLS);
    let exit = vmx.run_by_resume();
    let wanted = VmxExit::Failed(VmFail::Valid(error::VMRESUME_NOT_LAUNCHED));
    check_eq!("VMRESUME of a VMCS that is clear fails", exit, wanted);
    let exit = vmx.run();
    check_eq!("VMLAUNCH of a VMCS that is clear is an entry", exit.reason(), Some(reason::VMCALL));
    let exit = vmx.run_by_launch();
    let wanted = VmxExit::Failed(VmFail::Valid(error::VMLAUNCH_NOT_CLEAR));
    check_eq!("VMLAUNCH of a VMCS that is launched fails", exit, wanted);
    let exit = vmx.run();
    check_eq!(
        "VMRESUME of a VMCS that is launched is an entry",
        exit.reason(),
        Some(reason::VMCALL)
    );
    vmx.clear();
    let exit = vmx.run();
    check_eq!("VMLAUNCH behind VMCLEAR is an entry", exit.reason(), Some(reason::VMCALL));
}

/// Fields that only tell.
const READ_ONLY: [(&str, Field); 6] = [
    ("VM_INSTRUCTION_ERROR", Field::VM_INSTRUCTION_ERROR),
    ("VM_EXIT_REASON", Field::VM_EXIT_REASON),
    ("VM_EXIT_INTR_INFO", Field::VM_EXIT_INTR_INFO),
    ("IDT_VECTORING_INFO", Field::IDT_VECTORING_INFO),
    ("EXIT_QUALIFICATION", Field::EXIT_QUALIFICATION),
    ("GUEST_LINEAR_ADDRESS", Field::GUEST_LINEAR_ADDRESS),
];

/// The bits that a field keeps.
fn kept(field: Field) -> u64 {
    match field.width() {
        Width::Bits16 => u64::from(u16::MAX),
        Width::Bits32 => u64::from(u32::MAX),
        Width::Bits64 | Width::Natural => u64::MAX,
    }
}

#[guest]
fn reads_what_it_wrote(_: &mut Guest) {
    let mut vmx = Vmx::new();
    let is_read_only = |field: Field| field.kind() == Kind::ExitInformation;
    for (name, field) in Field::ALL.iter().filter(|(_, field)| !is_read_only(*field)) {
        // Fields that this CPU does not have are not what this is about.
        let Ok(before) = vmx::vmread(*field) else { continue };
        for pattern in [0x5a5a_a5a5_3c3c_c3c3, 0xa5a5_5a5a_c3c3_3c3c_u64] {
            vmx.write(*field, pattern);
            let wanted = pattern & kept(*field);
            // Access rights have no more bits than a CPU needs (SDM vol. 3, "Guest Register State").
            let rights = if name.ends_with("AR_BYTES") { 0x1_f0ff } else { u64::MAX };
            check_eq!(
                "VMREAD of {name} gives what VMWRITE wrote",
                vmx.read(*field) & rights,
                wanted & rights
            );
        }
        vmx.write(*field, before);
    }
    if rdmsr(msr::IA32_VMX_MISC) >> 29 & 1 == 0 {
        for (name, field) in READ_ONLY {
            let refused = vmx::vmwrite(field, 0);
            check_eq!(
                "VMWRITE of {name} fails, which only tells",
                refused,
                Err(VmFail::Valid(error::READ_ONLY_FIELD))
            );
        }
    }
}

#[host]
mod host {
    use super::*;

    kvm_tests! { requires(cpu::VMX) }

    /// Level 2 runs a function to its end, and level 1 goes on behind it.
    #[kvm_test(runs_a_function)]
    fn level_2_runs_a_function(t: &mut OneVcpu) -> TestResult {
        let args = t.vcpu.run_until_sync(7)?;
        check_eq!("the sync comes from level 2", args[0], 2);
        t.vcpu.answer(&[30]);
        t.vcpu.run_until_sync(8)?;
        t.vcpu.answer(&[31]);
        t.vcpu.run_until_done()
    }

    /// Each level takes its exceptions on its own stack with handlers of its own.
    #[kvm_test(keeps_handlers_apart)]
    fn handlers_belong_to_a_level(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// A hypervisor answers an instruction of its guest.
    #[kvm_test(emulates_cpuid)]
    fn level_1_emulates_an_instruction(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// VMX operation begins and ends as its instructions and IA32_FEATURE_CONTROL say; pointers are checked.
    #[kvm_test(refuses_pointers)]
    fn vmx_instructions_check_their_operands(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// VMLAUNCH is for a VMCS that is clear, VMRESUME for one that is launched.
    #[kvm_test(launches_once)]
    fn launch_state_is_checked(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// Every field keeps what was written.
    #[kvm_test(reads_what_it_wrote)]
    fn fields_keep_their_values(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }
}
