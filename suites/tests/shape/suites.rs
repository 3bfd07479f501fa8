//! Test files: one KVM feature each, in its subject's folder, guest half above host half.

use std::collections::BTreeMap;
use std::path::Path;

use syn::{Attribute, Item};

use super::{read, root, shown, source_files};

/// Files of tests that stand beside the folders: those of the suite itself.
const OUTSIDE: [&str; 3] = ["lib.rs", "main.rs", "prelude.rs"];

/// `[arch, subject, file]` of a test file, or None for one that declares modules or tests the suite itself.
fn place(path: &Path) -> Option<Vec<String>> {
    let inner = path.strip_prefix(root().join("suites/src")).ok()?.with_extension("");
    let parts: Vec<String> =
        inner.components().map(|c| c.as_os_str().to_string_lossy().into_owned()).collect();
    let is_declaration = parts.last().is_some_and(|last| last == "mod" || last == "selftest");
    (!is_declaration && !OUTSIDE.contains(&path.file_name()?.to_str()?)).then_some(parts)
}

fn test_files() -> impl Iterator<Item = (Vec<String>, std::path::PathBuf)> {
    source_files(&root().join("suites/src"))
        .into_iter()
        .filter_map(|path| Some((place(&path)?, path)))
}

/// An id names architecture and file, not the folder: a file's name has to be its own.
#[test]
fn files_stand_in_a_subject_and_have_a_name_of_their_own() {
    let mut seen: BTreeMap<(String, String), String> = BTreeMap::new();
    for (parts, path) in test_files() {
        let [arch, _, file] = &parts[..] else {
            panic!("{}: a test file stands in <arch>/<subject>/", shown(&path));
        };
        let other = seen.insert((arch.clone(), file.clone()), shown(&path));
        assert_eq!(other, None, "{} has the name of another file", shown(&path));
    }
    assert!(seen.len() > 100, "{} test files", seen.len());
}

/// A file that no `mod.rs` declares is never compiled, and its tests are missing without a word.
#[test]
fn every_file_is_declared() {
    for path in source_files(&root().join("suites/src")) {
        let (folder, stem) = (path.parent().expect("a folder"), path.file_stem().expect("a name"));
        let stem = stem.to_str().expect("UTF-8");
        if ["lib", "main"].contains(&stem) {
            continue;
        }
        let (name, above) = match stem {
            "mod" => {
                (folder.file_name().and_then(|n| n.to_str()).expect("a name"), folder.parent())
            }
            stem => (stem, Some(folder)),
        };
        let above = above.expect("a folder");
        let parent = [above.join("mod.rs"), above.join("lib.rs")].into_iter().find(|p| p.exists());
        let parent = parent.unwrap_or_else(|| panic!("{}: no mod.rs beside it", shown(&path)));
        let declared = syn::parse_file(&read(&parent)).expect("Rust").items.iter().any(
            |item| matches!(item, Item::Mod(module) if module.ident == name && module.content.is_none()),
        );
        assert!(declared, "{}: add `pub mod {name};` to {}", shown(&path), shown(&parent));
    }
}

/// Top-level attributes of an item of a test file.
fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// The host half of a file is `#[host] mod host { … }` at its end, and `pub use host::*` where other files
/// use what is in it. A file without a guest half has none: it is declared for the host alone.
#[test]
fn host_half_is_one_region() {
    for (_, path) in test_files() {
        let items = syn::parse_file(&read(&path)).expect("Rust").items;
        let is_host = |item: &Item| attributes(item).iter().any(|a| a.path().is_ident("host"));
        let is_region = |item: &Item| matches!(item, Item::Mod(module) if module.ident == "host");
        let Some(region) = items.iter().position(is_region) else {
            let stray = items.iter().position(is_host);
            assert_eq!(stray, None, "{}: #[host] marks `mod host`", shown(&path));
            continue;
        };
        assert_eq!(region + 1, items.len(), "{}: `mod host` ends the file", shown(&path));
        for item in &items[..region] {
            let is_test = attributes(item).iter().any(|a| a.path().is_ident("kvm_test"));
            assert!(!is_test, "{}: tests stand in `mod host`", shown(&path));
            assert!(
                !is_host(item) || matches!(item, Item::Use(_)),
                "{}: what only the host needs stands in `mod host`",
                shown(&path)
            );
        }
    }
}

/// Lines of code of a Rust text: no comments, no blank lines.
fn code(text: &str) -> Vec<&str> {
    let is_code = |line: &&str| !line.trim().is_empty() && !line.trim().starts_with("//");
    text.lines().filter(is_code).collect()
}

#[test]
fn annotated_first_test_is_the_file_that_it_names() {
    let page = read(&root().join("docs/first-test.md"));
    let block = page.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next());
    let file = page.split('`').nth(1).expect("the page names the file");
    assert_eq!(code(block.expect("a block of Rust")), code(&read(&root().join(file))), "{file}");
}
