//! How slow this host is: an emulated one gets longer deadlines without hand-tuning.

use std::hint::black_box;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike as _};
use nix::sys::wait::waitpid;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::ForkResult;

use super::sys;

/// The loop on an ordinary machine of the last ten years.
const USUAL_LOOP: Duration = Duration::from_micros(300);
/// A fork with its exit and wait on an ordinary machine.
const USUAL_FORK: Duration = Duration::from_micros(500);
/// A host this many times as slow as an ordinary one gets longer deadlines.
const SLOW: f64 = 2.0;
/// What its guests suffer more than its own processes do.
const OF_GUESTS: f64 = 2.0;
/// What forks and guests of an emulated processor suffer more than its loops do.
const OF_FORKS_AND_GUESTS: f64 = 4.0;
/// Nothing that works is slower than this.
const MOST: f64 = 100.0;

/// Most for a test that is known to run into its deadline: it costs the whole of it in every run.
const MOST_OF_KNOWN_TIMEOUT: f64 = 2.0;

/// Factors on deadlines.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// Of an ordinary test.
    pub usual: f64,
    /// Of one that is known to run into its deadline.
    pub known_timeout: f64,
}

impl Scale {
    /// What was measured.
    pub fn measured(factor: f64) -> Self {
        Self { usual: factor, known_timeout: factor.min(MOST_OF_KNOWN_TIMEOUT) }
    }

    /// What the user says, for every test.
    pub fn given(factor: f64) -> Self {
        Self { usual: factor, known_timeout: factor }
    }
}

/// The factor for deadlines, at least 1. Forks, so the process must be single threaded, unless the loop
/// tells enough: the first fork of an emulated host takes ten milliseconds.
pub fn measure() -> f64 {
    let loops = ratio(best_of(3, spin), USUAL_LOOP);
    if loops > SLOW {
        return (loops * OF_FORKS_AND_GUESTS).min(MOST);
    }
    let forks = ratio(best_of(2, fork_once), USUAL_FORK);
    if forks > SLOW { (forks * OF_GUESTS).min(MOST) } else { 1.0 }
}

/// As [`measure`], for a process that may have several threads.
pub fn measure_without_fork() -> f64 {
    let loops = ratio(best_of(3, spin), USUAL_LOOP);
    if loops > SLOW { (loops * OF_FORKS_AND_GUESTS).min(MOST) } else { 1.0 }
}

fn ratio(time: Duration, usual: Duration) -> f64 {
    time.as_secs_f64() / usual.as_secs_f64()
}

/// The best run is the one that other load disturbed least, in processor time: how long others kept the
/// processor is no property of this host.
fn best_of(times: u32, work: fn() -> Duration) -> Duration {
    (0..times).map(|_| work()).min().unwrap_or_default()
}

/// Processor time of this thread.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    time.map_or(Duration::ZERO, Duration::from)
}

/// Processor time of children that ended.
fn childrens_time() -> Duration {
    let spent = |time: TimeVal| Duration::from_micros(time.num_microseconds().unsigned_abs());
    getrusage(UsageWho::RUSAGE_CHILDREN)
        .map_or(Duration::ZERO, |usage| spent(usage.user_time()) + spent(usage.system_time()))
}

fn spin() -> Duration {
    let start = thread_time();
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    for i in 0..100_000_u64 {
        x = black_box(x.rotate_left(7).wrapping_mul(0xff51_afd7_ed55_8ccd) ^ i);
    }
    black_box(x);
    thread_time() - start
}

/// A fork with the child's life.
fn fork_once() -> Duration {
    let (start, children) = (thread_time(), childrens_time());
    match sys::fork() {
        Ok(ForkResult::Child) => sys::exit_now(0),
        Ok(ForkResult::Parent { child }) => {
            let _ = waitpid(child, None);
        }
        Err(_) => {}
    }
    (thread_time() - start) + (childrens_time() - children)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn load_makes_no_host_slow() {
        let quiet = best_of(5, spin);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..4 * std::thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            let loaded = best_of(5, spin);
            stop.store(true, Ordering::Relaxed);
            // Others use the caches too, and perhaps the other half of the core.
            assert!(ratio(loaded, quiet) < 3.0, "{loaded:?} instead of {quiet:?}");
        });
    }
}
