//! The command line of a run as it was given, and what of it goes to a runner on another host.

use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args, Command, FromArgMatches};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::args::RunArgs;
use crate::{Refusal, process};

/// Options that mean nothing on the other host, or that the run on it has its own values of.
const OUTER_ONLY: [&str; 18] = [
    "host",
    "arch",
    "kernel",
    "list",
    "all_archs",
    "resume",
    "finished",
    "bisect",
    "strict",
    "mark",
    "quiet",
    "json",
    "junit",
    "tap",
    "tap_on_stdout",
    "ktap",
    "markdown",
    "html",
];
/// Options that name a file of this machine, and how to find the files that it names in turn.
const FILES: [(&str, Named); 3] = [
    ("config", named_by_policy as Named),
    ("programs", named_by_list as Named),
    ("failed", |_| Vec::new()),
];
/// Options without which the same test may end in another way.
const DECISIVE: [&str; 8] =
    ["host", "arch", "kernel", "config", "programs", "set", "timeout", "timeout_scale"];
/// Folder of the other host that these files lie in, each below its path here.
const FOLDER: &str = "/given";

type Named = fn(&str) -> Vec<PathBuf>;

/// A run's command line.
#[derive(Clone, Debug)]
pub struct Given {
    /// What it means.
    pub args: RunArgs,
    /// Those of its words that go to another host.
    inner: Vec<Word>,
    /// Those that a run of one of its tests needs again.
    decisive: Vec<Word>,
}

/// An option or a positional argument.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Word {
    id: String,
    /// `--name`; nothing for a positional argument.
    flag: Option<String>,
    value: Option<String>,
}

/// Files of this machine by their place on the other host.
pub type Files = Vec<(String, PathBuf)>;

impl Given {
    /// The command that runs tests in the same way again, but for their names.
    pub fn again(&self) -> String {
        let words = self.decisive.iter().flat_map(|word| word.flag.iter().chain(&word.value));
        words.fold(process::command(), |line, word| format!("{line} {}", quoted(word)))
    }

    /// The same arguments for a runner on this machine.
    pub fn local(&self) -> Vec<String> {
        arguments(self.inner.iter().map(|word| (word.flag.clone(), word.value.clone())))
    }

    /// The arguments for a runner on another host, and the files that they name.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or names another by an absolute path.
    pub fn inner(&self) -> Result<(Vec<String>, Files), Refusal> {
        let (mut words, mut files) = (Vec::new(), Vec::new());
        for word in &self.inner {
            let names_files = FILES.iter().find(|(id, _)| *id == word.id);
            let value = match (&word.value, names_files) {
                (Some(path), Some((_, named))) => Some(carry(Path::new(path), *named, &mut files)?),
                (value, _) => value.clone(),
            };
            words.push((word.flag.clone(), value));
        }
        Ok((arguments(words), files))
    }
}

/// A command line of flags and values.
fn arguments(words: impl IntoIterator<Item = (Option<String>, Option<String>)>) -> Vec<String> {
    let (mut options, mut positional) = (Vec::new(), Vec::new());
    for word in words {
        match word {
            (Some(flag), Some(value)) => options.push(format!("{flag}={value}")),
            (Some(flag), None) => options.push(flag),
            (None, value) => positional.extend(value),
        }
    }
    if !positional.is_empty() {
        options.push("--".to_owned());
        options.append(&mut positional);
    }
    options
}

/// Adds a file and those that it names; gives its place on the other host.
fn carry(path: &Path, named: Named, files: &mut Files) -> Result<String, Refusal> {
    let text =
        std::fs::read_to_string(path).map_err(|e| Refusal(format!("{}: {e}", path.display())))?;
    let place = inside(path)?;
    files.push((place.clone(), path.to_owned()));
    for other in named(&text) {
        if other.is_absolute() {
            let why = "is an absolute path, and an emulated host has files of its own";
            return Err(Refusal(format!("{}: {} {why}", path.display(), other.display())));
        }
        let other = path.parent().unwrap_or(Path::new("")).join(other);
        files.push((inside(&other)?, other));
    }
    Ok(place)
}

