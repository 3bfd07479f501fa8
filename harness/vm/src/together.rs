//! Several vCPUs at a time, or vCPUs and this thread.
//!
//! One place for what can go wrong with threads: the first failure or panic is the test's, and stops the
//! others; at the deadline all of them end.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope, ScopedJoinHandle};

use crate::failure::{Failure, TestResult};
use crate::watchdog;

/// Runs every vCPU on a thread of its own, and gives what came of each.
///
/// ```no_run
/// # use vm::{Vcpu, failure::TestResult, run_together};
/// # fn test(first: &mut Vcpu, second: &mut Vcpu) -> TestResult {
/// run_together([first, second], Vcpu::run_until_done)?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// The first failure of one; a panic is an error.
pub fn run_together<'a, V: Send + 'a, T: Send>(
    vcpus: impl IntoIterator<Item = &'a mut V>,
    run: impl Fn(&mut V) -> TestResult<T> + Sync,
) -> TestResult<Vec<T>> {
    let run = &run;
    together(|threads| {
        let vcpus = vcpus.into_iter();
        let all: Vec<_> = vcpus.map(|vcpu| threads.run(vcpu, move |vcpu| run(vcpu))).collect();
        all.into_iter().map(Thread::join).collect()
    })
}

/// Runs `body` on this thread beside the threads that it starts, and waits for them:
///
/// ```no_run
/// # use vm::{Vcpu, failure::TestResult, together};
/// # fn test(reader: &mut Vcpu, change: impl Fn(u64) -> TestResult, seen: impl Fn() -> u64) -> TestResult {
/// together(|threads| {
///     threads.run(reader, Vcpu::run_until_done);
///     for step in 0..10 {
///         change(step)?;
///         threads.wait_until("the reader has seen it", || seen() == step)?;
///     }
///     Ok(())
/// })
/// # }
/// ```
///
/// # Errors
///
/// The first failure of `body` or of a thread, whose vCPUs the others' then leave KVM_RUN for; a thread's
/// panic is an error.
pub fn together<'env, R>(
    body: impl for<'scope> FnOnce(&Together<'scope, 'env>) -> TestResult<R>,
) -> TestResult<R> {
    let group = Arc::new(Group::default());
    let result = thread::scope(|scope| {
        let member = Member::enter(&group);
        let result =
            catch_unwind(AssertUnwindSafe(|| body(&Together { scope, group: Arc::clone(&group) })));
        match &result {
            Ok(Ok(_)) => {}
            Ok(Err(failure)) => group.fail(failure),
            Err(_) => group.fail(&Failure::Error("the test's own thread panicked".into())),
        }
        drop(member);
        result
    });
    let result = result.unwrap_or_else(|panic| resume_unwind(panic));
    match group.state().failure.take() {
        Some(failure) => Err(failure),
        None => result,
    }
}

/// Where [`together`] starts threads.
#[derive(Debug)]
pub struct Together<'scope, 'env: 'scope> {
    scope: &'scope Scope<'scope, 'env>,
    group: Arc<Group>,
}

impl<'scope> Together<'scope, '_> {
    /// Runs `run` with `vcpu` on a thread of its own.
    pub fn run<V: Send, T: Send + 'scope>(
        &self,
        vcpu: &'scope mut V,
        run: impl FnOnce(&mut V) -> TestResult<T> + Send + 'scope,
    ) -> Thread<'scope, T> {
        self.spawn(move || run(vcpu))
    }

    /// Runs `run` on a thread of its own.
    pub fn spawn<T: Send + 'scope>(
        &self,
        run: impl FnOnce() -> TestResult<T> + Send + 'scope,
    ) -> Thread<'scope, T> {
        let group = Arc::clone(&self.group);
        group.state().running += 1;
        let handle = self.scope.spawn(move || {
            let member = Member::enter(&group);
            let result = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
                Err(Failure::Error(format!("a thread of the test panicked: {}", text(&*panic))))
            });
            if let Err(failure) = &result {
                group.fail(failure);
            }
            drop(member);
            group.state().running -= 1;
            result
        });
        Thread { handle, group: Arc::clone(&self.group) }
    }

    /// Whether a thread still runs, and none has failed.
    pub fn is_running(&self) -> bool {
        !self.group.stopped.load(Ordering::SeqCst) && self.group.state().running > 0
    }

    /// Waits until `done` holds, for as long as a thread runs and the deadline allows.
    ///
    /// # Errors
    ///
    /// A thread has failed, all have ended, or the deadline has passed: `what` did not come.
    pub fn wait_until(&self, what: &str, mut done: impl FnMut() -> bool) -> TestResult {
        loop {
            let running = self.is_running();
            if done() {
                return Ok(());
            }
            if watchdog::expired() {
                return Err(Failure::Timeout(format!("{what}: not until the deadline")));
            }
            if self.group.stopped.load(Ordering::SeqCst) {
                return Err(stopped());
            }
            if !running {
                return Err(Failure::Fail(format!("{what}: not before every vCPU had ended")));
            }
            thread::yield_now();
        }
    }
}

