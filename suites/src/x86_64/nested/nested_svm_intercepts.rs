//! What a hypervisor on SVM intercepts of its guest, and what it does not (APM vol. 2, "Instruction
//! Intercepts", "Exception Intercepts"): the exit is at the instruction, which has had no effect; without
//! the intercept there is none.
use crate::prelude::*;
use defs::x86::debug::{Dr6, Dr7};
use defs::x86::vmcb::{exit, intercept};
use guest_runtime::asm::Blob;

const VMMCALL: u64 = exit::intercepted(intercept::VMMCALL);
/// Bytes of VMMCALL, the last instruction of each piece of code here.
const VMMCALL_LENGTH: u64 = 3;

/// What the guest does without the intercept.
#[derive(Clone, Copy, PartialEq)]
enum Otherwise {
    /// It goes on behind the instruction.
    GoesOn,
    /// It would wait, fault or not come back: only the intercept is tested.
    Untested,
}
use Otherwise::{GoesOn, Untested};

/// An instruction, or the first that `before` bytes of others prepare.
struct Row {
    name: &'static str,
    intercept: u32,
    code: &'static Blob,
    before: u64,
    otherwise: Otherwise,
}

macro_rules! rows {
    ($($name:literal $intercept:ident $otherwise:ident $label:ident: $(($before:literal $first:literal))? $insn:literal;)*) => {
        $(guest_asm! { $label, bits64: $($first,)? $insn, "vmmcall" })*

        const ROWS: &[Row] = &[$(Row {
            name: $name,
            intercept: intercept::$intercept,
            code: &$label,
            before: 0 $(+ $before)?,
            otherwise: $otherwise,
        }),*];
    };
}

rows! {
    "CPUID" CPUID GoesOn DOES_CPUID: "cpuid";
    "RDTSC" RDTSC GoesOn DOES_RDTSC: "rdtsc";
    "RDPMC" RDPMC Untested DOES_RDPMC: "rdpmc";
    "PUSHF" PUSHF GoesOn DOES_PUSHF: "pushfq";
    "POPF" POPF GoesOn DOES_POPF: (1 "pushfq") "popfq";
    "IRET" IRET Untested DOES_IRET: "iretq";
    "INT" SWINT Untested DOES_INT: "int 0x80";
    "INVD" INVD Untested DOES_INVD: "invd";
    "WBINVD" WBINVD GoesOn DOES_WBINVD: "wbinvd";
    "PAUSE" PAUSE GoesOn DOES_PAUSE: "pause";
    "HLT" HLT Untested DOES_HLT: "hlt";
    "INVLPG" INVLPG GoesOn DOES_INVLPG: "invlpg [rdi]";
    "INVLPGA" INVLPGA Untested DOES_INVLPGA: "invlpga rax, ecx";
    "VMRUN" VMRUN Untested DOES_VMRUN: "vmrun rax";
    "VMLOAD" VMLOAD Untested DOES_VMLOAD: "vmload rax";
    "VMSAVE" VMSAVE Untested DOES_VMSAVE: "vmsave rax";
    "STGI" STGI Untested DOES_STGI: "stgi";
    "CLGI" CLGI Untested DOES_CLGI: "clgi";
    "SKINIT" SKINIT Untested DOES_SKINIT: "skinit eax";
    "RDTSCP" RDTSCP Untested DOES_RDTSCP: "rdtscp";
    "MONITOR" MONITOR Untested DOES_MONITOR: "monitor";
    "MWAIT" MWAIT Untested DOES_MWAIT: "mwait";
    "RSM" RSM Untested DOES_RSM: "rsm";
    "SIDT" IDTR_READ GoesOn DOES_SIDT: "sidt [rdi]";
    "SGDT" GDTR_READ GoesOn DOES_SGDT: "sgdt [rdi]";
    "SLDT" LDTR_READ GoesOn DOES_SLDT: "sldt eax";
    "STR" TR_READ GoesOn DOES_STR: "str eax";
    "LIDT" IDTR_WRITE Untested DOES_LIDT: "lidt [rdi]";
    "LGDT" GDTR_WRITE Untested DOES_LGDT: "lgdt [rdi]";
    "LLDT" LDTR_WRITE GoesOn DOES_LLDT: "lldt dx";
    "LTR" TR_WRITE Untested DOES_LTR: "ltr dx";
}

/// Runs a row's code from its start, with RDI at memory of its own and RDX zero.
fn run(svm: &mut Svm, code: &Blob) -> svm::Exit {
    svm.start(code);
    svm.vmcb().save.rax = layout::SCRATCH;
    svm.gprs.rdi = layout::SCRATCH;
    svm.run()
}

