//! `-l`: the tests there are.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use super::{Suite, check_host, is_native};
use crate::select::Selection;
use cli::Refusal;
use cli::args::RunArgs;

/// Prints the selected tests, one name a line; with `-v` what policy says of them.
pub fn list(suite: &Suite<'_>, args: &RunArgs) -> Result<u8, Refusal> {
    check_host(args)?;
    let facts = if args.verbose { suite.facts() } else { Err(Refusal(String::new())) };
    let mut registry = suite.registry(args.into(), facts.as_ref().ok())?;
    let selection = Selection::new(args).map_err(Refusal::of)?;
    registry.add_variants(&selection.variant_sets().map_err(Refusal::of)?);
    let mut tests = selection.apply(&registry).map_err(Refusal::of)?;
    if !args.all_archs {
        tests.retain(|test| is_native(test));
    }
    let mut text = String::new();
    if let (true, Err(why)) = (args.verbose, &facts) {
        let _ = writeln!(io::stderr(), "what is skipped here is not known: {why}");
    }
    for test in &tests {
        text.push_str(test.name());
        if args.verbose {
            let _ = write!(text, "  groups: {}", test.groups.join(","));
            let requirements = test.requirement_names();
            if !requirements.is_empty() {
                let _ = write!(text, "  requires: {}", requirements.join(", "));
            }
            for (variant, reason) in test.sees {
                let _ = write!(text, "  not @{variant}: {reason}");
            }
            if let Ok(facts) = &facts {
                let unmet = test.unmet(facts);
                if !unmet.is_empty() {
                    let _ = write!(text, "  skipped here: no {}", unmet.join(", "));
                }
            }
        }
        text.push('\n');
    }
    match io::stdout().lock().write_all(text.as_bytes()) {
        // Whoever reads a part only, as in `-l | head`, got what was wanted.
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Refusal(format!("standard output: {e}")))
        }
        _ => Ok(if tests.is_empty() { 3 } else { 0 }),
    }
}
