//! QEMU's control protocol, as far as snapshots and a look at a hanging host need it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::machine::Control;
use crate::error::{At as _, LabError, Result};

/// How long a snapshot may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Lines of the answer that say nothing about a hang.
const VECTOR_REGISTERS: [&str; 10] =
    ["FCW", "FPR", "FFR", "XMM", "YMM", "Opmask", "Q", "Z", "P0", "P1"];
/// How long the monitor may take to answer about a hanging host.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// What errors of the channel are named after.
const CHANNEL: &str = "control channel";
/// The saved host's devices and processors.
const STATE_FILE: &str = "state";
/// What the monitor is asked about a hanging host.
const STATE_COMMANDS: [&str; 2] = ["info cpus", "info registers -a"];

/// A control channel.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
    ready: bool,
}

impl Qmp {
    /// Takes over a fresh channel; nothing is said on it before it is needed.
    pub fn new(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(PATIENCE)).at(CHANNEL)?;
        Ok(Self { stream: BufReader::new(stream), ready: false })
    }

    /// Waits until QEMU answers, and prepares it for a snapshot.
    pub fn prepare_snapshot(&mut self) -> Result<()> {
        // The memory is a file already: only the rest goes into the snapshot.
        let capabilities = json!([{ "capability": "x-ignore-shared", "state": true }]);
        self.execute("migrate-set-capabilities", &json!({ "capabilities": capabilities }))?;
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let state = self.execute("query-migrate", &json!({}))?;
            match state["status"].as_str() {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => {
                    return Err(LabError::Other(format!("snapshot: {state}")));
                }
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        Err(LabError::Other("snapshot: it took too long".into()))
    }

    fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        if !self.ready {
            self.message()?;
            self.ready = true;
            self.execute("qmp_capabilities", &json!({}))?;
        }
        // As one piece: QEMU wakes up for each.
        let request = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        self.stream.get_mut().write_all(request.as_bytes()).at(CHANNEL)?;
        loop {
            let message = self.message()?;
            if let Some(answer) = message.get("return") {
                return Ok(answer.clone());
            }
            if let Some(error) = message.get("error") {
                return Err(LabError::Other(format!("QEMU refused {command}: {error}")));
            }
        }
    }

    fn message(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).at(CHANNEL)? == 0 {
            return Err(LabError::Other("QEMU closed its control channel".into()));
        }
        serde_json::from_str(&line).map_err(|error| LabError::Other(format!("{line}: {error}")))
    }
}

impl Control for Qmp {
    fn save(&mut self, dir: &Path) -> Result<()> {
        let uri = format!("file:{}", dir.join(STATE_FILE).display());
        self.execute("stop", &json!({}))?;
        self.execute("migrate", &json!({ "uri": uri }))?;
        self.settle()
    }

    fn restore(&mut self, dir: &Path) -> Result<()> {
        let uri = format!("file:{}", dir.join(STATE_FILE).display());
        self.execute("migrate-incoming", &json!({ "uri": uri }))?;
        self.settle()?;
        self.execute("cont", &json!({})).map(|_| ())
    }

    fn vcpu_states(&mut self) -> Result<String> {
        // An emulator that hangs itself does not answer.
        self.stream.get_ref().set_read_timeout(Some(ANSWER_PATIENCE)).at(CHANNEL)?;
        let mut text = String::new();
        for command in STATE_COMMANDS {
            let arguments = json!({ "command-line": command });
            let answer = self.execute("human-monitor-command", &arguments)?;
            let lines = answer.as_str().unwrap_or_default().lines();
            let wanted = lines.filter(|line| !VECTOR_REGISTERS.iter().any(|r| line.starts_with(r)));
            wanted.for_each(|line| text.push_str(&format!("{line}\n")));
        }
        Ok(text)
    }
}
