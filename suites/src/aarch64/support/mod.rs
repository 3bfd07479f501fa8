//! What several test files share; no tests stand here.

pub mod gic_bench;
pub mod gic_saved;
