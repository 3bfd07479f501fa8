//! What guest and host say to each other, and where in guest memory they say it.
//!
//! A guest fills the [`Message`] in its context's own page and rings the doorbell with the page's
//! guest-physical address. How the bell rings is the architecture's affair; what it means is not.
#![no_std]
#![forbid(unsafe_code)]

pub mod layout;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Raised whenever a message or [`StartInfo`] changes shape or meaning.
pub const PROTOCOL_VERSION: u32 = 4;

/// First word of every valid [`Message`] and [`StartInfo`]: "KVMC" read as little-endian ASCII.
pub const MAGIC: u32 = u32::from_le_bytes(*b"KVMC");

/// Doorbell value of a guest too broken to build a message.
pub const DOORBELL_BROKEN: u32 = u32::MAX;

/// The level of code that KVM itself runs: the guest of the hypervisor under test.
pub const L1: u32 = 1;

/// The deepest level that a context may have.
pub const MAX_LEVEL: u32 = 4;

/// Number of `u64` arguments in a message.
pub const NR_ARGS: usize = 40;

/// Number of texts in a message.
pub const NR_TEXTS: usize = 3;

/// Bytes shared by the texts of one message.
pub const TEXT_BYTES: usize = 4096 - 16 - 8 * NR_ARGS - 8;

/// What a guest wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Verb {
    /// `text[0]`: one line for the log.
    Log = 1,
    /// `args[0]`: 1 if the rule held; texts: name, detail.
    Check = 2,
    /// `args[0]`: the value; texts: name, unit.
    Metric = 3,
    /// `args[0]`: stage; `args[1..]`: free. The host may answer in `args`.
    Sync = 4,
    /// `text[0]`: the missing requirement.
    Skip = 5,
    /// A guest panic. `args`: line, pc, sp, fp; texts: message, file.
    Abort = 6,
    /// An unexpected trap; `args` as the architecture's trap frame ([`trap`]).
    Trap = 7,
    /// The guest function returned.
    Done = 8,
}

impl TryFrom<u32> for Verb {
    type Error = u32;

    fn try_from(raw: u32) -> Result<Self, u32> {
        Ok(match raw {
            1 => Self::Log,
            2 => Self::Check,
            3 => Self::Metric,
            4 => Self::Sync,
            5 => Self::Skip,
            6 => Self::Abort,
            7 => Self::Trap,
            8 => Self::Done,
            unknown => return Err(unknown),
        })
    }
}

/// Where [`Verb::Trap`] puts what every architecture has; the rest are its general registers.
pub mod trap {
    /// Vector, or exception class.
    pub const VECTOR: usize = 0;
    /// Error code, or syndrome.
    pub const CODE: usize = 1;
    /// Program counter at the trap.
    pub const PC: usize = 2;
    /// Faulting address (CR2, FAR, stval, …).
    pub const ADDR: usize = 3;
    /// Stack pointer at the trap.
    pub const SP: usize = 4;
    /// Frame pointer at the trap.
    pub const FP: usize = 5;
    /// Flags (RFLAGS, SPSR, sstatus, …).
    pub const FLAGS: usize = 6;
    /// First of the general registers, in the order that the architecture's runtime documents.
    pub const REGS: usize = 7;
}

/// One message, exactly one page.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Message {
    /// [`MAGIC`].
    pub magic: u32,
    /// A [`Verb`].
    pub verb: u32,
    /// Index of the sending vCPU.
    pub vcpu: u32,
    /// Level of the sending context, from [`L1`].
    pub level: u32,
    /// Meaning as the verb says.
    pub args: [u64; NR_ARGS],
    /// Lengths of the texts, which follow one another in `text`.
    pub text_len: [u16; NR_TEXTS],
    /// Zero.
    pub reserved2: u16,
    /// UTF-8.
    pub text: [u8; TEXT_BYTES],
}

/// What a context finds at its first instruction, at [`layout::vcpu_area::START_INFO`] in its area: from
/// the host at level 1, from its hypervisor at deeper ones. It stays there, and says whose context the
/// area is.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug)]
#[repr(C)]
pub struct StartInfo {
    /// [`MAGIC`].
    pub magic: u32,
    /// [`PROTOCOL_VERSION`].
    pub version: u32,
    /// Address of the guest function.
    pub entry: u64,
    /// The index of the vCPU that runs the context, from 0.
    pub vcpu: u32,
    /// The context's level, from [`L1`].
    pub level: u32,
    /// Arguments from the host half, or from the hypervisor.
    pub args: [u64; 6],
    /// Bytes of RAM, from guest-physical 0.
    pub ram_size: u64,
}

/// One row of the payload's table of guest functions (section `guest_entries`).
#[derive(Debug)]
#[repr(C)]
pub struct EntryRow<F> {
    /// Path of the function.
    pub name: &'static str,
    /// Its address.
    pub entry: F,
}

const _: () = assert!(size_of::<Message>() == 4096);
const _: () = assert!(size_of::<StartInfo>() <= 256);
