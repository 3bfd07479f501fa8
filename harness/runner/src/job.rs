//! One worker, as its runner sees it: started, listened to, ended.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use vm::record::Event;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, getpid, pipe2, setpgid};
use serde::{Deserialize, Serialize};

use super::worker::{self, Assignment};
use super::{sys, verdict};
use crate::body::Reader;
use crate::source::{Source, unprobed};
use crate::tally::Tally;
use crate::test::Test;
use vm::case::Weight;

/// The first argument of a worker that was started by exec.
pub const WORKER_ARGUMENT: &str = "--kvm-conformance-worker";
/// A line longer than this is not one of ours.
const MAX_LINE_BYTES: usize = 1 << 20;
/// Read from a pipe at a time. A bigger buffer costs every fork its page faults.
const READ_BYTES: usize = 4 << 10;
/// Reads in a row, so that one noisy worker starves nobody.
const READS: usize = 16;

/// Times its deadline that a worker gets more at most because it waited for a CPU.
const MOST_EXTENSION: u32 = 2;
/// Less than this part of the deadline is not worth the wait.
const LEAST_EXTENSION: u32 = 20;
/// As little is no wait, whatever the deadline.
const LEAST_WAIT: Duration = Duration::from_millis(50);
/// Time that a worker has for its last words.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// A request that glibc's allocator calls a large one.
const CONSOLIDATING_BYTES: usize = 4 << 10;

/// A test and its limits.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    /// The test.
    pub test: &'a Test,
    /// Time until the worker is told to stop, scale included.
    pub timeout: Duration,
    /// Time between being told and being killed.
    pub grace: Duration,
    /// Address space of the worker.
    pub memory_bytes: u64,
    /// What else may run at the same time: the test's own weight or the policy's.
    pub weight: Weight,
    /// Values for the test's options.
    pub parameters: BTreeMap<String, String>,
}

/// How a worker comes to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launch {
    /// By fork alone, from a process with one thread.
    Fork,
    /// By exec of this program, from a process with many threads.
    Exec,
}

/// What a worker started by exec is told on its command line.
#[derive(Debug, Serialize, Deserialize)]
struct Spec {
    test: String,
    memory_bytes: u64,
    processes: u64,
    parameters: BTreeMap<String, String>,
    runner: i32,
}

/// How far the ending of a worker has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Within its deadline.
    Live,
    /// Asked for its last words by so many signals.
    Asked(usize),
    /// Killed.
    Killed,
}

/// A worker that runs.
#[derive(Debug)]
pub struct Running {
    pid: Pid,
    launch: Launch,
    pidfd: OwnedFd,
    reader: Box<dyn Reader>,
    events: Stream,
    output: Stream,
    started: Instant,
    /// When [`Running::overdue`] has something to do next.
    next_deadline: Instant,
    grace: Duration,
    timeout: Duration,
    /// How much longer it may take because it waited for a CPU, at most.
    extension: Duration,
    stage: Stage,
    late: bool,
    /// What its threads were doing when it did not stop as told.
    stuck: Vec<String>,
    /// What the worker's events add up to so far.
    pub tally: Tally,
    /// What it did that no test may do.
    pub misdeeds: Vec<String>,
    /// The kernel's complaints while it ran.
    pub kernel_log: Vec<String>,
    /// What else was seen while it ran.
    pub notes: Vec<String>,
}

/// A pipe from a worker, cut into lines.
#[derive(Debug)]
struct Stream {
    pipe: Option<File>,
    partial: Vec<u8>,
}

impl Stream {
    fn new(pipe: OwnedFd) -> io::Result<Self> {
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self { pipe: Some(pipe.into()), partial: Vec::new() })
    }

    /// Reads once; gives whole lines. `false` once there is nothing to read now.
    fn read(&mut self, mut line: impl FnMut(&[u8])) -> bool {
        let Some(pipe) = &mut self.pipe else { return false };
        let mut chunk = [0; READ_BYTES];
        let got = match pipe.read(&mut chunk) {
            Ok(0) => {
                self.pipe = None;
                return false;
            }
            Ok(got) => got,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return true,
            Err(_) => return false,
        };
        let mut rest = &chunk[..got];
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            if self.partial.is_empty() {
                line(&rest[..end]);
            } else {
                self.partial.extend_from_slice(&rest[..end]);
                line(&self.partial);
                self.partial.clear();
            }
            rest = &rest[end + 1..];
        }
        self.partial.extend_from_slice(rest);
        if self.partial.len() > MAX_LINE_BYTES {
            line(&self.partial);
            self.partial.clear();
        }
        true
    }
}

