//! The documents name tests that exist.

use std::path::Path;

#[cfg(target_arch = "x86_64")]
use defs::arch::Arch;
use runner::registry::Policy;
use suites as _;

fn tests() -> Vec<String> {
    vm::TESTS.iter().map(|test| test.name()).collect()
}

/// Back-quoted words of a document that look like tests: `file::test`, or a file of tests.
#[cfg(target_arch = "x86_64")]
fn named(document: &str) -> impl Iterator<Item = &str> {
    document
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':'))
}

#[cfg(target_arch = "x86_64")]
#[test]
fn coverage_names_tests_that_exist() {
    let tests = tests();
    let mut count = 0;
    for word in named(include_str!("../../docs/coverage.md")) {
        let of_other = |(arch, _): &(&str, &str)| {
            Arch::of_id(arch).is_some_and(|arch| Some(arch) != Arch::native())
        };
        if let Some((arch, file)) = word.split_once("::").filter(of_other) {
            let folders =
                std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(arch));
            let exists = folders
                .expect("the architecture's folder")
                .any(|folder| folder.expect("an entry").path().join(format!("{file}.rs")).exists());
            assert!(exists, "docs/coverage.md names {word}");
            continue;
        }
        let exists =
            tests.iter().any(|test| *test == word || test.starts_with(&format!("{word}::")));
        assert!(exists, "docs/coverage.md names {word}, which no test is called");
        count += 1;
    }
    assert!(count > 5, "docs/coverage.md names tests");
}

#[test]
fn coverage_has_a_row_for_each_series() {
    let rows = include_str!("../../docs/coverage.md");
    for series in 1..=23 {
        assert!(rows.contains(&format!("\n| {series:02} |")), "no row for series {series}");
    }
}

/// A check's name and a test's are what reports and policy refer to: each test is there once.
#[test]
fn names_are_unique_and_documented() {
    let mut names = tests();
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all, "two tests of one name");
    for test in vm::TESTS.iter() {
        assert!(!test.doc.is_empty(), "{} does not say which rule it checks", test.name());
    }
}

/// The anchor that a Markdown heading gets.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    kept.chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[test]
fn known_failures_are_told_in_the_findings() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let policy = Policy::read(&root.join("unittests.yaml")).unwrap();
    let references = policy.known_failures.iter().filter_map(|known| known.reference.as_deref());
    let documents = references.filter_map(|reference| reference.strip_prefix("docs/"));
    for (file, wanted) in documents.map(|place| place.split_once('#').expect("a heading")) {
        let text = std::fs::read_to_string(root.join("docs").join(file)).expect("a document");
        let mut headings = text.lines().filter(|line| line.starts_with('#'));
        let told = headings.any(|line| anchor(line.trim_start_matches('#')) == wanted);
        assert!(told, "docs/{file} has no heading for #{wanted}");
    }
}
