//! A hypervisor on VMX (SDM vol. 3, "Virtual Machine Extensions").
//!
//! Its guest runs in 64-bit mode on the same translation tables as itself, and nothing is intercepted but
//! what VMX always intercepts: tests say what else is ([`Vmx::set`]).
#![expect(
    unsafe_code,
    reason = "VMX instructions, and the structures that the CPU reads and writes"
)]

mod instructions;

pub use instructions::*;

use core::arch::asm;

use guest_protocol::layout::{vcpu_area, x86_64 as map};

use super::Hypervisor;
use crate::arch::x86_64::{cpu, mmu, state};
use crate::asm::{Blob, symbol};
use crate::context::Context;
use crate::memory::poke;
use crate::pages;
use defs::x86::cr::{Cr0, Cr4};
use defs::x86::msr;
use defs::x86::rflags::Rflags;
use defs::x86::vmcs::{
    Field, cpu as cpu_controls, entry_controls, exit_controls, feature_control, io, reason,
};

/// The general registers that VM entries and exits leave to the hypervisor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "the manual's register names")]
pub struct Gprs {
    pub rax: u64,
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

/// What came of a VM entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest ran, or its state was refused ([`reason::ENTRY_FAILURE`]).
    Vm {
        /// Exit reason.
        reason: u32,
        /// Exit qualification.
        qualification: u64,
        /// IDT-vectoring information: the event that was being delivered.
        vectoring: u32,
    },
    /// VMLAUNCH or VMRESUME failed, with the VM-instruction error.
    Failed(VmFail),
}

impl Exit {
    /// The exit reason of a guest that ran, or whose state was refused.
    pub fn reason(&self) -> Option<u32> {
        match *self {
            Self::Vm { reason, .. } => Some(reason),
            Self::Failed(_) => None,
        }
    }
}

/// A hypervisor and its guest.
#[derive(Debug)]
pub struct Vmx {
    context: Context,
    /// Guest-physical addresses, which are virtual ones too.
    vmcs: u64,
    is_launched: bool,
    /// The guest's general registers; RSP is in the VMCS.
    pub gprs: Gprs,
}

/// Puts CR0, CR4 and IA32_FEATURE_CONTROL into the state that VMXON asks for.
pub fn prepare() {
    let control = cpu::rdmsr(msr::IA32_FEATURE_CONTROL);
    if control & feature_control::LOCK == 0 {
        let on = feature_control::LOCK | feature_control::VMX_OUTSIDE_SMX;
        cpu::wrmsr(msr::IA32_FEATURE_CONTROL, control | on);
    }
    cpu::write_cr0(cpu::read_cr0() | cpu::rdmsr(msr::IA32_VMX_CR0_FIXED0));
    let fixed = cpu::rdmsr(msr::IA32_VMX_CR4_FIXED0);
    cpu::write_cr4(cpu::read_cr4() | fixed | Cr4::VMXE.bits());
}

/// A page that begins with the revision of this CPU's structures.
pub fn region() -> u64 {
    let page = pages::take(1);
    poke(page, cpu::rdmsr(msr::IA32_VMX_BASIC) as u32 & !(1 << 31));
    page
}

impl Vmx {
    /// Turns VMX operation on, if it is not, and makes a guest that intercepts as little as can be.
    pub fn new() -> Self {
        if cpu::read_cr4() & Cr4::VMXE.bits() == 0 {
            prepare();
            let on = vmxon(region());
            assert!(on == Ok(Ok(())), "VMXON: {on:x?}");
        }
        let vmcs = region();
        let context = Context::nested();
        state::copy_tables(context);
        let mut vmx = Self { context, vmcs, is_launched: false, gprs: Gprs::default() };
        vmx.clear();
        vmx.set_controls();
        vmx.set_host();
        vmx
    }

    /// Where its VMCS is.
    pub fn vmcs(&self) -> u64 {
        self.vmcs
    }