/// A thread that [`Together`] has started.
#[derive(Debug)]
#[must_use = "a thread that nobody joins is waited for at the end"]
pub struct Thread<'scope, T> {
    handle: ScopedJoinHandle<'scope, TestResult<T>>,
    group: Arc<Group>,
}

impl<T> Thread<'_, T> {
    /// Waits for its end: what came of it.
    ///
    /// # Errors
    ///
    /// The first failure of this or another thread.
    pub fn join(self) -> TestResult<T> {
        let result = self.handle.join().unwrap_or_else(|panic| resume_unwind(panic));
        result.map_err(|failure| self.group.state().failure.clone().unwrap_or(failure))
    }

    /// Wakes it from [`thread::park`].
    pub fn unpark(&self) {
        self.handle.thread().unpark();
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }
}

/// The threads of one [`together`].
#[derive(Debug, Default)]
struct Group {
    stopped: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Threads that were started and have not ended.
    running: usize,
    /// All that may be inside KVM_RUN.
    members: Vec<i32>,
    /// What went wrong first.
    failure: Option<Failure>,
}

impl Group {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the first failure, and gets the others out of KVM_RUN.
    fn fail(&self, failure: &Failure) {
        let mut state = self.state();
        state.failure.get_or_insert_with(|| failure.clone());
        if !self.stopped.swap(true, Ordering::SeqCst) {
            state.members.iter().for_each(|&thread| watchdog::kick(thread));
        }
    }
}

thread_local! {
    static GROUPS: RefCell<Vec<Arc<Group>>> = const { RefCell::new(Vec::new()) };
}

/// This thread belongs to a group while this lives.
struct Member(Arc<Group>);

impl Member {
    fn enter(group: &Arc<Group>) -> Self {
        group.state().members.push(watchdog::tid());
        GROUPS.with_borrow_mut(|groups| groups.push(Arc::clone(group)));
        Self(Arc::clone(group))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        GROUPS.with_borrow_mut(Vec::pop);
        let me = watchdog::tid();
        let mut state = self.0.state();
        if let Some(at) = state.members.iter().rposition(|&thread| thread == me) {
            state.members.remove(at);
        }
    }
}

/// Whether another thread of this one's group has failed, so that KVM_RUN is to come back.
pub(crate) fn is_stopped() -> bool {
    let of = |group: &Arc<Group>| group.stopped.load(Ordering::SeqCst);
    GROUPS.with_borrow(|groups| groups.iter().any(of))
}

/// Whether vCPUs may run on other threads than this one.
pub(crate) fn is_member() -> bool {
    GROUPS.with_borrow(|groups| !groups.is_empty())
}

/// What ends a thread that [`is_stopped`].
pub(crate) fn stopped() -> Failure {
    Failure::Error("stopped: another thread of the test failed first".into())
}

/// What a panic says.
fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or(panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_back() {
        let sum = together(|threads| {
            let three = threads.spawn(|| Ok(3));
            Ok(4 + three.join()?)
        });
        assert_eq!(sum, Ok(7));
    }

    #[test]
    fn first_failure_is_the_tests() {
        let failed: TestResult = together(|threads| {
            let _thread = threads.spawn(|| Err::<(), _>(Failure::Fail("first".into())));
            threads.wait_until("the end of time", || false)
        });
        assert_eq!(failed, Err(Failure::Fail("first".into())));
    }

    #[test]
    fn failure_of_a_thread_that_nobody_joins_counts() {
        let failed: TestResult = together(|threads| {
            let _thread = threads.spawn(|| Err::<(), _>(Failure::Skip("it lacks".into())));
            Ok(())
        });
        assert_eq!(failed, Err(Failure::Skip("it lacks".into())));
    }

    #[test]
    fn panic_of_a_thread_is_an_error() {
        let failed: TestResult = together(|threads| {
            let thread = threads.spawn(|| -> TestResult { panic!("number {}", 5) });
            thread.join()
        });
        let text = "a thread of the test panicked: number 5";
        assert_eq!(failed, Err(Failure::Error(text.into())));
    }

    #[test]
    fn waiting_ends_with_the_last_thread() {
        let failed: TestResult = together(|threads| {
            let _thread = threads.spawn(|| Ok(()));
            threads.wait_until("a change", || false)
        });
        let text = "a change: not before every vCPU had ended";
        assert_eq!(failed, Err(Failure::Fail(text.into())));
    }

    #[test]
    fn others_are_stopped() {
        let failed: TestResult = together(|threads| {
            let _waits = threads.spawn(|| {
                while !is_stopped() {
                    thread::yield_now();
                }
                Err::<(), _>(stopped())
            });
            Err(Failure::Fail("the body's".into()))
        });
        assert_eq!(failed, Err(Failure::Fail("the body's".into())));
    }
}
