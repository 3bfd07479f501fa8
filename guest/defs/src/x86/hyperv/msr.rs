//! Synthetic MSRs (TLFS, appendix "Synthetic MSRs"; each is described with its feature): HV_X64_MSR_*.
#![expect(missing_docs, reason = "the specification's names")]

use bitfield_struct::bitfield;
use bitflags::bitflags;

pub const GUEST_OS_ID: u32 = 0x4000_0000;
pub const HYPERCALL: u32 = 0x4000_0001;
pub const VP_INDEX: u32 = 0x4000_0002;
pub const RESET: u32 = 0x4000_0003;
pub const VP_RUNTIME: u32 = 0x4000_0010;
pub const TIME_REF_COUNT: u32 = 0x4000_0020;
pub const REFERENCE_TSC: u32 = 0x4000_0021;
pub const TSC_FREQUENCY: u32 = 0x4000_0022;
pub const APIC_FREQUENCY: u32 = 0x4000_0023;
pub const EOI: u32 = 0x4000_0070;
pub const ICR: u32 = 0x4000_0071;
pub const TPR: u32 = 0x4000_0072;
pub const VP_ASSIST_PAGE: u32 = 0x4000_0073;
pub const SCONTROL: u32 = 0x4000_0080;
pub const SVERSION: u32 = 0x4000_0081;
pub const SIEFP: u32 = 0x4000_0082;
pub const SIMP: u32 = 0x4000_0083;
pub const EOM: u32 = 0x4000_0084;
pub const SINT0: u32 = 0x4000_0090;
pub const SINT15: u32 = 0x4000_009f;
pub const STIMER0_CONFIG: u32 = 0x4000_00b0;
pub const STIMER0_COUNT: u32 = 0x4000_00b1;
pub const STIMER3_CONFIG: u32 = 0x4000_00b6;
pub const STIMER3_COUNT: u32 = 0x4000_00b7;
pub const CRASH_P0: u32 = 0x4000_0100;
pub const CRASH_P4: u32 = 0x4000_0104;
pub const CRASH_CTL: u32 = 0x4000_0105;
pub const REENLIGHTENMENT_CONTROL: u32 = 0x4000_0106;
pub const TSC_EMULATION_CONTROL: u32 = 0x4000_0107;
pub const TSC_EMULATION_STATUS: u32 = 0x4000_0108;
pub const TSC_INVARIANT_CONTROL: u32 = 0x4000_0118;

/// Bit 0 of the MSRs that give a page to the hypervisor (HYPERCALL, REFERENCE_TSC, SIMP, SIEFP, …) or switch
/// something on (SCONTROL, STIMERx_CONFIG, TSC_EMULATION_CONTROL, TSC_INVARIANT_CONTROL).
pub const ENABLE: u64 = 1;

/// GUEST_OS_ID of an open-source system: Linux, version 0, build 1 (TLFS, "Reporting the Guest OS Identity").
pub const LINUX: u64 = 0x8100_0000_0000_0001;

/// SVERSION of the only version that there is.
pub const SYNIC_VERSION: u64 = 1;

bitflags! {
    /// CRASH_CTL.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CrashCtl: u64 {
        const CRASH_NOTIFY = 1 << 63;
    }
}

/// REENLIGHTENMENT_CONTROL.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ReenlightenmentControl {
    pub vector: u8,
    __: u8,
    pub enabled: bool,
    #[bits(15)]
    __: u16,
    pub target_vp: u32,
}
