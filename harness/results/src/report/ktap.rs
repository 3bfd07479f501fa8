//! KTAP, the kernel's own dialect (Documentation/dev-tools/ktap.rst).

use std::fmt::Write as _;

use super::Reporter;
use super::output::Output;
use super::tap::one_line;
use crate::journal::{RunInfo, Summary, TestReport};
use crate::outcome::Outcome;

/// Writes KTAP as results come: one test `kvm-conformance` with a subtest for each of ours.
#[derive(Debug)]
pub struct Ktap {
    output: Output,
    told: usize,
}

impl Ktap {
    /// Starts a KTAP stream.
    pub fn new(output: Output) -> Self {
        Self { output, told: 0 }
    }
}

impl Reporter for Ktap {
    fn start(&mut self, run: &RunInfo) {
        self.output.write(&format!(
            "KTAP version 1\n1..1\n  KTAP version 1\n  # Subtest: kvm-conformance\n  1..{}\n",
            run.tests
        ));
    }

    fn result(&mut self, result: &TestReport) {
        self.told += 1;
        self.output.write(&case(self.told, result));
    }

    fn finish(&mut self, _: &RunInfo, _: &[TestReport], summary: &Summary) {
        let line = match (summary.shortfall(), summary.exit) {
            (Some(why), _) => {
                format!("not ok 1 kvm-conformance # ERROR {}\n", one_line(&why))
            }
            (None, 0) => "ok 1 kvm-conformance\n".to_owned(),
            (None, 3) => "ok 1 kvm-conformance # SKIP nothing ran\n".to_owned(),
            (None, _) => "not ok 1 kvm-conformance\n".to_owned(),
        };
        self.output.write(&line);
    }

    fn broken(&self) -> Option<&str> {
        self.output.broken()
    }
}

/// A result line after its diagnostics.
fn case(number: usize, result: &TestReport) -> String {
    let mut text = String::new();
    let reason = one_line(result.reason.as_deref().unwrap_or_default());
    let name = result.test.replace('#', "_");
    let (ok, directive) = match result.outcome {
        Outcome::Pass => (true, String::new()),
        Outcome::Skip => (true, format!(" # SKIP {reason}")),
        Outcome::KnownFail => (true, format!(" # XFAIL {reason}")),
        Outcome::Timeout => (false, format!(" # TIMEOUT {reason}")),
        Outcome::Error => (false, format!(" # ERROR {reason}")),
        Outcome::Fail | Outcome::Xpass | Outcome::HostBug => (false, String::new()),
    };
    if !ok || result.flaky {
        let mut say = |line: &str| {
            let _ = writeln!(text, "  # {name}: {}", one_line(line));
        };
        if directive.is_empty() && !ok {
            say(&format!("{}: {reason}", result.outcome));
        }
        if result.flaky {
            say(&format!("flaky: passed only on attempt {}", result.attempts));
        }
        for check in &result.failed_checks {
            say(&format!("check failed: {}: {}", check.name, check.detail));
        }
        let rest = result.details.iter().chain(&result.kernel_log).chain(&result.log);
        rest.for_each(|line| say(line));
    }
    let ok = if ok { "ok" } else { "not ok" };
    let _ = writeln!(text, "  {ok} {number} {name}{directive}");
    text
}
