//! What `unittests.yaml` says, checked against the tests there are.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::known::KnownFailure;
use super::yaml::{self, RawPolicy};
use super::{ARCHITECTURES, BUILT_IN_NAME, NODEFAULT, PERF, architecture};
use crate::select::Glob;
use crate::test::Test;
use cli::nearest::unknown;
use results::HostFacts;

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_MEMORY_BYTES: u64 = 16 << 30;

/// Why a policy cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct PolicyError {
    source_name: String,
    line: Option<usize>,
    message: String,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.source_name.is_empty() {
            write!(f, "{}:", self.source_name)?;
            if let Some(line) = self.line {
                write!(f, "{line}:")?;
            }
            f.write_str(" ")?;
        }
        f.write_str(&self.message)
    }
}

impl PolicyError {
    pub(super) fn new(message: String) -> Self {
        Self { source_name: String::new(), line: None, message }
    }

    pub(super) fn at(source: &str, line: Option<usize>, message: String) -> Self {
        Self { source_name: source.to_owned(), line, message }
    }
}

/// What policy says of one test.
#[derive(Clone, Debug, Default)]
pub struct TestPolicy {
    /// Its own deadline.
    pub timeout: Option<Duration>,
    /// Its own address space limit.
    pub memory_bytes: Option<u64>,
    /// Must run alone.
    pub exclusive: bool,
    /// More groups.
    pub groups: Vec<String>,
    /// More requirements, by capability name.
    pub requires: Vec<String>,
    /// Values that the test may read.
    pub parameters: BTreeMap<String, String>,
}

/// A whole policy.
#[derive(Clone, Debug)]
pub struct Policy {
    source_name: String,
    text: Cow<'static, str>,
    /// Deadline of a test that names none.
    pub timeout: Duration,
    /// Address space of a test that names none.
    pub memory_bytes: u64,
    /// Group → names or globs of its tests.
    pub groups: BTreeMap<String, Vec<String>>,
    /// Test → what is said of it.
    pub tests: BTreeMap<String, TestPolicy>,
    /// Tests that are known to fail somewhere.
    pub known_failures: Vec<KnownFailure>,
}

impl Policy {
    /// Reads a policy; `source_name` is the file's name in messages.
    pub fn parse(source_name: &str, text: &str) -> Result<Self, PolicyError> {
        let raw = yaml::parse(source_name, text)?;
        Ok(Self::of(raw, source_name, text.to_owned().into()))
    }

    /// The policy that a program carries with it: its text, and what that says of this architecture as
    /// JSON, which takes a part of the time to read.
    ///
    /// # Errors
    ///
    /// As [`Policy::parse`].
    pub fn built_in(text: &'static str, prepared: &str) -> Result<Self, PolicyError> {
        match yaml::prepared(prepared) {
            Some(raw) => Ok(Self::of(raw, BUILT_IN_NAME, text.into())),
            None => Self::parse(BUILT_IN_NAME, text),
        }
    }

    fn of(raw: RawPolicy, source_name: &str, text: Cow<'static, str>) -> Self {
        let tests = raw
            .tests
            .0
            .into_iter()
            .map(|(name, test)| {
                let policy = TestPolicy {
                    timeout: test.timeout.map(|t| t.0),
                    memory_bytes: test.memory.map(|m| m.0),
                    exclusive: test.exclusive,
                    groups: test.groups,
                    requires: test.requires,
                    parameters: test.parameters.into_iter().map(|(k, v)| (k, v.0)).collect(),
                };
                (name, policy)
            })
            .collect();
        Self {
            source_name: source_name.to_owned(),
            text,
            timeout: raw.defaults.timeout.map_or(DEFAULT_TIMEOUT, |t| t.0),
            memory_bytes: raw.defaults.memory.map_or(DEFAULT_MEMORY_BYTES, |m| m.0),
            groups: raw.groups.0,
            tests,
            known_failures: raw.known_failures,
        }
    }

