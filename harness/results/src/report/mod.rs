//! Every form in which results are told, made from the one stream of [`crate::journal`].

pub mod compare;
pub mod console;
pub mod document;
pub mod html;
pub mod junit;
pub mod ktap;
pub mod markdown;
pub mod matrix;
pub mod output;
pub mod stream;
pub mod tap;

use crate::journal::{RunInfo, Start, Summary, TestReport};

/// Columns of a line of statistics.
const STATS_COLUMNS: usize = 96;

/// What KVM had counted, in words: lines for `VM`, for `vCPU 0`, and so on.
pub fn stats_lines(result: &TestReport) -> Vec<String> {
    let mut lines = Vec::new();
    for (of, values) in &result.kvm_stats {
        let mut line = format!("{of}:");
        for (nth, (name, value)) in values.iter().enumerate() {
            let told = format!(" {name} {value}");
            if nth > 0 {
                line.push(',');
            }
            if line.len() + told.len() > STATS_COLUMNS {
                lines.push(std::mem::replace(&mut line, " ".repeat(of.len() + 1)));
            }
            line.push_str(&told);
        }
        lines.push(line);
    }
    lines
}

/// Takes results as they come.
pub trait Reporter {
    /// The run begins.
    fn start(&mut self, _run: &RunInfo) {}
    /// A test is about to run.
    fn started(&mut self, _start: &Start) {}
    /// One verdict, in the order of the run unless [`Reporter::unordered`].
    fn result(&mut self, result: &TestReport);
    /// The run is over.
    fn finish(&mut self, run: &RunInfo, results: &[TestReport], summary: &Summary);
    /// Wants each result at once rather than in the order of the run.
    fn unordered(&self) -> bool {
        false
    }
    /// Why results were lost here, if they were.
    fn broken(&self) -> Option<&str> {
        None
    }
}
