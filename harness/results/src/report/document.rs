//! Reports that are made when all results are there.

use std::io::{self, Write as _};

use super::Reporter;
use super::output::write_document;
use super::{html, junit, markdown};
use crate::journal::{Run, RunInfo, Summary, TestReport};

/// A form that needs all results at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// JUnit XML.
    Junit,
    /// Markdown.
    Markdown,
    /// One self-contained HTML page.
    Html,
}

impl Form {
    /// Makes the document.
    pub fn render(self, runs: &[Run]) -> Result<String, String> {
        match self {
            Self::Junit => junit::render(runs),
            Self::Markdown => Ok(markdown::render(runs)),
            Self::Html => Ok(html::render(runs)),
        }
    }

    /// Makes the document and puts it in its place.
    pub fn write(self, place: &str, runs: &[Run]) -> Result<(), String> {
        let text = self.render(runs)?;
        write_document(place, &text).map_err(|e| format!("{place}: {e}"))
    }
}

/// Writes a document at the end of a run.
#[derive(Debug)]
pub struct Document {
    form: Form,
    place: String,
    broken: Option<String>,
}

impl Document {
    /// A document of this form at this place.
    pub fn new(form: Form, place: &str) -> Self {
        Self { form, place: place.to_owned(), broken: None }
    }
}

impl Reporter for Document {
    fn result(&mut self, _: &TestReport) {}

    fn finish(&mut self, run: &RunInfo, results: &[TestReport], summary: &Summary) {
        let run = Run {
            info: run.clone(),
            results: results.to_vec(),
            summary: Some(summary.clone()),
            unfinished: None,
        };
        if let Err(why) = self.form.write(&self.place, &[run]) {
            let _ = writeln!(io::stderr(), "{why}");
            self.broken = Some(why);
        }
    }

    fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }
}
