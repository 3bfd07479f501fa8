//! The processor's registers, exceptions and features, and userspace's view of them.

pub mod amd_msrs;
pub mod cpuid_sync;
pub mod debugregs;
pub mod insn_rows;
pub mod mce;
pub mod mce_ucna;
pub mod modes;
pub mod mp_state;
pub mod msr_lists;
pub mod registers;
pub mod split_lock;
pub mod sregs;
pub mod svm_instructions;
pub mod sync_regs;
pub mod traps;
pub mod vcpu_events;
pub mod xsave;
pub mod xsave_cpuid;
