//! From the first instruction to the guest function, and out again.

use core::sync::atomic::{AtomicU64, Ordering};

use guest_protocol::{MAGIC, PROTOCOL_VERSION, StartInfo};

use crate::{arch, ucall};

/// A guest function.
pub type EntryFn = fn(&mut Guest);

static RAM_SIZE: AtomicU64 = AtomicU64::new(0);

/// Bytes of RAM, from guest-physical 0.
pub fn ram_size() -> u64 {
    RAM_SIZE.load(Ordering::Relaxed)
}

/// A vCPU, as its guest function sees it.
#[derive(Debug)]
pub struct Guest {
    vcpu: u32,
    args: [u64; 6],
}

impl Guest {
    /// This vCPU's index, from 0.
    pub fn vcpu(&self) -> u32 {
        self.vcpu
    }

    /// Argument `index` that the host half gave ([`StartInfo::args`]).
    pub fn arg(&self, index: usize) -> u64 {
        self.args[index]
    }

    /// Bytes of RAM, from guest-physical 0.
    pub fn ram_size(&self) -> u64 {
        ram_size()
    }

    /// Stops until the host half runs this vCPU again. Returns the host's answer.
    pub fn sync(&mut self, stage: u64, args: &[u64]) -> [u64; ucall::SYNC_ARGS] {
        ucall::sync(stage, args)
    }
}

/// Where every vCPU arrives from the assembly entry.
///
/// # Safety
///
/// `info` must be this vCPU's [`StartInfo`], filled by the host, and `info.entry` an [`EntryFn`].
#[cfg_attr(not(kvm_guest), expect(dead_code, reason = "only the payload starts here"))]
#[expect(unsafe_code, reason = "turns the host's address into a function")]
pub(crate) unsafe extern "C" fn start(info: *const StartInfo) -> ! {
    // SAFETY: the caller passes the host's StartInfo.
    let info = unsafe { info.read_volatile() };
    if info.magic != MAGIC || info.version != PROTOCOL_VERSION {
        arch::ring_doorbell(guest_protocol::DOORBELL_BROKEN);
        arch::halt_forever();
    }
    RAM_SIZE.store(info.ram_size, Ordering::Relaxed);
    arch::init_cpu();
    // SAFETY: the host took the address from `guest_entries`, which holds only `EntryFn`s.
    let entry: EntryFn = unsafe { core::mem::transmute::<usize, EntryFn>(info.entry as usize) };
    entry(&mut Guest { vcpu: info.vcpu, args: info.args });
    ucall::done();
    arch::halt_forever();
}

#[cfg(kvm_guest)]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    ucall::abort(info);
    arch::halt_forever();
}
