//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use results::report::console::Detail;

use crate::given::Given;
use crate::process;

/// Checks that a KVM implementation keeps its contract.
///
/// Exit status: 0 all as expected, 1 something about KVM is wrong, 2 an error or
/// misuse, 3 nothing ran.
#[derive(Debug, Parser)]
#[command(name = "kvm-conformance", version, args_conflicts_with_subcommands = true)]
pub struct CommandLine {
    /// What to do instead of running tests.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to run tests.
    #[command(flatten)]
    pub run: Given,
}

/// What can be done beside running tests.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Merge result streams into one report: kernels × tests.
    Report(ReportArgs),
    /// Tell what regressed, was fixed, is new, is gone or got slower; exits 1 on a regression.
    Compare(CompareArgs),
    /// Tell what a test checks, what it needs and where it is known to fail.
    Explain(ExplainArgs),
}

/// Which tests to run, and how.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Test names or whole parts of them, globs, or /regexes/.
    #[arg(value_name = "NAME|GLOB|/REGEX/")]
    pub names: Vec<String>,
    /// Only tests in one of these groups.
    #[arg(short, long, value_name = "GROUP", value_delimiter = ',')]
    pub group: Vec<String>,
    /// Not these tests (name, glob or /regex/).
    #[arg(short = 'x', long, value_name = "NAME", value_delimiter = ',')]
    pub exclude: Vec<String>,
    /// Also tests of the group `nodefault`.
    #[arg(short, long)]
    pub all: bool,
    /// Also tests of the group `perf`.
    #[arg(long)]
    pub perf: bool,
    /// Give tests that measure an option, as `unittests.yaml` can (docs/results.md).
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = option)]
    pub set: Vec<(String, String)>,
    /// List the tests, one name a line; with -v their groups and requirements too.
    #[arg(short, long)]
    pub list: bool,
    /// List the tests of every architecture that this program holds.
    #[arg(long, requires = "list")]
    pub all_archs: bool,
    /// vCPUs' worth of tests to run at a time.
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = at_least_one)]
    pub jobs: usize,
    /// Deadline of each test, in seconds, instead of the one in unittests.yaml.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<Duration>,
    /// Factor on every deadline, instead of the one measured on this host.
    #[arg(long, value_name = "FACTOR", value_parser = factor)]
    pub timeout_scale: Option<f64>,
    /// Run everything N times, and tell which tests are flaky.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: u32,
    /// Run a failing test up to N times more; one that then passes is told as flaky.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub retry: u32,
    /// Run the tests under these circumstances, which no guest can see (docs/variants.md); `none`: as they
    /// are; `all`: under each; `A+B`: under both.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub variant: Vec<String>,
    /// Run in an order that this number decides.
    #[arg(long, value_name = "SEED")]
    pub shuffle: Option<u64>,
    /// Run part I of N of the tests.
    #[arg(long, value_name = "I/N")]
    pub shard: Option<Shard>,
    /// Go on with the result stream in FILE: run only what has no result in it yet.
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    pub resume: Option<PathBuf>,
    /// Run only what failed in the result stream FILE.
    #[arg(long, value_name = "FILE")]
    pub failed: Option<PathBuf>,
    /// Leave out what FILE says that has a result: lines of a test's name and repetition.
    #[arg(long, value_name = "FILE", hide = true)]
    pub finished: Option<PathBuf>,
    /// Exit 1 also when a known failure passes: the list is to be corrected.
    #[arg(long)]
    pub strict: bool,
    /// Exit for `git bisect run`: 0 good, 1 bad, 125 cannot tell.
    #[arg(long)]
    pub bisect: bool,
    /// Announce each test in the kernel log and the result stream, so that a dead host names it.
    #[arg(long)]
    pub mark: bool,
    /// Print every test, passing ones with their log and numbers too.
    #[arg(short, long, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Print the summary alone.
    #[arg(short, long)]
    pub quiet: bool,
    /// Policy to use instead of the built-in unittests.yaml.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Also programs of other suites, as FILE lists them (docs/results.md).
    #[arg(long, value_name = "FILE")]
    pub programs: Vec<PathBuf>,
    /// Host to run on: `native`, or a profile of the lab.
    #[arg(long, value_name = "PROFILE")]
    pub host: Option<String>,
    /// Architecture whose default host of the lab to run on.
    #[arg(long, value_name = "ARCH")]
    pub arch: Option<String>,
    /// Kernel of the lab's host: debian:SUITE, debian:VERSION, path:IMAGE[,modules=DIR] or tree:DIR.
    #[arg(long, value_name = "SPEC")]
    pub kernel: Option<String>,
    /// Where results go.
    #[command(flatten)]
    pub formats: Formats,
}

