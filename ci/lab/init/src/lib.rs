//! What the lab and the init of an emulated host write to each other.
//!
//! The lab puts a [`Plan`] into the initramfs; the init carries it out and sends [`Report`]s over
//! the result port, between which the runner's own lines pass untouched.

#![forbid(unsafe_code)]

mod plan;
mod report;
mod reserve;
mod wire;

pub use plan::{Module, Plan, Resume};
pub use report::Report;
pub use reserve::{RESERVE_BYTES, RESERVE_PAGE, StoredFile, mark, marked_page};
pub use wire::{Wire, is_whole};

/// Where the plan stands in the initramfs.
pub const PLAN_PATH: &str = "/lab/plan";
/// The folder of a host's own programs; a restored host has huge pages under it.
pub const STORE: &str = "/store";
/// Where the runner is, in [`STORE`].
pub const RUNNER_PATH: &str = "/store/runner";
/// The virtio port that carries result lines.
pub const RESULT_PORT: &str = "lab.results";
/// The virtio port that carries the runner's standard error.
pub const STDERR_PORT: &str = "lab.stderr";
