//! Numbers in registers.

/// Bits of a register that hold a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// The lowest bit.
    pub shift: u32,
    /// How many there are.
    pub bits: u32,
}

impl Field {
    /// `bits` bits from bit `shift` on.
    pub const fn new(shift: u32, bits: u32) -> Self {
        Self { shift, bits }
    }

    /// All its bits.
    pub const fn mask(self) -> u64 {
        (u64::MAX >> (64 - self.bits)) << self.shift
    }

    /// Its number in a register's value.
    pub const fn get(self, value: u64) -> u64 {
        (value & self.mask()) >> self.shift
    }

    /// A register's value with nothing but this number.
    pub const fn of(self, number: u64) -> u64 {
        number << self.shift & self.mask()
    }
}
