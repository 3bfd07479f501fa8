//! What no architecture owns: guest code here runs everywhere.

pub mod dirty_log;
pub mod memory;
pub(crate) mod support;
pub mod system;
