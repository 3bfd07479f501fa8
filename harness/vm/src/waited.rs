//! Time in which a process wanted to run and others had the processor: no fault of what it waits for.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Time that the thread of a process which waited most was ready to run and did not
/// (Documentation/scheduler/sched-stats.rst). A group that has used up its share of the processor waits
/// like others. Threads wait for each other too, so the sum would grow as fast as time. Zero where the
/// kernel does not say.
pub fn run_delay(process: u32) -> Duration {
    Delays::of(process).since(&Delays::default())
}

/// Run delays by thread.
#[derive(Debug, Default)]
struct Delays(BTreeMap<OsString, Duration>);

impl Delays {
    fn of(process: u32) -> Self {
        Self::read(&Path::new("/proc").join(process.to_string()).join("task"))
    }

    fn read(tasks: &Path) -> Self {
        let delay = |task: fs::DirEntry| {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            let delay = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
            Some((task.file_name(), Duration::from_nanos(delay)))
        };
        Self(fs::read_dir(tasks).into_iter().flatten().flatten().filter_map(delay).collect())
    }

    /// What the thread that waited most since `before` waited.
    fn since(&self, before: &Self) -> Duration {
        let waited = |(thread, delay): (&OsString, &Duration)| {
            delay.saturating_sub(before.0.get(thread).copied().unwrap_or_default())
        };
        self.0.iter().map(waited).max().unwrap_or_default()
    }
}

/// A wait for something that may never come, which ends a test's check and not the test. Only time in
/// which this process could run counts.
#[derive(Debug)]
pub struct Patience {
    start: Instant,
    before: Delays,
    longest: Duration,
}

impl Patience {
    /// Begins to wait.
    pub fn new(longest: Duration) -> Self {
        Self { start: Instant::now(), before: Delays::of(std::process::id()), longest }
    }

    /// Whether the wait is over.
    pub fn is_over(&self) -> bool {
        let elapsed = self.start.elapsed();
        let waited = || Delays::of(std::process::id()).since(&self.before);
        // Only who waited for long need look at why.
        elapsed >= self.longest && elapsed >= self.longest + waited()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_wait_of_a_thread_counts() {
        let tasks = tempfile::tempdir().unwrap();
        let write = |thread: &str, schedstat: &str| {
            fs::create_dir_all(tasks.path().join(thread)).unwrap();
            fs::write(tasks.path().join(thread).join("schedstat"), schedstat).unwrap();
        };
        write("7", "100 2000 3\n");
        write("8", "9 500 1\n");
        let before = Delays::read(tasks.path());
        assert_eq!(before.since(&Delays::default()), Duration::from_nanos(2000));
        write("8", "9 800 1\n");
        write("9", "9 200 1\n");
        assert_eq!(Delays::read(tasks.path()).since(&before), Duration::from_nanos(300));
        assert_eq!(Delays::read(&tasks.path().join("none")).since(&before), Duration::ZERO);
    }

    #[test]
    fn patience_ends_for_who_runs() {
        let patience = Patience::new(Duration::from_millis(20));
        assert!(!Patience::new(Duration::from_secs(1000)).is_over());
        std::thread::sleep(Duration::from_millis(20));
        let end = Instant::now() + Duration::from_secs(10);
        while !patience.is_over() {
            assert!(Instant::now() < end, "{patience:?}");
        }
    }
}
