//! The virtual-machine control structure (SDM vol. 3, appendix "Field Encoding in VMCS"), and what goes into
//! it and comes out.
#![expect(missing_docs, reason = "the manual's names")]

/// The width of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    Bits16,
    Bits64,
    Bits32,
    Natural,
}

/// The type of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Control,
    /// Read-only data.
    ExitInformation,
    Guest,
    Host,
}

/// A field, by its encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Field(pub u32);

impl Field {
    const fn new(width: Width, kind: Kind, index: u32) -> Self {
        Self((width as u32) << 13 | (kind as u32) << 10 | index << 1)
    }

    pub const fn width(self) -> Width {
        match self.0 >> 13 & 3 {
            0 => Width::Bits16,
            1 => Width::Bits64,
            2 => Width::Bits32,
            _ => Width::Natural,
        }
    }

    pub const fn kind(self) -> Kind {
        match self.0 >> 10 & 3 {
            0 => Kind::Control,
            1 => Kind::ExitInformation,
            2 => Kind::Guest,
            _ => Kind::Host,
        }
    }
}

macro_rules! fields {
    ($($width:ident $kind:ident { $($name:ident = $index:literal;)* })*) => {
        impl Field {
            $($(pub const $name: Self = Self::new(Width::$width, Kind::$kind, $index);)*)*

            /// All of them, with their names.
            pub const ALL: &[(&str, Self)] = &[$($((stringify!($name), Self::$name)),*),*];
        }
    };
}

