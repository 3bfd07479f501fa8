//! The 8254 interval timer of a PC (8254 data sheet) and the port of its third channel (ICH data sheet, "NMI
//! Status and Control").

use bitflags::bitflags;

/// Count of channel 0.
pub const CHANNEL_0: u16 = 0x40;

/// Control word.
pub const CONTROL: u16 = 0x43;

/// System control port B.
pub const PORT_B: u16 = 0x61;

/// Control word, read/write: the least significant byte first, then the most significant.
pub const RW_BOTH: u8 = 3 << 4;

bitflags! {
    /// System control port B.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PortB: u8 {
        /// Gate of channel 2.
        const GATE_2 = 1 << 0;
        /// Output of channel 2.
        const OUT_2 = 1 << 5;
    }
}