impl Running {
    /// Starts a worker for `job`.
    pub fn start(job: &Job<'_>, launch: &Launch) -> io::Result<Self> {
        let (events, events_end) = pipe2(OFlag::O_CLOEXEC)?;
        let (output, output_end) = pipe2(OFlag::O_CLOEXEC)?;
        let started = Instant::now();
        let pid = match launch {
            Launch::Fork => fork_worker(job, events_end, output_end)?,
            Launch::Exec => exec_worker(job, events_end, output_end)?,
        };
        let pidfd = match sys::pidfd_open(pid) {
            Ok(fd) => fd,
            Err(e) => {
                let _ = killpg(pid, Signal::SIGKILL);
                let _ = waitpid(pid, None);
                return Err(e);
            }
        };
        Ok(Self {
            pid,
            launch: *launch,
            pidfd,
            reader: job.test.body.reader(),
            events: Stream::new(events)?,
            output: Stream::new(output)?,
            started,
            next_deadline: started + job.timeout,
            grace: job.grace,
            timeout: job.timeout,
            extension: job.timeout * MOST_EXTENSION,
            stage: Stage::Live,
            late: false,
            stuck: Vec::new(),
            tally: Tally::default(),
            misdeeds: Vec::new(),
            kernel_log: Vec::new(),
            notes: Vec::new(),
        })
    }

    /// The worker's process, which is also its process group.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Becomes readable when the worker has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The pipes that may have something to read.
    pub fn pipes(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [&self.events, &self.output].into_iter().filter_map(|s| s.pipe.as_ref().map(AsFd::as_fd))
    }

    /// When the worker needs attention at the latest.
    pub fn next_deadline(&self) -> Instant {
        self.next_deadline
    }

    /// Time since the start.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }

    /// Reads what has come. `false` once there is nothing more for now.
    pub fn read(&mut self) -> bool {
        (0..READS).all(|_| self.read_once())
    }

    fn read_once(&mut self) -> bool {
        let (tally, misdeeds) = (&mut self.tally, &mut self.misdeeds);
        let events = self.events.read(|line| match serde_json::from_slice::<Event>(line) {
            Ok(event) => tally.add(event),
            Err(_) if misdeeds.is_empty() => misdeeds.push(format!(
                "wrote to the runner's event pipe: {:?}",
                String::from_utf8_lossy(&line[..line.len().min(80)])
            )),
            Err(_) => {}
        });
        let reader = &mut self.reader;
        let output = self.output.read(|line| log(tally, reader, line));
        events || output
    }

    /// Does what the deadlines ask for at `now`.
    pub fn overdue(&mut self, now: Instant) {
        if now < self.next_deadline {
            return;
        }
        if self.stage == Stage::Live && self.extend() {
            return;
        }
        let asked = match self.stage {
            Stage::Live => 0,
            Stage::Asked(asked) => asked,
            Stage::Killed => return self.kill(now),
        };
        self.late = true;
        match self.reader.last_words().get(asked) {
            Some(signal) => {
                sys::signal_main_thread(self.pid, *signal);
                self.stage = Stage::Asked(asked + 1);
                self.next_deadline = now + if asked == 0 { self.grace } else { LAST_WORDS };
            }
            None => {
                let remarks = std::mem::take(&mut self.stuck);
                self.stuck = super::watch::threads(self.pid);
                self.stuck.extend(remarks);
                self.kill(now);
            }
        }
    }

    /// Moves the deadline by what the worker waited for a CPU that others had: no fault of the test.
    fn extend(&mut self) -> bool {
        let waited = vm::run_delay(self.pid.as_raw().unsigned_abs());
        let granted = self.next_deadline - self.started - self.timeout;
        let more = waited.min(self.extension).saturating_sub(granted);
        if more <= (self.timeout / LEAST_EXTENSION).max(LEAST_WAIT) {
            return false;
        }
        self.next_deadline += more;
        let all = verdict::Seconds(granted + more);
        self.stuck = vec![format!("its deadline came {all} later: it waited for a CPU so long")];
        true
    }

    /// Kills the whole group; to be called again until the worker is gone.
    pub fn kill(&mut self, now: Instant) {
        let _ = killpg(self.pid, Signal::SIGKILL);
        self.stage = Stage::Killed;
        self.next_deadline = now + Duration::from_millis(200);
    }

    /// Takes the end of a worker whose [`Running::pidfd`] is readable.
    ///
    /// `siblings` are the other workers; whatever else turns out to be a child
    /// of this process was left by the test.
    pub fn finish(mut self, siblings: &[Pid]) -> verdict::Finished {
        let duration = self.started.elapsed();
        let status = waitpid(self.pid, Some(WaitPidFlag::WNOHANG));
        let left = match self.launch {
            Launch::Fork => end_left_processes(self.pid, siblings),
            Launch::Exec => usize::from(killpg(self.pid, Signal::SIGKILL).is_ok()),
        };
        if left > 0 && self.stage == Stage::Live {
            self.misdeeds.push(format!("left {left} process(es) running"));
        }
        while self.read() {}
        for stream in [&mut self.events, &mut self.output] {
            stream.pipe = None;
        }
        let rest = std::mem::take(&mut self.output.partial);
        if !rest.is_empty() {
            log(&mut self.tally, &mut self.reader, &rest);
        }
        verdict::Ending {
            status: status.unwrap_or(WaitStatus::StillAlive),
            late: self.late,
            stuck: self.stuck,
            timeout: self.timeout,
            duration,
            tally: self.tally,
            misdeeds: self.misdeeds,
            kernel_log: self.kernel_log,
            notes: self.notes,
        }
        .finish(&mut *self.reader)
    }
}

