//! The virtual-machine control structure (SDM vol. 3, appendix "Field Encoding in VMCS"), and what goes into
//! it and comes out.
#![expect(missing_docs, reason = "the manual's names")]

/// A field, by its encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Field(pub u32);

macro_rules! fields {
    ($($name:ident = $encoding:literal;)*) => {
        impl Field {
            $(pub const $name: Self = Self($encoding);)*

            /// All of them, with their names.
            pub const ALL: &[(&str, Self)] = &[$((stringify!($name), Self::$name)),*];
        }
    };
}

fields! {
    VPID = 0x0000;
    GUEST_ES_SELECTOR = 0x0800;
    GUEST_CS_SELECTOR = 0x0802;
    GUEST_SS_SELECTOR = 0x0804;
    GUEST_DS_SELECTOR = 0x0806;
    GUEST_FS_SELECTOR = 0x0808;
    GUEST_GS_SELECTOR = 0x080a;
    GUEST_LDTR_SELECTOR = 0x080c;
    GUEST_TR_SELECTOR = 0x080e;
    HOST_ES_SELECTOR = 0x0c00;
    HOST_CS_SELECTOR = 0x0c02;
    HOST_SS_SELECTOR = 0x0c04;
    HOST_DS_SELECTOR = 0x0c06;
    HOST_FS_SELECTOR = 0x0c08;
    HOST_GS_SELECTOR = 0x0c0a;
    HOST_TR_SELECTOR = 0x0c0c;
    IO_BITMAP_A = 0x2000;
    IO_BITMAP_B = 0x2002;
    MSR_BITMAP = 0x2004;
    VM_EXIT_MSR_STORE_ADDR = 0x2006;
    VM_EXIT_MSR_LOAD_ADDR = 0x2008;
    VM_ENTRY_MSR_LOAD_ADDR = 0x200a;
    TSC_OFFSET = 0x2010;
    VIRTUAL_APIC_PAGE_ADDR = 0x2012;
    APIC_ACCESS_ADDR = 0x2014;
    EPT_POINTER = 0x201a;
    GUEST_PHYSICAL_ADDRESS = 0x2400;
    VMCS_LINK_POINTER = 0x2800;
    GUEST_IA32_DEBUGCTL = 0x2802;
    GUEST_IA32_PAT = 0x2804;
    GUEST_IA32_EFER = 0x2806;
    HOST_IA32_PAT = 0x2c00;
    HOST_IA32_EFER = 0x2c02;
    PIN_BASED_VM_EXEC_CONTROL = 0x4000;
    CPU_BASED_VM_EXEC_CONTROL = 0x4002;
    EXCEPTION_BITMAP = 0x4004;
    PAGE_FAULT_ERROR_CODE_MASK = 0x4006;
    PAGE_FAULT_ERROR_CODE_MATCH = 0x4008;
    CR3_TARGET_COUNT = 0x400a;
    VM_EXIT_CONTROLS = 0x400c;
    VM_EXIT_MSR_STORE_COUNT = 0x400e;
    VM_EXIT_MSR_LOAD_COUNT = 0x4010;
    VM_ENTRY_CONTROLS = 0x4012;
    VM_ENTRY_MSR_LOAD_COUNT = 0x4014;
    VM_ENTRY_INTR_INFO = 0x4016;
    VM_ENTRY_EXCEPTION_ERROR_CODE = 0x4018;
    VM_ENTRY_INSTRUCTION_LEN = 0x401a;
    TPR_THRESHOLD = 0x401c;
    SECONDARY_VM_EXEC_CONTROL = 0x401e;
    VM_INSTRUCTION_ERROR = 0x4400;
    VM_EXIT_REASON = 0x4402;
    VM_EXIT_INTR_INFO = 0x4404;
    VM_EXIT_INTR_ERROR_CODE = 0x4406;
    IDT_VECTORING_INFO = 0x4408;
    IDT_VECTORING_ERROR_CODE = 0x440a;
    VM_EXIT_INSTRUCTION_LEN = 0x440c;
    GUEST_ES_LIMIT = 0x4800;
    GUEST_CS_LIMIT = 0x4802;
    GUEST_SS_LIMIT = 0x4804;
    GUEST_DS_LIMIT = 0x4806;
    GUEST_FS_LIMIT = 0x4808;
    GUEST_GS_LIMIT = 0x480a;
    GUEST_LDTR_LIMIT = 0x480c;
    GUEST_TR_LIMIT = 0x480e;
    GUEST_GDTR_LIMIT = 0x4810;
    GUEST_IDTR_LIMIT = 0x4812;
    GUEST_ES_AR_BYTES = 0x4814;
    GUEST_CS_AR_BYTES = 0x4816;
    GUEST_SS_AR_BYTES = 0x4818;
    GUEST_DS_AR_BYTES = 0x481a;
    GUEST_FS_AR_BYTES = 0x481c;
    GUEST_GS_AR_BYTES = 0x481e;
    GUEST_LDTR_AR_BYTES = 0x4820;
    GUEST_TR_AR_BYTES = 0x4822;
    GUEST_INTERRUPTIBILITY_INFO = 0x4824;
    GUEST_ACTIVITY_STATE = 0x4826;
    GUEST_SYSENTER_CS = 0x482a;
    HOST_IA32_SYSENTER_CS = 0x4c00;
    CR0_GUEST_HOST_MASK = 0x6000;
    CR4_GUEST_HOST_MASK = 0x6002;
    CR0_READ_SHADOW = 0x6004;
    CR4_READ_SHADOW = 0x6006;
    EXIT_QUALIFICATION = 0x6400;
    GUEST_LINEAR_ADDRESS = 0x640a;
    GUEST_CR0 = 0x6800;
    GUEST_CR3 = 0x6802;
    GUEST_CR4 = 0x6804;
    GUEST_ES_BASE = 0x6806;
    GUEST_CS_BASE = 0x6808;
    GUEST_SS_BASE = 0x680a;
    GUEST_DS_BASE = 0x680c;
    GUEST_FS_BASE = 0x680e;
    GUEST_GS_BASE = 0x6810;
    GUEST_LDTR_BASE = 0x6812;
    GUEST_TR_BASE = 0x6814;
    GUEST_GDTR_BASE = 0x6816;
    GUEST_IDTR_BASE = 0x6818;
    GUEST_DR7 = 0x681a;
    GUEST_RSP = 0x681c;
    GUEST_RIP = 0x681e;
    GUEST_RFLAGS = 0x6820;
    GUEST_PENDING_DBG_EXCEPTIONS = 0x6822;
    GUEST_SYSENTER_ESP = 0x6824;
    GUEST_SYSENTER_EIP = 0x6826;
    HOST_CR0 = 0x6c00;
    HOST_CR3 = 0x6c02;
    HOST_CR4 = 0x6c04;
    HOST_FS_BASE = 0x6c06;
    HOST_GS_BASE = 0x6c08;
    HOST_TR_BASE = 0x6c0a;
    HOST_GDTR_BASE = 0x6c0c;
    HOST_IDTR_BASE = 0x6c0e;
    HOST_IA32_SYSENTER_ESP = 0x6c10;
    HOST_IA32_SYSENTER_EIP = 0x6c12;
    HOST_RSP = 0x6c14;
    HOST_RIP = 0x6c16;
}

