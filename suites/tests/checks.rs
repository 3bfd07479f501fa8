//! Names of checks: each states its rule in words, and each was evaluated somewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use runner::registry::Policy;
use suites_embed::policy;

const POLICY: (&[(&str, &str)], &str) = policy!("../unittests.yaml");
/// Result streams of runs on several hosts, separated by spaces: what `never_evaluated` looks at.
const STREAMS: &str = "KVM_CONFORMANCE_STREAMS";
/// Words that lean on the line before.
const DEPENDENT: [&str; 12] =
    ["and", "nor", "it", "its", "then", "once", "which", "but", "or", "so", "they", "them"];
const LEAST_WORDS: usize = 4;

/// A check as it stands in the source.
#[derive(Debug)]
struct Check {
    file: PathBuf,
    line: usize,
    /// With `{…}` where a value is put in.
    name: String,
    /// Stands where the guest must not come, so that it is evaluated by no run that passes.
    must_not_run: bool,
}

/// Every check of every architecture, in files that have tests and in those that tests share.
fn checks() -> Vec<Check> {
    let mut files = Vec::new();
    source_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a source file");
        let tokens: TokenStream = text.parse().expect("Rust");
        find(tokens, &file, &mut found);
    }
    found
}

fn source_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            source_files(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

/// Finds `check!("name", …)` and `check_eq!("name", …)`, in macros and attributes too.
fn find(tokens: TokenStream, file: &Path, found: &mut Vec<Check>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        let TokenTree::Group(group) = token else { continue };
        let is_check = matches!(
            at.checked_sub(2).map(|from| &tokens[from..at]),
            Some([TokenTree::Ident(name), TokenTree::Punct(bang)])
                if (name == "check" || name == "check_eq") && bang.as_char() == '!'
        );
        let mut arguments = group.stream().into_iter();
        if is_check && let Some(TokenTree::Literal(literal)) = arguments.next() {
            let name: syn::LitStr =
                syn::parse_str(&literal.to_string()).expect("a check's name is a string");
            found.push(Check {
                file: file.to_owned(),
                line: literal.span().start().line,
                name: name.value(),
                must_not_run: arguments.nth(1).is_some_and(|token| token.to_string() == "false"),
            });
        }
        find(group.stream(), file, found);
    }
}

/// What is wrong with a name, if anything.
fn fault(name: &str) -> Option<String> {
    let words: Vec<&str> = name.split_whitespace().collect();
    let first = words.first()?.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
    if DEPENDENT.contains(&first.as_str()) {
        return Some(format!("begins with `{first}`, so that it needs the line before it"));
    }
    (words.len() < LEAST_WORDS).then(|| format!("has less than {LEAST_WORDS} words"))
}

#[test]
fn names_state_their_rule() {
    for (name, is_fine) in [
        ("a deleted slot's memory is unreachable", true),
        ("{what} in XCR0 is #GP", true),
        ("and the NMI is taken", false),
        ("Then the interrupt is taken", false),
        ("once", false),
        ("{what} is EINVAL", false),
    ] {
        assert_eq!(fault(name).is_none(), is_fine, "{name}");
    }
    let checks = checks();
    assert!(checks.len() > 3000, "{} checks found", checks.len());
    let faults: Vec<String> = checks
        .iter()
        .filter_map(|check| Some(format!("{}: {}", place(check), fault(&check.name)?)))
        .collect();
    assert!(faults.is_empty(), "names of checks:\n{}", faults.join("\n"));
}

/// A known failure of a check that is called otherwise by now would be news at its next run.
#[test]
fn known_failures_name_checks_that_exist() {
    let checks = checks();
    let policy = Policy::built_in(POLICY.0, "").expect("the policy");
    for known in policy.known_failures {
        for name in known.checks {
            let exists = checks.iter().any(|check| is_instance(&check.name, &name));
            assert!(exists, "known failure of {}: no check is called `{name}`", known.test);
        }
    }
}

fn place(check: &Check) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace's root");
    let file = check.file.strip_prefix(root).unwrap_or(&check.file);
    format!("{}:{}: `{}`", file.display(), check.line, check.name)
}

/// The parts of a name around its placeholders.
fn literal_parts(name: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = name;
    while let Some((before, after)) = rest.split_once('{') {
        parts.push(before);
        rest = after.split_once('}').map_or("", |(_, behind)| behind);
    }
    parts.push(rest);
    parts
}

