//! To add an architecture is to add a row to the table and then what this test says is missing; what is a
//! `match` of architectures the compiler says.

use std::fs;
use std::path::Path;

use defs::arch::{Arch, IDS, Names};
use suites as _;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// Folders that have one for each architecture.
const FOLDERS: [&str; 3] = ["guest/runtime/src/arch", "harness/vm/src/arch", "suites/src"];
/// Folders in those that are no architecture's.
const OTHER_FOLDERS: [&str; 1] = ["common"];
/// Files that compile the parts of one architecture.
const SWITCHES: [&str; 4] = [
    "guest/runtime/src/arch/mod.rs",
    "harness/vm/src/arch/mod.rs",
    "suites/src/lib.rs",
    "suites/src/prelude.rs",
];
/// Documents with a table of them.
const TABLES: [&str; 2] = ["docs/architecture.md", "docs/protocol.md"];

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_default()
}

/// The places that must know this architecture and do not.
fn lacking(names: &Names) -> Vec<String> {
    let Names { id, target_arch, rust_target, gnu_triple, default_host, .. } = names;
    let of_defs = if *id == "x86_64" { "x86" } else { id };
    let mut files: Vec<_> = FOLDERS.iter().map(|folder| format!("{folder}/{id}/mod.rs")).collect();
    files.push(format!("guest/defs/src/{of_defs}/mod.rs"));
    files.push(format!("guest/runtime/link/{id}.ld"));
    files.push(format!("ci/hosts/{default_host}.yaml"));
    files.retain(|file| !Path::new(ROOT).join(file).exists());

    let mut wanted = vec![
        (format!("ci/hosts/{default_host}.yaml"), format!("arch: {id}\n")),
        (".cargo/config.toml".into(), format!("[target.{rust_target}]\n")),
        ("guest/protocol/src/layout.rs".into(), format!("pub mod {id} ")),
    ];
    if Some(*id) != Arch::native().map(Arch::id) {
        wanted.push((".cargo/config.toml".into(), format!("linker = \"{gnu_triple}-gcc\"\n")));
    }
    for file in SWITCHES {
        wanted.push((file.into(), format!("cfg(target_arch = \"{target_arch}\")")));
    }
    for file in TABLES {
        wanted.push((file.into(), format!("\n| {id} |")));
    }
    wanted.retain(|(file, text)| !read(file).contains(text));
    files.extend(wanted.into_iter().map(|(file, text)| format!("{file}: {}", text.trim())));
    files
}

#[test]
fn every_place_knows_every_architecture() {
    for arch in Arch::ALL {
        assert!(lacking(arch.names()).is_empty(), "{arch}: {:#?}", lacking(arch.names()));
    }
}

#[test]
fn a_new_architecture_is_missed_everywhere() {
    let row = Names {
        id: "vax",
        debian: "vax",
        kernel: "vax",
        rust_target: "vax-unknown-linux-gnu",
        target_arch: "vax",
        gnu_triple: "vax-linux-gnu",
        qemu: "qemu-system-vax",
        qemu_package: "qemu-system-misc",
        default_host: "vax",
    };
    let missed = lacking(&row);
    assert_eq!(missed.len(), FOLDERS.len() + 3 + 4 + SWITCHES.len() + TABLES.len(), "{missed:#?}");
}

#[test]
fn no_place_knows_an_architecture_without_a_row() {
    for folder in FOLDERS {
        let entries = fs::read_dir(Path::new(ROOT).join(folder)).unwrap().map(Result::unwrap);
        for folder in entries.filter(|entry| entry.path().is_dir()) {
            let name = folder.file_name().into_string().unwrap();
            let is_known = IDS.contains(&name.as_str()) || OTHER_FOLDERS.contains(&name.as_str());
            assert!(is_known, "{} is of none", folder.path().display());
        }
    }
}
