//! What `unittests.yaml` and the files that it includes say, checked against the tests there are.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::known::{KnownFailure, Place};
use super::{ARCHITECTURES, BUILT_IN_NAME, NODEFAULT, PERF, architecture};
use crate::pattern::Glob;
use crate::test::{DEFAULT_MEMORY_BYTES, DEFAULT_TIMEOUT, Test, TestPolicy, VARIANT};
use crate::yaml::Step::{self, Key, Nth};
use crate::yaml::{self, Bytes, FileError, Scalar, Span, Unique};
use cli::nearest::unknown;
use results::HostFacts;

/// A whole policy.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Name and text of the file and of those that it includes.
    files: Vec<File>,
    /// Deadline of a test that names none.
    pub timeout: Duration,
    /// Address space of a test that names none.
    pub memory_bytes: u64,
    /// Group → names or globs of its tests.
    pub groups: BTreeMap<String, Vec<String>>,
    /// Test → what is said of it.
    pub tests: BTreeMap<String, Arc<TestPolicy>>,
    /// Tests that are known to fail somewhere.
    pub known_failures: Vec<KnownFailure>,
}

/// Name and text of a file.
pub type File = (Cow<'static, str>, Cow<'static, str>);

/// `unittests.yaml` as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Written {
    include: Vec<String>,
    defaults: Defaults,
    groups: Unique<Vec<String>>,
    tests: Unique<WrittenTest>,
    known_failures: Vec<Option<KnownFailure>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Defaults {
    timeout: Option<Span>,
    memory: Option<Bytes>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenTest {
    timeout: Option<Span>,
    memory: Option<Bytes>,
    exclusive: bool,
    groups: Vec<String>,
    requires: Vec<String>,
    parameters: Unique<Scalar>,
}

/// A file that is included, as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Included {
    known_failures: Vec<Option<KnownFailure>>,
}

impl From<WrittenTest> for TestPolicy {
    fn from(test: WrittenTest) -> Self {
        Self {
            timeout: test.timeout.map(|t| t.0),
            memory_bytes: test.memory.map(|m| m.0),
            exclusive: test.exclusive,
            groups: test.groups,
            requires: test.requires,
            parameters: test.parameters.0.into_iter().map(|(k, v)| (k, v.0)).collect(),
        }
    }
}

