//! Which Debian mirror: named by the user, or by this machine's own apt sources.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::error::{LabError, Result};

/// Names a mirror where the machine's apt sources do not.
pub const MIRROR_VARIABLE: &str = "KVM_LAB_MIRROR";
/// The mirror of the command line.
static CHOSEN: OnceLock<String> = OnceLock::new();

/// Takes this mirror from now on; the first choice counts.
pub fn choose_mirror(mirror: Option<String>) {
    if let Some(mirror) = mirror {
        CHOSEN.get_or_init(|| mirror);
    }
}

/// The Debian mirror: from the command line, the environment, else the first one in this machine's
/// apt sources.
///
/// # Errors
/// None names one.
pub fn mirror() -> Result<String> {
    let variable = || std::env::var(MIRROR_VARIABLE).ok().filter(|value| !value.is_empty());
    CHOSEN.get().cloned().or_else(variable).or_else(|| machine_mirror("debian")).ok_or_else(|| {
        LabError::Mirror(format!("/etc/apt names none; give --mirror or {MIRROR_VARIABLE}"))
    })
}

/// The mirror of security updates: the one in this machine's apt sources, else beside the other.
pub fn security_mirror() -> Result<String> {
    match machine_mirror("debian-security") {
        Some(mirror) => Ok(mirror),
        None => Ok(format!("{}-security", mirror()?.trim_end_matches('/'))),
    }
}

fn machine_mirror(archive: &str) -> Option<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        let mut parts: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        parts.sort();
        files.extend(parts);
    }
    files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .find_map(|text| find_mirror(&text, archive))
}

/// The first address in an apt source file, in either form, whose last part names the archive.
fn find_mirror(text: &str, archive: &str) -> Option<String> {
    let deb822 = |line: &str| line.strip_prefix("URIs:").map(str::to_owned);
    let one_line = |line: &str| line.strip_prefix("deb ").map(str::to_owned);
    let is_mirror = |word: &String| {
        word.contains("://") && word.trim_end_matches('/').rsplit('/').next() == Some(archive)
    };
    text.lines()
        .filter_map(|line| deb822(line.trim()).or_else(|| one_line(line.trim())))
        .flat_map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .find(is_mirror)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_mirror_in_both_forms() {
        let deb822 = "Types: deb\n# URIs: http://no/debian\nURIs: http://other/x http://m/debian/\nSuites: bookworm\n";
        assert_eq!(find_mirror(deb822, "debian").as_deref(), Some("http://m/debian/"));
        let list =
            "# deb http://no/debian x main\ndeb [arch=amd64] https://m/debian bookworm main\n";
        assert_eq!(find_mirror(list, "debian").as_deref(), Some("https://m/debian"));
        assert_eq!(find_mirror("deb http://m/debian-security x main\n", "debian"), None);
    }
}
