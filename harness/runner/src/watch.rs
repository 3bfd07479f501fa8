//! Watches over processes that a test starts: a fork bomb is cut within tenths of a second.
//!
//! RLIMIT_NPROC does not bind root, and a cgroup is not ours to make, so the
//! runner looks at the system's process count while tests run.

use std::collections::BTreeMap;
use std::fs;
use std::sync::OnceLock;

use nix::unistd::{Pid, getpid};

/// Tasks more than at the start that make the runner look closer.
const SUSPICIOUS_TASKS: u64 = 1250;
/// Tasks of one test that are too many: a VM may have a thousand vCPUs.
const MAX_TASKS: u64 = 1200;

/// Threads of a process that a report tells of.
const MOST_THREADS: usize = 16;

/// Counts the system's tasks from time to time.
#[derive(Debug, Default)]
pub struct TaskWatch {
    baseline: Option<u64>,
}

impl TaskWatch {
    /// Remembers how many tasks the system has now.
    pub fn new() -> Self {
        Self { baseline: total_tasks() }
    }

    /// The workers among `workers` that have started too many tasks, with their descendants.
    pub fn runaways(&self, workers: &[Pid]) -> Vec<(Pid, Vec<Pid>)> {
        let (Some(baseline), Some(now)) = (self.baseline, total_tasks()) else { return Vec::new() };
        if now < baseline + SUSPICIOUS_TASKS {
            return Vec::new();
        }
        let tasks = all_tasks();
        let mut by_worker: BTreeMap<Pid, (u64, Vec<Pid>)> = BTreeMap::new();
        for (pid, task) in &tasks {
            if let Some(worker) = owner(*pid, &tasks, workers) {
                let entry = by_worker.entry(Pid::from_raw(worker)).or_default();
                entry.0 += task.threads;
                entry.1.push(Pid::from_raw(*pid));
            }
        }
        by_worker
            .into_iter()
            .filter(|(_, (threads, _))| *threads > MAX_TASKS)
            .map(|(worker, (_, pids))| (worker, pids))
            .collect()
    }
}

/// RLIMIT_NPROC for a worker whose user the kernel limits.
pub fn process_limit() -> u64 {
    static LIMIT: OnceLock<u64> = OnceLock::new();
    *LIMIT.get_or_init(|| total_tasks().unwrap_or(4096) + 2 * MAX_TASKS)
}

/// What each thread of a process is doing: its name, its state, and where in the kernel it waits.
pub fn threads(pid: Pid) -> Vec<String> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let mut lines: Vec<String> = tasks
        .flatten()
        .take(MOST_THREADS)
        .filter_map(|task| {
            let read = |name: &str| fs::read_to_string(task.path().join(name)).ok();
            let (name, stat) = (read("comm")?, read("stat")?);
            let state = stat.rsplit_once(')')?.1.trim_start().chars().next()?;
            // The kernel says 0 of a thread that runs, and of one that is none of our business.
            let place = read("wchan").filter(|place| place != "0" && !place.is_empty());
            let place = place.map_or_else(String::new, |place| format!(" in {place}"));
            let call = read("syscall")
                .and_then(|call| call.split_whitespace().next()?.parse::<u32>().ok());
            let call = call.map_or_else(String::new, |call| format!(", system call {call}"));
            Some(format!("thread {}: {state}{place}{call}", name.trim_end()))
        })
        .collect();
    lines.sort();
    lines
}

/// Children of this process that are not in `workers`.
pub fn children(workers: &[Pid]) -> Vec<Pid> {
    let me = getpid();
    let text = fs::read_to_string(format!("/proc/self/task/{me}/children")).unwrap_or_default();
    text.split_ascii_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .map(Pid::from_raw)
        .filter(|pid| !workers.contains(pid))
        .collect()
}

/// Threads of the whole system.
fn total_tasks() -> Option<u64> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    text.split(['/', ' ']).nth(4)?.parse().ok()
}

#[derive(Debug)]
struct Task {
    parent: i32,
    group: i32,
    threads: u64,
}

fn all_tasks() -> BTreeMap<i32, Task> {
    let Ok(dir) = fs::read_dir("/proc") else { return BTreeMap::new() };
    dir.flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| {
            Some((pid, parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?))
        })
        .collect()
}

fn parse_stat(stat: &str) -> Option<Task> {
    // The command name may hold anything, so count from its closing parenthesis.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    Some(Task {
        parent: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        threads: fields.get(17)?.parse().ok()?,
    })
}

/// The worker that `pid` belongs to, by group or by descent.
fn owner(pid: i32, tasks: &BTreeMap<i32, Task>, workers: &[Pid]) -> Option<i32> {
    let is_worker = |pid: i32| workers.contains(&Pid::from_raw(pid));
    let mut at = pid;
    for _ in 0..64 {
        let task = tasks.get(&at)?;
        if is_worker(at) {
            return Some(at);
        }
        if is_worker(task.group) {
            return Some(task.group);
        }
        at = task.parent;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_with_odd_names_parse() {
        let task = parse_stat("7 (a) b (c) S 3 5 5 0 -1 0 0 0 0 0 0 0 0 0 20 0 9 0 1").unwrap();
        assert_eq!((task.parent, task.group, task.threads), (3, 5, 9));
    }

    #[test]
    fn descent_finds_the_worker_behind_a_new_session() {
        let task = |parent, group| Task { parent, group, threads: 1 };
        let tasks = BTreeMap::from([(1, task(0, 1)), (10, task(1, 10)), (11, task(10, 11))]);
        assert_eq!(owner(11, &tasks, &[Pid::from_raw(10)]), Some(10));
        assert_eq!(owner(1, &tasks, &[Pid::from_raw(10)]), None);
    }

    #[test]
    fn the_system_has_tasks() {
        assert!(total_tasks().is_some_and(|n| n > 1));
    }
}