/// Bits of [`Field::PIN_BASED_VM_EXEC_CONTROL`].
pub mod pin {
    pub const EXTERNAL_INTERRUPT: u32 = 1 << 0;
    pub const NMI: u32 = 1 << 3;
    pub const VIRTUAL_NMIS: u32 = 1 << 5;
    pub const PREEMPTION_TIMER: u32 = 1 << 6;
}

/// Bits of [`Field::CPU_BASED_VM_EXEC_CONTROL`].
pub mod cpu {
    pub const INTERRUPT_WINDOW: u32 = 1 << 2;
    pub const USE_TSC_OFFSETTING: u32 = 1 << 3;
    pub const HLT: u32 = 1 << 7;
    pub const INVLPG: u32 = 1 << 9;
    pub const RDTSC: u32 = 1 << 12;
    pub const CR3_LOAD: u32 = 1 << 15;
    pub const CR3_STORE: u32 = 1 << 16;
    pub const TPR_SHADOW: u32 = 1 << 21;
    pub const NMI_WINDOW: u32 = 1 << 22;
    pub const MOV_DR: u32 = 1 << 23;
    pub const UNCONDITIONAL_IO: u32 = 1 << 24;
    pub const USE_IO_BITMAPS: u32 = 1 << 25;
    pub const USE_MSR_BITMAPS: u32 = 1 << 28;
    pub const PAUSE: u32 = 1 << 30;
    pub const SECONDARY: u32 = 1 << 31;
}