/// As a shell reads it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_=+,.:/@%^".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

fn inside(path: &Path) -> Result<String, Refusal> {
    let whole = std::path::absolute(path).map_err(Refusal::of)?;
    let place = whole.to_str().map(|whole| format!("{FOLDER}{whole}"));
    place.ok_or_else(|| Refusal(format!("{}: is no path in UTF-8", path.display())))
}

/// The files that a policy includes. What else is wrong with it the runner says.
fn named_by_policy(text: &str) -> Vec<PathBuf> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Policy {
        include: Vec<PathBuf>,
    }
    read::<Policy>(text).include
}

/// The programs that a list names.
fn named_by_list(text: &str) -> Vec<PathBuf> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct List {
        programs: Vec<Program>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Program {
        path: PathBuf,
    }
    read::<List>(text).programs.into_iter().map(|program| program.path).collect()
}

fn read<T: Default + DeserializeOwned>(text: &str) -> T {
    serde_yaml::from_str(text).unwrap_or_default()
}

/// What was given of the options that clap knows, where `wanted` says so of their ids.
fn words(matches: &ArgMatches, wanted: impl Fn(&str) -> bool) -> Vec<Word> {
    let mut words = Vec::new();
    for arg in RunArgs::augment_args(Command::new("run")).get_arguments() {
        let id = arg.get_id().as_str();
        if !wanted(id) || matches.value_source(id) != Some(ValueSource::CommandLine) {
            continue;
        }
        let word = |value| Word {
            id: id.to_owned(),
            flag: (!arg.is_positional()).then(|| match (arg.get_long(), arg.get_short()) {
                (None, Some(short)) => format!("-{short}"),
                (long, _) => format!("--{}", long.unwrap_or(id)),
            }),
            value,
        };
        match arg.get_action() {
            ArgAction::SetTrue | ArgAction::SetFalse => words.push(word(None)),
            _ => {
                let values = matches.get_raw(id).into_iter().flatten();
                words.extend(values.map(|value| word(Some(value.to_string_lossy().into_owned()))));
            }
        }
    }
    words
}

impl Args for Given {
    fn augment_args(command: Command) -> Command {
        RunArgs::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        RunArgs::augment_args_for_update(command)
    }
}

