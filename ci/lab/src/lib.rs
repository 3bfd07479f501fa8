//! The lab: an emulated host of any architecture, with any kernel, for one static runner.
//!
//! [`Profile::load`] reads a host from `ci/hosts`, [`Kernel::resolve`] finds a kernel for it, and
//! [`Lab::run`] boots both, runs the runner inside, hands its lines to a callback as they arrive,
//! and returns how it ended ([`Outcome`]).

pub mod apt;
mod arch;
mod archive;
pub mod bench;
mod cache;
mod console;
mod emulator;
mod error;
mod initramfs;
pub mod interrupt;
pub mod kernel;
mod lab;
mod manifest;
pub mod matrix;
pub mod nightly;
mod process;
mod profile;
pub mod remote;
mod reserve;
mod run;
mod session;
pub mod setup;
mod shell;
mod silence;
mod snapshot;
pub mod toolchain;
mod waiting;

pub use arch::{Arch, tree_images};
pub use cache::Cache;
pub use error::{LabError, Result};
pub use kernel::{Kernel, KernelSpec};
pub use lab::Lab;
pub use process::find_program;
pub use profile::{EmulatorKind, Profile};
pub use run::{Event, Outcome, Request};
pub use shell::shell;
