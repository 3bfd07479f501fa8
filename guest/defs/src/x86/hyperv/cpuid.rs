//! Leaves of CPUID (TLFS, "Feature and Interface Discovery").
#![expect(missing_docs, reason = "the specification's names")]

use bitflags::bitflags;

/// Leaves: HYPERV_CPUID_*.
pub mod leaf {
    use crate::x86::cpuid::leaf::HYPERVISOR;

    pub const VENDOR_AND_MAX_FUNCTIONS: u32 = HYPERVISOR;
    pub const INTERFACE: u32 = HYPERVISOR + 1;
    pub const FEATURES: u32 = HYPERVISOR + 3;
    pub const ENLIGHTENMENT_INFO: u32 = HYPERVISOR + 4;
    pub const IMPLEMENT_LIMITS: u32 = HYPERVISOR + 5;
    pub const NESTED_FEATURES: u32 = HYPERVISOR + 0xa;
    pub const SYNDBG_INTERFACE: u32 = HYPERVISOR + 0x81;
}

/// INTERFACE.EAX of a hypervisor that conforms.
pub const INTERFACE_SIGNATURE: u32 = u32::from_le_bytes(*b"Hv#1");

/// SYNDBG_INTERFACE.EAX of a hypervisor with the synthetic debugger.
pub const SYNDBG_SIGNATURE: u32 = u32::from_le_bytes(*b"VS#1");

bitflags! {
    /// The leaf FEATURES (`HV_HYPERVISOR_FEATURES`), EAX lowest. EAX and EBX are
    /// HV_PARTITION_PRIVILEGE_MASK.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u128 {
        const ACCESS_VP_RUN_TIME_REG = 1 << 0;
        const ACCESS_PARTITION_REFERENCE_COUNTER = 1 << 1;
        const ACCESS_SYNIC_REGS = 1 << 2;
        const ACCESS_SYNTHETIC_TIMER_REGS = 1 << 3;
        const ACCESS_INTR_CTRL_REGS = 1 << 4;
        const ACCESS_HYPERCALL_MSRS = 1 << 5;
        const ACCESS_VP_INDEX = 1 << 6;
        const ACCESS_RESET_REG = 1 << 7;
        const ACCESS_PARTITION_REFERENCE_TSC = 1 << 9;
        const ACCESS_FREQUENCY_REGS = 1 << 11;
        const ACCESS_REENLIGHTENMENT_CONTROLS = 1 << 13;
        const ACCESS_TSC_INVARIANT_CONTROLS = 1 << 15;

        const POST_MESSAGES = 1 << (32 + 4);
        const SIGNAL_EVENTS = 1 << (32 + 5);
        const ENABLE_EXTENDED_HYPERCALLS = 1 << (32 + 20);

        const XMM_REGISTERS_FOR_FAST_HYPERCALL_AVAILABLE = 1 << (96 + 4);
        const GUEST_CRASH_MSRS_AVAILABLE = 1 << (96 + 10);
        const DIRECT_SYNTHETIC_TIMERS = 1 << (96 + 19);
    }

    /// ENLIGHTENMENT_INFO.EAX (`HV_ENLIGHTENMENT_INFORMATION`): what the hypervisor recommends.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Recommendations: u32 {
        const USE_HYPERCALL_FOR_REMOTE_FLUSH_AND_LOCAL_FLUSH_ENTIRE = 1 << 2;
        const USE_SYNTHETIC_CLUSTER_IPI = 1 << 10;
        const USE_EX_PROCESSOR_MASKS = 1 << 11;
        const USE_ENLIGHTENED_VMCS = 1 << 14;
    }
}

impl Features {
    /// The features in what CPUID returned: EAX, EBX, ECX, EDX.
    pub const fn from_cpuid([eax, ebx, ecx, edx]: [u32; 4]) -> Self {
        Self::from_bits_retain(
            eax as u128 | (ebx as u128) << 32 | (ecx as u128) << 64 | (edx as u128) << 96,
        )
    }

    /// EAX, EBX, ECX, EDX.
    pub const fn to_cpuid(self) -> [u32; 4] {
        let bits = self.bits();
        [bits as u32, (bits >> 32) as u32, (bits >> 64) as u32, (bits >> 96) as u32]
    }

    /// Both halves, the lower one first, as a guest gets them in arguments.
    pub const fn to_words(self) -> [u64; 2] {
        [self.bits() as u64, (self.bits() >> 64) as u64]
    }

    /// The features of [`Features::to_words`].
    pub const fn from_words([low, high]: [u64; 2]) -> Self {
        Self::from_bits_retain(low as u128 | (high as u128) << 64)
    }
}

/// NESTED_FEATURES.EAX: the highest and the lowest version of the Enlightened VMCS.
pub const ENLIGHTENED_VMCS_VERSIONS: u32 = 0xffff;
