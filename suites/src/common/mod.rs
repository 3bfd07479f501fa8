//! What no architecture owns: guest code here runs everywhere.

pub mod boundary;
pub mod dirty_log;
pub mod dirty_log_bounds;
pub mod dirty_ring;
pub mod guest_memfd;
pub mod memslot_limits;
pub mod memslot_races;
pub mod memslots;
pub mod stats_fd;
pub mod system;
