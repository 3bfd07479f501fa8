//! The processor's registers, exceptions and features, and userspace's view of them.

pub mod hello;
