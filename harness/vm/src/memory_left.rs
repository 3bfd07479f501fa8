//! Memory that this process may still use: what the host has, and what its cgroup leaves of that.

use std::fs;
use std::path::Path;

/// Where version 2 of the control groups is mounted.
const CGROUP: &str = "/sys/fs/cgroup";

/// Bytes of memory that this process may still use; `None` where the host does not say.
pub fn memory_left() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let host = available(&meminfo)?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    // In a namespace of its own a process sees its group as the root, with limits of its own.
    let groups = Path::new(own).ancestors().map(|group| Path::new(CGROUP).join(group));
    groups.filter_map(|group| left_in(&group)).chain([host]).min()
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().trim_end_matches("kB").trim_end().parse::<u64>().ok().map(|kib| kib << 10)
}

/// What a control group's limit leaves, if it has one.
fn left_in(group: &Path) -> Option<u64> {
    let number = |name| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
    Some(number("memory.max")?.saturating_sub(number("memory.current")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_memory_is_in_kibibytes() {
        assert_eq!(available("MemFree: 1 kB\nMemAvailable:   12 kB\n"), Some(12 << 10));
        assert!(memory_left().is_none_or(|left| left > 0));
    }

    #[test]
    fn a_groups_limit_counts_what_is_used() {
        let group = tempfile::tempdir().unwrap();
        fs::write(group.path().join("memory.current"), "100\n").unwrap();
        fs::write(group.path().join("memory.max"), "max\n").unwrap();
        assert_eq!(left_in(group.path()), None);
        fs::write(group.path().join("memory.max"), "4096\n").unwrap();
        assert_eq!(left_in(group.path()), Some(3996));
        fs::write(group.path().join("memory.max"), "50\n").unwrap();
        assert_eq!(left_in(group.path()), Some(0));
    }
}