/// Takes a line of a worker's output in.
fn log(tally: &mut Tally, reader: &mut Box<dyn Reader>, line: &[u8]) {
    let line = String::from_utf8_lossy(line);
    reader.line(&line);
    tally.add(Event::Log { line: line.into_owned() });
}

fn fork_worker(job: &Job<'_>, events: OwnedFd, output: OwnedFd) -> io::Result<Pid> {
    let runner = getpid();
    let processes = super::watch::process_limit();
    // A big request makes the allocator merge its small free pieces now, once, rather than in
    // every child, where each page that it touches is copied.
    drop(std::hint::black_box(Vec::<u8>::with_capacity(CONSOLIDATING_BYTES)));
    // A worker that is not ready yet must not die of its signals.
    let mut early = SigSet::from(Signal::SIGUSR1);
    early.add(Signal::SIGUSR2);
    early.thread_block()?;
    // What is still buffered would be written twice.
    let _ = io::stdout().flush();
    match sys::fork()? {
        ForkResult::Child => worker::run(Assignment {
            test: job.test,
            events,
            output: Some(output),
            memory_bytes: job.memory_bytes,
            processes,
            parameters: job.parameters.clone(),
            runner,
        }),
        ForkResult::Parent { child } => {
            // Whoever comes first: the group must exist before anyone signals it.
            let _ = setpgid(child, child);
            Ok(child)
        }
    }
}

fn exec_worker(job: &Job<'_>, events: OwnedFd, output: OwnedFd) -> io::Result<Pid> {
    let spec = Spec {
        test: job.test.id.clone().into_owned(),
        memory_bytes: job.memory_bytes,
        processes: super::watch::process_limit(),
        parameters: job.parameters.clone(),
        runner: getpid().as_raw(),
    };
    let child = Command::new(std::env::current_exe()?)
        .arg(WORKER_ARGUMENT)
        .arg(serde_json::to_string(&spec).map_err(io::Error::other)?)
        .stdin(Stdio::from(events))
        .stderr(Stdio::from(output.try_clone()?))
        .stdout(Stdio::from(output))
        .process_group(0)
        .spawn()?;
    Ok(Pid::from_raw(child.id() as i32))
}

/// Becomes the worker that the command line asks for, if it does.
///
/// The event pipe arrives as stdin, the one descriptor that survives exec
/// without any `unsafe`.
pub fn become_worker_if_asked(sources: &[&dyn Source]) {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_none_or(|first| first != WORKER_ARGUMENT) {
        return;
    }
    let json = args.next().and_then(|json| json.into_string().ok());
    let spec = json.and_then(|json| serde_json::from_str::<Spec>(&json).ok());
    let tests = sources.iter().filter_map(|source| source.tests(&unprobed()).ok()).flatten();
    let test = spec.as_ref().and_then(|spec| tests.into_iter().find(|t| t.id == spec.test));
    let (Some(spec), Some(test), Ok(events)) = (&spec, &test, sys::dup_above_stdio(0)) else {
        eprintln!("{WORKER_ARGUMENT} is for the runner's own use");
        sys::exit_now(2)
    };
    if let Ok(null) = File::open("/dev/null") {
        sys::dup_onto(&null, 0);
    }
    worker::run(Assignment {
        test,
        events,
        output: None,
        memory_bytes: spec.memory_bytes,
        processes: spec.processes,
        parameters: spec.parameters.clone(),
        runner: Pid::from_raw(spec.runner),
    })
}

/// Kills and reaps what is left of the worker's group, and children that it
/// left to this process. Gives how many were still running.
fn end_left_processes(group: Pid, siblings: &[Pid]) -> usize {
    // What has ended already and waits for its parent is not running.
    while matches!(
        waitpid(Pid::from_raw(-group.as_raw()), Some(WaitPidFlag::WNOHANG)),
        Ok(status) if status != WaitStatus::StillAlive
    ) {}
    let mut left = usize::from(killpg(group, Signal::SIGKILL).is_ok());
    // Without a child there is nothing more to look for: the common case, one system call.
    if siblings.is_empty()
        && waitpid(None, Some(WaitPidFlag::WNOHANG)) == Err(Errno::ECHILD)
        && left == 0
    {
        return 0;
    }
    let patience = Instant::now() + Duration::from_secs(1);
    loop {
        let strays = super::watch::children(siblings);
        let mut alive = 0;
        for stray in strays {
            if waitpid(stray, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive) {
                alive += 1;
                let _ = nix::sys::signal::kill(stray, Signal::SIGKILL);
            }
        }
        left = left.max(alive);
        if (alive == 0 && killpg(group, None).is_err()) || Instant::now() > patience {
            return left;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
