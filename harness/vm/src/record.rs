//! Where a test's checks, metrics and log lines go: to the runner, as [`Event`] lines.
//!
//! A passing check costs no system call: lines are kept until something fails,
//! a log line comes up, the buffer is full or the test ends. Outside a worker,
//! such as in a unit test, events are dropped.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Display;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::failure::{Failure, TestResult};
use results::outcome::{Outcome, Spread};
use serde::{Deserialize, Serialize};

/// One line from a worker to its runner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A named check was evaluated. A name that comes again is the same check.
    Check {
        /// The rule, in words; unique in its test.
        name: String,
        /// Whether the rule held.
        pass: bool,
        /// Where, and what was seen (empty for a pass).
        #[serde(default, skip_serializing_if = "String::is_empty")]
        detail: String,
    },
    /// A measured value.
    Metric {
        /// What was measured.
        name: String,
        /// Its unit, such as `ns` or `cycles`.
        unit: String,
        /// The measured value; the median of several.
        value: f64,
        /// How far several values lie apart.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spread: Option<Spread>,
    },
    /// What KVM has counted of a VM or vCPU, at the deadline.
    Stats {
        /// `VM`, or `vCPU` and its index.
        of: String,
        /// Name → value, as `KVM_GET_STATS_FD` gives them.
        values: BTreeMap<String, u64>,
    },
    /// Where a vCPU stood when its host half had to be killed.
    Vcpu {
        /// Its index.
        index: u32,
        /// How often KVM_RUN came back.
        exits: u64,
        /// Its program counter, where KVM gives it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pc: Option<u64>,
    },
    /// A line of the guest's or the host half's log.
    Log {
        /// The line, without its newline.
        line: String,
    },
    /// The last line of every worker that lived to say it.
    Verdict {
        /// `pass`, `fail`, `error`, `timeout` or `skip`.
        outcome: Outcome,
        /// One sentence for a person; for a skip, the requirement's name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Guest location, registers, backtrace: everything that helps.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        details: Vec<String>,
    },
}

/// Lines are sent together once they are this long.
const BUFFER_BYTES: usize = 16 << 10;

/// The worker's end of the event pipe.
struct Sink {
    pipe: File,
    buffer: Vec<u8>,
    /// Checks whose passing was told, so that a check in a loop is one line.
    told: HashSet<String>,
    failed: usize,
    settings: Settings,
}

/// What the running test may be told, and what it was told.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The options that it declares.
    pub options: Vec<&'static str>,
    /// Values for some of them.
    pub values: BTreeMap<String, String>,
}

static SINK: Mutex<Option<Sink>> = Mutex::new(None);

fn lock() -> MutexGuard<'static, Option<Sink>> {
    SINK.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sink {
    fn push(&mut self, event: &Event) {
        // Every event is plain data: it always serialises into memory.
        if serde_json::to_writer(&mut self.buffer, event).is_ok() {
            self.buffer.push(b'\n');
        }
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        // A runner that is gone needs no events; the death signal is on its way.
        let _ = self.pipe.write_all(&self.buffer);
        self.buffer.clear();
    }
}

/// Bytes of a detail that a person can use.
const DETAIL_BYTES: usize = 1 << 10;

/// The start of a detail, and how much more there was.
fn shortened(mut detail: String) -> String {
    if detail.len() > DETAIL_BYTES {
        let more = detail.len() - DETAIL_BYTES;
        detail.truncate(detail.floor_char_boundary(DETAIL_BYTES));
        detail.push_str(&format!("… and {more} bytes more"));
    }
    detail
}

/// Reports a named check. `detail` is only formatted when the check failed.
pub fn check(name: &str, pass: bool, detail: impl Display) {
    let mut sink = lock();
    let Some(sink) = sink.as_mut() else { return };
    if pass {
        if !sink.told.contains(name) {
            sink.told.insert(name.to_owned());
            sink.push(&Event::Check { name: name.to_owned(), pass, detail: String::new() });
        }
    } else {
        sink.failed += 1;
        let detail = shortened(detail.to_string());
        sink.push(&Event::Check { name: name.to_owned(), pass, detail });
        sink.flush();
    }
}

/// Reports a measured value.
pub fn metric(name: &str, unit: &str, value: f64) {
    if let Some(sink) = lock().as_mut() {
        let (name, unit) = (name.to_owned(), unit.to_owned());
        sink.push(&Event::Metric { name, unit, value, spread: None });
    }
}

/// Reports the median of several values of one thing, and their spread; nothing where there are none.
pub fn samples(name: &str, unit: &str, samples: &[f64]) {
    if let (Some(sink), Some((value, spread))) = (lock().as_mut(), Spread::of(samples)) {
        let (name, unit, spread) = (name.to_owned(), unit.to_owned(), Some(spread));
        sink.push(&Event::Metric { name, unit, value, spread });
    }
}

/// Reports what KVM has counted of a VM or vCPU.
pub fn stats(of: &str, values: BTreeMap<String, u64>) {
    if !values.is_empty()
        && let Some(sink) = lock().as_mut()
    {
        sink.push(&Event::Stats { of: of.to_owned(), values });
    }
}

/// Reports a line of the guest's or the host half's log.
pub fn log(line: impl Display) {
    if let Some(sink) = lock().as_mut() {
        sink.push(&Event::Log { line: line.to_string() });
        sink.flush();
    }
}

/// Sends what is buffered, so that it outlives a crash of what comes next.
pub fn flush() {
    if let Some(sink) = lock().as_mut() {
        sink.flush();
    }
}

/// How many evaluated checks have failed so far in this test.
pub fn failed_checks() -> usize {
    lock().as_ref().map_or(0, |sink| sink.failed)
}

/// Whether this test has evaluated any check so far.
pub fn has_checked() -> bool {
    lock().as_ref().is_some_and(|sink| sink.failed > 0 || !sink.told.is_empty())
}

/// The value that the user gives to an option of the running test, if one is given.
///
/// # Errors
///
/// The test does not declare the option.
pub fn parameter(name: &str) -> TestResult<Option<String>> {
    let sink = lock();
    let Some(settings) = sink.as_ref().map(|sink| &sink.settings) else { return Ok(None) };
    if !settings.options.contains(&name) {
        let message = format!("the test reads option `{name}`, which it does not declare");
        return Err(Failure::Error(message));
    }
    Ok(settings.values.get(name).cloned())
}

/// Opens the sink of this worker.
pub fn open(pipe: OwnedFd, settings: Settings) {
    *lock() = Some(Sink {
        pipe: pipe.into(),
        buffer: Vec::new(),
        told: HashSet::new(),
        failed: 0,
        settings,
    });
}

/// Tells the verdict, the last line of a worker, and closes the sink.
pub fn close(verdict: &Event) {
    if let Some(mut sink) = lock().take() {
        sink.push(verdict);
        sink.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_round_trip_as_json_lines() {
        let event = Event::Verdict { outcome: Outcome::KnownFail, reason: None, details: vec![] };
        let line = serde_json::to_string(&event).unwrap();
        assert_eq!(line, r#"{"event":"verdict","outcome":"known_fail"}"#);
        assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
    }
}
