//! Memory that this process may still use: what the host has, and what its cgroup leaves of that.

use std::fs;
use std::path::Path;

/// The two versions of control groups: where they are mounted, and names of the limit and of what is used.
const VERSIONS: [(&str, [&str; 2]); 2] = [
    ("/sys/fs/cgroup", ["memory.max", "memory.current"]),
    ("/sys/fs/cgroup/memory", ["memory.limit_in_bytes", "memory.usage_in_bytes"]),
];

/// Bytes of memory that this process may still use; `None` where the host does not say.
pub fn memory_left() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let host = available(&meminfo)?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let left = VERSIONS.iter().zip(own_groups(&groups)).flat_map(|((mount, names), own)| {
        // In a namespace of its own a process sees its group as the root, with limits of its own.
        let groups = Path::new(own).ancestors().map(|group| Path::new(mount).join(group));
        groups.filter_map(|group| left_in(&group, *names)).collect::<Vec<_>>()
    });
    left.chain([host]).min()
}

/// The process's group below each mount of [`VERSIONS`], by `/proc/self/cgroup`.
fn own_groups(text: &str) -> [&str; 2] {
    let of = |is_ours: fn(&str) -> bool| {
        let parts = text.lines().filter_map(|line| line.split_once(':')?.1.split_once(":/"));
        parts.filter(|(controllers, _)| is_ours(controllers)).map(|(_, path)| path).next()
    };
    let unified = of(str::is_empty);
    let memory = of(|controllers| controllers.split(',').any(|name| name == "memory"));
    [unified, memory].map(Option::unwrap_or_default)
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().trim_end_matches("kB").trim_end().parse::<u64>().ok().map(|kib| kib << 10)
}

/// What a control group's limit leaves, if it has one.
fn left_in(group: &Path, [limit, used]: [&str; 2]) -> Option<u64> {
    let number = |name| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
    Some(number(limit)?.saturating_sub(number(used)?))
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
    fn groups_of_both_versions_are_found() {
        assert_eq!(own_groups("0::/a/b\n"), ["a/b", ""]);
        assert_eq!(own_groups("9:cpu,memory:/c\n1:pids:/d\n0::/\n"), ["", "c"]);
        assert_eq!(own_groups(""), ["", ""]);
    }

    #[test]
    fn a_groups_limit_counts_what_is_used() {
        let group = tempfile::tempdir().unwrap();
        let left_in = |group: &Path| left_in(group, VERSIONS[0].1);
        fs::write(group.path().join("memory.current"), "100\n").unwrap();
        fs::write(group.path().join("memory.max"), "max\n").unwrap();
        assert_eq!(left_in(group.path()), None);
        fs::write(group.path().join("memory.max"), "4096\n").unwrap();
        assert_eq!(left_in(group.path()), Some(3996));
        fs::write(group.path().join("memory.max"), "50\n").unwrap();
        assert_eq!(left_in(group.path()), Some(0));
    }
}
