//! Child processes that do not outlive the lab.

#![expect(unsafe_code, reason = "what happens between fork and exec has no safe interface")]

use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::error::{At as _, LabError, Result};
use crate::waiting::{self, Waiting};

/// How much of a failed program's output is shown.
const OUTPUT_TAIL_BYTES: usize = 2000;

/// How often a process that has only begun is looked at.
const YOUNG_LOOK: Duration = Duration::from_millis(2);

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

/// Runs a program to its end, with signs of life if it takes time; what is not redirected is returned.
pub fn output(
    command: &mut Command,
    mut waiting: Waiting,
    sign: impl Fn() -> String,
) -> std::io::Result<Output> {
    command.stdin(Stdio::null());
    std::thread::scope(|scope| {
        let runs = scope.spawn(|| command.output());
        while !runs.is_finished() {
            waiting.tick(&sign);
            std::thread::sleep(if waiting.is_young() { YOUNG_LOOK } else { waiting::LOOK });
        }
        runs.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs a helper program to its end and returns its standard output.
pub fn run(command: &mut Command, package: &str) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let verb = command
        .get_args()
        .map(|word| word.to_string_lossy())
        .find(|word| word.len() > 2 && word.chars().all(|c| c.is_ascii_lowercase()));
    let what = [Some(program.clone().into()), verb].into_iter().flatten().collect::<Vec<_>>();
    let waiting = Waiting::new(what.join(" "));
    let output = output(command, waiting, String::new).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            LabError::Missing { program: program.clone(), package: package.to_owned() }
        }
        _ => LabError::Io { path: PathBuf::from(&program), error },
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(LabError::Program { program, status: output.status.to_string(), output: reason(&text) })
}

/// What a program says of its failure: apt's own errors among all that it says, or the end.
fn reason(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let errors: Vec<&str> = text.lines().filter(|line| line.starts_with("E: ")).collect();
    if !errors.is_empty() {
        return errors.join("\n");
    }
    let tail = &output[output.len().saturating_sub(OUTPUT_TAIL_BYTES)..];
    String::from_utf8_lossy(tail).trim().to_owned()
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
    fn a_failure_is_told_by_its_errors() {
        let apt = b"Get:1 x\nE: Write error - write (28: No space left on device)\nReading lists\n";
        assert_eq!(reason(apt), "E: Write error - write (28: No space left on device)");
        assert_eq!(reason(b" what\n"), "what");
        let error = run(Command::new("sh").args(["-c", "echo E: no >&2; exit 3"]), "dash");
        assert!(error.unwrap_err().to_string().ends_with("(exit status: 3): E: no"));
    }

    #[test]
    fn a_thread_is_shown_with_its_time() {
        let stat = "17 (CPU 0/TCG) R 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 4 0 5 6 7";
        assert_eq!(thread(stat).as_deref(), Some("CPU 0/TCG R 2.00"));
        assert!(threads(std::process::id()).contains(' '));
    }
}