impl Policy {
    /// Reads a file, and those that it includes, whose paths start at its folder.
    ///
    /// # Errors
    ///
    /// The file, the line, and what is wrong there.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let read = |path: &Path| -> Result<File, FileError> {
            let name = path.display().to_string();
            let text = std::fs::read_to_string(path).map_err(|e| FileError::of(&name, e))?;
            Ok((name.into(), text.into()))
        };
        let folder = path.parent().unwrap_or(Path::new(""));
        Self::parse(read(path)?, |included| read(&folder.join(included)))
    }

    /// The policy that a program carries with it: name and text of the file and of those that it
    /// includes, and what they say of this architecture as a build prepared it in JSON, which takes a
    /// part of the time to read.
    ///
    /// # Errors
    ///
    /// As [`Policy::read`].
    pub fn built_in(
        texts: &[(&'static str, &'static str)],
        prepared: &str,
    ) -> Result<Self, FileError> {
        let files =
            || texts.iter().map(|(name, text)| (Cow::Borrowed(*name), Cow::Borrowed(*text)));
        if let Some((written, known)) = parse_prepared(prepared) {
            return Ok(Self::of(written, known, files().collect()));
        }
        let text = |name: &str| {
            let missing = || FileError::of(name, "this program does not carry the file");
            files().find(|(own, _)| own == name).ok_or_else(missing)
        };
        let first = files().next().unwrap_or((BUILT_IN_NAME.into(), "".into()));
        Self::parse(first, text)
    }

    /// Parses a policy of that name and text; `include` gives those of a file that it includes.
    ///
    /// # Errors
    ///
    /// As [`Policy::read`].
    pub fn parse(
        file: File,
        mut include: impl FnMut(&str) -> Result<File, FileError>,
    ) -> Result<Self, FileError> {
        let mut written: Written = yaml::parse(&file.0, &file.1)?;
        let mut known = vec![std::mem::take(&mut written.known_failures)];
        let mut files = vec![file];
        for (nth, path) in written.include.iter().enumerate() {
            let (name, text) = &files[0];
            let place = [Key("include"), Nth(nth)];
            let file = include(path).map_err(|e| FileError::at(name, text, &place, e))?;
            let included: Included = yaml::parse_or_default(&file.0, &file.1)?;
            known.push(included.known_failures);
            files.push(file);
        }
        for ((name, text), known) in files.iter().zip(&known) {
            if let Some(nth) = known.iter().position(Option::is_none) {
                let place = [Key("known_failures"), Nth(nth)];
                return Err(FileError::at(name, text, &place, "a known failure without content"));
            }
        }
        Ok(Self::of(written, known, files))
    }

    /// A policy of what is written, with the known failures of each file.
    fn of(written: Written, known: Vec<Vec<Option<KnownFailure>>>, files: Vec<File>) -> Self {
        let mut known_failures = Vec::with_capacity(known.iter().flatten().flatten().count());
        for (nth_file, known) in known.into_iter().enumerate() {
            let file: Arc<str> = files.get(nth_file).map_or("", |(name, _)| name).into();
            for (nth, known) in known.into_iter().enumerate() {
                let place = Place { file: Arc::clone(&file), nth_file, nth };
                known_failures.extend(known.map(|known| KnownFailure { place, ..known }));
            }
        }
        Self {
            timeout: written.defaults.timeout.map_or(DEFAULT_TIMEOUT, |t| t.0),
            memory_bytes: written.defaults.memory.map_or(DEFAULT_MEMORY_BYTES, |m| m.0),
            groups: written.groups.0,
            tests: written
                .tests
                .0
                .into_iter()
                .map(|(name, test)| (name, Arc::new(test.into())))
                .collect(),
            known_failures,
            files,
        }
    }

    /// What is wrong at a place of the `nth` file.
    pub(super) fn error(&self, nth: usize, place: &[Step<'_>], message: String) -> FileError {
        match self.files.get(nth) {
            Some((name, text)) => FileError::at(name, text, place, message),
            None => FileError::new(message),
        }
    }

    /// Every name must mean something. Names of an architecture that this
    /// binary holds no test of are checked in that architecture's binary.
    /// The tests are sorted by name.
    pub(super) fn check_names(&self, tests: &[Test]) -> Result<(), FileError> {
        let names = Names::of(tests);
        let unknown_test = |name: &str| unknown("test", name, names.ids.iter().copied());
        for (group, members) in &self.groups {
            if group.is_empty() || group.contains([',', ' ']) {
                let message = format!("no `-g` can name a group `{group}`");
                return Err(self.error(0, &[Key("groups"), Key(group)], message));
            }
            if let Some(nth) = members.iter().position(|member| !names.has(member, true)) {
                let place = [Key("groups"), Key(group), Nth(nth)];
                return Err(self.error(0, &place, unknown_test(&members[nth])));
            }
        }
        for (name, policy) in &self.tests {
            let place = [Key("tests"), Key(name)];
            if !names.has(name, false) {
                return Err(self.error(0, &place, unknown_test(name)));
            }
            for (nth, group) in policy.groups.iter().enumerate() {
                self.check_group(name, group, &names).map_err(|message| {
                    let place = [&place[..], &[Key("groups"), Nth(nth)]].concat();
                    self.error(0, &place, message)
                })?;
            }
            let Some(test) = names.find(name) else { continue };
            let options = || test.options.iter().map(|option| option.name);
            let is_unknown = |parameter: &&String| !options().any(|option| option == **parameter);
            if let Some(parameter) = policy.parameters.keys().find(is_unknown) {
                let place = [&place[..], &[Key("parameters"), Key(parameter)]].concat();
                return Err(self.error(0, &place, unknown("option", parameter, options())));
            }
        }
        for known in &self.known_failures {
            let place = [Key("known_failures"), Nth(known.place.nth), Key("test")];
            let plain = known.test.split(VARIANT).next().unwrap_or_default();
            if !names.has(&known.test, true) && !names.has(plain, true) {
                return Err(self.error(known.place.nth_file, &place, unknown_test(&known.test)));
            }
            if known.reason.trim().is_empty() {
                let message = format!("the known failure of `{}` has no reason", known.test);
                return Err(self.error(known.place.nth_file, &place, message));
            }
            let arch = known.when.arch.as_deref();
            if let Some(arch) = arch.filter(|arch| !ARCHITECTURES.contains(arch)) {
                let place = [&place[..2], &[Key("when"), Key("arch")]].concat();
                let message = unknown("architecture", arch, ARCHITECTURES);
                return Err(self.error(known.place.nth_file, &place, message));
            }
        }
        Ok(())
    }

    fn check_group(&self, test: &str, group: &str, all: &Names<'_>) -> Result<(), String> {
        let own = || all.tests.iter().flat_map(|test| &test.groups).map(|group| &**group);
        let listed = || self.groups.keys().map(String::as_str);
        let groups = || [NODEFAULT, PERF].into_iter().chain(listed()).chain(own());
        if all.are_elsewhere(test) || groups().any(|known| known == group) {
            return Ok(());
        }
        Err(unknown("group", group, groups().collect::<BTreeSet<&str>>()))
    }

    /// Capability names can only be checked where the host's facts are known.
    ///
    /// # Errors
    ///
    /// One of them means nothing.
    pub fn check_capabilities(&self, facts: &HostFacts) -> Result<(), FileError> {
        for (test, policy) in &self.tests {
            let is_unknown = |name: &String| !facts.caps.contains_key(name);
            if let Some(nth) = policy.requires.iter().position(is_unknown) {
                let known = facts.caps.keys().map(String::as_str);
                let message = unknown("capability", &policy.requires[nth], known);
                let place = [Key("tests"), Key(test), Key("requires"), Nth(nth)];
                return Err(self.error(0, &place, message));
            }
        }
        Ok(())
    }
}

