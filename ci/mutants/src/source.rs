//! Kernel sources from the Debian archive, and the files of them that mutants change.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, ensure};
use lab::apt::Suite;
use lab::{Arch, Cache};

/// Kernels of which Debian has the source, and where.
const SUITES: [(&str, &str); 3] =
    [("6.1", "bookworm"), ("6.12", "trixie"), ("7.3", "trixie-backports")];

/// An unpacked kernel source of one architecture's own.
#[derive(Clone, Debug)]
pub struct Tree {
    /// The kernel, such as `6.12`.
    pub version: String,
    /// The architecture that it is built for.
    pub arch: Arch,
    root: PathBuf,
}

impl Tree {
    /// The source of that kernel, fetched and unpacked if it is not there yet.
    ///
    /// # Errors
    /// There is none such, or it cannot be fetched.
    pub fn open(cache: &Cache, version: &str, arch: Arch) -> anyhow::Result<Self> {
        let root = cache.path(format!("mutants/{version}-{arch}"));
        let tree = Self { version: version.to_owned(), arch, root };
        if !tree.source().exists() {
            fetch(cache, version, &tree)?;
        }
        Ok(tree)
    }

    /// The root of the source.
    #[must_use]
    pub fn source(&self) -> PathBuf {
        self.root.join("source")
    }

    /// Where the source's selftests of KVM are built.
    #[must_use]
    pub fn selftests(&self) -> PathBuf {
        self.root.join("selftests")
    }

    /// A file as Debian has it.
    #[must_use]
    pub fn original(&self, file: &str) -> Option<String> {
        let kept = fs::read_to_string(self.kept(file));
        kept.or_else(|_| fs::read_to_string(self.source().join(file))).ok()
    }

    /// Puts a text in a file's place, and keeps the original. A file that has the text already
    /// stays untouched, so that it is not compiled again.
    ///
    /// # Errors
    /// The cache cannot be written.
    pub fn change(&self, file: &str, text: &str) -> anyhow::Result<()> {
        let path = self.source().join(file);
        let kept = self.kept(file);
        if !kept.exists() {
            let parent = kept.parent().context("a file stands in a directory")?;
            fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
            fs::copy(&path, &kept).with_context(|| kept.display().to_string())?;
        }
        if fs::read_to_string(&path).ok().as_deref() != Some(text) {
            fs::write(&path, text).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// The files that were changed once, as paths in the source.
    ///
    /// # Errors
    /// The cache cannot be read.
    pub fn changed(&self) -> anyhow::Result<Vec<String>> {
        let mut files = Vec::new();
        let mut directories = vec![self.root.join("originals")];
        while let Some(directory) = directories.pop() {
            let Ok(entries) = fs::read_dir(&directory) else { continue };
            for path in entries.flatten().map(|entry| entry.path()) {
                if path.is_dir() {
                    directories.push(path);
                } else {
                    let file = path.strip_prefix(self.root.join("originals"))?;
                    files.push(file.to_string_lossy().into_owned());
                }
            }
        }
        Ok(files)
    }

    fn kept(&self, file: &str) -> PathBuf {
        self.root.join("originals").join(file)
    }
}

fn fetch(cache: &Cache, version: &str, tree: &Tree) -> anyhow::Result<()> {
    let known: Vec<_> = SUITES.iter().map(|(version, _)| *version).collect();
    let suite = SUITES.iter().find(|(known, _)| *known == version);
    let (_, suite) =
        suite.with_context(|| format!("kernel {version}: known are {}", known.join(", ")))?;
    let package = format!("linux-source-{version}");
    eprintln!("fetching {package} of {suite}");
    let suite = Suite::new(cache, suite, Arch::X86_64)?;
    suite.update()?;

    fs::create_dir_all(&tree.root).with_context(|| tree.root.display().to_string())?;
    let scratch = tempfile::tempdir_in(&tree.root)?;
    suite.unpack(std::slice::from_ref(&package), scratch.path())?;
    let archive = scratch.path().join(format!("usr/src/{package}.tar.xz"));
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(scratch.path()).arg("-xf").arg(&archive);
    let status = tar.status().context("tar")?;
    ensure!(status.success(), "tar {}: {status}", archive.display());
    let unpacked = scratch.path().join(&package);
    let place = tree.source();
    fs::rename(&unpacked, &place).with_context(|| unpacked.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_keeps_the_original_and_is_made_once() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let root = dir.path().to_owned();
        let tree = Tree { version: "1".into(), arch: Arch::X86_64, root };
        fs::create_dir_all(tree.source().join("virt"))?;
        fs::write(tree.source().join("virt/a.c"), "old")?;
        assert_eq!(tree.original("virt/a.c").as_deref(), Some("old"));
        tree.change("virt/a.c", "new")?;
        let when = fs::metadata(tree.source().join("virt/a.c"))?.modified()?;
        tree.change("virt/a.c", "new")?;
        assert_eq!(fs::metadata(tree.source().join("virt/a.c"))?.modified()?, when);
        assert_eq!(tree.original("virt/a.c").as_deref(), Some("old"));
        assert_eq!(tree.changed()?, ["virt/a.c"]);
        Ok(())
    }
}
