//! Running the one program of the plan.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::Context as _;
use lab_init::{Plan, Report};

use crate::heartbeat::Heartbeat;
use crate::ports::Results;

/// Where standard error goes if it has no port.
const STDERR_PATH: &str = "/tmp/stderr";
/// As many lines of it are sent, from its end.
const NR_STDERR_LINES: usize = 40;

/// Runs the program to its end, its standard output going straight to the result port. Its standard
/// error follows at the end where there is no port for `errors`: on one wire the two would mix.
pub fn run(plan: &Plan, results: &mut Results, errors: Option<File>) -> anyhow::Result<Report> {
    let [program, arguments @ ..] = plan.argv.as_slice() else {
        anyhow::bail!("the plan names no program");
    };
    let mut command = Command::new(program);
    command.args(arguments).env_clear();
    command.env("PATH", "/bin:/sbin:/usr/bin").env("HOME", "/tmp").env("TERM", "linux");
    command.envs(plan.env.iter().map(|(name, value)| (name, value)));
    if !plan.interactive {
        command.stdin(Stdio::null()).stdout(results.file().try_clone()?);
        command.stderr(match errors {
            Some(port) => port,
            None => File::create(STDERR_PATH).context(STDERR_PATH)?,
        });
    }
    let mut child = command.spawn().with_context(|| program.clone())?;
    let heartbeat = match plan.interactive || results.on_console() {
        true => None, // The console is in use.
        false => Heartbeat::start().ok(),
    };
    let status = child.wait().with_context(|| program.clone())?;
    drop(heartbeat);
    let errors = fs::read(STDERR_PATH).unwrap_or_default();
    let errors = String::from_utf8_lossy(&errors);
    let lines: Vec<_> = errors.lines().collect();
    for line in &lines[lines.len().saturating_sub(NR_STDERR_LINES)..] {
        results.send(&[Report::Stderr((*line).to_owned())])?;
    }
    Ok(report(status))
}

fn report(status: ExitStatus) -> Report {
    match (status.code(), status.signal()) {
        (Some(code), _) => Report::Exited(code),
        (None, signal) => Report::Killed(signal.unwrap_or_default()),
    }
}