impl FromArgMatches for Given {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Self::from_arg_matches_mut(&mut matches.clone())
    }

    fn from_arg_matches_mut(matches: &mut ArgMatches) -> Result<Self, clap::Error> {
        let inner = words(matches, |id| !OUTER_ONLY.contains(&id));
        let decisive = words(matches, |id| DECISIVE.contains(&id));
        Ok(Self { args: RunArgs::from_arg_matches_mut(matches)?, inner, decisive })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        given: Given,
    }

    pub(crate) fn given(arguments: &[String]) -> Given {
        let line = std::iter::once("run".to_owned()).chain(arguments.iter().cloned());
        Line::try_parse_from(line).unwrap().given
    }

    /// A way to give each option that there is: its id, and words.
    fn every_option() -> Vec<(String, Vec<String>)> {
        const VALUES: [&str; 4] = ["1", "1/2", "a=b", "word"];
        let command = RunArgs::augment_args(Command::new("run"));
        let way = |arg: &clap::Arg| {
            let flag = match (arg.get_long(), arg.get_short()) {
                (Some(long), _) => format!("--{long}"),
                (None, Some(short)) => format!("-{short}"),
                (None, None) => String::new(),
            };
            // `--all-archs` needs `--list`.
            let before =
                if arg.get_id() == "all_archs" { vec!["--list".to_owned()] } else { vec![] };
            let ways = VALUES.iter().map(|value| match arg.is_positional() {
                true => value.to_string(),
                false => format!("{flag}={value}"),
            });
            let ways = ways.chain([flag.clone()]).map(|way| [&before[..], &[way]].concat());
            let taken = |way: &Vec<String>| {
                Line::try_parse_from([&["run".to_owned()], &way[..]].concat()).is_ok()
            };
            let id = arg.get_id().to_string();
            let way = ways.into_iter().find(taken);
            (id.clone(), way.unwrap_or_else(|| panic!("no way to give {id}")))
        };
        command.get_arguments().map(way).collect()
    }

    #[test]
    fn every_option_but_the_outer_ones_goes_inside() {
        let options = every_option();
        for (id, words) in &options {
            let outer = given(words);
            if OUTER_ONLY.contains(&id.as_str()) {
                assert_eq!(outer.inner, [], "{id}");
                continue;
            }
            assert!(!outer.inner.is_empty(), "{id} is lost");
            if FILES.iter().any(|(file, _)| file == id) {
                continue;
            }
            let (inner, _) = outer.inner().unwrap();
            let again = given(&inner);
            assert_eq!(format!("{:?}", again.args), format!("{:?}", outer.args), "{id}: {inner:?}");
        }
        for id in OUTER_ONLY {
            assert!(options.iter().any(|(known, _)| known == id), "there is no {id}");
        }
    }

    /// One that takes a path but goes inside as a mere word would name nothing there.
    #[test]
    fn options_that_name_files_are_known_as_such() {
        for arg in RunArgs::augment_args(Command::new("run")).get_arguments() {
            let takes_file = arg.get_value_names().is_some_and(|names| names[0] == "FILE");
            let id = arg.get_id().as_str();
            let is_known = OUTER_ONLY.contains(&id) || FILES.iter().any(|(file, _)| *file == id);
            assert!(!takes_file || is_known, "{id}");
        }
    }

    #[test]
    fn words_go_inside_as_they_were_given() {
        let line = ["-g", "a,b", "-x", "c", "--set", "n=1", "--set=m=-2", "-av", "x::*", "/y/"];
        let given = given(&line.map(str::to_owned));
        let (inner, files) = given.inner().unwrap();
        let wanted = [
            "--group=a",
            "--group=b",
            "--exclude=c",
            "--all",
            "--set=n=1",
            "--set=m=-2",
            "--verbose",
            "--",
            "x::*",
            "/y/",
        ];
        assert_eq!((inner.as_slice(), files), (&wanted.map(str::to_owned)[..], vec![]));
    }

    #[test]
    fn a_test_is_run_again_as_it_was_run() {
        let line =
            ["--config=a b's.yaml", "-v", "--host", "amd64-svm", "--json=j", "--set=n=1", "x"];
        let again = given(&line.map(str::to_owned)).again();
        let wanted = " --set n=1 --config 'a b'\\''s.yaml' --host amd64-svm";
        assert!(again.ends_with(wanted), "{again}");
        let options = every_option();
        for id in DECISIVE {
            assert!(options.iter().any(|(known, _)| known == id), "there is no {id}");
        }
    }

    #[test]
    fn files_go_with_what_they_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("p.yaml"), "include: [known/a.yaml, ../b.yaml]\ntests: {}\n").unwrap();
        std::fs::write(path("l.yaml"), "suite: s\nprograms: [{name: x, path: bin/x}]\n").unwrap();
        let words = ["config=p.yaml", "programs=l.yaml"].map(|word| {
            let (option, file) = word.split_once('=').unwrap();
            format!("--{option}={}", path(file).display())
        });
        let (inner, files) = given(&words).inner().unwrap();
        let place = |name: &str| format!("/given{}", path(name).display());
        let wanted = ["--config=", "--programs="].into_iter().zip(["p.yaml", "l.yaml"]);
        assert_eq!(inner, wanted.map(|(o, f)| format!("{o}{}", place(f))).collect::<Vec<_>>());
        let wanted = ["p.yaml", "known/a.yaml", "../b.yaml", "l.yaml", "bin/x"];
        assert_eq!(files, wanted.map(|name| (place(name), path(name))));
        std::fs::write(path("l.yaml"), "programs: [{path: /bin/sh}]\n").unwrap();
        let refused = given(&words).inner().unwrap_err().to_string();
        assert!(refused.contains("l.yaml: /bin/sh is an absolute path"), "{refused}");
    }
}
