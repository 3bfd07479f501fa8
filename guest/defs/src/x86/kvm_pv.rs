//! KVM's paravirtual interface (Documentation/virt/kvm/x86/{cpuid,msr,hypercalls}.rst; asm/kvm_para.h,
//! linux/kvm_para.h, asm/pvclock-abi.h).
#![expect(missing_docs, reason = "the headers' names")]

use bitflags::bitflags;

/// Leaves of CPUID, where a hypervisor's begin by default.
pub mod leaf {
    use crate::x86::cpuid::leaf::HYPERVISOR;

    /// KVM_CPUID_SIGNATURE.
    pub const SIGNATURE: u32 = HYPERVISOR;
    /// KVM_CPUID_FEATURES.
    pub const FEATURES: u32 = HYPERVISOR + 1;
}

bitflags! {
    /// KVM_CPUID_FEATURES.EAX: KVM_FEATURE_*.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u32 {
        const CLOCKSOURCE = 1 << 0;
        const CLOCKSOURCE2 = 1 << 3;
        const ASYNC_PF = 1 << 4;
        const STEAL_TIME = 1 << 5;
        const PV_EOI = 1 << 6;
        const PV_UNHALT = 1 << 7;
        const PV_TLB_FLUSH = 1 << 9;
        const ASYNC_PF_VMEXIT = 1 << 10;
        const PV_SEND_IPI = 1 << 11;
        const POLL_CONTROL = 1 << 12;
        const PV_SCHED_YIELD = 1 << 13;
        const ASYNC_PF_INT = 1 << 14;
    }

    /// MSR_KVM_ASYNC_PF_EN: KVM_ASYNC_PF_*.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct AsyncPf: u64 {
        const ENABLED = 1 << 0;
        const SEND_ALWAYS = 1 << 1;
        const DELIVERY_AS_PF_VMEXIT = 1 << 2;
        const DELIVERY_AS_INT = 1 << 3;
    }

    /// `preempted` of [`KvmStealTime`]: KVM_VCPU_*.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct VcpuPreempted: u8 {
        const PREEMPTED = 1 << 0;
        const FLUSH_TLB = 1 << 1;
    }

    /// `flags` of [`PvclockVcpuTimeInfo`]: PVCLOCK_*.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PvclockFlags: u8 {
        const TSC_STABLE_BIT = 1 << 0;
        const GUEST_STOPPED = 1 << 1;
    }
}

pub const MSR_KVM_WALL_CLOCK: u32 = 0x11;
pub const MSR_KVM_SYSTEM_TIME: u32 = 0x12;
pub const MSR_KVM_WALL_CLOCK_NEW: u32 = 0x4b56_4d00;
pub const MSR_KVM_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
pub const MSR_KVM_ASYNC_PF_EN: u32 = 0x4b56_4d02;
pub const MSR_KVM_STEAL_TIME: u32 = 0x4b56_4d03;
pub const MSR_KVM_PV_EOI_EN: u32 = 0x4b56_4d04;
pub const MSR_KVM_POLL_CONTROL: u32 = 0x4b56_4d05;
pub const MSR_KVM_ASYNC_PF_INT: u32 = 0x4b56_4d06;
pub const MSR_KVM_ASYNC_PF_ACK: u32 = 0x4b56_4d07;

/// KVM_MSR_ENABLED: bit 0 of the MSRs that give memory to KVM.
pub const KVM_MSR_ENABLED: u64 = 1;

pub const KVM_HC_VAPIC_POLL_IRQ: u64 = 1;
pub const KVM_HC_KICK_CPU: u64 = 5;
pub const KVM_HC_SEND_IPI: u64 = 10;
pub const KVM_HC_SCHED_YIELD: u64 = 11;
pub const KVM_HC_MAP_GPA_RANGE: u64 = 12;

/// KVM_HC_MAP_GPA_RANGE: pages of 2 MiB.
pub const KVM_MAP_GPA_RANGE_PAGE_SZ_2M: u64 = 1 << 0;
/// KVM_HC_MAP_GPA_RANGE: the memory is encrypted.
pub const KVM_MAP_GPA_RANGE_ENCRYPTED: u64 = 1 << 4;

/// Results of hypercalls: RAX is one of these, negative.
pub mod error {
    pub const KVM_EPERM: u64 = (-1_i64).cast_unsigned();
    pub const KVM_EINVAL: u64 = (-22_i64).cast_unsigned();
    pub const KVM_ENOSYS: u64 = (-1000_i64).cast_unsigned();
}

/// The clock page (`struct pvclock_vcpu_time_info`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PvclockVcpuTimeInfo {
    pub version: u32,
    pub pad0: u32,
    pub tsc_timestamp: u64,
    pub system_time: u64,
    pub tsc_to_system_mul: u32,
    pub tsc_shift: i8,
    pub flags: u8,
    pub pad: [u8; 2],
}

impl PvclockVcpuTimeInfo {
    /// Nanoseconds at TSC value `tsc`.
    pub const fn time_at(&self, tsc: u64) -> u64 {
        let delta = tsc.wrapping_sub(self.tsc_timestamp);
        let delta =
            if self.tsc_shift >= 0 { delta << self.tsc_shift } else { delta >> -self.tsc_shift };
        let ns = (delta as u128 * self.tsc_to_system_mul as u128) >> 32;
        self.system_time.wrapping_add(ns as u64)
    }
}

/// The wall clock (`struct pvclock_wall_clock`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PvclockWallClock {
    pub version: u32,
    pub sec: u32,
    pub nsec: u32,
}

/// `struct kvm_steal_time`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct KvmStealTime {
    pub steal: u64,
    pub version: u32,
    pub flags: u32,
    pub preempted: u8,
    pub u8_pad: [u8; 3],
    pub pad: [u32; 11],
}

/// `struct kvm_vcpu_pv_apf_data`, as far as KVM writes it: what follows is padding up to 64 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct KvmVcpuPvApfData {
    pub flags: u32,
    pub token: u32,
}

/// Bytes of `struct kvm_vcpu_pv_apf_data` without its own `enabled`, and its alignment.
pub const APF_DATA_SIZE: u64 = 64;

/// `flags` of [`KvmVcpuPvApfData`]: KVM_PV_REASON_PAGE_NOT_PRESENT.
pub const KVM_PV_REASON_PAGE_NOT_PRESENT: u32 = 1;

/// The token of a page that may be anybody's: KVM has forgotten who waits.
pub const APF_WAKE_ALL: u32 = !0;

/// The word at MSR_KVM_PV_EOI_EN: KVM_PV_EOI_MASK, no EOI is needed.
pub const KVM_PV_EOI_MASK: u32 = 1;
