//! Child processes that do not outlive the lab.

#![expect(unsafe_code, reason = "what happens between fork and exec has no safe interface")]

use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use crate::error::{At as _, LabError, Result};

/// How much of a failed program's output is shown.
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

/// A pipe: the end that we read, and the one for a child.
pub fn pipe() -> Result<(File, OwnedFd)> {
    let (ours, theirs) = std::io::pipe().at("pipe")?;
    Ok((File::from(OwnedFd::from(ours)), theirs.into()))
}

/// Runs a helper program to its end and returns its standard output.
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

/// The threads of a process: name, state, seconds of CPU time; what spins and what waits.
pub fn threads(pid: u32) -> String {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    stats.filter_map(|stat| thread(&stat)).collect::<Vec<_>>().join("\n")
}

/// `17 (CPU 0/TCG) R 1 …`: the 14th and 15th field are ticks in user and kernel mode.
fn thread(stat: &str) -> Option<String> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
    let fields: Vec<_> = rest.split(' ').collect();
    let ticks = |field: usize| fields.get(field)?.parse::<f64>().ok();
    let seconds = (ticks(11)? + ticks(12)?) / TICKS_PER_SECOND;
    Some(format!("{name} {} {seconds:.2}", fields.first()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_shown_with_its_time() {
        let stat = "17 (CPU 0/TCG) R 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 4 0 5 6 7";
        assert_eq!(thread(stat).as_deref(), Some("CPU 0/TCG R 2.00"));
        assert!(threads(std::process::id()).contains(' '));
    }
}