    /// Every name must mean something. Names of an architecture that this
    /// binary holds no test of are checked in that architecture's binary.
    /// The tests are sorted by name.
    pub(super) fn check_names(&self, tests: &[Test]) -> Result<(), PolicyError> {
        let names: Vec<&str> = tests.iter().map(|test| &*test.id).collect();
        let mut here: Vec<&str> = names.iter().filter_map(|name| architecture(name)).collect();
        here.dedup();
        let elsewhere = |name: &str| architecture(name).is_some_and(|arch| !here.contains(&arch));
        let test_known = |section: &str, nth: usize, name: &str, glob: bool| {
            let found = elsewhere(name)
                || names.binary_search(&name).is_ok()
                || (glob
                    && Glob::new(name).is_ok_and(|g| names.iter().any(|name| g.is_match(name))));
            if found {
                return Ok(());
            }
            let message = unknown("test", name, names.iter().copied());
            Err(self.error(section, nth, name, message))
        };
        for members in self.groups.values() {
            for member in members {
                test_known("groups", 0, member, true)?;
            }
        }
        for (name, test) in &self.tests {
            test_known("tests", 0, name, false)?;
            for group in &test.groups {
                if !self.has_group(group, tests) && !elsewhere(name) {
                    let mut groups: BTreeSet<&str> = own_groups(tests).collect();
                    groups.extend([NODEFAULT, PERF]);
                    groups.extend(self.groups.keys().map(String::as_str));
                    let message = unknown("group", group, groups);
                    return Err(self.error("tests", 0, group, message));
                }
            }
            let Ok(at) = names.binary_search(&name.as_str()) else { continue };
            let options = || tests[at].options.iter().map(|option| option.name);
            for parameter in test.parameters.keys() {
                if !options().any(|option| option == parameter) {
                    let message = unknown("option", parameter, options());
                    return Err(self.error("tests", 0, parameter, message));
                }
            }
        }
        for (nth, known) in self.known_failures.iter().enumerate() {
            test_known("known_failures", nth + 1, &known.test, true)?;
            self.check_known(nth + 1, known)?;
        }
        Ok(())
    }

    fn has_group(&self, group: &str, tests: &[Test]) -> bool {
        [NODEFAULT, PERF].contains(&group)
            || self.groups.contains_key(group)
            || own_groups(tests).any(|own| own == group)
    }

    fn check_known(&self, nth: usize, known: &KnownFailure) -> Result<(), PolicyError> {
        if known.reason.trim().is_empty() {
            let message = format!("the known failure of `{}` has no reason", known.test);
            return Err(self.error("known_failures", nth, &known.test, message));
        }
        if let Some(arch) = &known.when.arch
            && !ARCHITECTURES.contains(&arch.as_str())
        {
            let message = unknown("architecture", arch, ARCHITECTURES);
            return Err(self.error("known_failures", nth, arch, message));
        }
        Ok(())
    }

    /// Capability names can only be checked where the host's facts are known.
    pub fn check_capabilities(&self, facts: &HostFacts) -> Result<(), PolicyError> {
        for name in self.tests.values().flat_map(|test| &test.requires) {
            if !facts.caps.contains_key(name) {
                let message = unknown("capability", name, facts.caps.keys().map(String::as_str));
                return Err(self.error("tests", 0, name, message));
            }
        }
        Ok(())
    }

    /// An error at the line of `word` in a section, in its `nth` list item if not 0.
    fn error(&self, section: &str, nth: usize, word: &str, message: String) -> PolicyError {
        // A scalar over several lines is looked for by its first word.
        let first = word.split_whitespace().next().unwrap_or(word);
        let line = line_of(&self.text, section, nth, word)
            .or_else(|| line_of(&self.text, section, nth, first));
        PolicyError::at(&self.source_name, line, message)
    }
}

/// The groups that tests are in by themselves.
fn own_groups(tests: &[Test]) -> impl Iterator<Item = &str> {
    tests.iter().flat_map(|test| &test.groups).map(|group| &**group)
}

/// The line of the first `word` in a top-level section of a YAML text, looked
/// for from the section's `nth` list item on.
fn line_of(text: &str, section: &str, nth: usize, word: &str) -> Option<usize> {
    let mut inside = false;
    let mut items = 0;
    let mut item_indent = None;
    for (number, line) in text.lines().enumerate() {
        let body = line.trim_start();
        let indent = line.len() - body.len();
        if body.is_empty() || body.starts_with('#') {
            continue;
        }
        if indent == 0 && !body.starts_with('-') {
            inside = body.starts_with(section) && body[section.len()..].starts_with(':');
        }
        if !inside {
            continue;
        }
        if body.starts_with("- ") && *item_indent.get_or_insert(indent) == indent {
            items += 1;
        }
        if items >= nth && has_word(line, word) {
            return Some(number + 1);
        }
    }
    None
}

fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = &line[at + word.len()..];
        // A key is followed by one colon, a longer path by two.
        let goes_on =
            after.chars().next().is_some_and(|c| part(c) && c != ':') || after.starts_with("::");
        !before.is_some_and(part) && !goes_on
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_in_their_section_and_item() {
        let text = "groups:\n  smoke: [a::b]\ntests:\n  # a::b\n  a::b::c: {}\n  a::b: {}\n\
                    known_failures:\n- test: a::b\n  reason: x\n- test: a::b\n  reason: y\n";
        assert_eq!(line_of(text, "groups", 0, "a::b"), Some(2));
        assert_eq!(line_of(text, "tests", 0, "a::b"), Some(6));
        assert_eq!(line_of(text, "known_failures", 2, "a::b"), Some(10));
        assert_eq!(line_of(text, "known_failures", 1, "zzz"), None);
    }
}