#[guest]
fn intercepts_instructions(g: &mut Guest) {
    let mut svm = Svm::new();
    if g.arg(0) != 0 {
        svm.use_nested_paging();
    }
    for row in ROWS {
        let Row { name, intercept, code, before, otherwise } = *row;
        let plain = svm.vmcb().control.intercepts;
        let at = code.address() + before;
        let behind = code.end() - VMMCALL_LENGTH;
        svm.intercept(intercept);
        let exit = run(&mut svm, code);
        check_eq!("an intercepted {name} is its exit", exit.code, exit::intercepted(intercept));
        check_eq!("the exit of {name} is at the instruction", svm.vmcb().save.rip, at);
        check_eq!("no event was being delivered at {name}", exit.int_info.is_valid(), false);
        // A hypervisor goes on behind what it has emulated.
        svm.vmcb().save.rip = behind;
        let exit = svm.run();
        check_eq!("the guest goes on behind {name}", exit.code, VMMCALL);
        svm.vmcb().control.intercepts = plain;
        if otherwise == GoesOn {
            let exit = run(&mut svm, code);
            check_eq!("no exit of {name} comes without its intercept", exit.code, VMMCALL);
            check_eq!("{name} without its intercept ends", svm.vmcb().save.rip, behind);
        }
    }
}

/// A MOV from or to a control or debug register, and a value that it leaves as it is.
struct Move {
    name: &'static str,
    exit: u64,
    code: &'static Blob,
    value: fn() -> u64,
}

macro_rules! moves {
    ($($label:ident $insn:literal: $exit:expr, $value:expr;)*) => {
        $(guest_asm! { $label, bits64: $insn, "vmmcall" })*

        const MOVES: &[Move] =
            &[$(Move { name: $insn, exit: $exit, code: &$label, value: $value }),*];
    };
}

moves! {
    READS_CR0 "mov rax, cr0": exit::READ_CR0, read_cr0;
    READS_CR3 "mov rax, cr3": exit::READ_CR0 + 3, mmu::root;
    READS_CR4 "mov rax, cr4": exit::READ_CR0 + 4, read_cr4;
    READS_CR8 "mov rax, cr8": exit::READ_CR0 + 8, || 0;
    WRITES_CR0 "mov cr0, rax": exit::WRITE_CR0, read_cr0;
    WRITES_CR3 "mov cr3, rax": exit::WRITE_CR0 + 3, mmu::root;
    WRITES_CR4 "mov cr4, rax": exit::WRITE_CR0 + 4, read_cr4;
    WRITES_CR8 "mov cr8, rax": exit::WRITE_CR0 + 8, || 0;
    READS_DR0 "mov rax, dr0": exit::READ_DR0, || 0;
    READS_DR3 "mov rax, dr3": exit::READ_DR0 + 3, || 0;
    READS_DR6 "mov rax, dr6": exit::READ_DR0 + 6, || DR6;
    READS_DR7 "mov rax, dr7": exit::READ_DR0 + 7, || DR7;
    WRITES_DR0 "mov dr0, rax": exit::WRITE_DR0, || 0;
    WRITES_DR3 "mov dr3, rax": exit::WRITE_DR0 + 3, || 0;
    WRITES_DR6 "mov dr6, rax": exit::WRITE_DR0 + 6, || DR6;
    WRITES_DR7 "mov dr7, rax": exit::WRITE_DR0 + 7, || DR7;
}

/// The bits of DR6 and DR7 that are always set.
const DR6: u64 = Dr6::FIXED.bits();
const DR7: u64 = Dr7::FIXED.bits();

#[guest]
fn intercepts_moves(g: &mut Guest) {
    let mut svm = Svm::new();
    if g.arg(0) != 0 {
        svm.use_nested_paging();
    }
    for Move { name, exit: wanted, code, value } in MOVES {
        for is_intercepted in [true, false] {
            svm.intercept_register(*wanted, is_intercepted);
            svm.start(code);
            svm.vmcb().save.rax = value();
            let exit = svm.run();
            let at = svm.vmcb().save.rip;
            if is_intercepted {
                check_eq!("an intercepted {name} is its exit", exit.code, *wanted);
                check_eq!("the exit of {name} is at the instruction", at, code.address());
            } else {
                check_eq!("no exit comes of {name} without its intercept", exit.code, VMMCALL);
                check_eq!("{name} ends without its intercept", at, code.end() - VMMCALL_LENGTH);
            }
            check_eq!("RAX after {name} is what the register has", svm.vmcb().save.rax, value());
        }
    }
}

