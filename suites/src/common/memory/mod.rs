//! Memory slots, page tables and what backs them.

pub mod demand_paging;
#[cfg(not(kvm_guest))]
pub mod guest_memfd;
pub mod hugepage_mapping;
pub mod hugepage_zap;
pub mod memslot_limits;
pub mod memslot_perf;
pub mod memslot_races;
pub mod memslots;
