//! Blocks of memory-mapped registers: a register knows its block and its width, so that neither an
//! offset of another block nor an access of another width compiles by accident.

use core::marker::PhantomData;

use super::memory::{Word, mmio_read, mmio_write};

/// A register of block `B` that is `T` wide.
#[derive(Debug)]
pub struct Register<B, T> {
    offset: u64,
    of: PhantomData<fn() -> (B, T)>,
}

impl<B, T> Clone for Register<B, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B, T> Copy for Register<B, T> {}

impl<B, T> Register<B, T> {
    /// The register at `offset`.
    pub const fn at(offset: u64) -> Self {
        Self { offset, of: PhantomData }
    }

    /// Its offset in the block.
    pub const fn offset(self) -> u64 {
        self.offset
    }

    /// Other bytes of the same block, as if they were a register: for accesses that are not as wide as
    /// the manual's register, or beside it.
    pub const fn bytes<U>(self, offset: u64) -> Register<B, U> {
        Register::at(self.offset + offset)
    }
}

/// A field of the same width for each interrupt, in 32-bit words: offset and bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bank {
    /// Offset of the word of interrupt 0.
    pub offset: u64,
    /// Bits of a field.
    pub bits: u32,
}

impl Bank {
    /// A bank of `bits` for each interrupt.
    pub const fn at(offset: u64, bits: u32) -> Self {
        Self { offset, bits }
    }

    /// Interrupts in a word.
    pub const fn per_word(self) -> u32 {
        32 / self.bits
    }

    /// Offset of the word that has the field of `intid`.
    pub const fn word(self, intid: u32) -> u64 {
        self.offset + (intid / self.per_word() * 4) as u64
    }

    /// Lowest bit of the field of `intid` in its word.
    pub const fn shift(self, intid: u32) -> u32 {
        intid % self.per_word() * self.bits
    }
}

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
        mmio_read(self.base + register.offset)
    }

    /// Stores to a register.
    pub fn write<T: Word>(self, register: Register<B, T>, value: T) {
        mmio_write(self.base + register.offset, value);
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

/// Names registers of one block: `Block, { NAME: width = offset; … }`.
macro_rules! registers {
    ($block:ty, $($(#[$doc:meta])* $name:ident: $width:ty = $offset:expr;)*) => {$(
        $(#[$doc])*
        pub const $name: $crate::arch::aarch64::registers::Register<$block, $width> =
            $crate::arch::aarch64::registers::Register::at($offset);
    )*};
}
pub(crate) use registers;

/// Names banks: `{ NAME: bits = offset; … }`.
macro_rules! banks {
    ($($name:ident: $bits:literal = $offset:expr;)*) => {$(
        pub const $name: $crate::arch::aarch64::registers::Bank =
            $crate::arch::aarch64::registers::Bank::at($offset, $bits);
    )*};
}
pub(crate) use banks;
