//! The shape that docs/architecture.md describes: where tests stand, which way dependencies point, how long
//! files are.

mod crates;
mod modules;
mod suites;

use std::fs;
use std::path::{Path, PathBuf};

/// The workspace's root.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("suites/ is in the workspace")
}

/// Source files below `folder`, sorted; build products are none.
fn source_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.ends_with("target") {
            files.extend(source_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// As it is named in a failure.
fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

#[test]
fn files_are_short() {
    let folders = ["guest", "harness", "suites", "ci", "benches"].map(|name| root().join(name));
    let mut lengths: Vec<(usize, String)> = folders
        .iter()
        .filter(|folder| folder.exists())
        .flat_map(|folder| source_files(folder))
        .map(|path| (read(&path).lines().count(), shown(&path)))
        .collect();
    lengths.sort();
    let (longest, median) = (lengths.last().expect("files"), &lengths[lengths.len() / 2]);
    assert!(longest.0 <= 600, "{} has {} lines", longest.1, longest.0);
    assert!(median.0 <= 150, "the median file has {} lines", median.0);
}
