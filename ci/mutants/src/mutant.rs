//! Mutants as `ci/mutants/ARCH/*.yaml` tells them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use lab::Arch;
use serde::Deserialize;

use crate::anchor::{AnchorError, Source};
use crate::weave::{Change, Kind};

/// A bug.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mutant {
    /// Its name, which says what is wrong.
    pub name: String,
    /// The rule that it breaks.
    pub rule: String,
    /// The bug of the past that it stands for, if there was one.
    #[serde(default)]
    pub stands_for: Option<String>,
    /// What is changed.
    pub edits: Vec<Edit>,
    /// Host profile to run it on; the architecture's own if empty.
    #[serde(default)]
    pub profile: String,
    /// Tests of which at least one must go red: names or globs.
    pub expect: Vec<String>,
    /// Tests of other suites that claim the mutant's topic: a KVM selftest of Linux by its place in the
    /// source, with its arguments, or `unit:` and the name of a test of kvm-unit-tests.
    #[serde(default)]
    pub peers: Vec<String>,
    /// Groups that must stay green, but for the tests in `expect`.
    #[serde(default = "default_green")]
    pub green: Vec<String>,
    /// Why no test can tell it from the original, where that is so.
    #[serde(default)]
    pub equivalent: Option<String>,
    /// The kernels that have the rule; all if empty.
    #[serde(default)]
    pub kernels: Vec<String>,
    /// No bug, but a kernel without one that all kernels have: others build on it.
    #[serde(default)]
    pub ground: bool,
    /// The ground that it is a bug of: its edits are this mutant's too, but for those of the same places.
    #[serde(default)]
    pub builds_on: Option<String>,
}

/// One anchored edit.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// File, from the root of the kernel source.
    pub file: String,
    /// The function in it.
    pub function: String,
    /// What to find in the function, exactly once, whatever its white space.
    pub find: String,
    /// What to put there.
    pub replace: String,
    /// Whether that is a value or statements.
    #[serde(default)]
    pub kind: Kind,
    /// How other kernels say the same.
    #[serde(default)]
    pub anchors: Vec<Alternative>,
}

/// What another kernel calls it; what is left out is as in the edit.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Alternative {
    /// File.
    pub file: Option<String>,
    /// Function.
    pub function: Option<String>,
    /// Expression.
    pub find: Option<String>,
    /// Replacement.
    pub replace: Option<String>,
    /// Whether that is a value or statements.
    pub kind: Option<Kind>,
}

fn default_green() -> Vec<String> {
    vec!["smoke".to_owned()]
}

impl Mutant {
    /// The value of `kvm.mutant` that switches it on: decided by its name, so that adding or
    /// removing others leaves the rest of a built kernel as it is.
    #[must_use]
    pub fn number(&self) -> u32 {
        number_of(&self.name)
    }

    /// The value of `kvm.mutant` without this bug: 0, or its ground's.
    #[must_use]
    pub fn unmutated(&self) -> u32 {
        self.builds_on.as_deref().map_or(0, number_of)
    }

    /// Whether this test is one of those that must go red.
    #[must_use]
    pub fn expects(&self, test: &str) -> bool {
        self.expect.iter().any(|pattern| matches(pattern, test))
    }

    /// Whether this kernel has the rule that it breaks.
    #[must_use]
    pub fn applies_to(&self, kernel: &str) -> bool {
        self.kernels.is_empty() || self.kernels.iter().any(|version| version == kernel)
    }
}

/// The number of the mutant of that name.
fn number_of(name: &str) -> u32 {
    let hash = name
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (hash & 0x7fff_ffff).max(1)
}

impl Edit {
    /// The ways to say this edit, the first one first.
    fn ways(&self) -> Vec<Self> {
        let other = |way: &Alternative| {
            let or = |given: &Option<String>, own: &String| given.as_ref().unwrap_or(own).clone();
            Self {
                file: or(&way.file, &self.file),
                function: or(&way.function, &self.function),
                find: or(&way.find, &self.find),
                replace: or(&way.replace, &self.replace),
                kind: way.kind.unwrap_or(self.kind),
                anchors: Vec::new(),
            }
        };
        std::iter::once(self.clone()).chain(self.anchors.iter().map(other)).collect()
    }
}

/// Whether a name is what the pattern says, in which `*` stands for anything.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|name| {
            name.char_indices()
                .map(|(at, _)| at)
                .chain([name.len()])
                .any(|at| matches(rest, &name[at..]))
        }),
    }
}

