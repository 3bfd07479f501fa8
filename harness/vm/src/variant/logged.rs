//! `logged`: every memslot has a dirty log, and a page that a run has changed must be in it.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::os::fd::AsRawFd;
use std::sync::{Mutex, PoisonError};

use guest_protocol::layout::PAGE_SIZE;
use kvm_bindings::{
    KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, kvm_userspace_memory_region,
};
use nix::errno::Errno;

use super::{AtRest, Set, took_effect};
use crate::dirty::DirtyBitmap;
use crate::failure::TestResult;
use crate::state::Core;
use crate::{Ioctl, Ram, record};

/// RAM before a run: whose, and a hash of each page.
static BEFORE: Mutex<Option<(i32, Vec<u64>)>> = Mutex::new(None);

/// Whether bitmaps are this VM's way of logging: not with rings.
pub(super) fn can_log(core: &Core) -> bool {
    let rings = [KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL];
    !core.inventory().caps.iter().any(|(cap, _)| rings.contains(cap))
}

fn hashes(ram: &Ram) -> Vec<u64> {
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    let mut page = [0; PAGE_SIZE as usize];
    let pages = (0..ram.mapping().len()).step_by(PAGE_SIZE as usize);
    pages
        .map(|at| {
            ram.mapping().read(at, &mut page);
            if page.iter().all(|byte| *byte == 0) { 0 } else { hasher.hash_one(page) }
        })
        .collect()
}

/// Memslots over RAM.
fn slots(vm: &AtRest<'_>) -> Vec<kvm_userspace_memory_region> {
    let (from, len) = (vm.ram.mapping().hva(), vm.ram.mapping().len() as u64);
    let slots = vm.core.inventory().slots.values().copied().collect::<Vec<_>>();
    slots.into_iter().filter(|slot| (from..from + len).contains(&slot.userspace_addr)).collect()
}

/// Takes all logs of RAM: numbers of its pages.
fn take(vm: &AtRest<'_>) -> TestResult<Vec<u64>> {
    let mut pages = Vec::new();
    for slot in slots(vm) {
        let mut log = DirtyBitmap::new(slot.slot, slot.memory_size / PAGE_SIZE);
        match log.get(&**vm.core) {
            // It was made before logging could be.
            Err(Errno::ENOENT) => continue,
            other => other.ioctl("KVM_GET_DIRTY_LOG")?,
        }
        let first = (slot.userspace_addr - vm.ram.mapping().hva()) / PAGE_SIZE;
        pages.extend(log.pages().into_iter().map(|page| first + page));
    }
    Ok(pages)
}

/// Before a run.
pub(super) fn begin(vm: &AtRest<'_>) -> TestResult {
    if !can_log(vm.core) {
        return Ok(());
    }
    take(vm)?;
    *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) =
        Some((vm.core.as_raw_fd(), hashes(vm.ram)));
    Ok(())
}

/// Behind a run: what it has changed and is not in the log is a failure.
pub(super) fn end(vm: &AtRest<'_>) -> TestResult {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some((_, before)) = before.filter(|(fd, _)| *fd == vm.core.as_raw_fd()) else {
        return Ok(());
    };
    let after = hashes(vm.ram);
    let logged = take(vm)?;
    let changed = before.iter().zip(&after).zip(0..).filter(|((was, is), _)| was != is);
    let missing: Vec<u64> =
        changed.map(|(_, page)| page).filter(|page| !logged.contains(page)).collect();
    record::check(
        "a page that a run has changed is in the dirty log",
        missing.is_empty(),
        format!("pages {missing:#x?}"),
    );
    took_effect(Set::LOGGED);
    Ok(())
}
