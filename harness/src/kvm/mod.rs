//! Typed wrappers over KVM's file descriptors. With `arch`, the only place of the host side that
//! needs `unsafe`.

mod dirty;
mod event;
mod exit;
mod guarded;
mod hugepage;
mod irqfd;
mod last_words;
mod memory;
mod module;
pub mod request;
mod run;
mod stats;
mod system;
mod uffd;
mod vcpu;
mod vm;
mod watchdog;

pub use dirty::{
    DirtyBitmap, DirtyGfn, DirtyRing, KVM_DIRTY_GFN_F_DIRTY, KVM_DIRTY_GFN_F_RESET, bitmap,
    set_bits,
};
pub use event::{Event, eventually};
pub use exit::{Exit, ExitMatch, InternalError, IoDirection};
pub use guarded::{GuardedBuffer, raw_ioctl, raw_ioctl_fd, raw_ioctl_value, raw_ioctl_value_fd};
pub use hugepage::{Backing, huge_page_size};
pub use irqfd::{IoEventfd, Irqfd, Route};
pub use kvm_bindings as bindings;
pub(crate) use last_words::ProgramCounter;
pub use last_words::install as install_last_words;
pub use memory::{Mapping, Ram};
pub use module::Module;
pub use run::{Message, Next, Stop};
pub use system::{KvmUnusable, System};
pub use uffd::{FaultMode, Userfault, shared_twins};
pub use vcpu::Vcpu;
pub use vm::{Irqchip, SharedStatic, Vm, VmShape};
pub use watchdog::install as install_watchdog;
pub(crate) use watchdog::told as told_at_deadline;

use crate::outcome::Failure;

/// An ioctl that should have worked did not: KVM is wrong, unless the errno says that the host ran
/// out of something, or that the deadline's signal cut it off.
pub fn unexpected_errno(what: &str, errno: i32) -> Failure {
    let name = nix::errno::Errno::from_raw(errno);
    let message = format!("{what}: unexpected {name:?} ({})", name.desc());
    match errno {
        libc::EINTR if watchdog::expired() => {
            Failure::Timeout(format!("{what}: the deadline has passed"))
        }
        libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::EAGAIN => Failure::Error(message),
        _ => Failure::Fail(message),
    }
}

/// `?` for results of kvm-ioctls, with the ioctl's name in the failure.
pub trait Ioctl<T> {
    /// Names the ioctl.
    ///
    /// # Errors
    ///
    /// The ioctl's own error, as [`unexpected_errno`] sees it.
    fn ioctl(self, what: &str) -> Result<T, Failure>;
}

impl<T> Ioctl<T> for Result<T, kvm_ioctls::Error> {
    fn ioctl(self, what: &str) -> Result<T, Failure> {
        self.map_err(|e| unexpected_errno(what, e.errno()))
    }
}

impl<T> Ioctl<T> for Result<T, nix::errno::Errno> {
    fn ioctl(self, what: &str) -> Result<T, Failure> {
        self.map_err(|e| unexpected_errno(what, e as i32))
    }
}
