//! Interrupt controllers, and the ways to their inputs.

pub mod ioapic;
pub mod ioapic_split;
pub mod ioapic_state;
pub mod ioapic_targets;
pub mod ioeventfd;
pub mod ipi;
pub mod irqfd;
pub mod irqfd_resample;
pub mod lapic;
pub mod pit;
