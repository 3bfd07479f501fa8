//! What userspace lets a VM's guests have: MSR filters (api.rst 4.97) and PMU event filters (4.120).

use kvm_bindings::{KVM_MSR_FILTER_MAX_BITMAP_SIZE, kvm_msr_filter};
use nix::errno::Errno;

use crate::request::x86::{KVM_SET_PMU_EVENT_FILTER, KVM_X86_SET_MSR_FILTER};
use crate::{GuardedBuffer, Vm};

/// Bytes of `struct kvm_msr_filter`, of its header, and of a range.
const FILTER_BYTES: usize = size_of::<kvm_msr_filter>();
const HEADER_BYTES: usize = 8;
const RANGE_BYTES: usize = 24;

/// A range of an MSR filter; bit `i` of the bitmap allows MSR `base + i`.
#[derive(Clone, Debug)]
pub struct MsrRange {
    /// `KVM_MSR_FILTER_READ`, `KVM_MSR_FILTER_WRITE`.
    pub flags: u32,
    /// MSRs.
    pub nmsrs: u32,
    /// The first of them.
    pub base: u32,
    /// What is missing of it is zeroes.
    pub bitmap: Vec<u8>,
}

/// What KVM reads of a bitmap: whole 64-bit words.
pub fn bitmap_bytes(nmsrs: u32) -> usize {
    nmsrs.div_ceil(64) as usize * 8
}

impl Vm {
    /// `KVM_X86_SET_MSR_FILTER`; memory behind each bitmap is inaccessible.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn set_msr_filter(&self, flags: u32, ranges: &[MsrRange]) -> Result<(), Errno> {
        let most = 2 * KVM_MSR_FILTER_MAX_BITMAP_SIZE as usize;
        let buffer = |range: &MsrRange| {
            let mut bitmap = range.bitmap.clone();
            bitmap.resize(bitmap_bytes(range.nmsrs).min(most), 0);
            GuardedBuffer::new(&bitmap)
        };
        let bitmaps: Vec<GuardedBuffer> = ranges.iter().map(buffer).collect();
        let pointers: Vec<u64> = bitmaps.iter().map(GuardedBuffer::address).collect();
        self.set_msr_filter_at(flags, ranges, &pointers)?;
        self.core().inventory().arch.msr_filter = Some((flags, ranges.to_vec()));
        Ok(())
    }

    /// The same, with the bitmaps' addresses as they are: the kernel's to refuse.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn set_msr_filter_at(
        &self,
        flags: u32,
        ranges: &[MsrRange],
        pointers: &[u64],
    ) -> Result<(), Errno> {
        let mut bytes = [0; FILTER_BYTES];
        bytes[..4].copy_from_slice(&flags.to_ne_bytes());
        let slots = bytes[HEADER_BYTES..].chunks_mut(RANGE_BYTES);
        for ((slot, range), pointer) in slots.zip(ranges).zip(pointers) {
            slot[0..4].copy_from_slice(&range.flags.to_ne_bytes());
            slot[4..8].copy_from_slice(&range.nmsrs.to_ne_bytes());
            slot[8..12].copy_from_slice(&range.base.to_ne_bytes());
            slot[16..24].copy_from_slice(&pointer.to_ne_bytes());
        }
        self.raw(KVM_X86_SET_MSR_FILTER, &mut bytes).map(drop)
    }

    /// `KVM_SET_PMU_EVENT_FILTER` of a `struct kvm_pmu_event_filter` and its events.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn set_pmu_event_filter(&self, filter: &[u8]) -> Result<(), Errno> {
        self.raw(KVM_SET_PMU_EVENT_FILTER, &mut filter.to_vec())?;
        self.core().inventory().arch.pmu_event_filter = Some(filter.to_vec());
        Ok(())
    }
}
