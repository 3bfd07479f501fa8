//! `explain`: everything there is to know of a test before it runs.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::args::ExplainArgs;
use super::{Refusal, Suite};
use crate::facts::HostFacts;
use crate::registry::known::{KnownFailure, KnownHere};
use crate::registry::{Entry, Registry};
use crate::runner::verdict::Seconds;
use crate::select::Selection;

/// Tells what the named tests check, need and are known for.
pub fn explain(
    suite: &Suite<'_>,
    args: &ExplainArgs,
    probe: &dyn Fn() -> Result<HostFacts, Refusal>,
) -> Result<u8, Refusal> {
    let registry = suite.registry(args.config.as_deref())?;
    let selection =
        Selection { patterns: args.names.clone(), all: true, perf: true, ..Selection::default() };
    let entries = selection.apply(&registry).map_err(Refusal::of)?;
    let facts = probe().ok();
    let mutants = mutants();
    let mut text = String::new();
    for (nth, entry) in entries.iter().enumerate() {
        if nth > 0 {
            text.push('\n');
        }
        one(&mut text, entry, &registry, facts.as_ref(), &mutants);
    }
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Refusal(format!("standard output: {e}")))
        }
        _ => Ok(0),
    }
}

fn one(
    text: &mut String,
    entry: &Entry,
    registry: &Registry,
    facts: Option<&HostFacts>,
    mutants: &[(String, String)],
) {
    let case = entry.case;
    let _ = writeln!(text, "{}", entry.name());
    for line in case.doc.lines() {
        let _ = writeln!(text, "  {}", line.trim());
    }
    let _ = writeln!(text, "  source: {}:{}", case.file, case.line);
    let _ = writeln!(text, "  groups: {}", entry.groups.join(", "));
    let alone = if entry.exclusive { ", runs alone" } else { "" };
    let _ = writeln!(text, "  deadline: {}{alone}", Seconds(entry.timeout));
    for (name, value) in &entry.parameters {
        let _ = writeln!(text, "  parameter: {name} = {value}");
    }
    let unmet = facts.map(|facts| entry.unmet(facts)).unwrap_or_default();
    for requirement in entry.requirement_names() {
        let here = match facts {
            None => "",
            Some(_) if unmet.contains(&requirement) => " (missing here: the test is skipped)",
            Some(_) => " (met here)",
        };
        let _ = writeln!(text, "  needs: {requirement}{here}");
    }
    let everywhere = KnownHere::everywhere(&registry.policy.known_failures);
    for known in everywhere.of(entry.name()) {
        let here = match facts {
            Some(facts) if known.when.matches(facts) => " (holds here)",
            _ => "",
        };
        let _ = writeln!(text, "  known failure{here}: {}", describe(known));
    }
    for (mutant, content) in mutants {
        if names(content, entry.name()) {
            let _ = writeln!(text, "  goes red on mutant: {mutant}");
        }
    }
}

fn describe(known: &KnownFailure) -> String {
    let mut text = known.reason.clone();
    let when = known.when.to_string();
    if !when.is_empty() {
        let _ = write!(text, "; when {when}");
    }
    if !known.checks.is_empty() {
        let _ = write!(text, "; only: {}", known.checks.join("; "));
    }
    if let Some(reference) = &known.reference {
        let _ = write!(text, "; see {reference}");
    }
    text
}

/// Name and text of every mutant, where the repository is at hand.
fn mutants() -> Vec<(String, String)> {
    let root = std::env::var_os("KVM_CONFORMANCE_ROOT").map_or_else(|| ".".into(), PathBuf::from);
    let mut found = Vec::new();
    collect(&root.join("ci/mutants"), 3, &mut found);
    found.sort();
    found
}

fn collect(folder: &Path, depth: u32, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && depth > 0 {
            collect(&path, depth - 1, found);
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "toml")
            && let (Some(name), Ok(text)) = (path.file_stem(), fs::read_to_string(&path))
        {
            found.push((name.to_string_lossy().into_owned(), text));
        }
    }
}

/// Whether a text names the test, not merely one whose name goes on.
fn names(text: &str, test: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    text.match_indices(test).any(|(at, _)| {
        !text[..at].chars().next_back().is_some_and(part)
            && !text[at + test.len()..].chars().next().is_some_and(part)
    })
}
