//! The statistical profiling extension.

pub mod spe;
pub mod spe_abi;
