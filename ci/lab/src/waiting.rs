//! A sign of life while something takes time: on a terminal one line that is written over, elsewhere a
//! line now and then. What is done within two seconds shows nothing.

use std::fs;
use std::io::{IsTerminal as _, Write as _, stderr};
use std::path::Path;
use std::time::{Duration, Instant};

/// How often a waiting process looks.
pub const LOOK: Duration = Duration::from_millis(100);
/// How long nothing is shown.
const SILENCE: Duration = Duration::from_secs(2);
/// Between two lines where none can be written over.
const BETWEEN_LINES: Duration = Duration::from_secs(15);
/// Between two states of the line that is written over.
const BETWEEN_STATES: Duration = Duration::from_millis(500);
/// Columns of a sign.
const COLUMNS: usize = 60;

/// What is waited for.
#[derive(Debug)]
pub struct Waiting {
    what: String,
    began: Instant,
    /// When the next sign is due.
    next: Instant,
    is_terminal: bool,
    shown: bool,
}

impl Waiting {
    /// Begins to wait.
    #[must_use]
    pub fn new(what: impl Into<String>) -> Self {
        let began = Instant::now();
        let is_terminal = stderr().is_terminal();
        Self { what: what.into(), began, next: began + SILENCE, is_terminal, shown: false }
    }

    /// Whether it began a moment ago.
    #[must_use]
    pub fn is_young(&self) -> bool {
        self.began.elapsed() < LOOK
    }

    /// Shows what is waited for, when it is time to; `sign` says how far it is.
    pub fn tick(&mut self, sign: impl FnOnce() -> String) {
        let now = Instant::now();
        if now < self.next {
            return;
        }
        let seconds = self.began.elapsed().as_secs();
        let sign: String =
            sign().trim().chars().filter(|c| !c.is_control()).take(COLUMNS).collect();
        let sign = if sign.is_empty() { sign } else { format!(" ({sign})") };
        let line = format!("lab: {}: {seconds} s{sign}", self.what);
        // Nobody to show it to is no reason to stop.
        let _ = match self.is_terminal {
            true => write!(stderr(), "\r\x1b[K{line}"),
            false => writeln!(stderr(), "{line}"),
        };
        self.next = now + if self.is_terminal { BETWEEN_STATES } else { BETWEEN_LINES };
        self.shown = true;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.shown && self.is_terminal {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

/// The last line of a log.
pub fn last_line(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    text.split(['\n', '\r']).rfind(|line| !line.trim().is_empty()).unwrap_or_default().to_owned()
}
