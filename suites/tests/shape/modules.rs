//! Modules of a crate do not go round in circles: at most two may use each other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use syn::visit::Visit;
use syn::{Item, ItemMod, ItemUse, UseTree, Visibility};

use super::{read, root, source_files};

const CRATES: [&str; 12] = [
    "guest/defs",
    "guest/protocol",
    "guest/runtime",
    "harness/results",
    "harness/cli",
    "harness/vm",
    "harness/vm/kvm-uapi",
    "harness/runner",
    "suites/embed",
    "suites/macros",
    "ci/lab",
    "ci/mutants",
];

/// Modules that use each other on purpose: a VM, its vCPUs and what is saved of them, in several files, and
/// the architecture's part of each module of that crate.
const OF_ONE_KIND: [(&str, &[&str]); 1] = [("harness/vm", &["irqfd", "state", "vcpu", "vm"])];
const OF_THE_ARCHITECTURE: (&str, &str) = ("harness/vm", "arch");

/// A module's path in its crate; the root's is empty.
type Module = Vec<String>;

/// What a file says: paths that it uses, and names that it re-exports with where they come from.
#[derive(Default)]
struct File {
    /// Modules within the file around what is visited.
    inline: usize,
    used: Vec<Vec<String>>,
    reexported: Vec<(String, Vec<String>)>,
}

impl File {
    fn uses(&mut self, mut path: Vec<String>) {
        // `super` of a module within the file is the file.
        for _ in 0..self.inline {
            if path.first().is_some_and(|word| word == "super") {
                path[0] = "self".into();
                if path.get(1).is_some_and(|word| word == "super") {
                    path.remove(0);
                }
            }
        }
        self.used.push(path);
    }
}

impl Visit<'_> for File {
    fn visit_item_use(&mut self, item: &ItemUse) {
        let mut paths = Vec::new();
        flatten(&item.tree, &mut Vec::new(), &mut paths);
        for path in paths {
            match (&item.vis, path.last()) {
                (Visibility::Inherited, _) | (_, None) => self.uses(path),
                (_, Some(name)) => self.reexported.push((name.clone(), path)),
            }
        }
    }

    fn visit_path(&mut self, path: &syn::Path) {
        self.uses(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        syn::visit::visit_path(self, path);
    }

    fn visit_item_mod(&mut self, item: &ItemMod) {
        // Unit tests may look at anything.
        if item.ident != "tests" {
            self.inline += 1;
            syn::visit::visit_item_mod(self, item);
            self.inline -= 1;
        }
    }
}

fn flatten(tree: &UseTree, prefix: &mut Vec<String>, paths: &mut Vec<Vec<String>>) {
    let mut end = |name: Option<String>| paths.push(prefix.iter().cloned().chain(name).collect());
    match tree {
        UseTree::Path(path) => {
            prefix.push(path.ident.to_string());
            flatten(&path.tree, prefix, paths);
            prefix.pop();
        }
        UseTree::Name(name) => end(Some(name.ident.to_string())),
        UseTree::Rename(rename) => end(Some(rename.ident.to_string())),
        UseTree::Glob(_) => end(None),
        UseTree::Group(group) => group.items.iter().for_each(|tree| flatten(tree, prefix, paths)),
    }
}

fn module_of(file: &Path, src: &Path) -> Module {
    let inner = file.strip_prefix(src).expect("in src").with_extension("");
    let mut module: Module =
        inner.components().map(|c| c.as_os_str().to_string_lossy().into_owned()).collect();
    module.pop_if(|last| ["mod", "lib", "main"].contains(&last.as_str()));
    module
}

/// Whether a use in that crate is on purpose.
fn is_exempt(name: &str, from: &Module, used: &Module) -> bool {
    let kind = |module: &Module| {
        let first = module.first()?;
        OF_ONE_KIND.iter().position(|(of, all)| *of == name && all.contains(&first.as_str()))
    };
    let is_arch = |module: &Module| module.first().is_some_and(|m| m == OF_THE_ARCHITECTURE.1);
    (kind(from).is_some() && kind(from) == kind(used))
        || (name == OF_THE_ARCHITECTURE.0 && is_arch(from) != is_arch(used))
}

