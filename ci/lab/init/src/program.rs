//! Running the one program of the plan.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::Context as _;
use lab_init::{Plan, Report};

use crate::ports;

/// Where standard error goes if it has no port.
const STDERR_PATH: &str = "/tmp/stderr";
/// As many lines of it are told.
const NR_STDERR_LINES: usize = 40;

/// Runs the program to its end, its standard output going straight to the result port. What it said on
/// standard error follows, where there is no port for `errors`: on one line of wire the two would mix.
pub fn run(plan: &Plan, results: &mut File, errors: Option<File>) -> anyhow::Result<Report> {
    let [program, arguments @ ..] = plan.argv.as_slice() else {
        anyhow::bail!("the plan names no program");
    };
    let mut command = Command::new(program);
    command.args(arguments).env_clear();
    command.env("PATH", "/bin:/sbin:/usr/bin").env("HOME", "/tmp").env("TERM", "linux");
    command.envs(plan.env.iter().map(|(name, value)| (name, value)));
    if !plan.interactive {
        command.stdin(Stdio::null()).stdout(results.try_clone()?);
        command.stderr(match errors {
            Some(port) => port,
            None => File::create(STDERR_PATH).context(STDERR_PATH)?,
        });
    }
    let status = command.status().with_context(|| program.clone())?;
    let said = fs::read(STDERR_PATH).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<_> = said.lines().collect();
    for line in &lines[lines.len().saturating_sub(NR_STDERR_LINES)..] {
        ports::send(results, &Report::Stderr((*line).to_owned()))?;
    }
    Ok(report(status))
}

fn report(status: ExitStatus) -> Report {
    match (status.code(), status.signal()) {
        (Some(code), _) => Report::Exited(code),
        (None, signal) => Report::Killed(signal.unwrap_or_default()),
    }
}
