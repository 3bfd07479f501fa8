//! What a directory of the cache holds, noted when it was made: a file that was damaged since is noticed
//! before a host does not boot from it.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hasher as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{At as _, Result};

/// The file that it is noted in.
const FILE: &str = ".manifest";
/// Files whose names begin so are compared by content, all others by size: a kernel has thousands of
/// modules, and each run would read them.
const WHOLE: &str = "vmlinu";

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hash: Option<u64>,
}

/// Notes what the directory holds.
pub fn write(dir: &Path) -> Result<()> {
    let entries = entries(dir).at(dir)?;
    let path = dir.join(FILE);
    let text = serde_json::to_string(&entries).map_err(std::io::Error::other).at(&path)?;
    fs::write(&path, text).at(&path)
}

/// What is wrong with the directory, if anything is. Where nothing was noted nothing is known.
pub fn damage(dir: &Path) -> Option<String> {
    let text = fs::read_to_string(dir.join(FILE)).ok()?;
    let noted: BTreeMap<String, Entry> = match serde_json::from_str(&text) {
        Ok(noted) => noted,
        Err(_) => return Some(format!("{FILE} is damaged")),
    };
    let found = match entries(dir) {
        Ok(found) => found,
        Err(error) => return Some(error.to_string()),
    };
    noted.iter().find_map(|(name, entry)| match found.get(name) {
        None => Some(format!("{name} is missing")),
        Some(now) if now.bytes != entry.bytes => {
            Some(format!("{name} has {} bytes instead of {}", now.bytes, entry.bytes))
        }
        Some(now) if now != entry => Some(format!("{name} has other content than it had")),
        Some(_) => None,
    })
}

fn entries(dir: &Path) -> std::io::Result<BTreeMap<String, Entry>> {
    let mut entries = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let kind = fs::symlink_metadata(&path)?;
            let name = path.strip_prefix(dir).unwrap_or(&path).to_string_lossy().into_owned();
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() && name != FILE {
                let is_whole = entry_name(&path).starts_with(WHOLE);
                let hash = is_whole.then(|| hash(&path)).transpose()?;
                entries.insert(name, Entry { bytes: kind.len(), hash });
            }
        }
    }
    Ok(entries)
}

fn entry_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn hash(path: &Path) -> std::io::Result<u64> {
    let mut hasher = DefaultHasher::new();
    hasher.write(&fs::read(path)?);
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir_all(path("lib/modules")).unwrap();
        fs::write(path("lib/modules/kvm.ko"), "module").unwrap();
        fs::write(path("vmlinuz-6.1"), "kernel").unwrap();
        assert_eq!(damage(dir.path()), None, "nothing was noted");
        write(dir.path()).unwrap();
        assert_eq!(damage(dir.path()), None);
        for (name, content, message) in [
            ("vmlinuz-6.1", "", "vmlinuz-6.1 has 0 bytes instead of 6"),
            ("vmlinuz-6.1", "karnel", "vmlinuz-6.1 has other content than it had"),
            ("lib/modules/kvm.ko", "mod", "lib/modules/kvm.ko has 3 bytes instead of 6"),
        ] {
            let good = fs::read(path(name)).unwrap();
            fs::write(path(name), content).unwrap();
            assert_eq!(damage(dir.path()).as_deref(), Some(message));
            fs::write(path(name), good).unwrap();
        }
        fs::remove_file(path("vmlinuz-6.1")).unwrap();
        assert_eq!(damage(dir.path()).as_deref(), Some("vmlinuz-6.1 is missing"));
        fs::write(path(FILE), "{").unwrap();
        assert_eq!(damage(dir.path()).as_deref(), Some(".manifest is damaged"));
    }
}