/// The modules that each module of a crate uses.
fn uses(src: &Path) -> BTreeMap<Module, BTreeSet<Module>> {
    let files: BTreeMap<Module, File> = source_files(src)
        .into_iter()
        .map(|path| {
            let mut file = File::default();
            for item in &syn::parse_file(&read(&path)).expect("Rust").items {
                if !matches!(item, Item::Mod(module) if module.content.is_none()) {
                    file.visit_item(item);
                }
            }
            (module_of(&path, src), file)
        })
        .collect();
    files
        .iter()
        .map(|(module, file)| {
            let found = file.used.iter().filter_map(|path| resolve(&files, module, path));
            // What a module has below it is its own: it declares and re-exports it.
            (module.clone(), found.filter(|found| !found.starts_with(module)).collect())
        })
        .collect()
}

/// The module in which the item at `path` is defined, as seen from `from`; None outside the crate.
fn resolve(files: &BTreeMap<Module, File>, from: &Module, path: &[String]) -> Option<Module> {
    let mut base = from.clone();
    let mut rest = path;
    match rest.first()?.as_str() {
        "crate" => (base, rest) = (Vec::new(), &rest[1..]),
        "self" | "super" => {}
        first => {
            base.push(first.into());
            if !files.contains_key(&base) {
                return None;
            }
            rest = &rest[1..];
        }
    }
    while let Some(word) = rest.first().filter(|word| ["self", "super"].contains(&word.as_str())) {
        if word == "super" {
            base.pop()?;
        }
        rest = &rest[1..];
    }
    while let Some(name) = rest.first() {
        base.push(name.clone());
        if !files.contains_key(&base) {
            base.pop();
            let Some((_, origin)) =
                files.get(&base)?.reexported.iter().find(|(reexported, _)| reexported == name)
            else {
                break;
            };
            return resolve(files, &base, origin).or(Some(base));
        }
        rest = &rest[1..];
    }
    files.contains_key(&base).then_some(base)
}

/// Everything that `from` uses, and what that uses.
fn reachable<'a>(
    uses: &'a BTreeMap<Module, BTreeSet<Module>>,
    from: &'a Module,
) -> BTreeSet<&'a Module> {
    let (mut found, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(module) = next.pop() {
        next.extend(uses[module].iter().filter(|module| found.insert(*module)));
    }
    found
}

#[test]
fn modules_have_no_circle_of_three() {
    let mut circles = Vec::new();
    for name in CRATES {
        let mut uses = uses(&root().join(name).join("src"));
        for (module, used) in &mut uses {
            used.retain(|used| !is_exempt(name, module, used));
        }
        let reach: BTreeMap<&Module, BTreeSet<&Module>> =
            uses.keys().map(|module| (module, reachable(&uses, module))).collect();
        let circle_of = |module: &Module| -> BTreeSet<String> {
            let mutual = |other: &&&Module| reach[**other].contains(module);
            reach[module]
                .iter()
                .filter(mutual)
                .map(|other| format!("crate::{}", other.join("::")))
                .collect()
        };
        let found: BTreeSet<BTreeSet<String>> = uses.keys().map(circle_of).collect();
        circles.extend(found.into_iter().filter(|c| c.len() > 2).map(|c| format!("{name}: {c:?}")));
    }
    assert!(circles.is_empty(), "modules that use each other in a circle:\n{}", circles.join("\n"));
}

#[test]
fn circles_are_seen() {
    let file = |used: &[&[&str]]| File {
        used: used.iter().map(|path| path.iter().map(|s| (*s).into()).collect()).collect(),
        ..File::default()
    };
    let mut root = file(&[]);
    root.reexported.push(("Item".into(), vec!["a".into(), "Item".into()]));
    let module = |name: &str| vec![String::from(name)];
    let files =
        BTreeMap::from([(Module::new(), root), (module("a"), file(&[])), (module("b"), file(&[]))]);
    let from_b = |path: &[&str]| {
        let path: Vec<String> = path.iter().map(|s| (*s).into()).collect();
        resolve(&files, &module("b"), &path)
    };
    assert_eq!(from_b(&["crate", "a", "f"]), Some(module("a")));
    assert_eq!(from_b(&["super", "a"]), Some(module("a")));
    assert_eq!(from_b(&["crate", "Item"]), Some(module("a")));
    assert_eq!(from_b(&["std", "fmt"]), None);
}
