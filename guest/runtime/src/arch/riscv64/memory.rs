//! Single memory accesses of a known width.
#![expect(unsafe_code, reason = "reads and writes addresses that tests choose")]

use super::trap::{Trap, catching};
use crate::memory::words;
#[cfg(kvm_guest)]
pub(crate) use crate::memory::{copy_forward, fill};

words! { reg:
    u8 = "lbu {value}, 0({gva})", "sb {value}, 0({gva})";
    u16 = "lhu {value}, 0({gva})", "sh {value}, 0({gva})";
    u32 = "lwu {value}, 0({gva})", "sw {value}, 0({gva})";
    u64 = "ld {value}, 0({gva})", "sd {value}, 0({gva})";
}
