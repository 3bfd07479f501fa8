//! Hyper-V's interface.

pub mod hyperv_clock;
pub mod hyperv_connections;
pub mod hyperv_cpuid;
pub mod hyperv_features;
pub mod hyperv_ipi;
pub mod hyperv_sint;
pub mod hyperv_stimer;
pub mod hyperv_stimer_messages;
pub mod hyperv_synic;
pub mod hyperv_tlb_flush;
