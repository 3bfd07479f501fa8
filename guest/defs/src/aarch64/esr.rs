//! The exception syndrome (ARM ARM, ESR_EL1).
#![expect(missing_docs, reason = "the manual's names")]

use crate::Field;

/// The exception class.
pub const EC: Field = Field::new(26, 6);

/// A 32-bit instruction.
pub const IL: u64 = 1 << 25;

/// The syndrome of the instruction.
pub const ISS: u64 = 0x01ff_ffff;

/// Of a data abort: the fields of the access are valid.
pub const ISV: u64 = 1 << 24;

/// Of a data abort: it was a write.
pub const WNR: u64 = 1 << 6;

/// Of an abort: the fault's status.
pub const FSC: u64 = 0x3f;
pub const FSC_TRANSLATION_L0: u64 = 0x04;
pub const FSC_TRANSLATION_L1: u64 = 0x05;
pub const FSC_TRANSLATION_L2: u64 = 0x06;
pub const FSC_TRANSLATION_L3: u64 = 0x07;
pub const FSC_PERMISSION_L3: u64 = 0x0f;
pub const FSC_EXTERNAL: u64 = 0x10;
pub const FSC_ALIGNMENT: u64 = 0x21;

/// Values of [`EC`].
pub mod class {
    pub const UNKNOWN: u8 = 0x00;
    pub const WFX: u8 = 0x01;
    pub const FP_ACCESS: u8 = 0x07;
    pub const ILLEGAL_STATE: u8 = 0x0e;
    pub const SVC: u8 = 0x15;
    pub const HVC: u8 = 0x16;
    pub const SMC: u8 = 0x17;
    pub const SYS: u8 = 0x18;
    pub const SVE: u8 = 0x19;
    pub const INSTRUCTION_ABORT_LOWER: u8 = 0x20;
    pub const INSTRUCTION_ABORT: u8 = 0x21;
    pub const PC_ALIGNMENT: u8 = 0x22;
    pub const DATA_ABORT_LOWER: u8 = 0x24;
    pub const DATA_ABORT: u8 = 0x25;
    pub const SP_ALIGNMENT: u8 = 0x26;
    pub const SERROR: u8 = 0x2f;
    pub const BREAKPOINT_LOWER: u8 = 0x30;
    pub const BREAKPOINT: u8 = 0x31;
    pub const SOFTWARE_STEP_LOWER: u8 = 0x32;
    pub const SOFTWARE_STEP: u8 = 0x33;
    pub const WATCHPOINT_LOWER: u8 = 0x34;
    pub const WATCHPOINT: u8 = 0x35;
    pub const BRK: u8 = 0x3c;
}