    /// VMCLEAR and VMPTRLD: the next entry is a launch again.
    pub fn clear(&mut self) {
        let cleared = vmclear(self.vmcs);
        assert!(cleared == Ok(()), "VMCLEAR: {cleared:x?}");
        self.is_launched = false;
        self.make_current();
    }

    /// VMPTRLD: for one of several guests.
    pub fn make_current(&self) {
        let loaded = vmptrld(self.vmcs);
        assert!(loaded == Ok(()), "VMPTRLD: {loaded:x?}");
    }

    /// A field of the current VMCS.
    ///
    /// # Panics
    ///
    /// The CPU does not have it.
    pub fn read(&self, field: Field) -> u64 {
        vmread(field).unwrap_or_else(|error| panic!("VMREAD of {field:x?}: {error:x?}"))
    }

    /// Sets a field of the current VMCS.
    ///
    /// # Panics
    ///
    /// The CPU does not have it.
    pub fn write(&mut self, field: Field, value: u64) {
        if let Err(error) = vmwrite(field, value) {
            panic!("VMWRITE of {field:x?}: {error:x?}");
        }
    }

    /// Sets bits of a field.
    pub fn set(&mut self, field: Field, bits: u32) {
        self.write(field, self.read(field) | u64::from(bits));
    }

    /// Enters by VMLAUNCH, whatever the launch state is.
    pub fn run_by_launch(&mut self) -> Exit {
        self.enter_by(false)
    }

    /// Enters by VMRESUME, whatever the launch state is.
    pub fn run_by_resume(&mut self) -> Exit {
        self.enter_by(true)
    }

    fn enter_by(&mut self, resume: bool) -> Exit {
        // SAFETY: the guest's state was made by `reset`, or left by the guest, or changed by the test.
        let flags = unsafe { enter(&mut self.gprs, resume) };
        if let Err(fail) = outcome(flags) {
            return Exit::Failed(fail);
        }
        let reason = self.read(Field::VM_EXIT_REASON) as u32;
        // A guest whose state is refused leaves the launch state as it was.
        self.is_launched |= reason & reason::ENTRY_FAILURE == 0;
        Exit::Vm {
            reason,
            qualification: self.read(Field::EXIT_QUALIFICATION),
            vectoring: self.read(Field::IDT_VECTORING_INFO) as u32,
        }
    }

    /// Sets the guest's registers to the start of `code` instead of a function: it has a stack, and no
    /// handlers.
    pub fn start(&mut self, code: &Blob) {
        self.reset();
        self.write(Field::GUEST_RIP, code.address());
    }

    /// Controls with as little set as the CPU lets be, and what 64-bit mode needs on both sides.
    fn set_controls(&mut self) {
        let has_true = cpu::rdmsr(msr::IA32_VMX_BASIC) >> 55 & 1 != 0;
        let msrs = if has_true {
            [
                msr::IA32_VMX_TRUE_PINBASED_CTLS,
                msr::IA32_VMX_TRUE_PROCBASED_CTLS,
                msr::IA32_VMX_TRUE_EXIT_CTLS,
                msr::IA32_VMX_TRUE_ENTRY_CTLS,
            ]
        } else {
            [
                msr::IA32_VMX_PINBASED_CTLS,
                msr::IA32_VMX_PROCBASED_CTLS,
                msr::IA32_VMX_EXIT_CTLS,
                msr::IA32_VMX_ENTRY_CTLS,
            ]
        };
        let [pin, cpu, exit, entry] = msrs.map(|index| cpu::rdmsr(index) as u32);
        let exit = exit | exit_controls::HOST_ADDRESS_SPACE_SIZE;
        let entry = entry | entry_controls::IA32E_MODE_GUEST;
        for (field, value) in [
            (Field::PIN_BASED_VM_EXEC_CONTROL, pin),
            (Field::CPU_BASED_VM_EXEC_CONTROL, cpu | cpu_controls::USE_MSR_BITMAPS),
            (Field::VM_EXIT_CONTROLS, exit),
            (Field::VM_ENTRY_CONTROLS, entry),
            (Field::EXCEPTION_BITMAP, 0),
            (Field::PAGE_FAULT_ERROR_CODE_MASK, 0),
            (Field::PAGE_FAULT_ERROR_CODE_MATCH, 0),
            (Field::CR3_TARGET_COUNT, 0),
            (Field::VM_EXIT_MSR_STORE_COUNT, 0),
            (Field::VM_EXIT_MSR_LOAD_COUNT, 0),
            (Field::VM_ENTRY_MSR_LOAD_COUNT, 0),
            (Field::VM_ENTRY_INTR_INFO, 0),
        ] {
            self.write(field, value.into());
        }
        self.write(Field::MSR_BITMAP, pages::take(1));
        for field in [
            Field::CR0_GUEST_HOST_MASK,
            Field::CR4_GUEST_HOST_MASK,
            Field::CR0_READ_SHADOW,
            Field::CR4_READ_SHADOW,
        ] {
            self.write(field, 0);
        }
        self.write(Field::VMCS_LINK_POINTER, u64::MAX);
    }

