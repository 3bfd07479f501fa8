//! QEMU's control protocol, as far as checkpoints need it.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::error::{At as _, LabError, Result};

/// How long a checkpoint may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The checkpointed host's devices and processors.
const STATE_FILE: &str = "state";

/// A control channel.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<File>,
}

impl Qmp {
    /// Takes over a fresh channel.
    pub(super) fn new(stream: File) -> Result<Self> {
        let mut qmp = Self { stream: BufReader::new(stream) };
        qmp.message()?;
        qmp.execute("qmp_capabilities", &json!({}))?;
        // The memory is a file already: only the rest goes into the checkpoint.
        let capabilities = json!([{ "capability": "x-ignore-shared", "state": true }]);
        qmp.execute("migrate-set-capabilities", &json!({ "capabilities": capabilities }))?;
        Ok(qmp)
    }

    /// Writes the checkpoint into the directory; the host stands still from then on.
    pub fn park(&mut self, dir: &Path) -> Result<()> {
        let uri = format!("file:{}", dir.join(STATE_FILE).display());
        self.execute("stop", &json!({}))?;
        self.execute("migrate", &json!({ "uri": uri }))?;
        self.settle()
    }

    /// Restores the checkpoint and lets the host run.
    pub fn restore(&mut self, dir: &Path) -> Result<()> {
        let uri = format!("file:{}", dir.join(STATE_FILE).display());
        self.execute("migrate-incoming", &json!({ "uri": uri }))?;
        self.settle()?;
        self.execute("cont", &json!({})).map(|_| ())
    }

    fn settle(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let state = self.execute("query-migrate", &json!({}))?;
            match state["status"].as_str() {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => {
                    return Err(LabError::Other(format!("checkpoint: {state}")));
                }
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        Err(LabError::Other("checkpoint: it took too long".into()))
    }

    fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        // As one piece: QEMU wakes up for each.
        let order = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        self.stream.get_mut().write_all(order.as_bytes()).at("control channel")?;
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
        if self.stream.read_line(&mut line).at("control channel")? == 0 {
            return Err(LabError::Other("QEMU closed its control channel".into()));
        }
        serde_json::from_str(&line).map_err(|error| LabError::Other(format!("{line}: {error}")))
    }
}