/// Bits of [`Field::VM_EXIT_CONTROLS`].
pub mod exit_controls {
    pub const HOST_ADDRESS_SPACE_SIZE: u32 = 1 << 9;
    pub const ACK_INTERRUPT: u32 = 1 << 15;
    pub const SAVE_IA32_EFER: u32 = 1 << 20;
    pub const LOAD_IA32_EFER: u32 = 1 << 21;
}

/// Bits of [`Field::VM_ENTRY_CONTROLS`].
pub mod entry_controls {
    pub const LOAD_DEBUG_CONTROLS: u32 = 1 << 2;
    pub const IA32E_MODE_GUEST: u32 = 1 << 9;
    pub const SMM: u32 = 1 << 10;
    pub const DEACTIVATE_DUAL_MONITOR: u32 = 1 << 11;
    pub const LOAD_IA32_EFER: u32 = 1 << 15;
}

/// Basic exit reasons (SDM vol. 3, appendix "VMX Basic Exit Reasons").
pub mod reason {
    pub const EXCEPTION_OR_NMI: u32 = 0;
    pub const TRIPLE_FAULT: u32 = 2;
    pub const CPUID: u32 = 10;
    pub const HLT: u32 = 12;
    pub const RDTSC: u32 = 16;
    pub const VMCALL: u32 = 18;
    pub const IO: u32 = 30;
    pub const INVALID_GUEST_STATE: u32 = 33;
    pub const MSR_LOADING: u32 = 34;
    /// The VM entry failed.
    pub const ENTRY_FAILURE: u32 = 1 << 31;
}

/// [`Field::VM_INSTRUCTION_ERROR`] (SDM vol. 3, "VM Instruction Error Numbers").
pub mod error {
    pub const VMCALL_IN_ROOT: u32 = 1;
    pub const VMCLEAR_ADDRESS: u32 = 2;
    pub const VMCLEAR_VMXON_POINTER: u32 = 3;
    pub const VMLAUNCH_NOT_CLEAR: u32 = 4;
    pub const VMRESUME_NOT_LAUNCHED: u32 = 5;
    pub const INVALID_CONTROLS: u32 = 7;
    pub const INVALID_HOST_STATE: u32 = 8;
    pub const VMPTRLD_ADDRESS: u32 = 9;
    pub const VMPTRLD_VMXON_POINTER: u32 = 10;
    pub const VMPTRLD_REVISION: u32 = 11;
    pub const UNSUPPORTED_FIELD: u32 = 12;
    pub const READ_ONLY_FIELD: u32 = 13;
    pub const VMXON_IN_ROOT: u32 = 15;
}

/// [`Field::EXIT_QUALIFICATION`] of a port access.
pub mod io {
    pub const IN: u64 = 1 << 3;
    pub const STRING: u64 = 1 << 4;
    pub const REP: u64 = 1 << 5;
    /// Four bytes.
    pub const SZ32: u64 = 3;
    pub const PORT_SHIFT: u32 = 16;
}

/// Bits of IA32_FEATURE_CONTROL.
pub mod feature_control {
    pub const LOCK: u64 = 1 << 0;
    pub const VMX_OUTSIDE_SMX: u64 = 1 << 2;
}
