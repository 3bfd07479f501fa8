//! Performance monitoring (SDM vol. 3, "Performance Monitoring"; APM vol. 2, "Performance Monitoring
//! Counters"). The numbers of its MSRs are in [`super::msr`].
#![expect(missing_docs, reason = "the manual's names")]

use bitflags::bitflags;

/// Architectural event "instructions retired"; both vendors number it alike.
pub const INSTRUCTIONS_RETIRED: u64 = 0xc0;

bitflags! {
    /// IA32_PERFEVTSELx beside event and unit mask in its low 16 bits; AMD's PerfEvtSeln is alike.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PerfEvtSel: u64 {
        const USR = 1 << 16;
        const OS = 1 << 17;
        const INT = 1 << 20;
        const EN = 1 << 22;
    }

    /// IA32_PERF_GLOBAL_STATUS, beside a bit for each counter.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PerfGlobalStatus: u64 {
        /// OvfBuffer: the debug store's interrupt threshold is reached.
        const OVF_BUFFER = 1 << 62;
    }

    /// IA32_PERF_CAPABILITIES.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PerfCapabilities: u64 {
        const PEBS_TRAP = 1 << 6;
        const PEBS_FORMAT = 0xf << 8;
        const PEBS_BASELINE = 1 << 14;
    }

    /// Groups of an adaptive PEBS record that MSR_PEBS_DATA_CFG asks for (SDM vol. 3, "Adaptive PEBS").
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PebsDataCfg: u64 {
        const MEMORY_INFO = 1 << 0;
        const GPRS = 1 << 1;
        const XMMS = 1 << 2;
        const LBRS = 1 << 3;
    }
}

/// The debug store's management area in 64-bit mode, as far as PEBS needs it (SDM vol. 3, "Debug Store
/// (DS) Mechanism"): offsets of its fields.
pub mod ds {
    pub const PEBS_BUFFER_BASE: u64 = 0x20;
    pub const PEBS_INDEX: u64 = 0x28;
    pub const PEBS_ABSOLUTE_MAXIMUM: u64 = 0x30;
    pub const PEBS_INTERRUPT_THRESHOLD: u64 = 0x38;
}
