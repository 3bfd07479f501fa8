//! What the process of a command line does first.

use std::ffi::OsString;
use std::io::{ErrorKind, Write as _};

use clap::Parser;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{fstat, major, minor};

use crate::{MISUSE, exit_status};

/// Reads the command line. Where there is nothing more to do, because help was asked for or a word is
/// wrong, it gives the exit status.
///
/// # Errors
///
/// That status.
pub fn parse<T: Parser>() -> Result<T, u8> {
    keep_writing();
    T::try_parse().map_err(|error| {
        let lost = error.print().err().filter(|e| e.kind() != ErrorKind::BrokenPipe);
        if let Some(why) = &lost {
            let _ = writeln!(std::io::stderr(), "error: standard output: {why}");
        }
        match error.use_stderr() || lost.is_some() {
            true => exit_status(MISUSE, is_bisection(std::env::args_os())),
            false => 0,
        }
    })
}

/// A file that grows beyond what this user may write is an error of that output, not the end of the run.
fn keep_writing() {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGXFSZ);
    // What cannot be blocked ends the process, as it did.
    let _ = mask.thread_block();
}

/// Whether this process was started without a standard output. The standard library then opens
/// `/dev/null` there for reading and writing, as nobody does who wants to throw output away.
pub fn stdout_is_closed() -> bool {
    const NULL: (u64, u64) = (1, 3);
    let stdout = std::io::stdout();
    let flags = fcntl(&stdout, FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
    let device = fstat(&stdout).map(|file| (major(file.st_rdev), minor(file.st_rdev)));
    flags.is_ok_and(|flags| flags & OFlag::O_ACCMODE == OFlag::O_RDWR) && device == Ok(NULL)
}

/// Whether a command line that may be wrong asks for the statuses of `git bisect run`.
fn is_bisection(arguments: impl IntoIterator<Item = OsString>) -> bool {
    arguments.into_iter().take_while(|word| word != "--").any(|word| word == "--bisect")
}

/// The arguments, as they can be shown.
pub fn arguments() -> Vec<String> {
    std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect()
}

/// How the user calls the program, for hints: what the script that started it says, or its own name.
pub fn command() -> String {
    let own = || std::env::args_os().next().map(|word| word.to_string_lossy().into_owned());
    let script = std::env::var("KVM_CONFORMANCE_COMMAND").ok();
    script.or_else(own).unwrap_or_else(|| "kvm-conformance".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bisection_is_known_from_a_wrong_command_line() {
        let is = |line: &str| is_bisection(line.split(' ').map(OsString::from));
        assert!(is("run --bisect --nonsense"));
        assert!(!is("run --nonsense -- --bisect"));
    }
}
