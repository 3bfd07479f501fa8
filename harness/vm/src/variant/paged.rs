//! `paged`: the host takes RAM out of the page tables, and moves pages together, between exits.
#![expect(unsafe_code, reason = "changes the protection of guest memory and back")]

use std::ffi::c_void;

use super::{AtRest, Set, took_effect};
use crate::record;

/// Linux 6.1; older ones refuse it.
const MADV_COLLAPSE: libc::c_int = 25;

/// Unmaps all of RAM from KVM's tables (mmu notifiers), after moving what can be moved into huge pages.
pub(super) fn unmap(vm: &AtRest<'_>) {
    let mapping = vm.ram.mapping();
    let (base, len) = (mapping.hva() as *mut c_void, mapping.len());
    let advise = |advice| {
        // SAFETY: advice that keeps the bytes, on our own mapping.
        unsafe { libc::madvise(base, len, advice) }
    };
    for advice in [libc::MADV_HUGEPAGE, MADV_COLLAPSE, libc::MADV_NOHUGEPAGE, libc::MADV_PAGEOUT] {
        // What a host does not have it does not do.
        let _ = advise(advice);
    }
    let protect = |prot| {
        // SAFETY: our own mapping; no vCPU runs, and this thread does not touch it meanwhile.
        unsafe { libc::mprotect(base, len, prot) }
    };
    let gone = protect(libc::PROT_NONE);
    let back = protect(libc::PROT_READ | libc::PROT_WRITE);
    match (gone, back) {
        (0, 0) => took_effect(Set::PAGED),
        _ => record::log(format!("mprotect of RAM: {}", nix::errno::Errno::last())),
    }
}
