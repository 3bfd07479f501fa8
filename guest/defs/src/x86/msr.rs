//! Model-specific registers (SDM vol. 4; APM vol. 2, "MSR Cross-Reference"): their numbers, and the bits
//! of those that no other module here describes. Those of hypervisors are in their own modules.
#![expect(missing_docs, reason = "the manual's names")]

use bitflags::bitflags;

macro_rules! msrs {
    ($($(#[$doc:meta])* $name:ident = $number:literal;)*) => {$(
        $(#[$doc])*
        pub const $name: u32 = $number;
    )*};
}

// Architectural, and on every x86_64 CPU.
msrs! {
    IA32_TIME_STAMP_COUNTER = 0x10;
    IA32_APIC_BASE = 0x1b;
    IA32_TSC_ADJUST = 0x3b;
    IA32_SYSENTER_CS = 0x174;
    IA32_SYSENTER_ESP = 0x175;
    IA32_SYSENTER_EIP = 0x176;
    IA32_MISC_ENABLE = 0x1a0;
    IA32_PAT = 0x277;
    IA32_TSC_DEADLINE = 0x6e0;
    IA32_EFER = 0xc000_0080;
    IA32_STAR = 0xc000_0081;
    IA32_LSTAR = 0xc000_0082;
    IA32_CSTAR = 0xc000_0083;
    IA32_FMASK = 0xc000_0084;
    IA32_FS_BASE = 0xc000_0100;
    IA32_GS_BASE = 0xc000_0101;
    IA32_KERNEL_GS_BASE = 0xc000_0102;
}

// AMD's configuration of the core (PPR of family 17h, "MSRs - MSRC001_xxxx").
msrs! {
    MSR_AMD64_DC_CFG = 0xc001_1022;
    MSR_AMD64_TW_CFG = 0xc001_1023;
    MSR_AMD64_DE_CFG = 0xc001_1029;
    MSR_AMD64_BU_CFG2 = 0xc001_102a;
}

/// MSR_AMD64_DE_CFG: LFENCE waits for all earlier instructions.
pub const DE_CFG_LFENCE_SERIALIZE: u64 = 1 << 1;

// Split lock detection (SDM vol. 4, table 2-2).
msrs! {
    MSR_TEST_CTRL = 0x33;
    IA32_CORE_CAPABILITIES = 0xcf;
}

// System management mode.
msrs! {
    IA32_SMBASE = 0x9e;
}

// Performance monitoring (SDM vol. 3, "Performance Monitoring"; APM vol. 2, "Performance Monitoring
// Counters").
msrs! {
    IA32_PMC0 = 0xc1;
    IA32_PERFEVTSEL0 = 0x186;
    IA32_FIXED_CTR0 = 0x309;
    IA32_PERF_CAPABILITIES = 0x345;
    IA32_FIXED_CTR_CTRL = 0x38d;
    IA32_PERF_GLOBAL_STATUS = 0x38e;
    IA32_PERF_GLOBAL_CTRL = 0x38f;
    IA32_PERF_GLOBAL_OVF_CTRL = 0x390;
    IA32_PEBS_ENABLE = 0x3f1;
    MSR_PEBS_DATA_CFG = 0x3f2;
    MSR_PEBS_LD_LAT = 0x3f6;
    IA32_DS_AREA = 0x600;
    /// AMD's legacy counters: event select, and count.
    PERF_LEGACY_CTL0 = 0xc001_0000;
    PERF_LEGACY_CTR0 = 0xc001_0004;
}

// Machine checks (SDM vol. 3, "Machine-Check MSRs").
msrs! {
    IA32_MCG_CAP = 0x179;
    IA32_MCG_STATUS = 0x17a;
    IA32_MC0_CTL2 = 0x280;
    IA32_MC0_CTL = 0x400;
    IA32_MC0_STATUS = 0x401;
    IA32_MC0_ADDR = 0x402;
    IA32_MC0_MISC = 0x403;
}

// VMX (SDM vol. 3, appendix "VMX Capability Reporting Facility") and SVM (APM vol. 2, "SVM Related
// MSRs").
msrs! {
    IA32_FEATURE_CONTROL = 0x3a;
    IA32_VMX_BASIC = 0x480;
    IA32_VMX_PINBASED_CTLS = 0x481;
    IA32_VMX_PROCBASED_CTLS = 0x482;
    IA32_VMX_EXIT_CTLS = 0x483;
    IA32_VMX_ENTRY_CTLS = 0x484;
    IA32_VMX_MISC = 0x485;
    IA32_VMX_CR0_FIXED0 = 0x486;
    IA32_VMX_CR0_FIXED1 = 0x487;
    IA32_VMX_CR4_FIXED0 = 0x488;
    IA32_VMX_CR4_FIXED1 = 0x489;
    IA32_VMX_VMCS_ENUM = 0x48a;
    IA32_VMX_PROCBASED_CTLS2 = 0x48b;
    IA32_VMX_EPT_VPID_CAP = 0x48c;
    IA32_VMX_TRUE_PINBASED_CTLS = 0x48d;
    IA32_VMX_TRUE_PROCBASED_CTLS = 0x48e;
    IA32_VMX_TRUE_EXIT_CTLS = 0x48f;
    IA32_VMX_TRUE_ENTRY_CTLS = 0x490;
    IA32_VMX_VMFUNC = 0x491;
    IA32_VMX_PROCBASED_CTLS3 = 0x492;
    VM_CR = 0xc001_0114;
    VM_HSAVE_PA = 0xc001_0117;
}

/// A number that no CPU and no hypervisor has: for tests of what is refused.
pub const UNKNOWN: u32 = 0xdead_0000;

bitflags! {
    /// IA32_MISC_ENABLE.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct MiscEnable: u64 {
        const BTS_UNAVAIL = 1 << 11;
        const PEBS_UNAVAIL = 1 << 12;
        /// Enable MONITOR FSM: CPUID offers MONITOR.
        const MWAIT = 1 << 18;
    }

    /// MSR_TEST_CTRL.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct TestCtrl: u64 {
        const SPLIT_LOCK_DETECT = 1 << 29;
    }
}
