//! Single memory accesses of a known width.
#![expect(unsafe_code, reason = "reads and writes addresses that tests choose")]

use super::trap::{Trap, catching};
use crate::memory::words;
#[cfg(kvm_guest)]
pub(crate) use crate::memory::{copy_forward, fill};

words! { reg_nonzero:
    u8 = "lbz {value}, 0({gva})", "stb {value}, 0({gva})";
    u16 = "lhz {value}, 0({gva})", "sth {value}, 0({gva})";
    u32 = "lwz {value}, 0({gva})", "stw {value}, 0({gva})";
    u64 = "ld {value}, 0({gva})", "std {value}, 0({gva})";
}
