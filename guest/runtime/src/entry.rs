//! From the first instruction to the guest function, and out again.

use guest_protocol::layout::vcpu_area;
use guest_protocol::{MAGIC, PROTOCOL_VERSION, StartInfo};

use crate::context::Context;
use crate::{arch, ucall};

/// A guest function.
pub type EntryFn = fn(&mut Guest);

/// Bytes of RAM, from guest-physical 0.
pub fn ram_size() -> u64 {
    Context::current().info().ram_size
}

impl Context {
    /// Makes the caller's vCPU run it from the start of `f` next: no handler is installed any more.
    pub fn set_entry(self, f: EntryFn, args: [u64; 6]) {
        let vcpu = Self::current().vcpu();
        self.put(StartInfo { entry: f as usize as u64, vcpu, args, ..self.info() });
        self.set_word(vcpu_area::HANDLERS, 0);
    }
}

/// A context, as its guest function sees it.
#[derive(Debug)]
pub struct Guest {
    context: Context,
    vcpu: u32,
    args: [u64; 6],
}

impl Guest {
    /// This vCPU's index, from 0.
    pub fn vcpu(&self) -> u32 {
        self.vcpu
    }

    /// The level of this context: 1, or deeper if a hypervisor of ours started it.
    pub fn level(&self) -> u32 {
        self.context.level()
    }

    /// Argument `index` that the host half or the hypervisor gave ([`StartInfo::args`]).
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
#[expect(unsafe_code, reason = "passes the host's promise on")]
pub(crate) unsafe extern "C" fn start(info: *const StartInfo) -> ! {
    // SAFETY: the caller passes the host's StartInfo.
    let StartInfo { magic, version, .. } = unsafe { info.read_volatile() };
    if magic != MAGIC || version != PROTOCOL_VERSION {
        arch::ring_doorbell(guest_protocol::DOORBELL_BROKEN);
        arch::halt_forever();
    }
    arch::init_cpu();
    // SAFETY: as above.
    unsafe { run(info) };
    ucall::done();
    arch::halt_forever();
}

/// Runs the context's guest function, and comes back when that has returned.
///
/// # Safety
///
/// `info` must be the running context's [`StartInfo`], and `info.entry` an [`EntryFn`].
#[expect(unsafe_code, reason = "turns an address into a function")]
pub(crate) unsafe extern "C" fn run(info: *const StartInfo) {
    // SAFETY: the caller's promise.
    let info = unsafe { info.read_volatile() };
    // A vCPU that starts anew has lost the calls that its handlers were installed by.
    let context = Context::current();
    context.set_word(vcpu_area::HANDLERS, 0);
    // SAFETY: the host took the address from `guest_entries`, which holds only `EntryFn`s, as
    // `Context::set_entry` takes one.
    let entry: EntryFn = unsafe { core::mem::transmute::<usize, EntryFn>(info.entry as usize) };
    entry(&mut Guest { context, vcpu: info.vcpu, args: info.args });
}

#[cfg(kvm_guest)]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    ucall::abort(info);
    arch::halt_forever();
}