    /// The hypervisor's side; RSP and RIP are set by each entry.
    fn set_host(&mut self) {
        let own = Context::current().area();
        let [gdt, idt] = state::descriptor_tables();
        for (field, selector) in [
            (Field::HOST_CS_SELECTOR, map::KERNEL_CS),
            (Field::HOST_SS_SELECTOR, map::KERNEL_DS),
            (Field::HOST_DS_SELECTOR, map::KERNEL_DS),
            (Field::HOST_ES_SELECTOR, map::KERNEL_DS),
            (Field::HOST_FS_SELECTOR, map::KERNEL_DS),
            (Field::HOST_GS_SELECTOR, map::KERNEL_DS),
            (Field::HOST_TR_SELECTOR, map::TSS_SELECTOR),
        ] {
            self.write(field, selector.into());
        }
        for (field, value) in [
            (Field::HOST_CR0, cpu::read_cr0()),
            (Field::HOST_CR3, mmu::root()),
            (Field::HOST_CR4, cpu::read_cr4()),
            (Field::HOST_FS_BASE, cpu::rdmsr(msr::IA32_FS_BASE)),
            (Field::HOST_GS_BASE, cpu::rdmsr(msr::IA32_GS_BASE)),
            (Field::HOST_TR_BASE, own + vcpu_area::TSS),
            (Field::HOST_GDTR_BASE, gdt.0),
            (Field::HOST_IDTR_BASE, idt.0),
            (Field::HOST_IA32_SYSENTER_CS, 0),
            (Field::HOST_IA32_SYSENTER_ESP, 0),
            (Field::HOST_IA32_SYSENTER_EIP, 0),
        ] {
            self.write(field, value);
        }
    }
}

impl Default for Vmx {
    fn default() -> Self {
        Self::new()
    }
}

/// A guest's `VMCALL` with `rax`: what its hypervisor leaves there.
pub fn vmcall(mut rax: u64) -> u64 {
    // SAFETY: a hypervisor of ours changes no register that the test does not tell it to.
    unsafe { asm!("vmcall", inout("rax") rax) };
    rax
}

/// Access rights of segments, as the VMCS has them.
const CODE_64: u64 = 0xa09b;
const DATA: u64 = 0xc093;
const BUSY_TSS: u64 = 0x008b;
const UNUSABLE: u64 = 0x1_0000;

impl Hypervisor for Vmx {
    type Exit = Exit;

    fn context(&self) -> Context {
        self.context
    }

