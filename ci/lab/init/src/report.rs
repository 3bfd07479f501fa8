//! What the init reports: lines that start with the ASCII record separator, which no JSON line of
//! the runner's starts with.

use serde::{Deserialize, Serialize};

use crate::wire::Wire;

/// First byte of a report's line.
const MARK: char = '\x1e';

/// One report of the init.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The init runs.
    Booted {
        /// Milliseconds since the kernel started.
        uptime_ms: u64,
        /// `uname -r`.
        release: String,
    },
    /// A fact of the host, such as a module parameter.
    Fact {
        /// Name of the fact.
        name: String,
        /// Its value.
        value: String,
    },
    /// There is no usable `/dev/kvm`, and why.
    NoKvm(String),
    /// A snapshot can be taken.
    Ready,
    /// The program starts now.
    Started,
    /// The program runs, and the host still schedules its init.
    Alive,
    /// A line of the program's standard error, where that has no port of its own.
    Stderr(String),
    /// The program ended by itself with this code.
    Exited(i32),
    /// The program was killed by this signal.
    Killed(i32),
    /// The init itself could not go on.
    Failed(String),
}

impl Wire for Report {}

impl Report {
    /// The marked line, with its newline.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{MARK}{}", self.encode())
    }

    /// The report of a line; `None` if the line is the runner's own.
    #[must_use]
    pub fn of_line(line: &str) -> Option<Self> {
        Self::decode(line.strip_prefix(MARK)?).ok()
    }

    /// The report of a console's line. A console that has no code for the mark loses it (s390x); the
    /// signs of life there are known without.
    #[must_use]
    pub fn of_console_line(line: &str) -> Option<Self> {
        let alive = || Self::decode(line).ok().filter(|report| *report == Self::Alive);
        Self::of_line(line).or_else(alive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_survives_its_line() {
        for report in [
            Report::Booted { uptime_ms: 1234, release: "6.12.1".into() },
            Report::Fact { name: "kvm_amd.npt".into(), value: "Y".into() },
            Report::NoKvm("no device\nand no module".into()),
            Report::Ready,
            Report::Started,
            Report::Alive,
            Report::Stderr("error: a b".into()),
            Report::Exited(-3),
            Report::Killed(9),
            Report::Failed("a: b".into()),
        ] {
            let line = report.line();
            assert_eq!(line.matches('\n').count(), 1, "{line}");
            assert_eq!(Report::of_line(line.trim_end()), Some(report));
        }
    }

    #[test]
    fn a_line_of_the_runner_is_no_report() {
        assert_eq!(Report::of_line("{\"type\":\"run\"}"), None);
        assert_eq!(Report::of_line("\"started\""), None);
        assert_eq!(Report::of_console_line("\"started\""), None);
        assert_eq!(Report::of_console_line("\"alive\""), Some(Report::Alive));
    }
}