/// Whether `evaluated` is `name` with something in place of each placeholder.
fn is_instance(name: &str, evaluated: &str) -> bool {
    let parts = literal_parts(name);
    let [first, middle @ .., last] = parts.as_slice() else { return name == evaluated };
    let Some(mut rest) = evaluated.strip_prefix(first).and_then(|rest| rest.strip_suffix(last))
    else {
        return false;
    };
    middle.iter().all(|part| match rest.split_once(part) {
        Some((_, behind)) => {
            rest = behind;
            true
        }
        None => false,
    })
}

/// How much of a name is the same in every instance: the check that an instance is of has the most.
fn fixed_length(name: &str) -> usize {
    literal_parts(name).iter().map(|part| part.len()).sum()
}

/// Names of checks that were evaluated, by the file of their tests.
fn evaluated(streams: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for stream in streams.split_whitespace() {
        for run in results::journal::read(Path::new(stream)).expect("a result stream") {
            for result in run.results {
                let file = result.location.rsplit_once(':').map_or("", |(file, _)| file);
                let known = names.entry(file.to_owned()).or_default();
                known.extend(result.check_names().into_iter().flatten().map(ToOwned::to_owned));
            }
        }
    }
    names
}

/// The checks that no run has evaluated: each is unreachable, or waits for a host that is not there.
fn never_evaluated<'a>(
    checks: &'a [Check],
    evaluated: &BTreeMap<String, BTreeSet<String>>,
) -> Vec<&'a Check> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace's root");
    let mut by_file: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, check) in checks.iter().enumerate() {
        let file = check.file.strip_prefix(root).unwrap_or(&check.file).display().to_string();
        by_file.entry(file).or_default().push(index);
    }
    // Files without tests are what tests of other files share.
    let shared: Vec<usize> = by_file
        .iter()
        .filter(|(file, _)| !evaluated.contains_key(*file))
        .flat_map(|(_, indices)| indices.clone())
        .collect();
    let mut seen = BTreeSet::new();
    for (file, names) in evaluated {
        let own = by_file.get(file).map_or(&[] as &[usize], Vec::as_slice);
        for name in names {
            let candidates = own.iter().chain(&shared).copied();
            let matching: Vec<usize> =
                candidates.filter(|index| is_instance(&checks[*index].name, name)).collect();
            let most = matching.iter().map(|index| fixed_length(&checks[*index].name)).max();
            seen.extend(
                matching
                    .into_iter()
                    .filter(|index| Some(fixed_length(&checks[*index].name)) == most),
            );
        }
    }
    let unseen = checks.iter().enumerate().filter(|(index, _)| !seen.contains(index));
    unseen.map(|(_, check)| check).filter(|check| !check.must_not_run).collect()
}

#[test]
fn instances_belong_to_their_check() {
    for (name, evaluated, is_one) in [
        ("a rule", "a rule", true),
        ("a rule", "a rule more", false),
        ("{what} is EINVAL", "size 0 is EINVAL", true),
        ("{what} is EINVAL", "size 0 is EFAULT", false),
        ("room for {n} of {m} is enough", "room for 1 of 2 is enough", true),
        ("room for {n} of {m} is enough", "room for 1 is enough", false),
    ] {
        assert_eq!(is_instance(name, evaluated), is_one, "{name}: {evaluated}");
    }
    let check = |name: &str| Check {
        file: "f.rs".into(),
        line: 1,
        name: name.to_owned(),
        must_not_run: false,
    };
    let checks = [check("{what} is EINVAL"), check("size {n} is EINVAL"), check("a rule")];
    let names = BTreeSet::from(["size 0 is EINVAL".to_owned(), "a rule".to_owned()]);
    let never = never_evaluated(&checks, &BTreeMap::from([("f.rs".to_owned(), names)]));
    assert_eq!(never.len(), 1);
    assert_eq!(never[0].name, "{what} is EINVAL");
}

/// Lists the checks that no run in the streams of `KVM_CONFORMANCE_STREAMS` has evaluated.
#[test]
fn every_check_was_evaluated_in_some_stream() {
    let Ok(streams) = std::env::var(STREAMS) else {
        eprintln!("skipped: {STREAMS} names no result streams");
        return;
    };
    let (checks, evaluated) = (checks(), evaluated(&streams));
    let never = never_evaluated(&checks, &evaluated);
    let listed: Vec<String> = never.iter().map(|check| place(check)).collect();
    assert!(never.is_empty(), "{} never evaluated:\n{}", never.len(), listed.join("\n"));
}
