//! What a VM entry checks (SDM vol. 3, "Checks on VMX Controls", "Checks on Host Control Registers, MSRs, and
//! SSP", "Checks on the Guest State Area", and those between): one field made wrong at a time is refused in
//! the way that its group is, and the next entry without it runs.
use crate::prelude::*;
use defs::x86::vmcs::{
    Field, cpu as cpu_controls, entry_controls, error, exit_controls, pin, reason,
};
use vmx::{Exit as VmxExit, VmFail};

/// A change of a VMCS that remembers what was there.
struct Edit<'a> {
    vmx: &'a mut Vmx,
    before: [(Field, u64); 6],
    nr: usize,
}

impl Edit<'_> {
    fn put(&mut self, field: Field, value: u64) {
        self.before[self.nr] = (field, self.vmx.read(field));
        self.nr += 1;
        self.vmx.write(field, value);
    }

    fn set(&mut self, field: Field, bits: u64) {
        self.put(field, self.vmx.read(field) | bits);
    }

    fn clear(&mut self, field: Field, bits: u64) {
        self.put(field, self.vmx.read(field) & !bits);
    }

    fn undo(self) {
        for (field, value) in self.before[..self.nr].iter().rev() {
            self.vmx.write(*field, *value);
        }
    }
}

/// What is wrong, and how it gets so.
struct Row {
    what: &'static str,
    change: fn(&mut Edit<'_>),
}

macro_rules! rows {
    ($($what:literal: $change:expr;)*) => {
        &[$(Row { what: $what, change: $change }),*]
    };
}

/// An address that no physical address of this CPU is.
fn beyond_physical() -> u64 {
    1 << (cpuid(0x8000_0008, 0)[0] & 0xff)
}

/// The lowest control that an MSR of capabilities does not allow.
fn forbidden(capabilities: u32) -> u64 {
    1 << ((rdmsr(capabilities) >> 32) as u32).trailing_ones()
}

const NOT_CANONICAL: u64 = 1 << 62;
/// Bits of the access rights of a segment.
const S: u64 = 1 << 4;
const P: u64 = 1 << 7;
const DB: u64 = 1 << 14;
const G: u64 = 1 << 15;
/// Bits of a selector.
const RPL: u64 = 3;
const TI: u64 = 4;

const CONTROLS: &[Row] = rows! {
    "pin-based controls without a bit that must be set": |e| e.clear(Field::PIN_BASED_VM_EXEC_CONTROL, 1 << 1);
    "pin-based controls with a bit that must be clear": |e| {
        e.set(Field::PIN_BASED_VM_EXEC_CONTROL, forbidden(msr::IA32_VMX_PINBASED_CTLS));
    };
    "processor-based controls without a bit that must be set": |e| e.clear(Field::CPU_BASED_VM_EXEC_CONTROL, 1 << 1);
    "processor-based controls with a bit that must be clear": |e| {
        e.set(Field::CPU_BASED_VM_EXEC_CONTROL, forbidden(msr::IA32_VMX_PROCBASED_CTLS));
    };
    "exit controls without a bit that must be set": |e| e.clear(Field::VM_EXIT_CONTROLS, 1 << 0);
    "exit controls with a bit that must be clear": |e| {
        e.set(Field::VM_EXIT_CONTROLS, forbidden(msr::IA32_VMX_EXIT_CTLS));
    };
    "entry controls without a bit that must be set": |e| e.clear(Field::VM_ENTRY_CONTROLS, 1 << 0);
    "entry controls with a bit that must be clear": |e| {
        e.set(Field::VM_ENTRY_CONTROLS, forbidden(msr::IA32_VMX_ENTRY_CTLS));
    };
    "five CR3 targets": |e| e.put(Field::CR3_TARGET_COUNT, 5);
    "a port bitmap A inside a page": |e| {
        e.set(Field::CPU_BASED_VM_EXEC_CONTROL, cpu_controls::USE_IO_BITMAPS.into());
        e.put(Field::IO_BITMAP_A, layout::SCRATCH + 8);
    };
    "a port bitmap B inside a page": |e| {
        e.set(Field::CPU_BASED_VM_EXEC_CONTROL, cpu_controls::USE_IO_BITMAPS.into());
        e.put(Field::IO_BITMAP_B, layout::SCRATCH + 8);
    };
    "a port bitmap that no physical address is": |e| {
        e.set(Field::CPU_BASED_VM_EXEC_CONTROL, cpu_controls::USE_IO_BITMAPS.into());
        e.put(Field::IO_BITMAP_A, beyond_physical());
    };
    "an MSR bitmap inside a page": |e| e.set(Field::MSR_BITMAP, 8);
    "an MSR bitmap that no physical address is": |e| e.set(Field::MSR_BITMAP, beyond_physical());
    "virtual NMIs without NMI exiting": |e| e.set(Field::PIN_BASED_VM_EXEC_CONTROL, pin::VIRTUAL_NMIS.into());
    "NMI windows without virtual NMIs": |e| e.set(Field::CPU_BASED_VM_EXEC_CONTROL, cpu_controls::NMI_WINDOW.into());
    "an MSR-store list at no 16 bytes": |e| {
        e.put(Field::VM_EXIT_MSR_STORE_COUNT, 1);
        e.put(Field::VM_EXIT_MSR_STORE_ADDR, layout::SCRATCH + 8);
    };
    "an MSR-store list that no physical address is": |e| {
        e.put(Field::VM_EXIT_MSR_STORE_COUNT, 1);
        e.put(Field::VM_EXIT_MSR_STORE_ADDR, beyond_physical());
    };
    "an MSR-store list whose end no physical address is": |e| {
        e.put(Field::VM_EXIT_MSR_STORE_COUNT, 2);
        e.put(Field::VM_EXIT_MSR_STORE_ADDR, beyond_physical() - 16);
    };
    "an exit's MSR-load list at no 16 bytes": |e| {
        e.put(Field::VM_EXIT_MSR_LOAD_COUNT, 1);
        e.put(Field::VM_EXIT_MSR_LOAD_ADDR, layout::SCRATCH + 8);
    };
    "an entry's MSR-load list at no 16 bytes": |e| {
        e.put(Field::VM_ENTRY_MSR_LOAD_COUNT, 1);
        e.put(Field::VM_ENTRY_MSR_LOAD_ADDR, layout::SCRATCH + 8);
    };
    "an entry's MSR-load list that no physical address is": |e| {
        e.put(Field::VM_ENTRY_MSR_LOAD_COUNT, 1);
        e.put(Field::VM_ENTRY_MSR_LOAD_ADDR, beyond_physical());
    };
    "an event of a reserved type": |e| e.put(Field::VM_ENTRY_INTR_INFO, VALID | 1 << 8 | 0x20);
    "an NMI of another vector": |e| e.put(Field::VM_ENTRY_INTR_INFO, VALID | NMI | 3);
    "an exception of a vector above 31": |e| e.put(Field::VM_ENTRY_INTR_INFO, VALID | EXCEPTION | 32);
    "an error code of #UD": |e| e.put(Field::VM_ENTRY_INTR_INFO, VALID | EXCEPTION | ERROR_CODE | 6);
    "no error code of #GP": |e| e.put(Field::VM_ENTRY_INTR_INFO, VALID | EXCEPTION | 13);
    "an error code of an interrupt": |e| e.put(Field::VM_ENTRY_INTR_INFO, VALID | ERROR_CODE | 0x20);
    "a reserved bit of an event": |e| e.put(Field::VM_ENTRY_INTR_INFO, VALID | 1 << 13 | 0x20);
    "an error code of more than 16 bits": |e| {
        e.put(Field::VM_ENTRY_INTR_INFO, VALID | EXCEPTION | ERROR_CODE | 13);
        e.put(Field::VM_ENTRY_EXCEPTION_ERROR_CODE, 1 << 16);
    };
    "a software interrupt of 16 bytes": |e| {
        e.put(Field::VM_ENTRY_INTR_INFO, VALID | SOFTWARE | 0x80);
        e.put(Field::VM_ENTRY_INSTRUCTION_LEN, 16);
    };
    "an entry to SMM from outside": |e| e.set(Field::VM_ENTRY_CONTROLS, entry_controls::SMM.into());
    "an end of dual-monitor treatment outside SMM": |e| {
        e.set(Field::VM_ENTRY_CONTROLS, entry_controls::DEACTIVATE_DUAL_MONITOR.into());
    };
};

const VALID: u64 = 1 << 31;
const ERROR_CODE: u64 = 1 << 11;
const NMI: u64 = 2 << 8;
const EXCEPTION: u64 = 3 << 8;
const SOFTWARE: u64 = 4 << 8;

const HOST_STATE: &[Row] = rows! {
    "a host CR0 without CR0.NE": |e| e.clear(Field::HOST_CR0, Cr0::NE.bits());
    "a host CR0 without CR0.PG": |e| e.clear(Field::HOST_CR0, Cr0::PG.bits());
    "bit 32 of a host CR0": |e| e.set(Field::HOST_CR0, 1 << 32);
    "a host CR4 without CR4.VMXE": |e| e.clear(Field::HOST_CR4, Cr4::VMXE.bits());
    "a 64-bit host without CR4.PAE": |e| e.clear(Field::HOST_CR4, Cr4::PAE.bits());
    "bit 32 of a host CR4": |e| e.set(Field::HOST_CR4, 1 << 32);
    "a host CR3 that no physical address is": |e| e.set(Field::HOST_CR3, beyond_physical());
    "a host SYSENTER_ESP that is not canonical": |e| e.put(Field::HOST_IA32_SYSENTER_ESP, NOT_CANONICAL);
    "a host SYSENTER_EIP that is not canonical": |e| e.put(Field::HOST_IA32_SYSENTER_EIP, NOT_CANONICAL);
    "an RPL in the host's CS": |e| e.set(Field::HOST_CS_SELECTOR, RPL);
    "a TI in the host's CS": |e| e.set(Field::HOST_CS_SELECTOR, TI);
    "an RPL in the host's SS": |e| e.set(Field::HOST_SS_SELECTOR, RPL);
    "a TI in the host's SS": |e| e.set(Field::HOST_SS_SELECTOR, TI);
    "an RPL in the host's DS": |e| e.set(Field::HOST_DS_SELECTOR, RPL);
    "a TI in the host's DS": |e| e.set(Field::HOST_DS_SELECTOR, TI);
    "an RPL in the host's ES": |e| e.set(Field::HOST_ES_SELECTOR, RPL);
    "a TI in the host's ES": |e| e.set(Field::HOST_ES_SELECTOR, TI);
    "an RPL in the host's FS": |e| e.set(Field::HOST_FS_SELECTOR, RPL);
    "a TI in the host's FS": |e| e.set(Field::HOST_FS_SELECTOR, TI);
    "an RPL in the host's GS": |e| e.set(Field::HOST_GS_SELECTOR, RPL);
    "a TI in the host's GS": |e| e.set(Field::HOST_GS_SELECTOR, TI);
    "an RPL in the host's TR": |e| e.set(Field::HOST_TR_SELECTOR, RPL);
    "a TI in the host's TR": |e| e.set(Field::HOST_TR_SELECTOR, TI);
    "a null selector in the host's CS": |e| e.put(Field::HOST_CS_SELECTOR, 0);
    "a null selector in the host's TR": |e| e.put(Field::HOST_TR_SELECTOR, 0);
    "a host FS base that is not canonical": |e| e.put(Field::HOST_FS_BASE, NOT_CANONICAL);
    "a host GS base that is not canonical": |e| e.put(Field::HOST_GS_BASE, NOT_CANONICAL);
    "a host TR base that is not canonical": |e| e.put(Field::HOST_TR_BASE, NOT_CANONICAL);
    "a host GDT base that is not canonical": |e| e.put(Field::HOST_GDTR_BASE, NOT_CANONICAL);
    "a host IDT base that is not canonical": |e| e.put(Field::HOST_IDTR_BASE, NOT_CANONICAL);
    "a host of 32 bits in 64-bit mode": |e| {
        e.clear(Field::VM_EXIT_CONTROLS, exit_controls::HOST_ADDRESS_SPACE_SIZE.into());
    };
};

const GUEST_STATE: &[Row] = rows! {
    "a guest CR0 without CR0.NE": |e| e.clear(Field::GUEST_CR0, Cr0::NE.bits());
    "a guest with paging and without protection": |e| e.clear(Field::GUEST_CR0, Cr0::PE.bits());
    "an IA-32e guest without paging": |e| e.clear(Field::GUEST_CR0, Cr0::PG.bits());
    "bit 32 of a guest CR0": |e| e.set(Field::GUEST_CR0, 1 << 32);
    "a guest CR4 without CR4.VMXE": |e| e.clear(Field::GUEST_CR4, Cr4::VMXE.bits());
    "an IA-32e guest without CR4.PAE": |e| e.clear(Field::GUEST_CR4, Cr4::PAE.bits());
    "a reserved bit of a guest CR4": |e| e.set(Field::GUEST_CR4, 1 << 15);
    "bit 32 of a guest CR4": |e| e.set(Field::GUEST_CR4, 1 << 32);
    "a guest CR3 that no physical address is": |e| e.set(Field::GUEST_CR3, beyond_physical());
    "bit 32 of a guest DR7 that is loaded": |e| {
        e.set(Field::VM_ENTRY_CONTROLS, entry_controls::LOAD_DEBUG_CONTROLS.into());
        e.set(Field::GUEST_DR7, 1 << 32);
    };
    "a reserved bit of a guest DEBUGCTL that is loaded": |e| {
        e.set(Field::VM_ENTRY_CONTROLS, entry_controls::LOAD_DEBUG_CONTROLS.into());
        e.set(Field::GUEST_IA32_DEBUGCTL, 1 << 31);
    };
    "a guest SYSENTER_ESP that is not canonical": |e| e.put(Field::GUEST_SYSENTER_ESP, NOT_CANONICAL);
    "a guest SYSENTER_EIP that is not canonical": |e| e.put(Field::GUEST_SYSENTER_EIP, NOT_CANONICAL);
    "a guest's TR in the LDT": |e| e.set(Field::GUEST_TR_SELECTOR, TI);
    "a guest TR base that is not canonical": |e| e.put(Field::GUEST_TR_BASE, NOT_CANONICAL);
    "a guest FS base that is not canonical": |e| e.put(Field::GUEST_FS_BASE, NOT_CANONICAL);
    "a guest GS base that is not canonical": |e| e.put(Field::GUEST_GS_BASE, NOT_CANONICAL);
    "a guest CS base above 4 GiB": |e| e.put(Field::GUEST_CS_BASE, 1 << 32);
    "a guest SS base above 4 GiB": |e| e.put(Field::GUEST_SS_BASE, 1 << 32);
    "a guest DS base above 4 GiB": |e| e.put(Field::GUEST_DS_BASE, 1 << 32);
    "a guest ES base above 4 GiB": |e| e.put(Field::GUEST_ES_BASE, 1 << 32);
    "a guest CS of a data segment's type": |e| e.put(Field::GUEST_CS_AR_BYTES, 0xa091);
    "a guest CS that was not accessed": |e| e.clear(Field::GUEST_CS_AR_BYTES, 1);
    "a guest CS of a system segment": |e| e.clear(Field::GUEST_CS_AR_BYTES, S);
    "a guest CS that is not present": |e| e.clear(Field::GUEST_CS_AR_BYTES, P);
    "a guest CS with both L and D": |e| e.set(Field::GUEST_CS_AR_BYTES, DB);
    "a reserved bit of a guest CS": |e| e.set(Field::GUEST_CS_AR_BYTES, 1 << 8);
    "a guest CS limit that G does not allow": |e| e.put(Field::GUEST_CS_LIMIT, 0xffff_f000);
    "a guest CS limit that needs G": |e| e.clear(Field::GUEST_CS_AR_BYTES, G);
    "a guest SS of a code segment's type": |e| e.put(Field::GUEST_SS_AR_BYTES, 0xc09b);
    "a guest SS that is read-only": |e| e.put(Field::GUEST_SS_AR_BYTES, 0xc091);
    "a guest SS of a system segment": |e| e.clear(Field::GUEST_SS_AR_BYTES, S);
    "a guest SS that is not present": |e| e.clear(Field::GUEST_SS_AR_BYTES, P);
    "a guest DS that was not accessed": |e| e.clear(Field::GUEST_DS_AR_BYTES, 1);
    "a guest DS of a system segment": |e| e.clear(Field::GUEST_DS_AR_BYTES, S);
    "a guest DS that is not present": |e| e.clear(Field::GUEST_DS_AR_BYTES, P);
    "a reserved bit of a guest DS": |e| e.set(Field::GUEST_DS_AR_BYTES, 1 << 8);
    "a guest ES that was not accessed": |e| e.clear(Field::GUEST_ES_AR_BYTES, 1);
    "a guest FS that is not present": |e| e.clear(Field::GUEST_FS_AR_BYTES, P);
    "a guest GS of a system segment": |e| e.clear(Field::GUEST_GS_AR_BYTES, S);
    "a guest TR that is free": |e| e.put(Field::GUEST_TR_AR_BYTES, 0x89);
    "a guest TR that is unusable": |e| e.set(Field::GUEST_TR_AR_BYTES, 1 << 16);
    "a guest TR that is not present": |e| e.clear(Field::GUEST_TR_AR_BYTES, P);
    "a guest TR of no system segment": |e| e.set(Field::GUEST_TR_AR_BYTES, S);
    "a reserved bit of a guest TR": |e| e.set(Field::GUEST_TR_AR_BYTES, 1 << 8);
    "a guest LDTR of another type": |e| e.put(Field::GUEST_LDTR_AR_BYTES, 0x83);
    "a guest LDTR that is not present": |e| e.put(Field::GUEST_LDTR_AR_BYTES, 0x02);
    "a guest GDT base that is not canonical": |e| e.put(Field::GUEST_GDTR_BASE, NOT_CANONICAL);
    "a guest IDT base that is not canonical": |e| e.put(Field::GUEST_IDTR_BASE, NOT_CANONICAL);
    "a guest GDT limit above 64 KiB": |e| e.put(Field::GUEST_GDTR_LIMIT, 0x1_0000);
    "a guest IDT limit above 64 KiB": |e| e.put(Field::GUEST_IDTR_LIMIT, 0x1_0000);
    "guest RFLAGS without bit 1": |e| e.clear(Field::GUEST_RFLAGS, 1 << 1);
    "guest RFLAGS with bit 3": |e| e.set(Field::GUEST_RFLAGS, 1 << 3);
    "guest RFLAGS with bit 63": |e| e.set(Field::GUEST_RFLAGS, 1 << 63);
    "guest RFLAGS.VM in IA-32e mode": |e| e.set(Field::GUEST_RFLAGS, 1 << 17);
    "an interrupt for a guest without RFLAGS.IF": |e| e.put(Field::VM_ENTRY_INTR_INFO, VALID | 0x20);
    "an activity state that nothing has": |e| e.put(Field::GUEST_ACTIVITY_STATE, 4);
    "a reserved bit of the interruptibility": |e| e.put(Field::GUEST_INTERRUPTIBILITY_INFO, 1 << 5);
    "blocking by both STI and MOV SS": |e| {
        e.set(Field::GUEST_RFLAGS, Rflags::IF.bits());
        e.put(Field::GUEST_INTERRUPTIBILITY_INFO, 3);
    };
    "blocking by STI without RFLAGS.IF": |e| e.put(Field::GUEST_INTERRUPTIBILITY_INFO, 1);
    "blocking by SMI outside SMM": |e| e.put(Field::GUEST_INTERRUPTIBILITY_INFO, 4);
    "a reserved bit of pending debug exceptions": |e| e.put(Field::GUEST_PENDING_DBG_EXCEPTIONS, 1 << 4);
    "a VMCS link pointer inside a page": |e| e.put(Field::VMCS_LINK_POINTER, layout::SCRATCH + 8);
    "a VMCS link pointer that no physical address is": |e| {
        e.put(Field::VMCS_LINK_POINTER, beyond_physical());
    };
};

guest_asm! { CALLS, bits64: "vmcall" }

/// Enters the guest with a change, which is undone.
fn with_change(vmx: &mut Vmx, change: fn(&mut Edit<'_>)) -> VmxExit {
    let mut edit = Edit { vmx, before: [(Field::VPID, 0); 6], nr: 0 };
    change(&mut edit);
    let exit = edit.vmx.run();
    edit.undo();
    exit
}

fn check_unchanged(vmx: &mut Vmx, what: &str) {
    let exit = with_change(vmx, |_| ());
    check_eq!("the guest runs without {what}", exit.reason(), Some(reason::VMCALL));
}

fn check_failures(rows: &[Row], number: u32) {
    let mut vmx = Vmx::new();
    vmx.start(&CALLS);
    for Row { what, change } in rows {
        let exit = with_change(&mut vmx, *change);
        let wanted = VmxExit::Failed(VmFail::Valid(number));
        check_eq!("a VM entry refuses {what}", exit, wanted);
        check_unchanged(&mut vmx, what);
    }
}

#[guest]
fn checks_controls(_: &mut Guest) {
    check_failures(CONTROLS, error::INVALID_CONTROLS);
}

#[guest]
fn checks_host_state(_: &mut Guest) {
    check_failures(HOST_STATE, error::INVALID_HOST_STATE);
}

#[guest]
fn checks_guest_state(_: &mut Guest) {
    let mut vmx = Vmx::new();
    vmx.start(&CALLS);
    const REFUSED: u32 = reason::INVALID_GUEST_STATE | reason::ENTRY_FAILURE;
    for Row { what, change } in GUEST_STATE {
        let exit = with_change(&mut vmx, *change);
        check_eq!("a VM entry refuses {what}", exit.reason(), Some(REFUSED));
        if let VmxExit::Vm { qualification, .. } = exit {
            let link = what.starts_with("a VMCS link pointer");
            let wanted = if link { 4 } else { 0 };
            check_eq!("the exit qualification of {what} is the manual's", qualification, wanted);
        }
        check_unchanged(&mut vmx, what);
    }
}

#[host]
mod host {
    use super::*;

    kvm_tests! { requires(cpu::VMX) }

    /// Wrong controls are VM-instruction error 7.
    #[kvm_test(checks_controls)]
    fn vm_entry_checks_controls(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// A wrong host state is VM-instruction error 8.
    #[kvm_test(checks_host_state)]
    fn vm_entry_checks_the_host_state(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// A wrong guest state is an exit with reason 33 that says that the entry failed.
    #[kvm_test(checks_guest_state)]
    fn vm_entry_checks_the_guest_state(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }
}
