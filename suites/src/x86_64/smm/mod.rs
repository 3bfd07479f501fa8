//! System management mode.

pub mod smm;
pub mod smm_events;
pub mod smm_leaving;
