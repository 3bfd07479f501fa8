//! The generic timer (ARM ARM, "The Generic Timer in AArch64 state").

/// CNTx_CTL_EL0: the timer is on.
pub const CTL_ENABLE: u64 = 1 << 0;

/// CNTx_CTL_EL0: its interrupt is masked.
pub const CTL_IMASK: u64 = 1 << 1;

/// CNTx_CTL_EL0, read-only: the condition is met.
pub const CTL_ISTATUS: u64 = 1 << 2;

/// The PPI of the EL1 virtual timer (Server Base System Architecture, DEN0029, "PPI assignments"; KVM's default).
pub const VIRTUAL_INTID: u32 = 27;

/// The PPI of the EL1 physical timer.
pub const PHYSICAL_INTID: u32 = 30;