/// All mutants of an architecture.
///
/// # Errors
/// A file cannot be read or is wrong, or two mutants have one name or number.
pub fn load(arch: Arch) -> anyhow::Result<Vec<Mutant>> {
    let mut mutants = load_from(&directory().join(arch.id()))?;
    for mutant in mutants.iter_mut().filter(|mutant| mutant.profile.is_empty()) {
        mutant.profile = arch.names().default_host.to_owned();
    }
    Ok(mutants)
}

/// Gives every mutant the edits of its ground.
fn build_on_grounds(mutants: &mut [Mutant]) -> anyhow::Result<()> {
    let grounds: BTreeMap<String, Vec<Edit>> = (mutants.iter())
        .filter(|mutant| mutant.ground)
        .map(|mutant| (mutant.name.clone(), mutant.edits.clone()))
        .collect();
    for mutant in mutants {
        let Some(name) = &mutant.builds_on else { continue };
        let ground = grounds
            .get(name)
            .with_context(|| format!("mutant {}: no ground {name}", mutant.name))?;
        let place = |edit: &Edit| (edit.file.clone(), edit.function.clone(), edit.find.clone());
        let own: Vec<_> = mutant.edits.iter().map(place).collect();
        mutant.edits.extend(ground.iter().filter(|edit| !own.contains(&place(edit))).cloned());
    }
    Ok(())
}

/// The mutants of these names or globs, or all, that apply to the kernel.
///
/// # Errors
/// A name is no mutant's.
pub fn choose<'a>(
    all: &'a [Mutant],
    names: &[String],
    kernel: &str,
) -> anyhow::Result<Vec<&'a Mutant>> {
    for name in names {
        let known = all.iter().any(|mutant| matches(name, &mutant.name));
        ensure!(known, "no mutant {name} (--list tells them)");
    }
    let named =
        |mutant: &&Mutant| names.is_empty() || names.iter().any(|name| matches(name, &mutant.name));
    let bugs = all.iter().filter(|mutant| !mutant.ground && mutant.applies_to(kernel));
    Ok(bugs.filter(named).collect())
}

/// `ci/mutants`.
#[must_use]
pub fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn load_from(dir: &Path) -> anyhow::Result<Vec<Mutant>> {
    let entries = fs::read_dir(dir).with_context(|| format!("no mutants in {}", dir.display()))?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    let mut mutants: Vec<Mutant> = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let more: Vec<Mutant> =
            serde_yaml::from_str(&text).with_context(|| path.display().to_string())?;
        mutants.extend(more);
    }
    build_on_grounds(&mut mutants)?;
    let mut numbers = BTreeMap::new();
    for mutant in &mutants {
        ensure!(!mutant.edits.is_empty(), "mutant {}: no edits", mutant.name);
        let expects = !mutant.expect.is_empty() || mutant.equivalent.is_some();
        ensure!(expects, "mutant {}: neither `expect` nor `equivalent`", mutant.name);
        if let Some(other) = numbers.insert(mutant.number(), &mutant.name) {
            bail!("mutants {} and {other} have the same name or number", mutant.name);
        }
    }
    Ok(mutants)
}

