//! KVM's own paravirtual interface.

pub mod async_pf;
pub mod async_pf_msrs;
pub mod dirty_log_pv;
pub mod kvmclock;
pub mod kvmclock_set;
pub mod pv_cpuid;
pub mod pv_eoi;
pub mod pv_ipi;
pub mod pv_tlb_flush;
pub mod steal_time;
