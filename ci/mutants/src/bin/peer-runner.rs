//! Runs other suites' programs on a host, one after the other, each within a deadline, and tells how
//! each ended: `start NAME`, then `end NAME HOW WHAT`, with tabs between.
//!
//! Its arguments are the deadline in seconds and a file, each line of which is a name and a command
//! line, with tabs between the words.

use std::fs::{self, File};
use std::io::Write as _;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Where a program's output goes.
const OUTPUT: &str = "/peer-output";
/// How often a program is asked whether it has ended.
const PAUSE: Duration = Duration::from_millis(5);
/// What the line before the reason says, where the Linux selftests give one.
const ASSERTION: &str = "Test Assertion Failure";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, seconds, plan] = &arguments[..] else {
        eprintln!("peer-runner SECONDS PLAN");
        return ExitCode::from(2);
    };
    let (Ok(seconds), Ok(plan)) = (seconds.parse(), fs::read_to_string(plan)) else {
        eprintln!("peer-runner: {seconds}, {plan}: no such number or file");
        return ExitCode::from(2);
    };
    for line in plan.lines() {
        let mut words = line.split('\t');
        let (Some(name), Some(program)) = (words.next(), words.next()) else { continue };
        tell(&format!("start\t{name}"));
        let mut command = Command::new(program);
        command.args(words);
        let how = run(command, Duration::from_secs(seconds)).unwrap_or_else(|e| e.to_string());
        tell(&format!("end\t{name}\t{how}\t{}", reason()));
    }
    ExitCode::SUCCESS
}

fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// How the program ended: an exit code, `signal N` or `timeout`.
fn run(mut command: Command, deadline: Duration) -> std::io::Result<String> {
    let output = File::create(OUTPUT)?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let mut child = command.spawn()?;
    let end = Instant::now() + deadline;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(match status.code() {
                Some(code) => code.to_string(),
                None => status.to_string(),
            });
        }
        if Instant::now() >= end {
            child.kill()?;
            child.wait()?;
            return Ok("timeout".to_owned());
        }
        std::thread::sleep(PAUSE);
    }
}

/// What the output gives as the reason: the line behind an assertion's header, else the last one.
fn reason() -> String {
    let output = fs::read(OUTPUT).unwrap_or_default();
    let output = String::from_utf8_lossy(&output);
    let lines: Vec<&str> = output.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let header = lines.iter().position(|line| line.contains(ASSERTION));
    let line = header.and_then(|at| lines.get(at + 1)).or(lines.last());
    line.map(|line| line.replace('\t', " ")).unwrap_or_default()
}