#[guest]
fn writes_cr0_selectively(g: &mut Guest) {
    let mut svm = Svm::new();
    if g.arg(0) != 0 {
        svm.use_nested_paging();
    }
    let cr0 = read_cr0();
    let wanted = exit::intercepted(intercept::CR0_SEL_WRITE);
    svm.intercept(intercept::CR0_SEL_WRITE);
    for (what, value, exits) in [
        ("the same value", cr0, false),
        ("another CR0.TS", cr0 ^ Cr0::TS.bits(), false),
        ("another CR0.MP", cr0 ^ Cr0::MP.bits(), false),
        ("another CR0.WP", cr0 ^ Cr0::WP.bits(), true),
        ("another CR0.AM", cr0 ^ Cr0::AM.bits(), true),
        ("another CR0.NE", cr0 ^ Cr0::NE.bits(), true),
        ("another CR0.TS and CR0.AM", cr0 ^ (Cr0::TS | Cr0::AM).bits(), true),
    ] {
        svm.start(&WRITES_CR0);
        svm.vmcb().save.rax = value;
        let exit = svm.run();
        let code = if exits { wanted } else { VMMCALL };
        check_eq!("the selective intercept exits where {what} asks for it", exit.code, code);
        let left = if exits { cr0 } else { value };
        check_eq!("CR0 after a write of {what} is as the exit says", svm.vmcb().save.cr0, left);
    }
    svm.intercept_register(exit::WRITE_CR0, true);
    svm.start(&WRITES_CR0);
    svm.vmcb().save.rax = cr0 ^ Cr0::TS.bits();
    let exit = svm.run();
    check_eq!("the plain intercept of CR0 writes takes CR0.TS too", exit.code, exit::WRITE_CR0);
}

guest_asm! { LOADS_STATUS, bits64: "lmsw ax", "vmmcall" }
guest_asm! {
    /// The same behind KVM's prefix of forced emulation.
    LOADS_STATUS_FORCED, bits64: "ud2", ".ascii \"kvm\"", "lmsw ax", "vmmcall"
}

#[guest]
fn loads_status(g: &mut Guest) {
    let code = if g.arg(1) != 0 { &LOADS_STATUS_FORCED } else { &LOADS_STATUS };
    let mut svm = Svm::new();
    if g.arg(0) != 0 {
        svm.use_nested_paging();
    }
    let cr0 = read_cr0();
    svm.intercept(intercept::CR0_SEL_WRITE);
    for (what, value) in [("sets CR0.TS", cr0 | Cr0::TS.bits()), ("changes nothing", cr0)] {
        svm.start(code);
        svm.vmcb().save.rax = value & 0xffff;
        let exit = svm.run();
        let wanted = exit::intercepted(intercept::CR0_SEL_WRITE);
        check_eq!("the selective intercept takes an LMSW that {what}", exit.code, wanted);
        check_eq!("CR0 is as it was at an LMSW that {what}", svm.vmcb().save.cr0, cr0);
    }
}

#[host]
mod host {
    use super::*;

    /// Every instruction that has a bit among the intercepts.
    #[kvm_test(intercepts_instructions, requires(cpu::SVM), params = [shadow: 0, nested: 1])]
    fn instructions_are_intercepted(t: &mut OneVcpu, nested_paging: u64) -> TestResult {
        t.vcpu.set_args(&[nested_paging]);
        t.vcpu.run_until_done()
    }

    /// Every read and write of a control or debug register has its own bit.
    #[kvm_test(intercepts_moves, requires(cpu::SVM), params = [shadow: 0, nested: 1])]
    fn register_moves_are_intercepted(t: &mut OneVcpu, nested_paging: u64) -> TestResult {
        t.vcpu.set_args(&[nested_paging]);
        t.vcpu.run_until_done()
    }

    /// The selective intercept of CR0 writes is for changes of bits other than TS and MP.
    #[kvm_test(writes_cr0_selectively, requires(cpu::SVM), params = [shadow: 0, nested: 1])]
    fn cr0_writes_are_intercepted_selectively(t: &mut OneVcpu, nested_paging: u64) -> TestResult {
        t.vcpu.set_args(&[nested_paging]);
        t.vcpu.run_until_done()
    }

    /// LMSW is intercepted with the selective intercept, whatever it changes.
    #[kvm_test(loads_status, requires(cpu::SVM), params = [shadow: 0, nested: 1])]
    fn lmsw_is_intercepted(t: &mut OneVcpu, nested_paging: u64) -> TestResult {
        t.vcpu.set_args(&[nested_paging, 0]);
        t.vcpu.run_until_done()
    }

    /// The same for LMSW that KVM emulates.
    #[kvm_test(loads_status, requires(cpu::SVM, host::FORCED_EMULATION), params = [shadow: 0, nested: 1])]
    fn emulated_lmsw_is_intercepted(t: &mut OneVcpu, nested_paging: u64) -> TestResult {
        t.vcpu.set_args(&[nested_paging, 1]);
        t.vcpu.run_until_done()
    }
}
