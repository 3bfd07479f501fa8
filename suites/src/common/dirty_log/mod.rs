//! Dirty bitmaps and dirty rings.

pub mod dirty_log;
pub mod dirty_log_bounds;
pub mod dirty_log_perf;
pub mod dirty_ring;
