//! The 8259A interrupt controllers of a PC: their I/O ports (8259A data sheet; ICH data sheet, "Edge/Level
//! Triggered Register").
#![expect(missing_docs, reason = "the data sheet's names")]

pub const MASTER_COMMAND: u16 = 0x20;
pub const MASTER_DATA: u16 = 0x21;
pub const SLAVE_COMMAND: u16 = 0xa0;
pub const SLAVE_DATA: u16 = 0xa1;
pub const ELCR_MASTER: u16 = 0x4d0;
pub const ELCR_SLAVE: u16 = 0x4d1;

/// All of them.
pub const PORTS: [u16; 6] =
    [MASTER_COMMAND, MASTER_DATA, SLAVE_COMMAND, SLAVE_DATA, ELCR_MASTER, ELCR_SLAVE];

/// Inputs of one controller.
pub const PINS: u32 = 8;