/// The changes of each file of a kernel source, or everything that is wrong with the anchors.
///
/// # Errors
/// Anchors that are not found exactly once.
pub fn locate(
    mutants: &[Mutant],
    read: &mut dyn FnMut(&str) -> Option<String>,
) -> anyhow::Result<BTreeMap<String, Vec<Change>>> {
    let mut changes: BTreeMap<String, Vec<Change>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for mutant in mutants {
        for edit in &mutant.edits {
            match place(edit, read) {
                Ok((file, mut change)) => {
                    change.number = mutant.number();
                    changes.entry(file).or_default().push(change);
                }
                Err(why) => wrong.push(format!("mutant {}: {why}", mutant.name)),
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(changes)
}

/// The first way that fits; if none does, what is wrong with each.
fn place(
    edit: &Edit,
    read: &mut dyn FnMut(&str) -> Option<String>,
) -> Result<(String, Change), String> {
    let mut wrong = Vec::new();
    for way in edit.ways() {
        let Some(text) = read(&way.file) else {
            wrong.push(format!("no file {}", way.file));
            continue;
        };
        match Source::new(&text).find(&way.function, &way.find) {
            Ok(span) => {
                let change = Change { number: 0, span, replacement: way.replace, kind: way.kind };
                return Ok((way.file, change));
            }
            Err(error @ AnchorError::Ambiguous { .. }) => {
                return Err(format!("{}: {error}", way.file));
            }
            Err(error) => wrong.push(format!("{}: {error}", way.file)),
        }
    }
    Err(wrong.join("\n    or: "))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const TEXT: &str = "int f(int n)\n{\n\treturn n > 1;\n}\n";

    fn mutant(yaml: &str) -> Mutant {
        serde_yaml::from_str(yaml).expect("a mutant")
    }

    fn locate_one(mutant: Mutant) -> anyhow::Result<BTreeMap<String, Vec<Change>>> {
        locate(&[mutant], &mut |file| (file == "a.c").then(|| TEXT.to_owned()))
    }

    /// A mutant that nobody has run proves nothing: `ci/mutants/run --json` writes the record.
    #[test]
    fn every_mutant_is_on_record_as_killed() {
        let arches =
            [(Arch::X86_64, ["6.1", "6.12", "7.3"].as_slice()), (Arch::Aarch64, &["6.12"])];
        for (arch, kernels) in arches {
            let mutants = load(arch).expect("mutants");
            for kernel in kernels {
                let record = directory().join(arch.id()).join(format!("{kernel}.jsonl"));
                let record = fs::read_to_string(record).expect("a record");
                let killed: BTreeSet<String> = record
                    .lines()
                    .map(|line| serde_json::from_str(line).expect("a finding"))
                    .filter(|line: &serde_json::Value| line["fate"] == "killed")
                    .map(|line| line["mutant"].as_str().expect("a name").to_owned())
                    .collect();
                let alive = mutants.iter().find(|m| {
                    let here = m.kernels.is_empty() || m.kernels.iter().any(|k| k == kernel);
                    // KVM's own past bugs are the measure, and may live: docs/history.md says which do.
                    let is_history = m.name.starts_with("hist_");
                    let must_die = here && !m.ground && !is_history && m.equivalent.is_none();
                    must_die && !killed.contains(&m.name)
                });
                assert!(alive.is_none(), "{arch} {kernel}: {}", alive.map_or("", |m| &m.name));
            }
        }
    }

    #[test]
    fn the_mutants_of_the_repository_load() {
        assert!(load(Arch::X86_64).expect("they load").len() >= 60);
        assert!(load(Arch::Aarch64).expect("they load").len() >= 20);
    }

    #[test]
    fn a_mutant_has_the_edits_of_its_ground_but_for_its_own_places() {
        let mut mutants: Vec<Mutant> = serde_yaml::from_str(
            "[{name: g, rule: r, ground: true, expect: [t], edits: [
                {file: a.c, function: f, find: x, replace: y}, {file: a.c, function: f, find: n, replace: m}]},
              {name: m, rule: r, builds_on: g, expect: [t], edits: [
                {file: a.c, function: f, find: x, replace: z}]}]",
        )
        .expect("mutants");
        build_on_grounds(&mut mutants).expect("the ground is there");
        let replaced: Vec<_> = mutants[1].edits.iter().map(|edit| edit.replace.as_str()).collect();
        assert_eq!(replaced, ["z", "m"]);
        mutants[1].builds_on = Some("nothing".into());
        assert!(build_on_grounds(&mut mutants).is_err());
    }

    #[test]
    fn a_star_stands_for_anything() {
        assert!(matches("a::*", "a::b::c") && matches("*b*", "abc") && matches("a", "a"));
        assert!(!matches("a", "ab") && !matches("a*c", "ab") && matches("*", ""));
    }

    #[test]
    fn takes_the_alternative_that_fits() {
        let changes = locate_one(mutant(
            "{name: x, rule: r, expect: [t], edits: [{file: b.c, function: g, find: n > 1, replace: n > 2,
              anchors: [{file: a.c}, {file: a.c, function: f}]}]}",
        ));
        let changes = changes.expect("it fits");
        assert_eq!(&TEXT[changes["a.c"][0].span.clone()], "n > 1");
    }

    #[test]
    fn tells_every_anchor_that_holds_nothing() {
        let error = locate_one(mutant(
            "{name: x, rule: r, expect: [t], edits: [{file: b.c, function: f, find: n > 1, replace: n > 2},
              {file: a.c, function: f, find: n > 2, replace: n, anchors: [{function: g}]}]}",
        ));
        let text = error.expect_err("must fail").to_string();
        assert!(text.contains("mutant x: no file b.c"), "{text}");
        assert!(
            text.contains("`n > 2` is not in f") && text.contains("or: a.c: no function g"),
            "{text}"
        );
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let wrong = "{name: x, rule: r, expect: [t], edits: [], expects: []}";
        assert!(serde_yaml::from_str::<Mutant>(wrong).is_err());
    }

    #[test]
    fn a_number_depends_on_the_name_alone_and_is_never_zero() {
        let named =
            |name: &str| mutant(&format!("{{name: {name}, rule: r, expect: [t], edits: []}}"));
        assert_eq!(named("a").number(), named("a").number());
        assert_ne!(named("a").number(), named("b").number());
        assert!(named("a").number() > 0);
    }
}
