//! The switchable kernel: all mutants of an architecture in one build.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use lab::{Arch, find_program};

use crate::mutant::{self, Mutant};
use crate::source::Tree;
use crate::weave::{Change, SWITCH, prelude, weave};

/// The file of the kvm module that defines the switch.
const SWITCH_FILE: &str = "virt/kvm/kvm_main.c";
/// Lines of a failed build that are told.
const NR_ERROR_LINES: usize = 30;
/// What a build needs: what shows that it is there, and the Debian package that holds it.
const NEEDED: [(&str, &str); 8] = [
    ("make", "make"),
    ("gcc", "gcc"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
    ("perl", "perl"),
    ("/usr/include/libelf.h", "libelf-dev"),
    ("/usr/include/openssl/ssl.h", "libssl-dev"),
];

/// Builds the kernel with the mutants that apply to it, and gives back its boot image.
///
/// # Errors
/// As of [`weave_all`] and [`build`].
pub fn woven(tree: &Tree, mutants: &[Mutant], jobs: usize) -> anyhow::Result<PathBuf> {
    weave_all(tree, mutants)?;
    build(tree, jobs)
}

/// Weaves the mutants that apply to this kernel into its source.
///
/// # Errors
/// An anchor holds nothing, two edits overlap, or the cache cannot be written.
pub fn weave_all(tree: &Tree, mutants: &[Mutant]) -> anyhow::Result<()> {
    let changes = locate(tree, mutants)?;
    let nothing = Vec::new();
    let mut files = tree.changed()?;
    files.extend(changes.keys().cloned());
    files.push(SWITCH_FILE.to_owned());
    files.sort();
    files.dedup();
    for file in files {
        let original = tree.original(&file).with_context(|| format!("no file {file}"))?;
        let of_file = changes.get(&file).unwrap_or(&nothing);
        let mut text = weave(&original, of_file).with_context(|| file.clone())?;
        if !of_file.is_empty() {
            text.insert_str(0, &prelude(&file));
        }
        if file == SWITCH_FILE {
            text.push_str(SWITCH);
        }
        tree.change(&file, &text)?;
    }
    Ok(())
}

/// Finds every anchor in the source as Debian has it.
///
/// # Errors
/// An anchor holds nothing.
pub fn locate(tree: &Tree, mutants: &[Mutant]) -> anyhow::Result<BTreeMap<String, Vec<Change>>> {
    let applying: Vec<_> =
        mutants.iter().filter(|mutant| mutant.applies_to(&tree.version)).cloned().collect();
    let mut texts = BTreeMap::new();
    let mut read =
        |file: &str| texts.entry(file.to_owned()).or_insert_with(|| tree.original(file)).clone();
    mutant::locate(&applying, &mut read)
}

/// Builds the kernel from what is in the tree and gives back its boot image.
///
/// # Errors
/// Something that the build needs is missing, or the build fails.
pub fn build(tree: &Tree, jobs: usize) -> anyhow::Result<PathBuf> {
    check_needed(tree.arch)?;
    let source = tree.source();
    let fragments = fragments(tree);
    if fragments.iter().any(|fragment| is_newer(fragment, &source.join(".config"))) {
        configure(tree, &fragments)?;
    }
    let target = match tree.arch {
        Arch::X86_64 => "bzImage",
        Arch::Aarch64 => "Image",
        other => bail!("no minimal kernel for {other} yet"),
    };
    let output = make(tree, jobs).arg(target).output().context("make")?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<_> = text.lines().take(NR_ERROR_LINES).collect();
        bail!("the kernel does not build:\n{}", lines.join("\n"));
    }
    let images = lab::tree_images(tree.arch);
    let image = images.iter().map(|image| source.join(image)).find(|image| image.exists());
    image.context("the build made no boot image")
}

/// What is configured for all kernels of the architecture, and what for this one alone, if anything.
fn fragments(tree: &Tree) -> Vec<PathBuf> {
    let dir = mutant::directory().join(tree.arch.id());
    let own = dir.join(format!("kernel-{}.config", tree.version));
    std::iter::once(dir.join("kernel.config")).chain(own.exists().then_some(own)).collect()
}

fn configure(tree: &Tree, fragments: &[PathBuf]) -> anyhow::Result<()> {
    let source = tree.source();
    let mut wanted = String::new();
    for fragment in fragments {
        wanted += &fs::read_to_string(fragment).with_context(|| fragment.display().to_string())?;
    }
    run(make(tree, 1).arg("tinyconfig"))?;
    let config = source.join(".config");
    let mut text = fs::read_to_string(&config)?;
    text.push_str(&wanted);
    fs::write(&config, text)?;
    run(make(tree, 1).arg("olddefconfig"))?;
    let got = fs::read_to_string(&config)?;
    let lacking: Vec<_> = lacking(&wanted, &got).collect();
    ensure!(lacking.is_empty(), "the kernel cannot be configured with {}", lacking.join(" "));
    Ok(())
}

/// The options that were asked for and did not come out so.
fn lacking<'a>(wanted: &'a str, got: &'a str) -> impl Iterator<Item = &'a str> {
    let asked = wanted.lines().filter(|line| line.starts_with("CONFIG_") && line.ends_with("=y"));
    asked.filter(move |line| !got.lines().any(|other| other == *line))
}

/// `make` for the tree's architecture, out of the way of others on the machine.
#[must_use]
pub fn make(tree: &Tree, jobs: usize) -> Command {
    let mut command = Command::new("nice");
    command.args(["-n", "10", "make", "-s", "-C"]).arg(tree.source()).arg(format!("-j{jobs}"));
    command.arg(format!("ARCH={}", tree.arch.names().kernel));
    if let Some(prefix) = cross_prefix(tree.arch) {
        command.arg(format!("CROSS_COMPILE={prefix}"));
    }
    command.env("KBUILD_BUILD_TIMESTAMP", "1970-01-01").env("LC_ALL", "C");
    command
}

/// What the names of the architecture's compiler and binutils begin with, if they are not this machine's own.
fn cross_prefix(arch: Arch) -> Option<String> {
    (Arch::native() != Some(arch)).then(|| format!("{}-", arch.names().gnu_triple))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {text}", output.status);
    Ok(())
}

fn check_needed(arch: Arch) -> anyhow::Result<()> {
    let there = |what: &str| {
        if what.starts_with('/') { Path::new(what).exists() } else { find_program(what).is_some() }
    };
    let missing = NEEDED.iter().filter(|(what, _)| !there(what)).map(|(_, package)| *package);
    let mut missing: Vec<String> = missing.map(str::to_owned).collect();
    if let Some(prefix) = cross_prefix(arch)
        && !there(&format!("{prefix}gcc"))
    {
        missing.push(format!("gcc-{}", arch.names().gnu_triple));
    }
    ensure!(missing.is_empty(), "to build a kernel: apt-get install {}", missing.join(" "));
    Ok(())
}

/// Whether the second file is missing or older than the first.
fn is_newer(first: &Path, second: &Path) -> bool {
    let when = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    when(second).is_none_or(|second| when(first).is_some_and(|first| first > second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_that_did_not_come_out_is_named() {
        let wanted = "# KVM=y\nCONFIG_A=y\nCONFIG_B=n\nCONFIG_C=y\n";
        let got = "CONFIG_A=y\n# CONFIG_C is not set\n";
        assert_eq!(lacking(wanted, got).collect::<Vec<_>>(), ["CONFIG_C=y"]);
    }
}
