//! The scheduler: starts workers as capacity allows, listens, and never blocks past a deadline.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use std::{fmt, io};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use super::health::{Complaint, Health};
use super::job::{Job, Launch, Running};
use super::verdict::Finished;
use super::watch::TaskWatch;
use crate::host::Host;
use crate::test::cpus;
use results::outcome::Outcome;
use results::trouble;
use vm::case::Weight;

/// Longest sleep while something runs.
const TICK: Duration = Duration::from_millis(100);
/// A worker of this age is not listened to yet; its pipes hold what it says.
const YOUNG: Duration = Duration::from_millis(2);

/// Begins a note about a complaint that is not of this test.
const ABOUT_OTHERS: &str = "the kernel complained meanwhile, neither of KVM nor of this test";

/// What the owner of a pool is told.
pub trait Observer {
    /// A worker was started for the job with this index.
    fn started(&mut self, index: usize);
    /// A job ended. `true` asks for it to be run again.
    fn finished(&mut self, index: usize, finished: Finished) -> bool;
    /// Time passes while these jobs run.
    fn tick(&mut self, running: &[usize]);
    /// A signal asks to finish; `now` if running tests are to be killed.
    fn stopping(&mut self, signal: Signal, now: bool);
}

/// Starts, watches and ends workers.
pub struct Pool<'a> {
    /// How workers come to be.
    pub launch: Launch,
    /// Weight that may run at a time.
    pub capacity: usize,
    /// The kernel's log and taint.
    pub health: &'a mut Health,
    /// SIGINT and SIGTERM, where this process may take them.
    pub signals: Option<SignalFd>,
    /// What is let go of for a test that wants KVM to itself.
    pub host: &'a dyn Host,
}

impl fmt::Debug for Pool<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

