//! Programs of other suites, as a file lists them (`--programs FILE`, docs/results.md).

use std::path::{Path, PathBuf};

use results::HostFacts;
use results::outcome::Outcome;
use serde::Deserialize;
use vm::case::Weight;
use vm::variant::Set;

use super::{Source, SourceError};
use crate::body::{Body, ExitMap, Program};
use crate::test::{Limits, Location, Test};
use crate::yaml::Step::{self, Key, Nth};
use crate::yaml::{self, Bytes, FileError, Lines, Span, Unique};

/// A list of programs.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The file.
    pub file: PathBuf,
}

impl Source for Programs {
    fn tests(&self, _: &HostFacts) -> Result<Vec<Test>, SourceError> {
        let name = self.file.display().to_string();
        let text = std::fs::read_to_string(&self.file).map_err(|e| FileError::of(&name, e));
        let folder = self.file.parent().unwrap_or(Path::new(""));
        let tests = text.and_then(|text| parse(&name, &text, folder));
        tests.map_err(|e| SourceError(e.to_string()))
    }
}

/// The file as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    suite: String,
    programs: Vec<WrittenProgram>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenProgram {
    name: String,
    path: PathBuf,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    doc: String,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default = "one")]
    cpus: u32,
    #[serde(default)]
    exclusive: bool,
    #[serde(default)]
    timeout: Option<Span>,
    #[serde(default)]
    memory: Option<Bytes>,
    #[serde(default)]
    exit: Option<Unique<Meaning>>,
}

fn one() -> u32 {
    1
}

/// What an end can mean.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Meaning {
    Pass,
    Fail,
    Skip,
    Error,
}

impl From<Meaning> for Outcome {
    fn from(meaning: Meaning) -> Self {
        match meaning {
            Meaning::Pass => Self::Pass,
            Meaning::Fail => Self::Fail,
            Meaning::Skip => Self::Skip,
            Meaning::Error => Self::Error,
        }
    }
}

/// The tests of a file of that name and text; their paths start at `folder`.
fn parse(file: &str, text: &str, folder: &Path) -> Result<Vec<Test>, FileError> {
    let written: Written = yaml::parse(file, text)?;
    let wrong = |place: &[Step<'_>], message| FileError::at(file, text, place, message);
    check_word(&written.suite, "the name of a suite").map_err(|m| wrong(&[Key("suite")], m))?;
    let lines = Lines::of(text);
    let test = |(nth, program): (usize, WrittenProgram)| {
        let place = [Key("programs"), Nth(nth)];
        let wrong = |key, message| wrong(&[&place[..], &[Key(key)]].concat(), message);
        check_word(&program.name, "the name of a test").map_err(|m| wrong("name", m))?;
        for group in &program.groups {
            check_word(group, "a group").map_err(|m| wrong("groups", m))?;
        }
        let exit_map = program.exit.map_or(Ok(ExitMap::default()), exit_map);
        let line = lines.find(&place).and_then(|line| u32::try_from(line).ok());
        let groups = [&written.suite].into_iter().chain(&program.groups);
        Ok(Test {
            source: written.suite.clone().into(),
            location: Location { file: file.to_owned().into(), line: line.unwrap_or(0) },
            doc: program.doc.into(),
            needs: Vec::new(),
            weight: match program.exclusive {
                true => Weight::Alone,
                false => Weight::Cpus(program.cpus),
            },
            groups: groups.map(|group| group.clone().into()).collect(),
            options: Vec::new(),
            limits: Limits {
                timeout: program.timeout.map(|t| t.0),
                memory_bytes: program.memory.map(|m| m.0),
            },
            policy: None,
            variant: Set::NONE,
            sees: &[],
            body: Body::Program(Box::new(Program {
                path: folder.join(program.path),
                args: program.args,
                exit_map: exit_map.map_err(|message| wrong("exit", message))?,
            })),
            id: program.name.into(),
        })
    };
    written.programs.into_iter().enumerate().map(test).collect()
}

/// Names stand in lines of reports.
fn check_word(word: &str, what: &str) -> Result<(), String> {
    if word.is_empty() || word.trim() != word || word.contains(char::is_control) {
        return Err(format!("`{}` cannot be {what}", word.escape_debug()));
    }
    Ok(())
}

/// A map that is written replaces the usual one.
fn exit_map(written: Unique<Meaning>) -> Result<ExitMap, String> {
    let mut map = ExitMap { statuses: Default::default(), ..ExitMap::default() };
    for (key, meaning) in written.0 {
        match (key.as_str(), key.parse::<u8>()) {
            ("other", _) => map.other = meaning.into(),
            ("signal", _) => map.signal = meaning.into(),
            (_, Ok(status)) => drop(map.statuses.insert(status.into(), meaning.into())),
            (word, Err(_)) => {
                return Err(format!("`{word}` is no exit status (0 to 255), `other` or `signal`"));
            }
        }
    }
    Ok(map)
}