fields! {
    Bits16 Control {
        VPID = 0;
    }
    Bits16 Guest {
        GUEST_ES_SELECTOR = 0;
        GUEST_CS_SELECTOR = 1;
        GUEST_SS_SELECTOR = 2;
        GUEST_DS_SELECTOR = 3;
        GUEST_FS_SELECTOR = 4;
        GUEST_GS_SELECTOR = 5;
        GUEST_LDTR_SELECTOR = 6;
        GUEST_TR_SELECTOR = 7;
    }
    Bits16 Host {
        HOST_ES_SELECTOR = 0;
        HOST_CS_SELECTOR = 1;
        HOST_SS_SELECTOR = 2;
        HOST_DS_SELECTOR = 3;
        HOST_FS_SELECTOR = 4;
        HOST_GS_SELECTOR = 5;
        HOST_TR_SELECTOR = 6;
    }
    Bits64 Control {
        IO_BITMAP_A = 0;
        IO_BITMAP_B = 1;
        MSR_BITMAP = 2;
        VM_EXIT_MSR_STORE_ADDR = 3;
        VM_EXIT_MSR_LOAD_ADDR = 4;
        VM_ENTRY_MSR_LOAD_ADDR = 5;
        TSC_OFFSET = 8;
        VIRTUAL_APIC_PAGE_ADDR = 9;
        APIC_ACCESS_ADDR = 10;
        EPT_POINTER = 13;
    }
    Bits64 ExitInformation {
        GUEST_PHYSICAL_ADDRESS = 0;
    }
    Bits64 Guest {
        VMCS_LINK_POINTER = 0;
        GUEST_IA32_DEBUGCTL = 1;
        GUEST_IA32_PAT = 2;
        GUEST_IA32_EFER = 3;
    }
    Bits64 Host {
        HOST_IA32_PAT = 0;
        HOST_IA32_EFER = 1;
    }
    Bits32 Control {
        PIN_BASED_VM_EXEC_CONTROL = 0;
        CPU_BASED_VM_EXEC_CONTROL = 1;
        EXCEPTION_BITMAP = 2;
        PAGE_FAULT_ERROR_CODE_MASK = 3;
        PAGE_FAULT_ERROR_CODE_MATCH = 4;
        CR3_TARGET_COUNT = 5;
        VM_EXIT_CONTROLS = 6;
        VM_EXIT_MSR_STORE_COUNT = 7;
        VM_EXIT_MSR_LOAD_COUNT = 8;
        VM_ENTRY_CONTROLS = 9;
        VM_ENTRY_MSR_LOAD_COUNT = 10;
        VM_ENTRY_INTR_INFO = 11;
        VM_ENTRY_EXCEPTION_ERROR_CODE = 12;
        VM_ENTRY_INSTRUCTION_LEN = 13;
        TPR_THRESHOLD = 14;
        SECONDARY_VM_EXEC_CONTROL = 15;
    }
    Bits32 ExitInformation {
        VM_INSTRUCTION_ERROR = 0;
        VM_EXIT_REASON = 1;
        VM_EXIT_INTR_INFO = 2;
        VM_EXIT_INTR_ERROR_CODE = 3;
        IDT_VECTORING_INFO = 4;
        IDT_VECTORING_ERROR_CODE = 5;
        VM_EXIT_INSTRUCTION_LEN = 6;
    }
    Bits32 Guest {
        GUEST_ES_LIMIT = 0;
        GUEST_CS_LIMIT = 1;
        GUEST_SS_LIMIT = 2;
        GUEST_DS_LIMIT = 3;
        GUEST_FS_LIMIT = 4;
        GUEST_GS_LIMIT = 5;
        GUEST_LDTR_LIMIT = 6;
        GUEST_TR_LIMIT = 7;
        GUEST_GDTR_LIMIT = 8;
        GUEST_IDTR_LIMIT = 9;
        GUEST_ES_AR_BYTES = 10;
        GUEST_CS_AR_BYTES = 11;
        GUEST_SS_AR_BYTES = 12;
        GUEST_DS_AR_BYTES = 13;
        GUEST_FS_AR_BYTES = 14;
        GUEST_GS_AR_BYTES = 15;
        GUEST_LDTR_AR_BYTES = 16;
        GUEST_TR_AR_BYTES = 17;
        GUEST_INTERRUPTIBILITY_INFO = 18;
        GUEST_ACTIVITY_STATE = 19;
        GUEST_SYSENTER_CS = 21;
    }
    Bits32 Host {
        HOST_IA32_SYSENTER_CS = 0;
    }
    Natural Control {
        CR0_GUEST_HOST_MASK = 0;
        CR4_GUEST_HOST_MASK = 1;
        CR0_READ_SHADOW = 2;
        CR4_READ_SHADOW = 3;
    }
    Natural ExitInformation {
        EXIT_QUALIFICATION = 0;
        GUEST_LINEAR_ADDRESS = 5;
    }
    Natural Guest {
        GUEST_CR0 = 0;
        GUEST_CR3 = 1;
        GUEST_CR4 = 2;
        GUEST_ES_BASE = 3;
        GUEST_CS_BASE = 4;
        GUEST_SS_BASE = 5;
        GUEST_DS_BASE = 6;
        GUEST_FS_BASE = 7;
        GUEST_GS_BASE = 8;
        GUEST_LDTR_BASE = 9;
        GUEST_TR_BASE = 10;
        GUEST_GDTR_BASE = 11;
        GUEST_IDTR_BASE = 12;
        GUEST_DR7 = 13;
        GUEST_RSP = 14;
        GUEST_RIP = 15;
        GUEST_RFLAGS = 16;
        GUEST_PENDING_DBG_EXCEPTIONS = 17;
        GUEST_SYSENTER_ESP = 18;
        GUEST_SYSENTER_EIP = 19;
    }
    Natural Host {
        HOST_CR0 = 0;
        HOST_CR3 = 1;
        HOST_CR4 = 2;
        HOST_FS_BASE = 3;
        HOST_GS_BASE = 4;
        HOST_TR_BASE = 5;
        HOST_GDTR_BASE = 6;
        HOST_IDTR_BASE = 7;
        HOST_IA32_SYSENTER_ESP = 8;
        HOST_IA32_SYSENTER_EIP = 9;
        HOST_RSP = 10;
        HOST_RIP = 11;
    }
}

const _: () = {
    assert!(Field::GUEST_ES_SELECTOR.0 == 0x800);
    assert!(Field::VM_EXIT_REASON.0 == 1 << 14 | 1 << 10 | 1 << 1);
    assert!(Field::HOST_RIP.0 == 3 << 13 | 3 << 10 | 11 << 1);
};

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
