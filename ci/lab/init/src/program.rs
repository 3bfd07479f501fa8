//! Running the one program of the plan.

use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::Context as _;
use lab_init::{Plan, Report};

use crate::ports;

/// Runs the program to its end, its standard output going straight to the result port.
pub fn run(plan: &Plan, results: &File) -> anyhow::Result<Report> {
    let [program, arguments @ ..] = plan.argv.as_slice() else {
        anyhow::bail!("the plan names no program");
    };
    let mut command = Command::new(program);
    command.args(arguments).env_clear();
    command.env("PATH", "/bin:/sbin:/usr/bin").env("HOME", "/tmp").env("TERM", "linux");
    command.envs(plan.env.iter().map(|(name, value)| (name, value)));
    if !plan.interactive {
        command.stdin(Stdio::null()).stdout(results.try_clone()?);
        if let Some(port) = ports::open_stderr() {
            command.stderr(port);
        }
    }
    let status = command.status().with_context(|| program.clone())?;
    Ok(report(status))
}

fn report(status: ExitStatus) -> Report {
    match (status.code(), status.signal()) {
        (Some(code), _) => Report::Exited(code),
        (None, signal) => Report::Killed(signal.unwrap_or_default()),
    }
}
