//! Time in which a process wanted to run and others had the processor: no fault of what it waits for.

use std::cell::RefCell;
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
    Threads::of(process).waited_since(&Threads::default())
}

/// A thread as the scheduler sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Thread {
    /// What it has run.
    ran: Duration,
    /// What it has waited while it was ready to run; a wait that goes on counts when it is over.
    delay: Duration,
    /// Whether it is ready to run, or runs.
    ready: bool,
}

impl Thread {
    fn read(task: &Path) -> Option<Self> {
        let schedstat = fs::read_to_string(task.join("schedstat")).ok()?;
        let mut fields = schedstat.split_ascii_whitespace().map_while(|field| field.parse().ok());
        let (ran, delay) = (fields.next()?, fields.next()?);
        let stat = fs::read_to_string(task.join("stat")).unwrap_or_default();
        // The command name before may hold anything.
        let ready = stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" R"));
        Some(Self { ran: Duration::from_nanos(ran), delay: Duration::from_nanos(delay), ready })
    }
}

/// The threads of a process.
#[derive(Debug, Default)]
struct Threads(BTreeMap<OsString, Thread>);

impl Threads {
    fn of(process: u32) -> Self {
        Self::read(&Path::new("/proc").join(process.to_string()).join("task"))
    }

    fn read(tasks: &Path) -> Self {
        let thread = |task: fs::DirEntry| Some((task.file_name(), Thread::read(&task.path())?));
        Self(fs::read_dir(tasks).into_iter().flatten().flatten().filter_map(thread).collect())
    }

    /// What the thread that waited most since `before` waited.
    fn waited_since(&self, before: &Self) -> Duration {
        let waited = |(name, thread): (&OsString, &Thread)| {
            let delay = before.0.get(name).map_or(Duration::ZERO, |before| before.delay);
            thread.delay.saturating_sub(delay)
        };
        self.0.iter().map(waited).max().unwrap_or_default()
    }

    /// Whether a thread may have waited all the time since `before`.
    fn waits_since(&self, before: &Self) -> bool {
        self.0.iter().any(|(name, thread)| thread.ready && before.0.get(name) == Some(thread))
    }
}

/// A wait for something that may never come, which ends a test's check and not the test. Only time in
/// which this process could run counts.
#[derive(Debug)]
pub struct Patience {
    start: Instant,
    before: Threads,
    /// The threads when the time was up at first: each that is ready must run before it is.
    last: RefCell<Option<Threads>>,
    longest: Duration,
}

impl Patience {
    /// Begins to wait.
    pub fn new(longest: Duration) -> Self {
        let before = Threads::of(std::process::id());
        Self { start: Instant::now(), before, last: RefCell::new(None), longest }
    }

    /// Whether the wait is over. To be asked again and again.
    pub fn is_over(&self) -> bool {
        let elapsed = self.start.elapsed();
        // Only who waited for long need look at why.
        if elapsed < self.longest {
            return false;
        }
        let now = Threads::of(std::process::id());
        let mut last = self.last.borrow_mut();
        match &*last {
            _ if elapsed < self.longest + now.waited_since(&self.before) => *last = None,
            Some(last) => return !now.waits_since(last),
            None => *last = Some(now),
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_wait_of_a_thread_counts() {
        let tasks = tempfile::tempdir().unwrap();
        let write = |thread: &str, schedstat: &str, state: &str| {
            let task = tasks.path().join(thread);
            fs::create_dir_all(&task).unwrap();
            fs::write(task.join("schedstat"), schedstat).unwrap();
            fs::write(task.join("stat"), format!("{thread} (a) R) {state} 1")).unwrap();
        };
        write("7", "100 2000 3\n", "S");
        write("8", "9 500 1\n", "R");
        let before = Threads::read(tasks.path());
        assert_eq!(before.waited_since(&Threads::default()), Duration::from_nanos(2000));
        assert!(before.waits_since(&before), "one is ready, and has not run");
        write("8", "9 800 1\n", "R");
        write("9", "9 200 1\n", "R");
        let now = Threads::read(tasks.path());
        assert_eq!(now.waited_since(&before), Duration::from_nanos(300));
        assert!(!now.waits_since(&before), "it ran, and the other one is new");
        assert_eq!(Threads::read(&tasks.path().join("none")).waited_since(&before), Duration::ZERO);
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
