//! From the options of the command line to the places that results go to.

use std::path::Path;

use super::Refusal;
use super::args::Formats;
use crate::report::Reporter;
use crate::report::output::Output;
use crate::report::stream::JsonLines;

/// Opens every output that the options ask for. `resume` is the stream to go on with.
pub fn open(
    formats: &Formats,
    resume: Option<&Path>,
    mark: bool,
) -> Result<Vec<Box<dyn Reporter>>, Refusal> {
    let mut reporters: Vec<Box<dyn Reporter>> = Vec::new();
    if let Some(path) = resume {
        reporters.push(if path.exists() {
            Box::new(JsonLines::resumed(at(path, Output::continue_journal(path))?, mark))
        } else {
            let name = path.display().to_string();
            Box::new(JsonLines::new(at(path, Output::create_journal(&name))?, mark))
        });
    }
    for (option, place) in formats.places() {
        let path = Path::new(place);
        match option {
            "--json" => {
                let output = at(path, Output::create_journal(place))?;
                reporters.push(Box::new(JsonLines::new(output, mark)));
            }
            other => return Err(Refusal(format!("{other} is not there yet"))),
        }
    }
    Ok(reporters)
}

fn at<T>(path: &Path, result: std::io::Result<T>) -> Result<T, Refusal> {
    result.map_err(|e| Refusal(format!("{}: {e}", path.display())))
}
