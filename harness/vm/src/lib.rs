//! The VM library: typed wrappers over KVM's file descriptors, the payload, the run loop, fixtures and
//! requirements. The only crate of the host side, `kvm-uapi` apart, that needs `unsafe` for KVM.

// Where the usual crates do not know the architecture, ours stands in under their names.
#[cfg(any(target_arch = "s390x", target_arch = "powerpc64"))]
#[doc(hidden)]
pub extern crate kvm_uapi as kvm_bindings;
#[cfg(any(target_arch = "s390x", target_arch = "powerpc64"))]
#[doc(hidden)]
pub extern crate kvm_uapi as kvm_ioctls;

pub mod arch;
#[cfg(not(any(target_arch = "riscv64", target_arch = "powerpc64")))]
mod attribute;
pub mod case;
mod config;
mod context;
mod counters;
mod dirty;
mod event;
mod exit;
pub mod facts;
pub mod failure;
pub mod fixture;
mod guarded;
mod hugepage;
mod irqfd;
mod kept;
mod last_words;
mod memory;
mod memory_left;
mod module;
pub mod payload;
pub mod perf;
pub mod quirks;
pub mod record;
pub mod request;
pub mod requirement;
mod run;
mod sigbus;
pub mod state;
mod stats;
mod system;
mod together;
mod uffd;
pub mod variant;
mod vcpu;
mod vm;
mod waited;
mod watchdog;

pub use config::{Capability, Irqchip, VmConfig};
pub use dirty::{
    DirtyBitmap, DirtyGfn, DirtyRing, KVM_DIRTY_GFN_F_DIRTY, KVM_DIRTY_GFN_F_RESET, bitmap,
    set_bits,
};
pub use event::{Event, eventually};
pub use exit::{Exit, ExitMatch, InternalError, IoDirection};
pub use guarded::{GuardedBuffer, raw_ioctl, raw_ioctl_fd, raw_ioctl_value, raw_ioctl_value_fd};
pub use hugepage::{Backing, huge_page_size};
pub use irqfd::{IoEventfd, Irqfd, Route};
pub use kept::{keep_open, kept};
pub use kvm_bindings as bindings;
pub(crate) use last_words::ProgramCounter;
pub use last_words::install as install_last_words;
#[doc(hidden)]
pub use linkme;
pub use memory::{Mapping, Ram};
pub use memory_left::memory_left;
pub use module::Module;
pub use payload::code_bytes;
pub use run::{Message, Next, Stop};
pub use sigbus::AlignmentSignals;
pub use state::State;
pub use system::{KvmUnusable, System};
pub use together::{Thread, Together, run_together, together};
pub use uffd::{FaultMode, Userfault, shared_twins};
pub use vcpu::Vcpu;
pub use vm::{SharedStatic, Vm};
pub use waited::{Patience, run_delay};
pub use watchdog::install as install_watchdog;
pub use watchdog::told as told_at_deadline;

pub use requirement::{cap, cpu, host};

/// Every test that is linked into this program.
#[linkme::distributed_slice]
pub static TESTS: [case::TestCase];

/// Reports a named check: `check!("rule in words", condition)`, with what was seen as an optional
/// format string behind it. Says whether it held.
#[macro_export]
macro_rules! check {
    ($name:literal, $cond:expr $(,)?) => {
        $crate::check!($name, $cond, "{}", stringify!($cond))
    };
    ($name:literal, $cond:expr, $($detail:tt)+) => {{
        let pass: bool = $cond;
        let detail = if pass {
            String::new()
        } else {
            format!("{}:{}: {}", file!(), line!(), format_args!($($detail)+))
        };
        $crate::record::check(&format!($name), pass, &detail);
        pass
    }};
}

/// Like [`check!`], for two values that must be equal: `check_eq!("rule", got, want)`.
#[macro_export]
macro_rules! check_eq {
    ($name:literal, $got:expr, $want:expr $(,)?) => {{
        let (got, want) = (&$got, &$want);
        $crate::check!(
            $name,
            got == want,
            "{}: got {:x?}, want {:x?} (hex)",
            stringify!($got),
            got,
            want
        )
    }};
}

/// Ends the test as failed: KVM is wrong.
#[macro_export]
macro_rules! fail {
    ($($arg:tt)+) => {
        return Err($crate::failure::Failure::Fail(format!("{}:{}: {}", file!(), line!(), format_args!($($arg)+))))
    };
}

/// Ends the test as skipped: the text names what is missing.
#[macro_export]
macro_rules! skip {
    ($($arg:tt)+) => { return Err($crate::failure::Failure::Skip(format!($($arg)+))) };
}

/// Skips the test unless a requirement that only shows late is met: `require!(condition, "name")`.
#[macro_export]
macro_rules! require {
    ($cond:expr, $($name:tt)+) => {
        if !$cond {
            $crate::skip!($($name)+);
        }
    };
}

/// Writes a line to the test's log.
#[macro_export]
macro_rules! log {
    ($($arg:tt)+) => { $crate::record::log(&format!($($arg)+)) };
}

/// Names a `#[guest]` function.
#[macro_export]
macro_rules! guest_fn {
    ($name:path) => {
        $crate::case::GuestFn { name: <$name as $crate::case::InPayload>::PATH }
    };
}

/// Names a `#[shared]` static.
#[macro_export]
macro_rules! shared_static {
    ($name:path) => {
        $crate::SharedStatic::new(<$name as $crate::case::InPayload>::PATH, &$name)
    };
}

#[doc(hidden)]
pub use guest_runtime;

use nix::errno::Errno;

use crate::failure::Failure;

/// An ioctl that should have worked did not: KVM is wrong, unless the errno says that the host ran
/// out of something, or that the deadline's signal cut it off.
pub fn unexpected_errno(what: &str, errno: i32) -> Failure {
    let name = Errno::from_raw(errno);
    let message = format!("{what}: unexpected {name:?} ({})", name.desc());
    match errno {
        libc::EINTR if watchdog::expired() => {
            Failure::Timeout(format!("{what}: the deadline has passed"))
        }
        libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::EAGAIN => Failure::Error(message),
        _ => Failure::Fail(message),
    }
}

/// What a test makes of the result of an ioctl.
pub trait Ioctl<T> {
    /// For one that must succeed: its name in the failure if it does not.
    ///
    /// # Errors
    ///
    /// The ioctl's own error, as [`unexpected_errno`] sees it.
    fn ioctl(self, what: &str) -> Result<T, Failure>;

    /// For one that a test expects to fail.
    ///
    /// # Errors
    ///
    /// The errno.
    fn errno(self) -> Result<T, Errno>;
}

impl<T> Ioctl<T> for Result<T, kvm_ioctls::Error> {
    fn ioctl(self, what: &str) -> Result<T, Failure> {
        self.map_err(|e| unexpected_errno(what, e.errno()))
    }

    fn errno(self) -> Result<T, Errno> {
        self.map_err(|e| Errno::from_raw(e.errno()))
    }
}

impl<T> Ioctl<T> for Result<T, Errno> {
    fn ioctl(self, what: &str) -> Result<T, Failure> {
        self.map_err(|e| unexpected_errno(what, e as i32))
    }

    fn errno(self) -> Result<T, Errno> {
        self
    }
}