impl RunArgs {
    /// The file of the result stream, if one is written.
    pub fn stream(&self) -> Option<String> {
        let resumed = || self.resume.as_ref().map(|path| path.display().to_string());
        self.formats.json.clone().or_else(resumed)
    }

    /// What the console shows.
    pub fn detail(&self) -> Detail {
        match (self.verbose, self.quiet) {
            (true, _) => Detail::Everything,
            (_, true) => Detail::Summary,
            _ => Detail::News,
        }
    }
}

/// Where results go; `-` is standard output.
#[derive(Args, Clone, Debug, Default)]
pub struct Formats {
    /// Result stream (JSON lines).
    #[arg(long, value_name = "FILE")]
    pub json: Option<String>,
    /// JUnit XML.
    #[arg(long, value_name = "FILE")]
    pub junit: Option<String>,
    /// TAP 13.
    #[arg(long, value_name = "FILE")]
    pub tap: Option<String>,
    /// TAP 13 on standard output.
    #[arg(short = 't', conflicts_with = "tap")]
    pub tap_on_stdout: bool,
    /// The kernel's KTAP.
    #[arg(long, value_name = "FILE")]
    pub ktap: Option<String>,
    /// Markdown.
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<String>,
    /// One self-contained HTML page.
    #[arg(long, value_name = "FILE")]
    pub html: Option<String>,
}

impl Formats {
    /// Every place named, and the option that named it.
    pub fn places(&self) -> Vec<(&'static str, &str)> {
        let tap = if self.tap_on_stdout { Some("-") } else { self.tap.as_deref() };
        [
            ("--json", self.json.as_deref()),
            ("--junit", self.junit.as_deref()),
            ("--tap", tap),
            ("--ktap", self.ktap.as_deref()),
            ("--markdown", self.markdown.as_deref()),
            ("--html", self.html.as_deref()),
        ]
        .into_iter()
        .filter_map(|(option, place)| Some((option, place?)))
        .collect()
    }

    /// Whether standard output carries results; two formats there are an error.
    pub fn use_stdout(&self) -> Result<bool, String> {
        let there: Vec<&str> = self
            .places()
            .iter()
            .filter(|(_, place)| *place == "-")
            .map(|(option, _)| *option)
            .collect();
        match there.as_slice() {
            [] => Ok(false),
            [option] if process::stdout_is_closed() => {
                Err(format!("standard output is closed: {option} cannot go there"))
            }
            [_] => Ok(true),
            more => {
                Err(format!("only one format fits on standard output, not {}", more.join(" and ")))
            }
        }
    }
}

/// What to merge.
#[derive(Args, Clone, Debug)]
pub struct ReportArgs {
    /// Result streams.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Where reports go; without any, Markdown goes to standard output.
    #[command(flatten)]
    pub formats: Formats,
}

/// What to compare.
#[derive(Args, Clone, Debug)]
pub struct CompareArgs {
    /// Result stream of before.
    pub old: PathBuf,
    /// Result stream of after.
    pub new: PathBuf,
    /// How many times slower a test must be to be told.
    #[arg(long, value_name = "FACTOR", default_value_t = 2.0, value_parser = factor)]
    pub slower: f64,
}

/// What to explain.
#[derive(Args, Clone, Debug)]
pub struct ExplainArgs {
    /// Test names, globs or /regexes/.
    #[arg(required = true, value_name = "TEST")]
    pub names: Vec<String>,
    /// Policy to use instead of the built-in unittests.yaml.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Also programs of other suites, as FILE lists them.
    #[arg(long, value_name = "FILE")]
    pub programs: Vec<PathBuf>,
}

/// Part `index` of `of`, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// 1 to `of`.
    pub index: usize,
    /// Number of parts.
    pub of: usize,
}

impl std::str::FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts =
            text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match parts {
            Some((index, of)) if index >= 1 && index <= of => Ok(Self { index, of }),
            _ => Err("a shard is I/N with 1 <= I <= N".to_owned()),
        }
    }
}

fn option(text: &str) -> Result<(String, String), String> {
    let Some((name, value)) = text.split_once('=') else {
        return Err("NAME=VALUE is needed".to_owned());
    };
    Ok((name.to_owned(), value.to_owned()))
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n >= 1 => Ok(n),
        _ => Err(format!("a number of at least 1 and at most {} is needed", usize::MAX)),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .filter(|s| *s > 0.0)
        .and_then(|s| Duration::try_from_secs_f64(s).ok())
        .ok_or_else(|| {
            format!("a number of seconds greater than 0 and at most {} is needed", u64::MAX)
        })
}

fn factor(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(f) if f > 0.0 && f <= 1e6 => Ok(f),
        _ => Err("a factor greater than 0 and at most 1000000 is needed".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_count_from_one() {
        assert_eq!("2/3".parse(), Ok(Shard { index: 2, of: 3 }));
        for wrong in ["0/3", "4/3", "1", "a/b", "1/0"] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }
}
