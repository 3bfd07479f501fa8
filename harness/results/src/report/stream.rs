//! The JSON stream itself, as a reporter.

use super::Reporter;
use super::output::Output;
use crate::journal::{Line, RunInfo, Start, Summary, TestReport};

/// Writes each line as soon as it is known.
#[derive(Debug)]
pub struct JsonLines {
    output: Output,
    mark: bool,
    resumed: bool,
}

impl JsonLines {
    /// Starts a stream; `mark` also announces each test.
    pub fn new(output: Output, mark: bool) -> Self {
        Self { output, mark, resumed: false }
    }

    /// Goes on with a stream that has its first lines already.
    pub fn resumed(output: Output, mark: bool) -> Self {
        Self { output, mark, resumed: true }
    }

    fn line(&mut self, line: &Line) {
        match serde_json::to_string(line) {
            Ok(mut text) => {
                text.push('\n');
                self.output.write(&text);
            }
            Err(e) => unreachable!("plain data serialises: {e}"),
        }
    }
}

impl Reporter for JsonLines {
    fn start(&mut self, run: &RunInfo) {
        if !self.resumed {
            self.line(&Line::Run(run.clone()));
        }
    }

    fn started(&mut self, start: &Start) {
        if self.mark {
            self.line(&Line::Start(start.clone()));
        }
    }

    fn result(&mut self, result: &TestReport) {
        self.line(&Line::Result(result.clone()));
    }

    fn finish(&mut self, _: &RunInfo, _: &[TestReport], summary: &Summary) {
        self.line(&Line::Summary(summary.clone()));
    }

    fn unordered(&self) -> bool {
        true
    }

    fn broken(&self) -> Option<&str> {
        self.output.broken()
    }
}
