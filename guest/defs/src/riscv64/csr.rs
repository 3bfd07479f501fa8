//! Control and status registers (privileged manual, "Supervisor-Level ISA").

use bitflags::bitflags;

use super::cause::interrupt;

bitflags! {
    /// sstatus.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Sstatus: u64 {
        /// Interrupts are on.
        const SIE = 1 << 1;
        /// FS: floating point is in its initial state.
        const FS_INITIAL = 1 << 13;
    }

    /// sie and sip.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Sie: u64 {
        /// Software interrupts.
        const SSI = 1 << interrupt::SUPERVISOR_SOFTWARE;
        /// Timer interrupts.
        const STI = 1 << interrupt::SUPERVISOR_TIMER;
        /// External interrupts.
        const SEI = 1 << interrupt::SUPERVISOR_EXTERNAL;
    }
}

/// satp.
pub mod satp {
    use crate::Field;

    /// The page number of the root.
    pub const PPN: Field = Field::new(0, 44);
    /// The mode.
    pub const MODE: Field = Field::new(60, 4);
    /// MODE: Sv39.
    pub const SV39: u64 = 8;
}
