//! Memory slots, page tables and what backs them.

pub mod dirty_log_emulated;
pub mod tlb_roots;
