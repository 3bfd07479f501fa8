//! What the init tells the lab: lines that start with the ASCII record separator, which no JSON
//! line can start with.

/// First byte of a report line.
const MARK: char = '\x1e';

/// One report of the init.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The init runs; seconds since the kernel started, and the kernel's release.
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
    /// The host stands still and can be checkpointed.
    Parked,
    /// The program starts now.
    Started,
    /// A line of the program's standard error, where that has no port of its own.
    Stderr(String),
    /// The program ended by itself with this code.
    Exited(i32),
    /// The program was killed by this signal.
    Killed(i32),
    /// The init itself could not go on.
    Failed(String),
}

impl Report {
    /// The line, with its newline.
    #[must_use]
    pub fn encode(&self) -> String {
        let flat = |text: &str| text.replace('\n', "; ");
        let body = match self {
            Self::Booted { uptime_ms, release } => format!("booted {uptime_ms} {release}"),
            Self::Fact { name, value } => format!("fact {name} {}", flat(value)),
            Self::NoKvm(why) => format!("nokvm {}", flat(why)),
            Self::Parked => "parked".to_owned(),
            Self::Started => "started".to_owned(),
            Self::Stderr(line) => format!("stderr {line}"),
            Self::Exited(code) => format!("exited {code}"),
            Self::Killed(signal) => format!("killed {signal}"),
            Self::Failed(why) => format!("failed {}", flat(why)),
        };
        format!("{MARK}{body}\n")
    }

    /// Reads a line; `None` if it is the runner's own.
    #[must_use]
    pub fn decode(line: &str) -> Option<Self> {
        let body = line.trim_end().strip_prefix(MARK)?;
        let (key, rest) = body.split_once(' ').unwrap_or((body, ""));
        let report = match key {
            "booted" => {
                let (uptime, release) = rest.split_once(' ')?;
                Self::Booted { uptime_ms: uptime.parse().ok()?, release: release.to_owned() }
            }
            "fact" => {
                let (name, value) = rest.split_once(' ').unwrap_or((rest, ""));
                Self::Fact { name: name.to_owned(), value: value.to_owned() }
            }
            "nokvm" => Self::NoKvm(rest.to_owned()),
            "parked" => Self::Parked,
            "started" => Self::Started,
            "stderr" => Self::Stderr(rest.to_owned()),
            "exited" => Self::Exited(rest.parse().ok()?),
            "killed" => Self::Killed(rest.parse().ok()?),
            "failed" => Self::Failed(rest.to_owned()),
            _ => return None,
        };
        Some(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_round_trip() {
        for report in [
            Report::Booted { uptime_ms: 1234, release: "6.12.1".into() },
            Report::Fact { name: "kvm_amd.npt".into(), value: "Y".into() },
            Report::NoKvm("why not".into()),
            Report::Parked,
            Report::Started,
            Report::Stderr("error: a b".into()),
            Report::Exited(-3),
            Report::Killed(9),
            Report::Failed("a: b".into()),
        ] {
            assert_eq!(Report::decode(&report.encode()), Some(report));
        }
    }

    #[test]
    fn leaves_the_lines_of_the_runner_alone() {
        assert_eq!(Report::decode("{\"type\":\"run\"}"), None);
        assert_eq!(Report::decode("exited 0"), None);
    }
}
