//! A hypervisor on SVM (APM vol. 2, "Secure Virtual Machine").
//!
//! Its guest runs in 64-bit mode on the same translation tables as itself, and nothing is intercepted
//! but VMRUN and VMMCALL: tests say what else is ([`Svm::intercept`], [`Svm::vmcb`]).
#![expect(unsafe_code, reason = "VMRUN, and the control block that the CPU reads and writes")]

mod instructions;
mod paging;

pub use instructions::*;

use core::arch::asm;

use guest_protocol::layout::{PAGE_SIZE, vcpu_area, x86_64 as map};

use super::Hypervisor;
use crate::arch::x86_64::{cpu, mmu, state};
use crate::asm::{Blob, symbol};
use crate::context::Context;
use crate::memory::{peek, poke};
use crate::pages;
use defs::x86::cr::Efer;
use defs::x86::debug::{Dr6, Dr7};
use defs::x86::msr;
use defs::x86::rflags::Rflags;
use defs::x86::vmcb::{Event, Segment, Vmcb, exit, intercept, ioio};

/// The general registers that VMRUN leaves to the hypervisor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "the manual's register names")]
pub struct Gprs {
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
}

/// What `#VMEXIT` leaves in the control area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// EXITCODE ([`exit`]).
    pub code: u64,
    /// EXITINFO1 and EXITINFO2.
    pub info: [u64; 2],
    /// EXITINTINFO: the event that was being delivered.
    pub int_info: Event,
}

/// A hypervisor and its guest.
#[derive(Debug)]
pub struct Svm {
    context: Context,
    /// Guest-physical addresses, which are virtual ones too.
    vmcb: u64,
    /// Where VMSAVE keeps what VMRUN does not of the hypervisor.
    own: u64,
    /// The guest's general registers; RAX and RSP are in the VMCB.
    pub gprs: Gprs,
}

impl Svm {
    /// Turns SVM on, and makes a guest that intercepts as little as can be.
    pub fn new() -> Self {
        cpu::wrmsr(msr::IA32_EFER, cpu::rdmsr(msr::IA32_EFER) | Efer::SVME.bits());
        if cpu::rdmsr(msr::VM_HSAVE_PA) == 0 {
            cpu::wrmsr(msr::VM_HSAVE_PA, pages::take(1));
        }
        let (vmcb, own) = (pages::take(1), pages::take(1));
        let mut svm = Self { context: Context::nested(), vmcb, own, gprs: Gprs::default() };
        state::copy_tables(svm.context);
        svm.vmcb().control.guest_asid = 1;
        for required in [intercept::VMRUN, intercept::VMMCALL] {
            svm.intercept(required);
        }
        svm
    }

    /// The control block, for tests to change what is in it.
    pub fn vmcb(&mut self) -> &mut Vmcb {
        // SAFETY: the page is this hypervisor's, and the CPU uses it in `run` alone.
        unsafe { &mut *(self.vmcb as *mut Vmcb) }
    }

    /// Has the guest exit at an instruction or event ([`intercept`]).
    pub fn intercept(&mut self, which: u32) {
        self.vmcb().control.intercepts[which as usize / 32] |= 1 << (which % 32);
    }

    /// Has the guest exit at the exception `vector`.
    pub fn intercept_exception(&mut self, vector: u8) {
        self.vmcb().control.intercept_exceptions |= 1 << vector;
    }

    /// Has the guest exit at port accesses: at those whose bit is set in the pages that are returned.
    pub fn intercept_ports(&mut self) -> u64 {
        let permissions = pages::take(3);
        self.vmcb().control.iopm_base_pa = permissions;
        self.intercept(intercept::IOIO_PROT);
        permissions
    }

    /// Has the guest exit at MSR accesses: at those whose bit is set in the pages that are returned, and at
    /// those that have no bit.
    pub fn intercept_msrs(&mut self) -> u64 {
        let permissions = pages::take(2);
        self.vmcb().control.msrpm_base_pa = permissions;
        self.intercept(intercept::MSR_PROT);
        permissions
    }

    /// Has the guest exit at a move from or to a control or debug register, by its exit, or not.
    pub fn intercept_register(&mut self, exit: u64, on: bool) {
        let control = &mut self.vmcb().control;
        let word = match exit & !0xf {
            exit::READ_CR0 => &mut control.intercept_cr_reads,
            exit::WRITE_CR0 => &mut control.intercept_cr_writes,
            exit::READ_DR0 => &mut control.intercept_dr_reads,
            exit::WRITE_DR0 => &mut control.intercept_dr_writes,
            _ => panic!("{exit:#x} is no move's exit"),
        };
        let bit = 1 << (exit & 0xf);
        *word = if on { *word | bit } else { *word & !bit };
    }

