//! `explain`: everything there is to know of a test before it runs.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use super::Suite;
use crate::body::Body;
use crate::registry::Registry;
use crate::registry::known::{KnownFailure, KnownHere};
use crate::registry::mutants::{Mutants, Tie};
use crate::select::Selection;
use crate::test::{Test, cpus};
use crate::verdict::Seconds;
use cli::Refusal;
use cli::args::ExplainArgs;
use results::HostFacts;

/// Tells what the named tests check, need and are known for.
pub fn explain(suite: &Suite<'_>, args: &ExplainArgs) -> Result<u8, Refusal> {
    let facts = suite.facts().ok();
    let registry = suite.registry(args.into(), facts.as_ref())?;
    let selection =
        Selection { patterns: args.names.clone(), all: true, perf: true, ..Selection::default() };
    let tests = selection.apply(&registry).map_err(Refusal::of)?;
    let mutants = Mutants::read(suite.data.mutants).map_err(Refusal)?;
    let mut text = String::new();
    for (nth, test) in tests.iter().enumerate() {
        if nth > 0 {
            text.push('\n');
        }
        one(&mut text, test, &registry, facts.as_ref(), &mutants);
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
    test: &Test,
    registry: &Registry,
    facts: Option<&HostFacts>,
    mutants: &Mutants,
) {
    let _ = writeln!(text, "{}", test.id);
    for line in test.doc.lines() {
        let _ = writeln!(text, "  {}", line.trim());
    }
    let _ = writeln!(text, "  source: {}", test.location);
    if let Body::Program(program) = &test.body {
        let command = [&[program.path.display().to_string()], program.args.as_slice()].concat();
        let _ = writeln!(text, "  runs: {} ({})", command.join(" "), test.source);
    }
    let _ = writeln!(text, "  groups: {}", test.groups.join(", "));
    let alone = if cpus(test.weight).is_none() { ", runs alone" } else { "" };
    let _ = writeln!(text, "  deadline: {}{alone}", Seconds(test.timeout()));
    for option in &test.options {
        let _ = writeln!(text, "  option: {} ({})", option.name, option.meaning);
    }
    for (name, value) in test.parameters() {
        let _ = writeln!(text, "  parameter: {name} = {value}");
    }
    let unmet = facts.map(|facts| test.unmet(facts)).unwrap_or_default();
    for requirement in test.requirement_names() {
        let here = match facts {
            None => "",
            Some(_) if unmet.contains(&requirement) => " (missing here: the test is skipped)",
            Some(_) => " (met here)",
        };
        let _ = writeln!(text, "  needs: {requirement}{here}");
    }
    let everywhere = KnownHere::everywhere(&registry.policy.known_failures);
    for known in everywhere.of(test.name()).here {
        let here = match facts {
            Some(facts) if known.when.matches(facts) => " (holds here)",
            _ => "",
        };
        let _ = writeln!(text, "  known failure{here}: {}", describe(known));
    }
    for (mutant, rule, tie) in mutants.of(test.name()) {
        let _ = match tie {
            Tie::Kills(check) => writeln!(text, "  kills mutant {mutant} ({rule}) by: {check}"),
            Tie::MustBeSeen => writeln!(text, "  guards against mutant {mutant}: {rule}"),
        };
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
