//! Single memory accesses of a known width.
#![expect(unsafe_code, reason = "reads and writes addresses that tests choose")]

use super::trap::{Trap, catching};
use crate::memory::words;
#[cfg(kvm_guest)]
pub(crate) use crate::memory::{copy_forward, fill};

words! { reg_addr:
    u8 = "llgc {value}, 0({gva})", "stc {value}, 0({gva})";
    u16 = "llgh {value}, 0({gva})", "sth {value}, 0({gva})";
    u32 = "llgf {value}, 0({gva})", "st {value}, 0({gva})";
    u64 = "lg {value}, 0({gva})", "stg {value}, 0({gva})";
}
