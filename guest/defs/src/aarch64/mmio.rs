//! Blocks of memory-mapped registers: a register knows its block and its width, so that neither an
//! offset of another block nor an access of another width compiles by accident.

use core::marker::PhantomData;

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

/// Names registers of one block: `Block, { NAME: width = offset; … }`.
macro_rules! registers {
    ($block:ty, $($(#[$doc:meta])* $name:ident: $width:ty = $offset:expr;)*) => {$(
        $(#[$doc])*
        pub const $name: Register<$block, $width> = Register::at($offset);
    )*};
}
pub(crate) use registers;

/// Names banks: `{ NAME: bits = offset; … }`.
macro_rules! banks {
    ($($name:ident: $bits:literal = $offset:expr;)*) => {$(
        pub const $name: Bank = Bank::at($offset, $bits);
    )*};
}
pub(crate) use banks;
