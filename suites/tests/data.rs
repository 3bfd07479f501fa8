//! The data that the runner carries with it is what stands in the repository, and can be read.

use std::path::Path;

use defs::arch::Arch;
use runner::registry::mutants::{Mutants, Sources};
use runner::registry::{Policy, Registry, architecture};
use runner::test::Test;
use suites as _;
use suites_embed::{files, names, policy};

const POLICY: (&[(&str, &str)], &str) = policy!("../unittests.yaml");
const FILES: &[(&str, &str)] = files!("../ci/mutants", "yaml");
const KILLED: &[(&str, &str)] = files!("../ci/mutants", "jsonl");

/// Whether an entry is of another architecture than this.
fn is_foreign(test: &str, arch: Option<&str>) -> bool {
    arch.or(architecture(test)).is_some_and(|arch| Arch::of_id(arch) != Arch::native())
}

#[test]
fn every_host_that_the_policy_names_can_be() {
    let policy = Policy::built_in(POLICY.0, "").unwrap();
    policy.check_hosts(None, names!("../ci/hosts", "yaml")).unwrap();
}

#[test]
fn the_prepared_policy_is_what_the_file_says_of_this_architecture() {
    let mut written = Policy::built_in(POLICY.0, "").unwrap();
    let all = written.known_failures.len();
    written.known_failures.retain(|known| !is_foreign(&known.test, known.when.arch.as_deref()));
    written.tests.retain(|name, _| !is_foreign(name, None));
    let prepared = Policy::built_in(POLICY.0, POLICY.1).unwrap();
    assert_eq!(format!("{prepared:?}"), format!("{written:?}"));
    assert!((10..all).contains(&written.known_failures.len()), "{all}");
}

#[test]
fn the_policy_names_tests_that_exist() {
    let tests = vm::TESTS.iter().map(Test::from).collect();
    Registry::new(tests, Policy::built_in(POLICY.0, "").unwrap()).unwrap();
}

#[test]
fn every_file_of_mutants_is_carried_and_can_be_read() {
    Mutants::read(Sources { files: FILES, killed: KILLED }).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ci/mutants");
    let folders = ["x86_64", "aarch64"].map(|arch| std::fs::read_dir(root.join(arch)).unwrap());
    let found = folders.into_iter().flatten().map(|entry| entry.unwrap().path());
    let is_data = |path: &Path| path.extension().is_some_and(|e| e == "yaml" || e == "jsonl");
    let found = found.filter(|path| is_data(path)).count();
    assert_eq!(
        FILES.len() + KILLED.len(),
        found,
        "touch suites/tests/data.rs and suites/src/main.rs"
    );
}
