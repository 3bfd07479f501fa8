//! Memory slots, page tables and what backs them.

pub mod granule;
