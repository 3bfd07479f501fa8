//! Segment descriptors, gates and the task state segment of 64-bit mode (SDM vol. 3, "Protected-Mode Memory
//! Management", "64-Bit Mode IDT", "Task Management in 64-bit Mode").
#![expect(missing_docs, reason = "the manual's names")]

use bitfield_struct::bitfield;

/// Types of segments: code that can be read and was accessed.
pub const CODE: u8 = 0b1011;
/// Types of segments: data that can be written and was accessed.
pub const DATA: u8 = 0b0011;
/// Types of system segments: a 64-bit TSS that is in use.
pub const BUSY_TSS: u8 = 0b1011;
/// Types of system segments: a 64-bit interrupt gate.
pub const INTERRUPT_GATE: u8 = 0b1110;

/// A segment descriptor; of a system segment, its lower half.
#[bitfield(u64, default = false)]
#[derive(PartialEq, Eq)]
pub struct Descriptor {
    pub limit_low: u16,
    #[bits(24)]
    pub base_low: u32,
    #[bits(4)]
    pub kind: u8,
    /// Code or data, not a system segment.
    pub s: bool,
    #[bits(2)]
    pub dpl: u8,
    pub p: bool,
    #[bits(4)]
    pub limit_high: u8,
    pub avl: bool,
    pub l: bool,
    pub db: bool,
    pub g: bool,
    pub base_high: u8,
}

impl Descriptor {
    const FLAT: Self = Self::new()
        .with_limit_low(0xffff)
        .with_limit_high(0xf)
        .with_g(true)
        .with_s(true)
        .with_p(true);

    /// 64-bit code of a privilege level.
    pub const fn code64(dpl: u8) -> Self {
        Self::FLAT.with_kind(CODE).with_l(true).with_dpl(dpl)
    }

    /// 32-bit code of a privilege level, over all addresses.
    pub const fn code32(dpl: u8) -> Self {
        Self::FLAT.with_kind(CODE).with_db(true).with_dpl(dpl)
    }

    /// 16-bit code of privilege level 0, over 64 KiB from `base` on.
    pub const fn code16(base: u32) -> Self {
        Self::DATA16
            .with_kind(CODE)
            .with_base_low(base & 0xff_ffff)
            .with_base_high((base >> 24) as u8)
    }

    /// Data of privilege level 0 with the limit of real mode.
    pub const DATA16: Self =
        Self::new().with_limit_low(0xffff).with_kind(DATA).with_s(true).with_p(true);

    /// Data of a privilege level, over all addresses.
    pub const fn data(dpl: u8) -> Self {
        Self::FLAT.with_kind(DATA).with_db(true).with_dpl(dpl)
    }

    /// Both halves of the descriptor of a 64-bit TSS that is in use.
    pub const fn busy_tss(base: u64, limit: u16) -> [u64; 2] {
        let low = Self::new()
            .with_limit_low(limit)
            .with_base_low(base as u32 & 0xff_ffff)
            .with_base_high((base >> 24) as u8)
            .with_kind(BUSY_TSS)
            .with_p(true);
        [low.into_bits(), base >> 32]
    }
}

/// The lower half of a gate of the IDT; the upper half has the handler's bits from 32 on.
#[bitfield(u64, default = false)]
#[derive(PartialEq, Eq)]
pub struct Gate {
    pub offset_low: u16,
    pub selector: u16,
    #[bits(3)]
    pub ist: u8,
    #[bits(5)]
    __: u8,
    #[bits(4)]
    pub kind: u8,
    __: bool,
    #[bits(2)]
    pub dpl: u8,
    pub p: bool,
    pub offset_mid: u16,
}

impl Gate {
    /// Both halves of an interrupt gate.
    pub const fn interrupt(handler: u64, selector: u16, ist: u8, dpl: u8) -> [u64; 2] {
        let low = Self::new()
            .with_offset_low(handler as u16)
            .with_offset_mid((handler >> 16) as u16)
            .with_selector(selector)
            .with_ist(ist)
            .with_kind(INTERRUPT_GATE)
            .with_dpl(dpl)
            .with_p(true);
        [low.into_bits(), handler >> 32]
    }
}

/// Bytes of an entry of the IDT.
pub const GATE_SIZE: usize = 16;

/// A 64-bit task state segment without an I/O bitmap: offsets of its fields.
pub mod tss {
    pub const SIZE: usize = 104;
    pub const RSP0: usize = 4;
    pub const IO_MAP_BASE: usize = 102;

    /// The stack pointer of interrupt stack table entry `n`, from 1 on.
    pub const fn ist(n: u8) -> usize {
        36 + 8 * (n as usize - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same words as Linux's and every textbook's, written by hand.
    #[test]
    fn descriptors_are_encoded_as_the_manual_says() {
        assert_eq!(Descriptor::code64(0).into_bits(), 0x00af_9b00_0000_ffff);
        assert_eq!(Descriptor::data(0).into_bits(), 0x00cf_9300_0000_ffff);
        assert_eq!(Descriptor::data(3).into_bits(), 0x00cf_f300_0000_ffff);
        assert_eq!(Descriptor::code64(3).into_bits(), 0x00af_fb00_0000_ffff);
        assert_eq!(
            Descriptor::busy_tss(0x1234_5678_9abc_def0, 0x67),
            [0x9a00_8bbc_def0_0067, 0x1234_5678]
        );
        assert_eq!(
            Gate::interrupt(0x1234_5678_9abc_def0, 0x08, 4, 3),
            [0x9abc_ee04_0008_def0, 0x1234_5678]
        );
    }
}
