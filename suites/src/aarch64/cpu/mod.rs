//! The processor's registers, exceptions and features, and userspace's view of them.

pub mod before_init;
pub mod debug;
pub mod debug_guest;
pub mod el0;
pub mod hello;
pub mod sysreg;
pub mod sysreg_masks;
