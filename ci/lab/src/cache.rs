//! The cache directory: kernels by exact version, indexes, initramfs parts.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use crate::error::{At as _, LabError, Result};
use crate::manifest;

/// Prefix of directories that belong to one living process.
const RUN_PREFIX: &str = "run-";

/// The cache.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The user's cache: `KVM_LAB_CACHE`, or `kvm-conformance` in the XDG cache directory.
    ///
    /// # Errors
    /// No home directory, or the cache cannot be made.
    pub fn open() -> Result<Self> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let root = variable("KVM_LAB_CACHE")
            .map(PathBuf::from)
            .or_else(|| {
                variable("XDG_CACHE_HOME").map(|dir| Path::new(&dir).join("kvm-conformance"))
            })
            .or_else(|| variable("HOME").map(|dir| Path::new(&dir).join(".cache/kvm-conformance")))
            .ok_or_else(|| LabError::Other("no cache directory: set KVM_LAB_CACHE".into()))?;
        Self::at(root)
    }

    /// A cache in the given directory.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn at(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        fs::create_dir_all(&root).at(&root)?;
        let root = root.canonicalize().at(&root)?;
        Ok(Self { root })
    }

    /// A path in the cache.
    #[must_use]
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(relative)
    }

    /// A directory in the cache, made if need be.
    pub(crate) fn dir(&self, relative: impl AsRef<Path>) -> Result<PathBuf> {
        let path = self.path(relative);
        fs::create_dir_all(&path).at(&path)?;
        Ok(path)
    }

    /// Holds a lock against other labs until the value is dropped.
    pub(crate) fn lock(&self, name: &str) -> Result<Flock<File>> {
        let path = self.dir("locks")?.join(name);
        let file = File::create(&path).at(&path)?;
        Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| LabError::Other(format!("lock {}: {errno}", path.display())))
    }

    /// A directory of this process alone. Those of dead processes are removed.
    pub(crate) fn run_dir(&self) -> Result<tempfile::TempDir> {
        let base = self.dir("runs")?;
        for entry in fs::read_dir(&base).at(&base)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let owner = name.strip_prefix(RUN_PREFIX).and_then(|rest| rest.split('-').next());
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        tempfile::Builder::new()
            .prefix(&format!("{RUN_PREFIX}{}-", std::process::id()))
            .tempdir_in(&base)
            .at(&base)
    }

    /// Removes the entries of a directory that were made too long ago.
    pub(crate) fn prune(&self, relative: &str, age: Duration) {
        let entries = fs::read_dir(self.path(relative)).into_iter().flatten().flatten();
        for entry in entries {
            let made = entry.metadata().and_then(|meta| meta.modified());
            let old =
                made.ok().and_then(|made| made.elapsed().ok()).is_some_and(|since| since > age);
            if old {
                let path = entry.path();
                let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
            }
        }
    }

    /// As [`Cache::once`]; a directory that was damaged since it was made is made again.
    pub(crate) fn checked(
        &self,
        relative: impl AsRef<Path>,
        make: impl Fn(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let make = |fresh: &Path| make(fresh).and_then(|()| manifest::write(fresh));
        let path = self.once(&relative, make)?;
        let Some(damage) = manifest::damage(&path) else { return Ok(path) };
        eprintln!("lab: {} is damaged ({damage}); it is made again", path.display());
        fs::remove_dir_all(&path).at(&path)?;
        self.once(&relative, make)
    }

    /// The directory `relative`, made by `make` in a temporary place and then moved, so that a
    /// break in the middle leaves nothing half done.
    pub(crate) fn once(
        &self,
        relative: impl AsRef<Path>,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let path = self.path(&relative);
        if path.exists() {
            return Ok(path);
        }
        let name = relative.as_ref().to_string_lossy().replace('/', "_");
        let _lock = self.lock(&name)?;
        if path.exists() {
            return Ok(path);
        }
        let scratch = self.run_dir()?;
        let fresh = scratch.path().join("fresh");
        fs::create_dir_all(&fresh).at(&fresh)?;
        make(&fresh)?;
        let parent = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(parent).at(parent)?;
        fs::rename(&fresh, &path).at(&path)?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prunes_what_is_old_only() -> Result<()> {
        let dir = tempfile::tempdir().at("tmp")?;
        let cache = Cache::at(dir.path())?;
        cache.dir("warm/x")?;
        cache.prune("warm", Duration::from_secs(60));
        assert!(cache.path("warm/x").exists());
        std::thread::sleep(Duration::from_millis(10));
        cache.prune("warm", Duration::ZERO);
        assert!(!cache.path("warm/x").exists());
        Ok(())
    }

    #[test]
    fn what_was_damaged_is_made_again() -> Result<()> {
        let dir = tempfile::tempdir().at("tmp")?;
        let cache = Cache::at(dir.path())?;
        let make = |fresh: &Path| fs::write(fresh.join("vmlinuz"), "kernel").at(fresh);
        let image = cache.checked("k/1", make)?.join("vmlinuz");
        for content in ["", "ker", "kernal"] {
            fs::write(&image, content).at(&image)?;
            cache.checked("k/1", make)?;
            assert_eq!(fs::read_to_string(&image).at(&image)?, "kernel");
        }
        cache.checked("k/1", |_| Err(LabError::Other("made without need".into())))?;
        Ok(())
    }

    #[test]
    fn makes_once_and_leaves_nothing_half_done() -> Result<()> {
        let dir = tempfile::tempdir().at("tmp")?;
        let cache = Cache::at(dir.path())?;
        let broken = cache.once("a/b", |_| Err(LabError::Other("no".into())));
        assert!(broken.is_err() && !cache.path("a/b").exists());
        let made = cache.once("a/b", |fresh| fs::write(fresh.join("x"), "1").at(fresh))?;
        assert!(made.join("x").exists());
        cache.once("a/b", |_| Err(LabError::Other("made twice".into())))?;
        Ok(())
    }
}
