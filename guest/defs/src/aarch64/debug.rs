//! Self-hosted debug (ARM ARM, "AArch64 Self-hosted Debug").

use bitflags::bitflags;

bitflags! {
    /// MDSCR_EL1.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Mdscr: u64 {
        /// Software steps of EL0.
        const SS = 1 << 0;
        /// Debug exceptions at EL1.
        const KDE = 1 << 13;
        /// Breakpoints and watchpoints.
        const MDE = 1 << 15;
    }
}

/// OSLSR_EL1.OSLK: the OS lock is locked.
pub const OSLSR_OSLK: u64 = 1 << 1;

/// `DBGBCR<n>_EL1` and `DBGWCR<n>_EL1`.
pub mod control {
    /// Enabled.
    pub const E: u64 = 1 << 0;
    /// PMC, PAC: EL0.
    pub const EL0: u64 = 2 << 1;
    /// PMC, PAC: EL1 and EL0.
    pub const EL1_EL0: u64 = 3 << 1;
    /// LSC: loads.
    pub const LOAD: u64 = 1 << 3;
    /// LSC: stores.
    pub const STORE: u64 = 2 << 3;
    /// BAS of a breakpoint on an A64 instruction.
    pub const INSTRUCTION: u64 = 0xf << 5;
    /// BAS of a watchpoint on eight bytes.
    pub const EIGHT_BYTES: u64 = 0xff << 5;
}
