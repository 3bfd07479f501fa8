//! The interrupt translation service of a GICv3 (IHI 0069, "Locality-specific Peripheral Interrupts and the ITS").
#![expect(missing_docs, reason = "the manual's names")]

/// The registers of the control frame.
pub mod gits {
    use super::super::mmio::{Register, registers};

    /// Whose registers these are.
    #[derive(Debug)]
    pub enum Its {}

    registers! { Its,
        CTLR: u32 = 0x0000;
        IIDR: u32 = 0x0004;
        TYPER: u64 = 0x0008;
        CBASER: u64 = 0x0080;
        CWRITER: u64 = 0x0088;
        CREADR: u64 = 0x0090;
        PIDR2: u32 = 0xffe8;
        /// In the frame behind: a message's address.
        TRANSLATER: u32 = 0x1_0040;
    }
    /// Table `n`'s register.
    pub const fn baser(n: u64) -> Register<Its, u64> {
        Register::at(0x0100 + n * 8)
    }
    pub const NR_BASERS: u64 = 8;
    pub const CTLR_ENABLED: u32 = 1 << 0;
    pub const CTLR_QUIESCENT: u32 = 1 << 31;
    pub const TYPER_PHYSICAL: u64 = 1 << 0;
    pub const TYPER_ITT_ENTRY_SIZE_SHIFT: u32 = 4;
    pub const TYPER_ID_BITS_SHIFT: u32 = 8;
    pub const TYPER_DEVBITS_SHIFT: u32 = 13;
    /// Redistributors are named by address instead of number.
    pub const TYPER_PTA: u64 = 1 << 19;
    pub const VALID: u64 = 1 << 63;
    pub const BASER_TYPE_SHIFT: u32 = 56;
    pub const BASER_TYPE_DEVICES: u64 = 1;
    pub const BASER_TYPE_COLLECTIONS: u64 = 4;
    pub const BASER_ENTRY_SIZE_SHIFT: u32 = 48;
    pub const BASER_PAGE_64K: u64 = 2 << 8;
}

/// GITS_BASER and GITS_CBASER: inner-shareable, inner write-back memory.
pub const WRITE_BACK: u64 = 7 << 59 | 1 << 10;

/// GICR_PROPBASER and GICR_PENDBASER: the same.
pub const WRITE_BACK_LPI: u64 = 7 << 7 | 1 << 10;

/// Bytes of a command.
pub const COMMAND_BYTES: u64 = 32;

/// Byte of an LPI in the configuration table: enabled.
pub const LPI_ENABLED: u8 = 1;

/// Byte of an LPI in the configuration table: the bits of its priority.
pub const LPI_PRIORITY: u8 = 0xfc;

/// Numbers of commands, in the first doubleword (IHI 0069, "ITS command descriptions").
pub mod command {
    pub const MOVI: u64 = 0x01;
    pub const INT: u64 = 0x03;
    pub const CLEAR: u64 = 0x04;
    pub const SYNC: u64 = 0x05;
    pub const MAPD: u64 = 0x08;
    pub const MAPC: u64 = 0x09;
    pub const MAPTI: u64 = 0x0a;
    pub const INV: u64 = 0x0c;
    pub const INVALL: u64 = 0x0d;
    pub const MOVALL: u64 = 0x0e;
    pub const DISCARD: u64 = 0x0f;
}

/// Where the device is in a command's first doubleword.
pub const DEVICE_SHIFT: u32 = 32;

/// Where a redistributor's number is in a command (GITS_TYPER.PTA is 0).
pub const RDBASE_SHIFT: u32 = 16;