/// What a build prepared: for each file what it says, in which a known failure of another
/// architecture is null, so that the others keep their places.
fn parse_prepared(json: &str) -> Option<(Written, Vec<Vec<Option<KnownFailure>>>)> {
    let files: Vec<Written> = serde_json::from_str(json).ok()?;
    let mut files = files.into_iter();
    let mut whole = files.next()?;
    let mut known = vec![std::mem::take(&mut whole.known_failures)];
    known.extend(files.map(|file| file.known_failures));
    Some((whole, known))
}

/// What there is to be named.
struct Names<'a> {
    tests: &'a [Test],
    ids: Vec<&'a str>,
    /// The architectures of which there are tests.
    here: BTreeSet<&'a str>,
}

impl<'a> Names<'a> {
    fn of(tests: &'a [Test]) -> Self {
        let ids: Vec<&str> = tests.iter().map(|test| &*test.id).collect();
        let here = ids.iter().filter_map(|id| architecture(id)).collect();
        Self { tests, ids, here }
    }

    fn find(&self, name: &str) -> Option<&Test> {
        self.ids.binary_search(&name).ok().map(|at| &self.tests[at])
    }

    fn are_elsewhere(&self, name: &str) -> bool {
        architecture(name).is_some_and(|arch| !self.here.contains(arch))
    }

    fn has(&self, name: &str, may_be_glob: bool) -> bool {
        let matches = |glob: Glob| self.ids.iter().any(|id| glob.is_match(id));
        self.are_elsewhere(name)
            || self.find(name).is_some()
            || (may_be_glob && Glob::new(name).is_ok_and(matches))
    }
}
