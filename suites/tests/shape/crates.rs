//! Arrows between crates point down.

use std::collections::BTreeSet;

use super::{read, root};

/// Every crate of the workspace, lowest layer first; a crate uses crates of lower layers alone.
const LAYERS: [&[&str]; 10] = [
    &["guest/defs", "harness/results", "suites/macros", "ci/lab/init"],
    &["guest/protocol", "harness/vm/kvm-uapi"],
    &["guest/runtime", "harness/cli"],
    &["harness/vm"],
    &["harness/runner"],
    &["suites/embed"],
    &["suites"],
    &["guest/payload"],
    &["ci/lab"],
    &["ci/mutants"],
];

/// Names of the workspace's crates, and names under which a manifest's tables list dependencies.
fn manifest(folder: &str) -> (String, BTreeSet<String>) {
    let text = read(&root().join(folder).join("Cargo.toml"));
    let (mut name, mut used, mut in_dependencies) = (String::new(), BTreeSet::new(), false);
    for line in text.lines() {
        if let Some(table) = line.strip_prefix('[') {
            in_dependencies = table.trim_end_matches(']').ends_with("dependencies");
        } else if let Some(value) = line.strip_prefix("name = ").filter(|_| name.is_empty()) {
            name = value.trim_matches('"').into();
        } else if in_dependencies && let Some(end) = line.find([' ', '.', '=']) {
            used.insert(line[..end].into());
        }
    }
    (name, used)
}

#[test]
fn arrows_point_down() {
    let mut below = BTreeSet::new();
    let all: BTreeSet<String> = LAYERS.concat().iter().map(|folder| manifest(folder).0).collect();
    for layer in LAYERS {
        for folder in layer {
            for used in manifest(folder).1.intersection(&all) {
                assert!(below.contains(used), "{folder} uses {used}, which is not below it");
            }
        }
        below.extend(layer.iter().map(|folder| manifest(folder).0));
    }
}

/// A new crate has a layer.
#[test]
fn every_crate_has_a_layer() {
    let text = read(&root().join("Cargo.toml"));
    let members = text.lines().find(|line| line.starts_with("members = ")).expect("members");
    let members: BTreeSet<&str> = members.split('"').skip(1).step_by(2).collect();
    assert_eq!(members, LAYERS.concat().into_iter().collect());
}
