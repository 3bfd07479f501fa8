//! What no architecture owns: guest code here runs everywhere.

pub mod boundary;
pub mod demand_paging;
pub mod dirty_log;
pub mod dirty_log_bounds;
pub mod dirty_log_perf;
pub mod dirty_ring;
pub mod guest_memfd;
pub mod hello;
pub mod hugepage_mapping;
pub mod hugepage_zap;
pub mod memslot_limits;
pub mod memslot_perf;
pub mod memslot_races;
pub mod memslots;
pub mod stats_fd;
pub mod system;
