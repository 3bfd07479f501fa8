//! Hyper-V's interface, which KVM offers too (Hyper-V Hypervisor Top-Level Functional Specification, TLFS). Names are
//! the specification's without their prefix: `msr::SIMP` is HV_X64_MSR_SIMP, `code::SEND_IPI` is
//! HVCALL_SEND_IPI, `status::ACCESS_DENIED` is HV_STATUS_ACCESS_DENIED.

pub mod cpuid;
mod hypercall;
pub mod msr;
pub mod sint;
pub mod stimer;

pub use hypercall::*;
pub use msr::ENABLE;

/// The reference TSC page (`HV_REFERENCE_TSC_PAGE`; TLFS, "Reference TSC").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "the specification names and explains the fields")]
pub struct ReferenceTscPage {
    pub tsc_sequence: u32,
    pub reserved1: u32,
    pub tsc_scale: u64,
    pub tsc_offset: i64,
}

impl ReferenceTscPage {
    /// Reference time (units of 100 ns) at TSC value `tsc`.
    pub const fn time_at(&self, tsc: u64) -> u64 {
        let ticks = (tsc as u128 * self.tsc_scale as u128) >> 64;
        (ticks as u64).wrapping_add_signed(self.tsc_offset)
    }
}

/// Units of reference time in a second.
pub const REFERENCE_TIME_HZ: u64 = 10_000_000;
