//! Synthetic timers (TLFS, "Synthetic Timers"): bits of HV_X64_MSR_STIMERx_CONFIG beside [`super::ENABLE`], and
//! what timers leave in the message page (TLFS, "SIM Page", "Timer Expired Message").
#![expect(missing_docs, reason = "the specification's names")]

use super::msr;

pub const PERIODIC: u64 = 1 << 1;
pub const LAZY: u64 = 1 << 2;
pub const AUTO_ENABLE: u64 = 1 << 3;
pub const VECTOR_SHIFT: u32 = 4;
pub const DIRECT: u64 = 1 << 12;
pub const SINT_SHIFT: u32 = 16;

/// Timers of a virtual processor.
pub const COUNT: u32 = 4;

/// The MSR that configures a timer.
pub const fn config(timer: u32) -> u32 {
    msr::STIMER0_CONFIG + 2 * timer
}

/// The MSR of a timer's count.
pub const fn count(timer: u32) -> u32 {
    msr::STIMER0_COUNT + 2 * timer
}

/// Bytes of a slot of the message page.
pub const SLOT_SIZE: u64 = 256;

pub const HVMSG_NONE: u32 = 0;
pub const HVMSG_TIMER_EXPIRED: u32 = 0x8000_0010;

/// Message flag: another message waits for the slot.
pub const MESSAGE_PENDING: u8 = 1;

/// Bytes of a timer's payload.
pub const PAYLOAD_SIZE: u8 = 24;

/// A slot of the message page with a timer's payload (`HV_MESSAGE`, `HV_TIMER_MESSAGE_PAYLOAD`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Message {
    pub message_type: u32,
    pub payload_size: u8,
    pub message_flags: u8,
    pub reserved: u16,
    pub sender: u64,
    pub timer_index: u32,
    pub padding: u32,
    pub expiration_time: u64,
    pub delivery_time: u64,
}

impl Message {
    /// A free slot.
    pub const NONE: Self = Self {
        message_type: HVMSG_NONE,
        payload_size: 0,
        message_flags: 0,
        reserved: 0,
        sender: 0,
        timer_index: 0,
        padding: 0,
        expiration_time: 0,
        delivery_time: 0,
    };
}