/// Blocks SIGINT, SIGTERM and SIGHUP and makes them readable.
pub fn take_signals() -> io::Result<SignalFd> {
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        mask.add(signal);
    }
    mask.thread_block()?;
    Ok(SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

impl Pool<'_> {
    /// Runs the jobs in order, as many at a time as capacity allows. Gives the
    /// signal that cut the run short, if one did.
    pub fn run(&mut self, jobs: &[Job<'_>], observer: &mut dyn Observer) -> Option<Signal> {
        let watch = TaskWatch::new();
        let mut running: Vec<(usize, Running)> = Vec::new();
        let mut next = 0;
        let mut again: VecDeque<usize> = VecDeque::new();
        let mut stop: Option<Signal> = None;
        let mut looked = Instant::now();
        loop {
            while stop.is_none() {
                let Some(index) = again.front().copied().or((next < jobs.len()).then_some(next))
                else {
                    break;
                };
                if !self.fits(jobs, &running, index) {
                    break;
                }
                if again.pop_front().is_none() {
                    next += 1;
                }
                observer.started(index);
                if jobs[index].weight == Weight::AloneWithoutKvm {
                    report(self.host.let_go());
                }
                match Running::start(&jobs[index], &self.launch) {
                    Ok(worker) => running.push((index, worker)),
                    Err(e) => {
                        let reason = format!("cannot start a worker: {e}");
                        observer.finished(index, Finished::without_worker(Outcome::Error, reason));
                    }
                }
            }
            if running.is_empty() && (stop.is_some() || (next >= jobs.len() && again.is_empty())) {
                return stop;
            }
            let ended = self.wait(&mut running);
            if let Some(signal) = self.signals.as_ref().and_then(take_signal) {
                let now = stop.is_some() || signal != Signal::SIGINT;
                stop.get_or_insert(signal);
                observer.stopping(signal, now);
                if now {
                    kill_all(&mut running);
                    return stop;
                }
            }
            for position in ended.into_iter().rev() {
                for complaint in self.health.look() {
                    blame(&complaint, &mut running);
                }
                let (index, worker) = running.remove(position);
                let siblings: Vec<Pid> = running.iter().map(|(_, r)| r.pid()).collect();
                let finished = worker.finish(&siblings);
                if jobs[index].weight == Weight::AloneWithoutKvm {
                    report(self.host.take_back());
                }
                if observer.finished(index, finished) && stop.is_none() {
                    again.push_back(index);
                }
            }
            let now = Instant::now();
            for (_, worker) in &mut running {
                worker.overdue(now);
            }
            if now - looked >= TICK {
                looked = now;
                cut_runaways(&watch, &mut running, now);
                let indices: Vec<usize> = running.iter().map(|(index, _)| *index).collect();
                observer.tick(&indices);
            }
        }
    }

    fn fits(&self, jobs: &[Job<'_>], running: &[(usize, Running)], index: usize) -> bool {
        if running.is_empty() {
            return true;
        }
        let together = running.iter().map(|(running, _)| *running).chain([index]);
        let used: Option<usize> = together.map(|index| cpus(jobs[index].weight)).sum();
        used.is_some_and(|used| used <= self.capacity)
    }

    /// Waits until something happens or a deadline comes; reads; gives the
    /// positions of the workers that ended, in rising order.
    fn wait(&mut self, running: &mut [(usize, Running)]) -> Vec<usize> {
        let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(3 * running.len() + 1);
        for (_, worker) in &*running {
            fds.push(PollFd::new(worker.pidfd(), PollFlags::POLLIN));
        }
        let now = Instant::now();
        // Most workers end before they have much to say: waking up once, at their end, is enough.
        let young = running.iter().any(|(_, worker)| worker.age(now) < YOUNG);
        for (_, worker) in running.iter().filter(|_| !young) {
            fds.extend(worker.pipes().map(|pipe| PollFd::new(pipe, PollFlags::POLLIN)));
        }
        if let Some(signals) = &self.signals {
            fds.push(PollFd::new(signals.as_fd(), PollFlags::POLLIN));
        }
        let log = fds.len();
        fds.extend(self.health.log().map(|log| PollFd::new(log, PollFlags::POLLIN)));
        let wait = running
            .iter()
            .map(|(_, r)| r.next_deadline().saturating_duration_since(now))
            .min()
            .map_or(TICK, |d| d.min(if young { YOUNG } else { TICK }));
        // Rounded up, so that a wake-up is never before the deadline.
        let timeout = PollTimeout::from(wait.as_micros().div_ceil(1000) as u8);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
        let ended: Vec<usize> = fds[..running.len()]
            .iter()
            .enumerate()
            .filter(|(_, fd)| fd.any().unwrap_or(false))
            .map(|(position, _)| position)
            .collect();
        let complains = fds.get(log).is_some_and(|log| log.any().unwrap_or(false));
        drop(fds);
        if complains {
            self.health.listen();
        }
        if !young {
            for (_, worker) in running {
                worker.read();
            }
        }
        ended
    }
}

/// Adds a complaint of the kernel to the tests whose it is: to those whose threads it names; where it
/// names KVM and no thread of a test that runs, to all of them. Of what others did to the kernel a test
/// has a note.
fn blame(complaint: &Complaint, running: &mut [(usize, Running)]) {
    let named = |worker: &Running| complaint.groups.contains(&worker.pid());
    let names_one = running.iter().any(|(_, worker)| named(worker));
    for (_, worker) in running {
        if named(worker) || (!names_one && complaint.is_of_kvm()) {
            worker.kernel_log.extend(complaint.lines.iter().cloned());
        } else if !names_one {
            let headline = trouble::headline(complaint.lines.iter().map(String::as_str));
            worker.notes.extend(headline.map(|line| format!("{ABOUT_OTHERS}: {line}")));
        }
    }
}

fn report(result: Result<(), String>) {
    if let Err(error) = result {
        eprintln!("kvm-conformance: {error}");
    }
}

fn take_signal(signals: &SignalFd) -> Option<Signal> {
    let info = signals.read_signal().ok().flatten()?;
    Signal::try_from(info.ssi_signo as i32).ok()
}

fn kill_all(running: &mut Vec<(usize, Running)>) {
    let siblings: Vec<Pid> = running.iter().map(|(_, r)| r.pid()).collect();
    for (_, mut worker) in running.drain(..) {
        worker.kill(Instant::now());
        let mut fds = [PollFd::new(worker.pidfd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::from(1000u16));
        worker.finish(&siblings);
    }
}

fn cut_runaways(watch: &TaskWatch, running: &mut [(usize, Running)], now: Instant) {
    let workers: Vec<Pid> = running.iter().map(|(_, r)| r.pid()).collect();
    for (pid, family) in watch.runaways(&workers) {
        if let Some((_, worker)) = running.iter_mut().find(|(_, r)| r.pid() == pid) {
            worker.misdeeds.push(format!("started {} processes, killed", family.len()));
            worker.kill(now);
            for member in family {
                let _ = kill(member, Signal::SIGKILL);
            }
        }
    }
}
