//! Child processes that do not outlive the lab.

#![expect(unsafe_code, reason = "what happens between fork and exec has no safe interface")]

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use crate::error::{LabError, Result};

/// How much of a failed program's output is told.
const OUTPUT_TAIL_BYTES: usize = 2000;

/// Starts a program that is killed when this thread dies, with the given descriptors open in it
/// under their present numbers. Unless it is for a person, it gets a process group of its own, out
/// of the terminal's reach.
pub fn spawn(
    command: &mut Command,
    inherit: &[OwnedFd],
    interactive: bool,
) -> std::io::Result<Child> {
    let numbers: Vec<_> = inherit.iter().map(OwnedFd::as_raw_fd).collect();
    let parent = nix::unistd::getpid();
    let prepare = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        if nix::unistd::getppid() != parent {
            return Err(std::io::Error::other("the lab died"));
        }
        for &number in &numbers {
            // SAFETY: fcntl takes any number, and the descriptors are open until spawn returns.
            if unsafe { libc::fcntl(number, libc::F_SETFD, 0) } < 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    if !interactive {
        command.process_group(0);
    }
    // SAFETY: the closure makes only system calls that are safe between fork and exec; it
    // allocates only on its way to an error.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}

/// Runs a helper program to its end and gives back its standard output.
pub fn run(command: &mut Command, package: &str) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            LabError::Missing { program: program.clone(), package: package.to_owned() }
        }
        _ => LabError::Io { path: PathBuf::from(&program), error },
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = [output.stdout, output.stderr].concat();
    let tail = &text[text.len().saturating_sub(OUTPUT_TAIL_BYTES)..];
    Err(LabError::Program {
        program,
        status: output.status.to_string(),
        output: String::from_utf8_lossy(tail).trim().to_owned(),
    })
}

/// The program's path, if it is installed.
#[must_use]
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file())
}
