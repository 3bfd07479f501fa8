//! Accesses to blocks of memory-mapped registers.

use core::marker::PhantomData;

pub use defs::aarch64::mmio::{Bank, Register};

use super::memory::{Word, mmio_read, mmio_write};

/// A block of registers somewhere in guest-physical memory, which is mapped at its own address.
#[derive(Debug)]
pub struct Block<B> {
    base: u64,
    of: PhantomData<fn() -> B>,
}

impl<B> Clone for Block<B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B> Copy for Block<B> {}

impl<B> Block<B> {
    /// The block at `base`.
    pub const fn at(base: u64) -> Self {
        Self { base, of: PhantomData }
    }

    /// Loads a register.
    pub fn read<T: Word>(self, register: Register<B, T>) -> T {
        mmio_read(self.base + register.offset())
    }

    /// Stores to a register.
    pub fn write<T: Word>(self, register: Register<B, T>, value: T) {
        mmio_write(self.base + register.offset(), value);
    }

    /// The word of a bank that has the field of `intid`.
    pub fn read_word(self, bank: Bank, intid: u32) -> u32 {
        mmio_read(self.base + bank.word(intid))
    }

    /// Stores to the word of a bank that has the field of `intid`.
    pub fn write_word(self, bank: Bank, intid: u32, value: u32) {
        mmio_write(self.base + bank.word(intid), value);
    }

    /// The field of `intid`.
    pub fn field(self, bank: Bank, intid: u32) -> u32 {
        let mask = u32::MAX >> (32 - bank.bits);
        self.read_word(bank, intid) >> bank.shift(intid) & mask
    }

    /// Stores the field of `intid` and leaves the others of its word as they read.
    pub fn set_field(self, bank: Bank, intid: u32, value: u32) {
        let mask = u32::MAX >> (32 - bank.bits);
        let others = self.read_word(bank, intid) & !(mask << bank.shift(intid));
        self.write_word(bank, intid, others | (value & mask) << bank.shift(intid));
    }

    /// Loads the one byte of `intid` of a bank of bytes.
    pub fn byte(self, bank: Bank, intid: u32) -> u8 {
        mmio_read(self.base + bank.offset + u64::from(intid))
    }

    /// Stores the one byte of `intid` of a bank of bytes.
    pub fn set_byte(self, bank: Bank, intid: u32, value: u8) {
        mmio_write(self.base + bank.offset + u64::from(intid), value);
    }
}