    fn reset(&mut self) {
        let area = self.context.area();
        let [_, idt] = state::descriptor_tables();
        let (cs, ds) = (u64::from(map::KERNEL_CS), u64::from(map::KERNEL_DS));
        type Segment = (Field, Field, Field, Field, [u64; 4]);
        let flat = |selector, rights| [selector, 0, 0xffff_ffff, rights];
        let tss = [
            u64::from(map::TSS_SELECTOR),
            area + vcpu_area::TSS,
            u64::from(map::TSS_SIZE - 1),
            BUSY_TSS,
        ];
        let segments: [Segment; 8] = [
            (
                Field::GUEST_CS_SELECTOR,
                Field::GUEST_CS_BASE,
                Field::GUEST_CS_LIMIT,
                Field::GUEST_CS_AR_BYTES,
                flat(cs, CODE_64),
            ),
            (
                Field::GUEST_SS_SELECTOR,
                Field::GUEST_SS_BASE,
                Field::GUEST_SS_LIMIT,
                Field::GUEST_SS_AR_BYTES,
                flat(ds, DATA),
            ),
            (
                Field::GUEST_DS_SELECTOR,
                Field::GUEST_DS_BASE,
                Field::GUEST_DS_LIMIT,
                Field::GUEST_DS_AR_BYTES,
                flat(ds, DATA),
            ),
            (
                Field::GUEST_ES_SELECTOR,
                Field::GUEST_ES_BASE,
                Field::GUEST_ES_LIMIT,
                Field::GUEST_ES_AR_BYTES,
                flat(ds, DATA),
            ),
            (
                Field::GUEST_FS_SELECTOR,
                Field::GUEST_FS_BASE,
                Field::GUEST_FS_LIMIT,
                Field::GUEST_FS_AR_BYTES,
                flat(ds, DATA),
            ),
            (
                Field::GUEST_GS_SELECTOR,
                Field::GUEST_GS_BASE,
                Field::GUEST_GS_LIMIT,
                Field::GUEST_GS_AR_BYTES,
                flat(ds, DATA),
            ),
            (
                Field::GUEST_TR_SELECTOR,
                Field::GUEST_TR_BASE,
                Field::GUEST_TR_LIMIT,
                Field::GUEST_TR_AR_BYTES,
                tss,
            ),
            (
                Field::GUEST_LDTR_SELECTOR,
                Field::GUEST_LDTR_BASE,
                Field::GUEST_LDTR_LIMIT,
                Field::GUEST_LDTR_AR_BYTES,
                [0, 0, 0, UNUSABLE],
            ),
        ];
        for (selector, base, limit, rights, values) in segments {
            for (field, value) in [selector, base, limit, rights].into_iter().zip(values) {
                self.write(field, value);
            }
        }
        let root = mmu::root();
        for (field, value) in [
            (Field::GUEST_GDTR_BASE, area + vcpu_area::TABLES),
            (Field::GUEST_GDTR_LIMIT, u64::from(map::GDT_SIZE - 1)),
            (Field::GUEST_IDTR_BASE, idt.0),
            (Field::GUEST_IDTR_LIMIT, idt.1.into()),
            (Field::GUEST_CR0, cpu::read_cr0() & !Cr0::TS.bits()),
            (Field::GUEST_CR3, root),
            (Field::GUEST_CR4, cpu::read_cr4()),
            (Field::GUEST_DR7, 0x400),
            (Field::GUEST_RFLAGS, Rflags::FIXED.bits()),
            (Field::GUEST_RSP, area + vcpu_area::STACK_END),
            (Field::GUEST_RIP, symbol!(vmx_guest)),
            (Field::GUEST_IA32_DEBUGCTL, 0),
            (Field::GUEST_SYSENTER_CS, 0),
            (Field::GUEST_SYSENTER_ESP, 0),
            (Field::GUEST_SYSENTER_EIP, 0),
            (Field::GUEST_INTERRUPTIBILITY_INFO, 0),
            (Field::GUEST_ACTIVITY_STATE, 0),
            (Field::GUEST_PENDING_DBG_EXCEPTIONS, 0),
        ] {
            self.write(field, value);
        }
        self.context.set_word(vcpu_area::ROOT, root);
        self.gprs = Gprs { rdi: self.context.start_info(), ..Gprs::default() };
    }

    fn run(&mut self) -> Exit {
        self.enter_by(self.is_launched)
    }

    fn skip(&mut self) {
        let length = self.read(Field::VM_EXIT_INSTRUCTION_LEN);
        self.write(Field::GUEST_RIP, self.read(Field::GUEST_RIP) + length);
        self.write(Field::GUEST_INTERRUPTIBILITY_INFO, 0);
    }

