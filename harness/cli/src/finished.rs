//! What has a result already: for a run that goes on in another process, or after another boot.

use std::collections::HashSet;
use std::path::Path;

use crate::Refusal;
use results::journal::TestReport;

/// A test in one repetition.
pub type Unit = (String, u32);

/// One JSON line for each result: the test, and which repetition.
pub fn write(results: &[TestReport]) -> String {
    let line = |result: &TestReport| {
        format!("[{},{}]\n", serde_json::Value::from(result.test.as_str()), result.iteration)
    };
    results.iter().map(line).collect()
}

/// Reads what [`write()`] wrote.
///
/// # Errors
///
/// The file is another one, or none.
pub fn read(path: &Path) -> Result<HashSet<Unit>, Refusal> {
    let wrong = |e: &dyn std::fmt::Display| Refusal(format!("{}: {e}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| wrong(&e))?;
    text.lines().map(|line| serde_json::from_str(line).map_err(|e| wrong(&e))).collect()
}
