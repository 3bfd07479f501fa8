//! Assigned storage locations (PoP, "Assigned Storage Locations").
#![expect(missing_docs, reason = "the manual's names")]

pub const INTERRUPTION_CODES: u64 = 0x80;
pub const TRANSLATION_EXCEPTION: u64 = 0xa8;
pub const EXTERNAL_OLD: u64 = 0x130;
pub const SVC_OLD: u64 = 0x140;
pub const PROGRAM_OLD: u64 = 0x150;
pub const MACHINE_CHECK_OLD: u64 = 0x160;
pub const IO_OLD: u64 = 0x170;
pub const EXTERNAL_NEW: u64 = 0x1b0;
pub const SVC_NEW: u64 = 0x1c0;
pub const PROGRAM_NEW: u64 = 0x1d0;
pub const MACHINE_CHECK_NEW: u64 = 0x1e0;
pub const IO_NEW: u64 = 0x1f0;
