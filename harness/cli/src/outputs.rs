//! From the options of the command line to the places that results go to.

use std::path::Path;

use super::Refusal;
use super::args::Formats;
use results::journal::{self, Run, RunInfo, Summary};
use results::report::Reporter;
use results::report::document::{Document, Form};
use results::report::ktap::Ktap;
use results::report::output::Output;
use results::report::stream::JsonLines;
use results::report::tap::Tap;

/// Opens every output that the options ask for. `resume` is the stream to go on with.
pub fn open(
    formats: &Formats,
    resume: Option<&Path>,
    mark: bool,
) -> Result<Vec<Box<dyn Reporter>>, Refusal> {
    let mut reporters: Vec<Box<dyn Reporter>> = Vec::new();
    if let Some(path) = resume {
        let odd = || Refusal(format!("{}: is no path in UTF-8", path.display()));
        let name = path.to_str().ok_or_else(odd)?.to_owned();
        // A run that died at once left no line that could be gone on with.
        reporters.push(if journal::holds_lines(path) {
            Box::new(JsonLines::resumed(at(&name, Output::continue_journal(path))?, mark))
        } else {
            Box::new(JsonLines::new(at(&name, Output::create_journal(&name))?, mark))
        });
    }
    for (option, place) in formats.places() {
        reporters.push(match form(option) {
            Some(form) => {
                check_place(place)?;
                Box::new(Document::new(form, place))
            }
            None => streaming(option, place, mark)?,
        });
    }
    Ok(reporters)
}

/// The document that an option asks for, if it asks for one.
pub fn form(option: &str) -> Option<Form> {
    match option {
        "--junit" => Some(Form::Junit),
        "--markdown" => Some(Form::Markdown),
        "--html" => Some(Form::Html),
        _ => None,
    }
}

fn streaming(option: &str, place: &str, mark: bool) -> Result<Box<dyn Reporter>, Refusal> {
    Ok(match option {
        "--tap" => Box::new(Tap::new(at(place, Output::create(place))?)),
        "--ktap" => Box::new(Ktap::new(at(place, Output::create(place))?)),
        _ => Box::new(JsonLines::new(at(place, Output::create_journal(place))?, mark)),
    })
}

/// Writes runs of the past in a form that is otherwise written as results come.
pub fn replay(option: &str, place: &str, runs: &[Run]) -> Result<(), String> {
    let mut reporter = streaming(option, place, false).map_err(|e| e.to_string())?;
    let runs = if option == "--json" { runs.to_vec() } else { vec![merged(runs)] };
    for run in &runs {
        let summary = run.summary.clone().unwrap_or_else(|| Summary::of(&run.results));
        let info = RunInfo { tests: run.results.len() + summary.not_run, ..run.info.clone() };
        reporter.start(&info);
        run.results.iter().for_each(|result| reporter.result(result));
        reporter.finish(&info, &run.results, &summary);
    }
    reporter.broken().map_or(Ok(()), |why| Err(why.to_owned()))
}

/// Runs one after the other as one; tests are told by their host where there are several.
fn merged(runs: &[Run]) -> Run {
    let [first, rest @ ..] = runs else { return Run::default() };
    let several = rest.iter().any(|run| run.info.host != first.info.host);
    let mut all = first.clone();
    all.results.clear();
    for run in runs {
        let host = &run.info.host;
        all.results.extend(run.results.iter().cloned().map(|mut result| {
            if several {
                result.test =
                    format!("{} ({} {} {})", result.test, host.arch, host.kernel, host.backend);
            }
            result
        }));
    }
    let summaries = || runs.iter().filter_map(|run| run.summary.as_ref());
    let shortfalls: Vec<String> = summaries().filter_map(Summary::shortfall).collect();
    all.summary = Some(Summary {
        not_run: summaries().map(|summary| summary.not_run).sum(),
        cut_short: (!shortfalls.is_empty()).then(|| shortfalls.join("; ")),
        ..Summary::of(&all.results)
    });
    all
}

/// A place that cannot be written is told before the tests run, not after.
fn check_place(place: &str) -> Result<(), Refusal> {
    let folder = match Path::new(place).parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if place == "-" || folder.is_dir() {
        return Ok(());
    }
    Err(Refusal(format!("{place}: there is no folder {}", folder.display())))
}

fn at<T>(place: &str, result: std::io::Result<T>) -> Result<T, Refusal> {
    result.map_err(|e| Refusal(format!("{place}: {e}")))
}
