//! `report` and `compare`: from result streams to what a person reads.

use std::io::{self, Write as _};
use std::path::PathBuf;

use super::args::{CompareArgs, ReportArgs};
use super::{Refusal, outputs};
use results::journal::{self, Run};
use results::report::compare::compare as compare_runs;
use results::report::document::Form;

/// Merges streams into the reports asked for.
pub fn report(args: &ReportArgs) -> Result<u8, Refusal> {
    args.formats.use_stdout().map_err(Refusal)?;
    let runs = read_all(&args.files)?;
    let places = args.formats.places();
    let mut lost = false;
    for (option, place) in &places {
        let written = match outputs::form(option) {
            Some(form) => form.write(place, &runs),
            None => outputs::replay(option, place, &runs),
        };
        if let Err(why) = written {
            let _ = writeln!(io::stderr(), "{why}");
            lost = true;
        }
    }
    if places.is_empty() {
        Form::Markdown.write("-", &runs).map_err(Refusal)?;
    }
    Ok(if lost { super::MISUSE } else { 0 })
}

/// Reports what changed; 1 if something regressed, 2 if the later run is not whole.
pub fn compare(args: &CompareArgs) -> Result<u8, Refusal> {
    let old = read_all(std::slice::from_ref(&args.old))?;
    let new = read_all(std::slice::from_ref(&args.new))?;
    let comparison = compare_runs(&old, &new, args.slower);
    match io::stdout().lock().write_all(comparison.text.as_bytes()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Refusal(format!("standard output: {e}")))
        }
        _ if comparison.regressed => Ok(1),
        _ => Ok(if comparison.incomplete { super::MISUSE } else { 0 }),
    }
}

fn read_all(files: &[PathBuf]) -> Result<Vec<Run>, Refusal> {
    let mut runs = Vec::new();
    for file in files {
        let mut of_file = journal::read(file).map_err(Refusal::of)?;
        if of_file.is_empty() {
            return Err(Refusal(format!("{}: holds no run", file.display())));
        }
        of_file.iter_mut().for_each(Run::complete);
        runs.extend(of_file);
    }
    Ok(runs)
}
