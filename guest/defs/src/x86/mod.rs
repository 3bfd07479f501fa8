//! x86: Intel's Software Developer's Manual (SDM) and AMD's Architecture Programmer's Manual (APM), and
//! the interfaces that hypervisors offer to guests.

pub mod apic;
pub mod cpuid;
pub mod cr;
pub mod debug;
pub mod exception;
pub mod hyperv;
pub mod ioapic;
pub mod kvm_pv;
pub mod mce;
pub mod msr;
pub mod paging;
pub mod pic;
pub mod pit;
pub mod pmu;
pub mod rflags;
pub mod segment;
pub mod smm;
pub mod vmcb;
pub mod vmcs;
pub mod xsave;
