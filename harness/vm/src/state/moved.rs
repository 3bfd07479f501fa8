//! A VM that goes on in fresh descriptors, under a test that does not know: the variant `moved`.
//!
//! Before each KVM_RUN but a vCPU's first, the run loop completes what the last exit left pending, saves the
//! VM, makes it again, and puts the new descriptors in the place of the old ones: under their numbers, and
//! `kvm_run` at its address. So everything that a test holds means the new VM.
#![expect(unsafe_code, reason = "puts new descriptors and mappings in the place of old ones")]

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use nix::errno::Errno;

use super::{Core, State, VcpuEntry};
use crate::failure::{Failure, TestResult};
use crate::{Ioctl, Irqfd, Ram, System, Vcpu, Vm, bindings, record};

static MOVING: AtomicBool = AtomicBool::new(false);
static MOVES: AtomicU64 = AtomicU64::new(0);

/// Runs a test's body with its VMs moved.
///
/// # Errors
///
/// The body's; a body under which nothing was moved is an error.
pub fn moved(body: impl FnOnce() -> TestResult) -> TestResult {
    MOVING.store(true, Ordering::SeqCst);
    let result = body();
    MOVING.store(false, Ordering::SeqCst);
    let moves = MOVES.swap(0, Ordering::SeqCst);
    record::log(format!("moved {moves} times"));
    if result.is_ok() && moves == 0 {
        return Err(Failure::Error("nothing was moved: no vCPU ran twice".into()));
    }
    result
}

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

/// Whether VMs are moved.
pub(crate) fn is_moving() -> bool {
    MOVING.load(Ordering::Relaxed)
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
    let state = State::of(core, ram, &mut twins.iter_mut().collect::<Vec<_>>())?;
    // With them the old VM would go on.
    drop(twins);
    let irqfds = std::mem::take(&mut core.inventory().irqfds);
    for irqfd in &irqfds {
        // An eventfd triggers one VM's interrupts at a time.
        let flags = bindings::KVM_IRQFD_FLAG_DEASSIGN;
        core.irqfd(Irqfd { flags, ..*irqfd }).ioctl("KVM_IRQFD(deassign)")?;
    }
    // KVM names a VM's directory in debugfs by the descriptor's number: not twice the same in a row.
    let _other_number = match MOVES.load(Ordering::SeqCst) % 2 {
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
    MOVES.fetch_add(1, Ordering::SeqCst);
    Ok(())
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
