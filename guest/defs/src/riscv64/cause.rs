//! scause (privileged manual, "Supervisor Cause Register").
#![expect(missing_docs, reason = "the manual's names")]

/// The trap was an interrupt.
pub const INTERRUPT: u64 = 1 << 63;

/// Exception codes.
pub mod exception {
    pub const INSTRUCTION_MISALIGNED: u8 = 0;
    pub const INSTRUCTION_ACCESS: u8 = 1;
    pub const ILLEGAL_INSTRUCTION: u8 = 2;
    pub const BREAKPOINT: u8 = 3;
    pub const LOAD_MISALIGNED: u8 = 4;
    pub const LOAD_ACCESS: u8 = 5;
    pub const STORE_MISALIGNED: u8 = 6;
    pub const STORE_ACCESS: u8 = 7;
    pub const ECALL_FROM_U: u8 = 8;
    pub const INSTRUCTION_PAGE: u8 = 12;
    pub const LOAD_PAGE: u8 = 13;
    pub const STORE_PAGE: u8 = 15;
}

/// Interrupt codes, which are bits of sie and sip too.
pub mod interrupt {
    pub const SUPERVISOR_SOFTWARE: u8 = 1;
    pub const SUPERVISOR_TIMER: u8 = 5;
    pub const SUPERVISOR_EXTERNAL: u8 = 9;
}