    fn has_returned(&self, exit: &Exit) -> bool {
        exit.reason() == Some(reason::VMCALL)
            && self.read(Field::GUEST_RIP) == symbol!(vmx_guest_end)
    }

    fn doorbell(&self, exit: &Exit) -> Option<u32> {
        const RING: u64 = (map::DOORBELL_PORT as u64) << io::PORT_SHIFT | io::SZ32;
        const KIND: u64 = 0xffff << io::PORT_SHIFT | io::IN | io::STRING | io::REP | io::SZ32;
        match *exit {
            Exit::Vm { reason: reason::IO, qualification, .. } if qualification & KIND == RING => {
                Some(self.gprs.rax as u32)
            }
            _ => None,
        }
    }
}

/// VMLAUNCH or VMRESUME, with all that they leave to the hypervisor. Returns RFLAGS of a failure, 0 of an
/// exit.
///
/// # Safety
///
/// The guest's state must be one in which it touches nothing that the caller has use for.
unsafe fn enter(gprs: &mut Gprs, is_launched: bool) -> u64 {
    let flags;
    // SAFETY: all registers are saved or named as clobbered, and the stack is where it was.
    unsafe {
        asm!(
            "pushfq",
            "push rbx",
            "push rbp",
            "push rdi",
            "mov eax, {host_rsp}",
            "vmwrite rax, rsp",
            "lea rcx, [rip + 2f]",
            "mov eax, {host_rip}",
            "vmwrite rax, rcx",
            "test sil, sil",
            "mov rax, [rdi]",
            "mov rbx, [rdi + 8]",
            "mov rcx, [rdi + 16]",
            "mov rdx, [rdi + 24]",
            "mov rsi, [rdi + 32]",
            "mov rbp, [rdi + 48]",
            "mov r8, [rdi + 56]",
            "mov r9, [rdi + 64]",
            "mov r10, [rdi + 72]",
            "mov r11, [rdi + 80]",
            "mov r12, [rdi + 88]",
            "mov r13, [rdi + 96]",
            "mov r14, [rdi + 104]",
            "mov r15, [rdi + 112]",
            "mov rdi, [rdi + 40]",
            "jnz 3f",
            "vmlaunch",
            "jmp 4f",
            "3:",
            "vmresume",
            "4:",
            "pushfq",
            "pop rax",
            "jmp 5f",
            "2:",
            "push rdi",
            "mov rdi, [rsp + 8]",
            "mov [rdi], rax",
            "mov [rdi + 8], rbx",
            "mov [rdi + 16], rcx",
            "mov [rdi + 24], rdx",
            "mov [rdi + 32], rsi",
            "mov [rdi + 48], rbp",
            "mov [rdi + 56], r8",
            "mov [rdi + 64], r9",
            "mov [rdi + 72], r10",
            "mov [rdi + 80], r11",
            "mov [rdi + 88], r12",
            "mov [rdi + 96], r13",
            "mov [rdi + 104], r14",
            "mov [rdi + 112], r15",
            "pop qword ptr [rdi + 40]",
            "xor eax, eax",
            "5:",
            "pop rdi",
            "pop rbp",
            "pop rbx",
            "popfq",
            host_rsp = const Field::HOST_RSP.0,
            host_rip = const Field::HOST_RIP.0,
            in("rdi") gprs, in("rsi") u64::from(is_launched), lateout("rax") flags,
            lateout("rcx") _, lateout("rdx") _, lateout("rsi") _, lateout("rdi") _,
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _, lateout("r12") _,
            lateout("r13") _, lateout("r14") _, lateout("r15") _,
        );
    }
    flags
}

#[cfg(kvm_guest)]
core::arch::global_asm!(
    ".pushsection .text.nested, \"ax\"",
    "vmx_guest:",
    // No frame is below this one.
    "xor ebp, ebp",
    "call {run}",
    "vmx_guest_end:",
    "vmcall",
    "jmp vmx_guest_end",
    ".popsection",
    run = sym crate::entry::run,
);