    /// Sets the guest's registers to the start of `code` instead of a function: it has a stack, and no
    /// handlers.
    pub fn start(&mut self, code: &Blob) {
        self.reset();
        self.vmcb().save.rip = code.address();
    }

    /// Where the control block is.
    pub fn vmcb_address(&self) -> u64 {
        self.vmcb
    }

    /// The control block as it is, in a page of its own.
    pub fn saved_vmcb(&self) -> u64 {
        let page = pages::take(1);
        self.copy_vmcb(self.vmcb, page);
        page
    }

    /// Puts back what [`Svm::saved_vmcb`] saved.
    pub fn restore_vmcb(&mut self, saved: u64) {
        self.copy_vmcb(saved, self.vmcb);
    }

    fn copy_vmcb(&self, from: u64, to: u64) {
        (0..PAGE_SIZE).step_by(8).for_each(|at| poke::<u64>(to + at, peek(from + at)));
    }
}

impl Default for Svm {
    fn default() -> Self {
        Self::new()
    }
}

/// A guest's `VMMCALL` with `rax`: what its hypervisor leaves there.
pub fn vmmcall(mut rax: u64) -> u64 {
    // SAFETY: a hypervisor of ours changes no register that the test does not tell it to.
    unsafe { asm!("vmmcall", inout("rax") rax) };
    rax
}

/// A segment as the layout's descriptors describe it.
fn segment(selector: u16, attributes: u16) -> Segment {
    Segment { selector, attributes, limit: 0xffff_ffff, base: 0 }
}

impl Hypervisor for Svm {
    type Exit = Exit;

    fn context(&self) -> Context {
        self.context
    }

    fn reset(&mut self) {
        let area = self.context.area();
        let [_, idt] = state::descriptor_tables();
        let save = &mut self.vmcb().save;
        save.cs = segment(map::KERNEL_CS, 0xa9b);
        let data = segment(map::KERNEL_DS, 0xc93);
        (save.ss, save.ds, save.es, save.fs, save.gs) = (data, data, data, data, data);
        save.gdtr =
            Segment { limit: map::GDT_SIZE - 1, base: area + vcpu_area::TABLES, ..save.gdtr };
        save.idtr = Segment { limit: idt.1.into(), base: idt.0, ..save.idtr };
        save.tr = Segment {
            selector: map::TSS_SELECTOR,
            attributes: 0x8b,
            limit: map::TSS_SIZE - 1,
            base: area + vcpu_area::TSS,
        };
        save.ldtr = Segment { attributes: 0x82, ..Segment::default() };
        save.cpl = 0;
        save.efer = cpu::rdmsr(msr::IA32_EFER);
        save.cr0 = cpu::read_cr0();
        save.cr3 = mmu::root();
        save.cr4 = cpu::read_cr4();
        save.g_pat = cpu::rdmsr(msr::IA32_PAT);
        save.dr6 = Dr6::FIXED.bits();
        save.dr7 = Dr7::FIXED.bits();
        save.rflags = Rflags::FIXED.bits();
        save.rsp = area + vcpu_area::STACK_END;
        save.rip = symbol!(svm_guest);
        save.rax = 0;
        let root = save.cr3;
        self.context.set_word(vcpu_area::ROOT, root);
        self.gprs = Gprs { rdi: self.context.start_info(), ..Gprs::default() };
    }

    fn run(&mut self) -> Exit {
        // SAFETY: the pages are this hypervisor's own, and the guest's state was made by `reset`, or left
        // by the guest, or changed by the test.
        unsafe { enter(self.vmcb, self.own, &mut self.gprs) };
        let control = &self.vmcb().control;
        Exit {
            code: control.exit_code,
            info: [control.exit_info_1, control.exit_info_2],
            int_info: control.exit_int_info,
        }
    }

    fn skip(&mut self) {
        let Vmcb { control, save, .. } = self.vmcb();
        save.rip = match (control.exit_code, control.next_rip) {
            (IOIO, _) => control.exit_info_2,
            // The CPU does not give it.
            (code, 0) => save.rip + length(code),
            (_, next) => next,
        };
        control.interrupt_shadow = 0;
    }

