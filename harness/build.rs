//! Gathers the mutants of `ci/mutants`, which `explain` tells of, into the runner: it may run where
//! the repository is not. Prepares the policy, which every start reads, as JSON, as far as it is
//! about the target: on an emulated host reading YAML takes longer than the first test.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

const ARCHITECTURES: [&str; 5] = ["x86_64", "aarch64", "ppc64le", "riscv64", "s390x"];

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    let manifest = env::var_os("CARGO_MANIFEST_DIR").expect("cargo names the manifest's folder");
    let mutants = Path::new(&manifest).join("../ci/mutants");
    let mut files = Vec::new();
    for arch in in_order(&mutants)?.into_iter().filter(|path| path.is_dir() && !is_code(path)) {
        println!("cargo::rerun-if-changed={}", arch.display());
        files.extend(in_order(&arch)?);
    }
    let mut source = String::new();
    for (name, extension) in [("FILES", "yaml"), ("KILLED", "jsonl")] {
        let _ = writeln!(source, "const {name}: &[(&str, &str)] = &[");
        for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == extension)) {
            let place = file.strip_prefix(&mutants).unwrap_or(file).display().to_string();
            let whole = file.display().to_string();
            let _ = writeln!(source, "    ({place:?}, include_str!({whole:?})),");
        }
        source.push_str("];\n");
    }
    let out = env::var_os("OUT_DIR").expect("cargo names a folder for output");
    fs::write(Path::new(&out).join("mutants.rs"), source)?;
    let policy = Path::new(&manifest).join("../unittests.yaml");
    println!("cargo::rerun-if-changed={}", policy.display());
    fs::write(Path::new(&out).join("unittests.json"), as_json(&fs::read_to_string(policy)?))
}

/// What the YAML text says of the target's architecture, as JSON; nothing where it is wrong, which the
/// runner tells when it reads the YAML.
fn as_json(text: &str) -> String {
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let arch = arch.replace("powerpc64", "ppc64le");
    let is_foreign = |test: &str, of: Option<&str>| {
        let first = test.split("::").next().filter(|first| ARCHITECTURES.contains(first));
        of.or(first).is_some_and(|of| of != arch)
    };
    let Ok(mut policy) = serde_yaml::from_str::<serde_json::Value>(text) else {
        return String::new();
    };
    if let Some(known) = policy["known_failures"].as_array_mut() {
        known.retain(|known| {
            !is_foreign(known["test"].as_str().unwrap_or(""), known["when"]["arch"].as_str())
        });
    }
    if let Some(tests) = policy["tests"].as_object_mut() {
        tests.retain(|test, _| !is_foreign(test, None));
    }
    policy.to_string()
}

/// The folder's entries by name, so that equal sources give equal binaries.
fn in_order(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    let mut paths = entries.collect::<io::Result<Vec<PathBuf>>>()?;
    paths.sort();
    Ok(paths)
}

/// The program that runs mutants lies beside them.
fn is_code(path: &Path) -> bool {
    path.ends_with("src") || path.ends_with("target")
}
