//! A VM that goes on in fresh descriptors, under a test that does not know: the variant `moved`.
//!
//! Before each KVM_RUN but a vCPU's first, the run loop completes what the last exit left pending, saves the
//! VM, makes it again, and puts the new descriptors in the place of the old ones: under their numbers, and
//! `kvm_run` at its address. So everything that a test holds means the new VM.
#![expect(unsafe_code, reason = "puts new descriptors and mappings in the place of old ones")]

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, OnceLock};

use nix::errno::Errno;

use super::{Core, State, VcpuEntry};
use crate::failure::{Failure, TestResult};
use crate::variant::{self, Set};
use crate::{Ioctl, Irqfd, Ram, System, Vcpu, Vm, bindings, record};

/// Where pieces of state are named, separated by commas, that moves leave out: to see twins notice.
const FORGET: &str = "KVM_CONFORMANCE_FORGET";

/// Whether a piece of state is kept.
pub(crate) fn keeps(piece: &str) -> bool {
    static FORGOTTEN: OnceLock<Vec<String>> = OnceLock::new();
    let forgotten = FORGOTTEN.get_or_init(|| {
        let names = std::env::var(FORGET).unwrap_or_default();
        names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
    });
    !forgotten.iter().any(|name| name == piece)
}

/// Moves a VM whose vCPUs are all out of KVM_RUN.
pub(crate) fn move_in_place(core: &Arc<Core>, ram: &Arc<Ram>) -> TestResult {
    let entries = core.inventory().vcpus.clone();
    let mut twins = Vec::new();
    for entry in &entries {
        let mut twin = Vcpu::twin(core, ram, entry)?;
        if entry.has_run {
            twin.complete_exit()?;
        }
        twins.push(twin);
    }
    let mut state = State::of(core, ram, &mut twins.iter_mut().collect::<Vec<_>>())?;
    // With them the old VM would go on.
    drop(twins);
    core.inventory().irqfds.retain(|irqfd| is_eventfd(irqfd.fd));
    state.inventory.irqfds.retain(|irqfd| is_eventfd(irqfd.fd));
    let irqfds = std::mem::take(&mut core.inventory().irqfds);
    for irqfd in &irqfds {
        // An eventfd triggers one VM's interrupts at a time.
        let flags = bindings::KVM_IRQFD_FLAG_DEASSIGN;
        core.irqfd(Irqfd { flags, ..*irqfd }).ioctl("KVM_IRQFD(deassign)")?;
    }
    // KVM names a VM's directory in debugfs by the descriptor's number: not twice the same in a row.
    let _other_number = match variant::effects(Set::MOVED) % 2 {
        0 => None,
        _ => File::open("/dev/null").ok(),
    };
    let (vm, mut vcpus) = Vm::restored(&state)?;
    let again = State::of(vm.core(), ram, &mut vcpus.iter_mut().collect::<Vec<_>>())?;
    let differences = state.differences(&again);
    record::check(
        "a restored VM's state reads back as it was saved",
        differences.is_empty(),
        differences.join("; "),
    );
    for (new, old) in vcpus.iter_mut().zip(&entries) {
        replace_vcpu(new, old)?;
    }
    let devices = core.inventory().devices.clone();
    for (new, old) in vm.core().inventory().devices.iter().zip(&devices) {
        replace(new.fd, old.fd)?;
    }
    replace(vm.as_raw_fd(), core.as_raw_fd())?;
    core.inventory().irqfds = irqfds;
    variant::took_effect(Set::MOVED);
    Ok(())
}

/// Whether a descriptor is an eventfd still: with the last one that is closed KVM drops its irqfds.
fn is_eventfd(fd: impl std::fmt::Display) -> bool {
    let target = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
    target.to_string_lossy().contains("[eventfd")
}

/// Makes `old` mean what `new` means.
fn replace(new: RawFd, old: RawFd) -> TestResult {
    // SAFETY: whoever owns `old` goes on to own a descriptor of that number, of the same kind.
    Errno::result(unsafe { libc::dup3(new, old, libc::O_CLOEXEC) })
        .map(drop)
        .map_err(|e| Failure::Error(format!("dup3: {e}")))
}

/// Puts a new vCPU in the place of the old one, with what userspace had written into its `kvm_run`.
fn replace_vcpu(new: &mut Vcpu, old: &VcpuEntry) -> TestResult {
    let size = System::get()?.vcpu_mmap_size();
    let (from, to) = (old.run as *const u8, std::ptr::from_mut(new.kvm_run()).cast::<u8>());
    // SAFETY: two mappings of that size, which do not overlap; no vCPU runs.
    unsafe { std::ptr::copy_nonoverlapping(from, to, size) };
    replace(new.as_raw_fd(), old.fd)?;
    let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_FIXED);
    // SAFETY: takes the place of the same mapping of the old vCPU; its owner cannot tell.
    let mapped = unsafe { libc::mmap(old.run as *mut _, size, prot, flags, old.fd, 0) };
    match mapped as usize == old.run {
        true => Ok(()),
        false => Err(Failure::Error(format!("mmap of kvm_run: {}", Errno::last()))),
    }
}
