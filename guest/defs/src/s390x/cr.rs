//! Control registers (PoP, "Control Registers", "CPU Reset", figure "Assignment of Control-Register Fields").

/// CR0 after an initial reset: the interrupt masks that it sets.
pub const CR0_INITIAL: u64 = 0xe0;

/// CR0, bit 45: additional floating-point registers.
pub const CR0_AFP: u64 = 1 << (63 - 45);

/// CR14 after an initial reset.
pub const CR14_INITIAL: u64 = 0xc200_0000;

/// The token of a page-fault handshake that is off (KVM's, as is its name).
pub const KVM_S390_PFAULT_TOKEN_INVALID: u64 = u64::MAX;
