//! The lab: an emulated host of any architecture, with any kernel, for one static runner.
//!
//! [`Profile::load`] reads a host from `ci/hosts`, [`Kernel::resolve`] finds a kernel for it, and
//! [`Lab::run`] boots both, runs the runner inside, hands its lines to a callback as they arrive,
//! and says how it ended ([`Outcome`]).

pub mod apt;
mod arch;
pub mod bench;
mod cache;
mod cpio;
mod emulator;
mod error;
mod initramfs;
pub mod interrupt;
pub mod kernel;
mod lab;
pub mod matrix;
pub mod nightly;
mod process;
mod profile;
pub mod remote;
mod room;
mod session;
pub mod setup;
mod shell;
pub mod toolchain;
mod warm;

pub use arch::Arch;
pub use cache::Cache;
pub use error::{LabError, Result};
pub use kernel::{Kernel, KernelSpec};
pub use lab::{Event, Lab, Outcome, Request};
pub use profile::{Emulator, Profile};
pub use shell::shell;
