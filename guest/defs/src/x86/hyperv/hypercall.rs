//! Hypercalls (TLFS, "Hypercall Interface"): how a call is made, and the inputs of those that KVM knows.
#![expect(missing_docs, reason = "the specification's names")]

use bitfield_struct::bitfield;
use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Call codes: HVCALL_*.
pub mod code {
    pub const FLUSH_VIRTUAL_ADDRESS_SPACE: u16 = 0x02;
    pub const FLUSH_VIRTUAL_ADDRESS_LIST: u16 = 0x03;
    pub const NOTIFY_LONG_SPIN_WAIT: u16 = 0x08;
    pub const SEND_IPI: u16 = 0x0b;
    pub const FLUSH_VIRTUAL_ADDRESS_SPACE_EX: u16 = 0x13;
    pub const FLUSH_VIRTUAL_ADDRESS_LIST_EX: u16 = 0x14;
    pub const SEND_IPI_EX: u16 = 0x15;
    pub const POST_MESSAGE: u16 = 0x5c;
    pub const SIGNAL_EVENT: u16 = 0x5d;
    pub const EXT_QUERY_CAPABILITIES: u16 = 0x8001;
}

/// Results: HV_STATUS_*, the low 16 bits of what a call returns.
pub mod status {
    pub const SUCCESS: u64 = 0;
    pub const INVALID_HYPERCALL_CODE: u64 = 2;
    pub const INVALID_HYPERCALL_INPUT: u64 = 3;
    pub const INVALID_ALIGNMENT: u64 = 4;
    pub const INVALID_PARAMETER: u64 = 5;
    pub const ACCESS_DENIED: u64 = 6;
    pub const OPERATION_DENIED: u64 = 8;
    pub const INVALID_PORT_ID: u64 = 17;
}

/// The hypercall input value.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Control {
    pub call_code: u16,
    pub fast: bool,
    /// In words of eight bytes.
    #[bits(10)]
    pub variable_header_size: u16,
    #[bits(4)]
    __: u8,
    pub is_nested: bool,
    #[bits(12)]
    pub rep_count: u16,
    #[bits(4)]
    __: u8,
    #[bits(12)]
    pub rep_start_index: u16,
    #[bits(4)]
    __: u8,
}

impl Control {
    /// A call whose input has neither a variable header nor repetitions.
    pub const fn of(call_code: u16) -> Self {
        Self::new().with_call_code(call_code)
    }

    /// This value with bit `bit` set.
    pub const fn with_bit(self, bit: u32) -> Self {
        Self::from_bits(self.into_bits() | 1 << bit)
    }

    /// Some of the bits that must be 0: both ends of each reserved field, and IsNested.
    pub const RESERVED: [u32; 6] = [27, 30, 31, 44, 47, 60];
}

/// The hypercall result value.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct CallResult {
    pub status: u16,
    __: u16,
    #[bits(12)]
    pub reps_completed: u16,
    #[bits(20)]
    __: u32,
}

/// Words of input that a fast hypercall has room for: RDX, R8 and both halves of XMM0 to XMM5.
pub const FAST_WORDS: usize = 14;

/// Input of a hypercall in the order in which memory or registers hold it: a header, and what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Input {
    words: [u64; FAST_WORDS],
    used: usize,
}

impl Input {
    /// Input that begins with `header`.
    pub fn of(header: &(impl IntoBytes + Immutable)) -> Self {
        Self { words: [0; FAST_WORDS], used: 0 }.with(header)
    }

    /// Adds what follows.
    ///
    /// # Panics
    ///
    /// It is more than a fast hypercall can have, or no multiple of eight bytes.
    #[must_use]
    pub fn with(mut self, more: &(impl IntoBytes + Immutable)) -> Self {
        let bytes = more.as_bytes();
        assert!(bytes.len().is_multiple_of(8), "input is made of words of eight bytes");
        let place = &mut self.words.as_mut_bytes()[8 * self.used..];
        place[..bytes.len()].copy_from_slice(bytes);
        self.used += bytes.len() / 8;
        self
    }

    /// Its words, and zeroes behind them.
    pub const fn words(&self) -> &[u64; FAST_WORDS] {
        &self.words
    }
}

/// `HV_FLUSH_FLAGS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(transparent)]
pub struct HvFlushFlags(u64);

bitflags! {
    impl HvFlushFlags: u64 {
        const ALL_PROCESSORS = 1 << 0;
        const ALL_VIRTUAL_ADDRESS_SPACES = 1 << 1;
    }
}

/// HvCallFlushVirtualAddressSpace and -List: the list follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct HvFlush {
    pub address_space: u64,
    pub flags: HvFlushFlags,
    pub processor_mask: u64,
}

/// HvCallFlushVirtualAddressSpaceEx and -ListEx: the set's banks follow, then the list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct HvFlushEx {
    pub address_space: u64,
    pub flags: HvFlushFlags,
    pub processor_set: HvVpSet,
}

/// `HV_VP_SET`: the banks follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct HvVpSet {
    pub format: u64,
    pub valid_bank_mask: u64,
}

impl HvVpSet {
    /// HV_GENERIC_SET_SPARSE_4K: the virtual processors in the banks that the mask says are there.
    pub const SPARSE_4K: u64 = 0;
    /// HV_GENERIC_SET_ALL.
    pub const ALL: Self = Self { format: 1, valid_bank_mask: 0 };

    /// The set of the virtual processors in `banks`; those that are empty do not follow it.
    pub fn sparse(banks: &[u64]) -> Self {
        let valid = banks.iter().enumerate().map(|(i, bank)| u64::from(*bank != 0) << i);
        Self { format: Self::SPARSE_4K, valid_bank_mask: valid.sum() }
    }

    /// How many banks follow: the size of the variable header.
    pub const fn nr_banks(self) -> u16 {
        self.valid_bank_mask.count_ones() as u16
    }
}

/// A range of an address list (`HV_GVA_RANGE`).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct HvGvaRange {
    #[bits(12)]
    pub additional_pages: u16,
    #[bits(52)]
    pub gva_page_number: u64,
}

/// HvCallSendSyntheticClusterIpi.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct HvSendIpi {
    pub vector: u32,
    /// Target VTL and padding.
    pub reserved: u32,
    pub processor_mask: u64,
}

/// HvCallSendSyntheticClusterIpiEx: the set's banks follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct HvSendIpiEx {
    pub vector: u32,
    /// Target VTL and padding.
    pub reserved: u32,
    pub processor_set: HvVpSet,
}

/// HvCallSignalEvent, as one word: the connection, and the number of the flag.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct HvSignalEvent {
    #[bits(24)]
    pub connection_id: u32,
    __: u8,
    pub flag_number: u16,
    __: u16,
}

/// The lowest vector that an IPI may have.
pub const IPI_LOW_VECTOR: u32 = 0x10;

/// The highest vector that an IPI may have.
pub const IPI_HIGH_VECTOR: u32 = 0xff;
