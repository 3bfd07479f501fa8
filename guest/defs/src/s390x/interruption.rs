//! Interruptions (PoP, "Interruption Codes", "Program-Interruption Conditions").
#![expect(missing_docs, reason = "the manual's names")]

/// Program-interruption codes.
pub mod program {
    pub const OPERATION: u8 = 0x01;
    pub const PRIVILEGED_OPERATION: u8 = 0x02;
    pub const PROTECTION: u8 = 0x04;
    pub const ADDRESSING: u8 = 0x05;
    pub const SPECIFICATION: u8 = 0x06;
    pub const DATA: u8 = 0x07;
    pub const SEGMENT_TRANSLATION: u8 = 0x10;
    pub const PAGE_TRANSLATION: u8 = 0x11;
}

/// Of a program-interruption code: a PER event beside it.
pub const PER_EVENT: u16 = 0x80;

/// DIAGNOSE function: the rest of the time slice is given away.
pub const DIAG_TIME_SLICE_END: u16 = 0x44;