    fn has_returned(&self, exit: &Exit) -> bool {
        // SAFETY: as in `vmcb`.
        let rip = unsafe { (&raw const (*(self.vmcb as *const Vmcb)).save.rip).read() };
        exit.code == VMMCALL && rip == symbol!(svm_guest_end)
    }

    fn doorbell(&self, exit: &Exit) -> Option<u32> {
        const RING: u64 = (map::DOORBELL_PORT as u64) << ioio::PORT_SHIFT | ioio::SZ32;
        const KIND: u64 =
            0xffff << ioio::PORT_SHIFT | ioio::IN | ioio::STRING | ioio::REP | ioio::SZ32;
        // SAFETY: as in `vmcb`.
        let rax = unsafe { (&raw const (*(self.vmcb as *const Vmcb)).save.rax).read() };
        (exit.code == IOIO && exit.info[0] & KIND == RING).then_some(rax as u32)
    }
}

const VMMCALL: u64 = exit::intercepted(intercept::VMMCALL);
const IOIO: u64 = exit::intercepted(intercept::IOIO_PROT);

/// Bytes of an intercepted instruction, without prefixes.
fn length(code: u64) -> u64 {
    const CPUID: u64 = exit::intercepted(intercept::CPUID);
    const HLT: u64 = exit::intercepted(intercept::HLT);
    const RDTSC: u64 = exit::intercepted(intercept::RDTSC);
    const MSR: u64 = exit::intercepted(intercept::MSR_PROT);
    match code {
        HLT => 1,
        CPUID | RDTSC | MSR => 2,
        VMMCALL => 3,
        _ => panic!("the length of the instruction of exit {code:#x} is not known"),
    }
}

/// VMRUN, with all that it leaves to the hypervisor.
///
/// # Safety
///
/// `vmcb` and `own` must be addresses of pages for nothing else, and the guest's state one in which it
/// touches nothing that the caller has use for.
unsafe fn enter(vmcb: u64, own: u64, gprs: &mut Gprs) {
    // SAFETY: all registers are saved or named as clobbered, and the stack is where it was.
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "push rdi",
            "push rdx",
            "push rsi",
            // Until STGI no interrupt comes: VMLOAD has put the guest's task register in place.
            "clgi",
            "mov rax, rdx",
            "vmsave rax",
            "mov rax, rdi",
            "vmload rax",
            "mov rbx, [rsi]",
            "mov rcx, [rsi + 8]",
            "mov rdx, [rsi + 16]",
            "mov rdi, [rsi + 32]",
            "mov rbp, [rsi + 40]",
            "mov r8, [rsi + 48]",
            "mov r9, [rsi + 56]",
            "mov r10, [rsi + 64]",
            "mov r11, [rsi + 72]",
            "mov r12, [rsi + 80]",
            "mov r13, [rsi + 88]",
            "mov r14, [rsi + 96]",
            "mov r15, [rsi + 104]",
            "mov rsi, [rsi + 24]",
            "vmrun rax",
            "mov rax, [rsp]",
            "mov [rax], rbx",
            "mov [rax + 8], rcx",
            "mov [rax + 16], rdx",
            "mov [rax + 24], rsi",
            "mov [rax + 32], rdi",
            "mov [rax + 40], rbp",
            "mov [rax + 48], r8",
            "mov [rax + 56], r9",
            "mov [rax + 64], r10",
            "mov [rax + 72], r11",
            "mov [rax + 80], r12",
            "mov [rax + 88], r13",
            "mov [rax + 96], r14",
            "mov [rax + 104], r15",
            "pop rsi",
            "pop rax",
            "pop rcx",
            "xchg rax, rcx",
            "vmsave rax",
            "mov rax, rcx",
            "vmload rax",
            "stgi",
            "pop rbp",
            "pop rbx",
            in("rdi") vmcb, in("rsi") gprs, in("rdx") own,
            lateout("rax") _, lateout("rcx") _, lateout("rdx") _, lateout("rsi") _, lateout("rdi") _,
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _, lateout("r12") _,
            lateout("r13") _, lateout("r14") _, lateout("r15") _,
        );
    }
}

#[cfg(kvm_guest)]
core::arch::global_asm!(
    ".pushsection .text.nested, \"ax\"",
    "svm_guest:",
    // No frame is below this one.
    "xor ebp, ebp",
    "call {run}",
    "svm_guest_end:",
    "vmmcall",
    "jmp svm_guest_end",
    ".popsection",
    run = sym crate::entry::run,
);
