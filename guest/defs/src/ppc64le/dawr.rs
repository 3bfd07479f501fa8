//! Data address watchpoints (Power ISA, Book III, "Data Address Watchpoint").
#![expect(missing_docs, reason = "the manual's names")]

/// `DAWRX<n>`.
pub mod dawrx {
    /// PRIVM: matches in problem, supervisor and hypervisor state.
    pub const PROBLEM: u64 = 1 << 0;
    pub const SUPERVISOR: u64 = 1 << 1;
    pub const HYPERVISOR: u64 = 1 << 2;
    /// Whatever the translation is.
    pub const WTI: u64 = 1 << 3;
    /// Loads.
    pub const DR: u64 = 1 << 5;
    /// Stores.
    pub const DW: u64 = 1 << 6;
}
