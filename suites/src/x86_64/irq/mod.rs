//! Interrupt controllers, and the ways to their inputs.

pub mod ioapic;
#[cfg(not(kvm_guest))]
pub mod ioapic_split;
#[cfg(not(kvm_guest))]
pub mod ioapic_state;
#[cfg(not(kvm_guest))]
pub mod ioapic_targets;
pub mod ioeventfd;
pub mod ipi;
pub mod irqfd;
pub mod irqfd_resample;
pub mod lapic;
pub mod lapic_timer_restored;
pub mod pit;
