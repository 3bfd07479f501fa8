//! What a run is asked for, what happens in it, and how it ends.

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::kernel::Kernel;
use crate::profile::Profile;

/// What to run, and on what.
#[derive(Clone, Debug)]
pub struct Request {
    /// The host.
    pub profile: Profile,
    /// Its kernel.
    pub kernel: Kernel,
    /// A static program of the host's architecture.
    pub runner: PathBuf,
    /// Its arguments.
    pub argv: Vec<String>,
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// More files to put into the host.
    pub files: Vec<(String, PathBuf)>,
    /// From the runner's start to its end; the host's boot has a limit of its own.
    pub timeout: Duration,
    /// How long the host may be silent before it counts as hanging: the runner beyond the deadlines
    /// of the tests that it has announced, the whole host at any time.
    pub patience: Duration,
    /// Where the kernel's console goes; nowhere if absent.
    pub console_log: Option<PathBuf>,
    /// Run the program without `/dev/kvm` too.
    pub kvm_optional: bool,
    /// Restore a snapshot of the booted host, which is taken when there is none, where the emulator
    /// can.
    pub warm: bool,
}

/// What happens while the host runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The host's init runs.
    Booted {
        /// From the start of the emulator, here.
        after: Duration,
        /// By the host's own clock.
        guest_ms: u64,
        /// `uname -r` of the host.
        release: &'a str,
    },
    /// A fact of the host, such as a module parameter.
    Fact(&'a str, &'a str),
    /// The runner starts now.
    Started {
        /// From the start of the emulator.
        after: Duration,
    },
    /// A line of the runner's standard output, without its newline.
    Line(&'a str),
    /// A line of the runner's standard error.
    Stderr(&'a str),
    /// A line of the kernel's console.
    Console(&'a str),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The runner ended by itself.
    Exited(i32),
    /// A signal ended the runner.
    Killed(i32),
    /// The host has no usable `/dev/kvm`.
    NoKvm(String),
    /// The host's kernel crashed; the lines so far are good.
    KernelDied {
        /// The console from the first sign of trouble.
        log: String,
    },
    /// The emulator died under a living host.
    EmulatorDied {
        /// Its exit status and what it printed.
        why: String,
        /// The end of the console.
        log: String,
    },
    /// The host hangs; the lines so far are good.
    Hung {
        /// Who was silent, and for how long.
        why: String,
        /// The end of the console, and the state of every vCPU as the emulator shows it.
        log: String,
    },
    /// The time was up.
    TimedOut {
        /// The end of the console.
        log: String,
    },
    /// The host's init could not do its work.
    HostFailed(String),
    /// A signal told the lab to stop; the lines so far are good.
    Interrupted(Signal),
}
