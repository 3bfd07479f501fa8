//! `slots`: RAM in many memslots. `shuffled`: memslots that go and come back.

use kvm_bindings::kvm_userspace_memory_region;
use nix::errno::Errno;

use super::{AtRest, Set, took_effect};
use crate::failure::TestResult;
use crate::state::Core;
use crate::{Ioctl, arch};

/// Ends of the pieces, in units of the smallest slot; the rest is one more.
const CUTS: [u64; 9] = [1, 3, 8, 19, 257, 259, 600, 1024, 1031];

/// Where a region of that many bytes is cut: offsets and lengths.
fn pieces(size: u64) -> Vec<(u64, u64)> {
    let unit = arch::SLOT_ALIGNMENT.map_or(guest_protocol::layout::PAGE_SIZE, |bytes| bytes as u64);
    let ends = CUTS.iter().map(|units| units * unit).filter(|end| *end < size).chain([size]);
    let mut from = 0;
    ends.map(|end| {
        let piece = (from, end - from);
        from = end;
        piece
    })
    .collect()
}

/// Sets, changes or deletes the memslots that a region is cut into. The first has the number that was asked
/// for, the others the last numbers there are.
pub(crate) fn set_cut_region(
    core: &Core,
    region: kvm_userspace_memory_region,
) -> Result<(), Errno> {
    let set = |region| core.set_region(region);
    let most = core.fd.check_extension_raw(kvm_bindings::KVM_CAP_NR_MEMSLOTS.into());
    let number = |nth: u32| if nth == 0 { 0 } else { most.max(64) as u32 - nth };
    if region.memory_size == 0 {
        let theirs: Vec<u32> = (0..=CUTS.len() as u32).map(number).collect();
        let here: Vec<u32> =
            theirs.into_iter().filter(|n| core.inventory().slots.contains_key(n)).collect();
        if here.is_empty() {
            return set(region);
        }
        return here
            .into_iter()
            .try_for_each(|slot| set(kvm_userspace_memory_region { slot, ..region }));
    }
    for ((offset, memory_size), nth) in pieces(region.memory_size).into_iter().zip(0..) {
        set(kvm_userspace_memory_region {
            slot: number(nth),
            guest_phys_addr: region.guest_phys_addr.wrapping_add(offset),
            userspace_addr: region.userspace_addr.wrapping_add(offset),
            memory_size,
            ..region
        })?;
        if nth > 0 {
            took_effect(Set::SLOTS);
        }
    }
    Ok(())
}

/// Deletes all memslots, and makes them again in the opposite order.
pub(super) fn shuffle(vm: &AtRest<'_>) -> TestResult {
    let slots: Vec<_> = vm.core.inventory().slots.values().copied().collect();
    for slot in &slots {
        vm.core
            .set_region(kvm_userspace_memory_region { memory_size: 0, ..*slot })
            .ioctl("KVM_SET_USER_MEMORY_REGION to delete")?;
    }
    for slot in slots.iter().rev() {
        vm.core.set_region(*slot).ioctl("KVM_SET_USER_MEMORY_REGION again")?;
        took_effect(Set::SHUFFLED);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_region_without_gaps() {
        for size in [1 << 12, 5 << 12, 16 << 20, 17 << 20] {
            let pieces = pieces(size);
            let end = pieces.iter().fold(0, |end, (from, len)| {
                assert!(*from == end && *len > 0);
                from + len
            });
            assert_eq!(end, size);
        }
    }
}
