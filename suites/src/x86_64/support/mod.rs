//! What several test files share; no tests stand here.

pub mod absent_pages;
pub mod ioapic_guest;
pub mod mmio_device;
