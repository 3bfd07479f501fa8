//! Interrupts (Power ISA, Book III, "Interrupt Definitions").
#![expect(missing_docs, reason = "the manual's names")]

/// Addresses of the vectors.
pub mod vector {
    pub const SYSTEM_RESET: u64 = 0x100;
    pub const MACHINE_CHECK: u64 = 0x200;
    pub const DATA_STORAGE: u64 = 0x300;
    pub const DATA_SEGMENT: u64 = 0x380;
    pub const INSTRUCTION_STORAGE: u64 = 0x400;
    pub const INSTRUCTION_SEGMENT: u64 = 0x480;
    pub const EXTERNAL: u64 = 0x500;
    pub const ALIGNMENT: u64 = 0x600;
    pub const PROGRAM: u64 = 0x700;
    pub const FP_UNAVAILABLE: u64 = 0x800;
    pub const DECREMENTER: u64 = 0x900;
    pub const SYSTEM_CALL: u64 = 0xc00;
    pub const TRACE: u64 = 0xd00;
    pub const FACILITY_UNAVAILABLE: u64 = 0xf60;
}

/// SRR1 of a program interrupt: a trap instruction.
pub const SRR1_TRAP: u64 = 1 << 17;

/// SRR1 of a program interrupt: an illegal instruction.
pub const SRR1_ILLEGAL: u64 = 1 << 19;

/// DSISR of a data storage interrupt: a watchpoint matched.
pub const DSISR_DAWR_MATCH: u64 = 1 << 22;
