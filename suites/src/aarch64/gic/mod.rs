//! The generic interrupt controller.

pub mod gic_groups;
pub mod gic_init;
pub mod gic_its;
pub mod gic_its_moves;
pub mod gic_its_state;
pub mod gic_mmio;
pub mod gic_priority;
pub mod gic_save_restore;
pub mod gic_state;
pub mod gic_targets;
