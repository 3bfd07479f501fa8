//! Which tests a command line means.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher};
use std::path::Path;

use cli::args::{RunArgs, Shard};
use regex::Regex;
use vm::variant::{ALL, Set};

use crate::pattern::Glob;
use crate::registry::{NODEFAULT, PERF, Registry};
use crate::test::{Test, VARIANT};
use cli::nearest::{nearest, unknown};
use results::journal::{self, Run};
use results::report::console::is_news;
use results::report::matrix::Matrix;

/// What the user asked for.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Names, globs and `/regexes/`; all tests if empty.
    pub patterns: Vec<String>,
    /// Only tests in one of these groups, if any is given.
    pub groups: Vec<String>,
    /// Only these, by their whole names, if a list is given.
    pub failed: Option<BTreeSet<String>>,
    /// Not these: names, globs and `/regexes/`.
    pub exclude: Vec<String>,
    /// Also the `nodefault` group.
    pub all: bool,
    /// Also the `perf` group.
    pub perf: bool,
    /// Only under these variants, if any is given.
    pub variants: Vec<String>,
    /// Part I of N.
    pub shard: Option<Shard>,
    /// Shuffle with this seed.
    pub shuffle: Option<u64>,
}

/// `--variant` of tests as they are.
const PLAIN: &str = "none";
/// `--variant` of every variant, one after the other.
const EVERY: &str = "all";

/// What `--variant` names.
fn names_of(words: &[String]) -> Vec<String> {
    let all = || ALL.iter().map(|variant| variant.name.to_owned()).collect();
    let names = |word: &String| if word == EVERY { all() } else { vec![word.clone()] };
    words.iter().flat_map(names).collect()
}

/// A wrong name or pattern, told to the user.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectError(pub String);

/// How one word of the command line matches.
enum Matcher {
    /// The whole name, or whole segments of it.
    Name(String),
    Glob(Glob),
    Regex(Regex),
}

impl Matcher {
    fn parse(word: &str, registry: &Registry) -> Result<Self, SelectError> {
        let bad = |e: &dyn std::fmt::Display| SelectError(format!("`{word}`: {e}"));
        if registry.find(word).is_some() {
            return Ok(Self::Name(word.to_owned()));
        }
        if word.len() > 2 && word.starts_with('/') && word.ends_with('/') {
            return Regex::new(&word[1..word.len() - 1]).map(Self::Regex).map_err(|e| bad(&e));
        }
        if word.contains(['*', '?', '[']) {
            return Glob::new(word).map(Self::Glob).map_err(|e| bad(&e));
        }
        Ok(Self::Name(word.to_owned()))
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Name(wanted) => segments_match(name, wanted),
            Self::Glob(glob) => glob.is_match(name),
            Self::Regex(regex) => regex.is_match(name),
        }
    }
}

/// Whether `wanted` is `name` or a run of whole `::` segments of it. The
/// parameters of a test, `[…]`, may be left away.
fn segments_match(name: &str, wanted: &str) -> bool {
    name.match_indices(wanted).any(|(at, _)| {
        let before = &name[..at];
        let after = &name[at + wanted.len()..];
        (before.is_empty() || before.ends_with("::"))
            && (after.is_empty() || after.starts_with("::") || after.starts_with('['))
    })
}

impl Selection {
    /// What a command line asks for.
    ///
    /// # Errors
    ///
    /// The stream that it names cannot be read.
    pub fn new(args: &RunArgs) -> Result<Self, SelectError> {
        Ok(Self {
            failed: args.failed.as_deref().map(failed).transpose()?,
            patterns: args.names.clone(),
            groups: args.group.clone(),
            exclude: args.exclude.clone(),
            all: args.all,
            perf: args.perf,
            variants: names_of(&args.variant),
            shard: args.shard,
            shuffle: args.shuffle,
        })
    }

