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

use crate::journal::{RunInfo, Summary, TestReport};

/// Takes results as they come.
pub trait Reporter {
    /// The run begins.
    fn start(&mut self, _run: &RunInfo) {}
    /// A test is about to run.
    fn started(&mut self, _test: &str) {}
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
