//! Kernels that are broken on purpose (`ci/mutants`), as far as they say something of a test.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::pattern::Glob;
use crate::yaml;

/// Name and text of files.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// YAML, a list of mutants each.
    pub files: &'a [(&'a str, &'a str)],
    /// JSON lines, as `ci/mutants/run --json` writes them.
    pub killed: &'a [(&'a str, &'a str)],
}

/// A mutant; what it changes in the kernel is of no interest here.
#[derive(Clone, Debug, Deserialize)]
struct Mutant {
    name: String,
    rule: String,
    expect: Vec<String>,
    #[serde(default)]
    equivalent: Option<String>,
}

/// One line of a record: which tests went red on a mutant, and by which check.
#[derive(Debug, Deserialize)]
struct Finding {
    mutant: String,
    red: Vec<(String, String)>,
}

/// What a mutant has to do with a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tie {
    /// The test went red on it when all mutants were last run, by this check.
    Kills(String),
    /// The test is one of those of which at least one must go red.
    MustBeSeen,
}

/// All mutants, ready to be looked up by test.
#[derive(Debug)]
pub struct Mutants {
    mutants: Vec<(Mutant, Vec<Glob>)>,
    /// Mutant → test → check.
    killed: BTreeMap<String, BTreeMap<String, String>>,
}

impl Mutants {
    /// Reads them.
    ///
    /// # Errors
    ///
    /// The file, and what is wrong with it.
    pub fn read(sources: Sources<'_>) -> Result<Self, String> {
        let mut mutants = Vec::new();
        for (file, text) in sources.files {
            let read: Vec<Mutant> = yaml::parse(file, text).map_err(|e| e.to_string())?;
            for mutant in read {
                let globs: Result<_, _> = mutant.expect.iter().map(|e| Glob::new(e)).collect();
                let globs = globs.map_err(|e| format!("{file}: {}: {e}", mutant.name))?;
                mutants.push((mutant, globs));
            }
        }
        let mut killed: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for (file, text) in sources.killed {
            for line in text.lines().filter(|line| !line.trim().is_empty()) {
                let finding: Finding =
                    serde_json::from_str(line).map_err(|e| format!("{file}: {e}"))?;
                killed.entry(finding.mutant).or_default().extend(finding.red);
            }
        }
        Ok(Self { mutants, killed })
    }

    /// Name, broken rule and tie of each mutant that has to do with a test.
    pub fn of(&self, test: &str) -> Vec<(&str, &str, Tie)> {
        let tie = |(mutant, globs): &(Mutant, Vec<Glob>)| match self.killed.get(&mutant.name) {
            // Where it is on record what killed it, nothing else is told.
            Some(red) if !red.is_empty() => red.get(test).cloned().map(Tie::Kills),
            _ => globs.iter().any(|glob| glob.is_match(test)).then_some(Tie::MustBeSeen),
        };
        self.mutants
            .iter()
            .filter(|(mutant, _)| mutant.equivalent.is_none())
            .filter_map(|found| Some((found.0.name.as_str(), found.0.rule.as_str(), tie(found)?)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "- {name: one, rule: r1, expect: [\"a::*\"], edits: []}\n\
                        - {name: two, rule: r2, expect: [\"a::x\"]}\n\
                        - {name: three, rule: r3, expect: [\"a::*\"], equivalent: why}\n";

    #[test]
    fn a_record_says_more_than_an_expectation() {
        let mutants = |killed| Mutants::read(Sources { files: &[("f", FILE)], killed }).unwrap();
        let unrecorded = mutants(&[]);
        let both = [("one", "r1", Tie::MustBeSeen), ("two", "r2", Tie::MustBeSeen)];
        assert_eq!(unrecorded.of("a::x"), both);
        assert_eq!(unrecorded.of("b::x"), []);
        let line = "{\"mutant\":\"one\",\"fate\":\"killed\",\"red\":[[\"a::y\",\"the check\"]]}\n";
        let recorded = mutants(&[("k", line)]);
        assert_eq!(recorded.of("a::x"), [both[1].clone()]);
        assert_eq!(recorded.of("a::y"), [("one", "r1", Tie::Kills("the check".to_owned()))]);
    }
}