    /// The tests meant, in the order to run them.
    pub fn apply<'r>(&self, registry: &'r Registry) -> Result<Vec<&'r Test>, SelectError> {
        let wanted = self.matchers(&self.patterns, registry)?;
        let unwanted = self.matchers(&self.exclude, registry)?;
        self.check_groups(registry)?;
        let is_listed = |test: &Test| self.failed.as_ref().is_none_or(|f| f.contains(test.name()));
        let on_request = |test: &Test, group: &str, flag: bool| {
            !test.in_group(group)
                || self.failed.is_some()
                || flag
                || self.groups.iter().any(|g| g == group)
                || wanted
                    .iter()
                    .any(|w| matches!(w, Matcher::Name(n) if segments_match(test.name(), n)))
        };
        let mut tests: Vec<&Test> = registry
            .tests
            .iter()
            .filter(|e| is_listed(e))
            .filter(|e| wanted.is_empty() || wanted.iter().any(|w| self.means(w, e)))
            .filter(|e| self.is_asked(e, &wanted))
            .filter(|e| self.groups.is_empty() || self.groups.iter().any(|g| e.in_group(g)))
            .filter(|e| !unwanted.iter().any(|u| self.means(u, e)))
            .filter(|e| on_request(e, NODEFAULT, self.all) && on_request(e, PERF, self.perf))
            .collect();
        if let Some(Shard { index, of }) = self.shard {
            let mut nth = 0;
            tests.retain(|_| {
                nth += 1;
                (nth - 1) % of == index - 1
            });
        }
        if let Some(seed) = self.shuffle {
            shuffle(&mut tests, seed);
        }
        Ok(tests)
    }

    /// Whether a word means a test: where variants are asked for, the names of tests mean those.
    fn means(&self, word: &Matcher, test: &Test) -> bool {
        word.matches(test.name()) || !self.variants.is_empty() && word.matches(test.plain_name())
    }

    /// Whether a test is of a variant that is asked for, or is named as a whole.
    fn is_asked(&self, test: &Test, words: &[Matcher]) -> bool {
        let name = test.name();
        let variant = name.split_once(VARIANT).map_or(PLAIN, |(_, variant)| variant);
        match self.variants.as_slice() {
            [] if test.variant.is_empty() => true,
            asked => {
                asked.iter().any(|asked| asked == variant)
                    || self.failed.as_ref().is_some_and(|failed| failed.contains(name))
                    || words.iter().any(|word| matches!(word, Matcher::Name(n) if n == name))
            }
        }
    }

    /// The variants that are asked for, and those of tests that are named with theirs.
    ///
    /// # Errors
    ///
    /// There is no variant of that name.
    pub fn variant_sets(&self) -> Result<Vec<Set>, SelectError> {
        let mut sets = Vec::new();
        for name in self.variants.iter().filter(|name| *name != PLAIN) {
            sets.push(Set::parse(name).map_err(|wrong| {
                let known = ALL.iter().map(|variant| variant.name).chain([PLAIN, EVERY]);
                SelectError(unknown("variant", wrong, known))
            })?);
        }
        let names = self.patterns.iter().chain(self.failed.iter().flatten());
        let named = names.filter_map(|word| word.split_once(VARIANT));
        sets.extend(named.filter_map(|(_, name)| Set::parse(name).ok()));
        sets.sort_unstable();
        sets.dedup();
        Ok(sets)
    }

    fn matchers(&self, words: &[String], registry: &Registry) -> Result<Vec<Matcher>, SelectError> {
        words
            .iter()
            .map(|word| {
                let matcher = Matcher::parse(word, registry)?;
                if registry.tests.iter().any(|e| matcher.matches(e.name())) {
                    return Ok(matcher);
                }
                Err(SelectError(match matcher {
                    Matcher::Glob(_) | Matcher::Regex(_) => format!("`{word}` matches no test"),
                    Matcher::Name(_) => no_such_test(word, registry),
                }))
            })
            .collect()
    }

    fn check_groups(&self, registry: &Registry) -> Result<(), SelectError> {
        let groups = registry.groups();
        match self.groups.iter().find(|g| !groups.contains(g.as_str())) {
            Some(group) => Err(SelectError(unknown("group", group, groups.iter().copied()))),
            None => Ok(()),
        }
    }
}

/// The tests that a stream's latest results say failed.
fn failed(stream: &Path) -> Result<BTreeSet<String>, SelectError> {
    let mut runs = journal::read(stream).map_err(|e| SelectError(e.to_string()))?;
    runs.iter_mut().for_each(Run::complete);
    let matrix = Matrix::new(&runs);
    let cells = matrix.columns.iter().flat_map(|column| &column.cells);
    let failed: BTreeSet<String> = cells
        .filter(|(_, cell)| is_news(cell.latest.outcome))
        .map(|(test, _)| (*test).to_owned())
        .collect();
    match failed.is_empty() {
        true => Err(SelectError(format!("{}: no test failed there", stream.display()))),
        false => Ok(failed),
    }
}

fn no_such_test(word: &str, registry: &Registry) -> String {
    let names = registry.tests.iter().map(Test::name);
    let near = nearest(word, names).or_else(|| nearest(word, registry.groups()));
    match near {
        Some(near) => format!("no test is named `{word}`; did you mean `{near}`?"),
        None => format!("no test is named `{word}`; `-l` lists them"),
    }
}

/// Orders by a hash of seed and name: the same seed gives the same order
/// for the same tests, whatever else was added.
fn shuffle(tests: &mut [&Test], seed: u64) {
    tests.sort_by_cached_key(|test| {
        let mut hasher = Fnv.build_hasher();
        hasher.write(&seed.to_le_bytes());
        hasher.write(test.name().as_bytes());
        mix(hasher.finish())
    });
}

/// FNV-1a: stable between builds, unlike the standard library's hashers.
struct Fnv;
struct FnvHasher(u64);

impl BuildHasher for Fnv {
    type Hasher = FnvHasher;

    fn build_hasher(&self) -> FnvHasher {
        FnvHasher(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for FnvHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// Spreads the low bits, which FNV mixes little.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^ (x >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_match_whole_segments_only() {
        assert!(segments_match("x86_64::pio::in_byte", "pio"));
        assert!(segments_match("x86_64::pio::in_byte", "pio::in_byte"));
        assert!(segments_match("x86_64::pio::in_byte[4]", "in_byte"));
        assert!(!segments_match("x86_64::pio::in_byte", "in"));
        assert!(!segments_match("x86_64::pio::in_byte", "io"));
    }
}
