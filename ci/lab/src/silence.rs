//! When a silent host counts as hanging.
//!
//! Two things are listened for. The host's init sends signs of life to the console while the runner
//! runs: without them the host hangs, whatever the tests' deadlines are. (Other lines of the console are
//! none: a kernel that reports stalls for ever has no life in it.) The runner announces each test with
//! the deadline at which it will end it: when only the runner is silent, the last of these deadlines
//! explains it for so long.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use results::journal::Line;

/// Announcements and verdicts begin so; nothing else need be read.
const READ: [&str; 2] = ["{\"type\":\"start\"", "{\"type\":\"result\""];

/// No deadline is longer.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Who was heard when.
#[derive(Debug)]
pub struct Silence {
    patience: Duration,
    /// How much slower than real time the host's clock may go.
    slowness: f64,
    /// The last line of the runner.
    runner: Instant,
    /// The last sign of life of the init, or line of the runner; `None` before the first sign.
    host: Option<Instant>,
    /// The tests that run, and the time by which the runner will have ended them.
    tests: BTreeMap<String, Instant>,
}

impl Silence {
    /// Starts to listen.
    pub fn new(patience: Duration, slowness: f64, now: Instant) -> Self {
        let slowness = slowness.max(1.0);
        let patience = patience.mul_f64(slowness);
        Self { patience, slowness, runner: now, host: None, tests: BTreeMap::new() }
    }

    /// The runner wrote a line.
    pub fn runner_wrote(&mut self, line: &str, now: Instant) {
        self.runner = now;
        self.host = self.host.map(|_| now);
        if !READ.iter().any(|start| line.starts_with(start)) {
            return;
        }
        match serde_json::from_str(line) {
            Ok(Line::Start(start)) => {
                let deadline = Duration::from_millis(start.deadline_ms.unwrap_or(0)).min(LONGEST);
                self.tests.insert(start.test, now + deadline.mul_f64(self.slowness));
            }
            Ok(Line::Result(result)) => {
                self.tests.remove(&result.test);
            }
            _ => {}
        }
    }

    /// The init sent a sign of life.
    pub fn init_lives(&mut self, now: Instant) {
        self.host = Some(now);
    }

    /// When the host counts as hanging if nothing comes, and why.
    pub fn end(&self) -> (Instant, String) {
        let explained = self.tests.values().copied().fold(self.runner, Instant::max);
        let runner = explained + self.patience;
        let seconds = self.patience.as_secs();
        match self.host.map(|host| host + self.patience) {
            Some(host) if host < runner => (
                host,
                format!("neither its init nor the runner gave a sign of life for {seconds} s"),
            ),
            _ if self.tests.is_empty() => {
                (runner, format!("the runner was silent for {seconds} s"))
            }
            _ => (runner, format!("the runner was silent for {seconds} s beyond its deadlines")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use results::journal::{Start, TestReport};
    use results::outcome::Outcome;

    const SECOND: Duration = Duration::from_secs(1);

    fn silence(slowness: f64) -> (Silence, Instant) {
        let now = Instant::now();
        (Silence::new(60 * SECOND, slowness, now), now)
    }

    fn start(test: &str, deadline_ms: u64) -> String {
        let start =
            Start { test: test.to_owned(), deadline_ms: Some(deadline_ms), ..Start::default() };
        serde_json::to_string(&Line::Start(start)).unwrap()
    }

    fn result(test: &str) -> String {
        serde_json::to_string(&Line::Result(TestReport::bare(test, Outcome::Pass))).unwrap()
    }

    #[test]
    fn a_test_may_be_silent_until_its_deadline() {
        let (mut silence, now) = silence(1.0);
        assert_eq!(silence.end().0, now + 60 * SECOND);
        silence.runner_wrote(&start("a", 100_000), now + SECOND);
        silence.runner_wrote(&start("b", 1_000), now + 2 * SECOND);
        assert_eq!(silence.end().0, now + (1 + 100 + 60) * SECOND);
        silence.runner_wrote(&result("a"), now + 3 * SECOND);
        assert_eq!(silence.end().0, now + (3 + 60) * SECOND);
    }

    #[test]
    fn a_host_without_signs_of_life_hangs_before_the_deadline() {
        let (mut silence, now) = silence(1.0);
        silence.runner_wrote(&start("a", 600_000), now);
        silence.init_lives(now + 5 * SECOND);
        let (end, why) = silence.end();
        assert_eq!(end, now + 65 * SECOND);
        assert!(why.contains("its init"), "{why}");
        silence.init_lives(now + 10 * SECOND);
        assert_eq!(silence.end().0, now + 70 * SECOND);
    }

    #[test]
    fn a_living_host_does_not_excuse_its_runner() {
        let (mut silence, now) = silence(1.0);
        silence.runner_wrote(&start("a", 10_000), now);
        silence.init_lives(now + 65 * SECOND);
        let (end, why) = silence.end();
        assert_eq!(end, now + 70 * SECOND);
        assert!(why.contains("beyond its deadlines"), "{why}");
    }

    #[test]
    fn a_slow_emulator_has_more_time() {
        let (mut silence, now) = silence(10.0);
        silence.runner_wrote(&start("a", 1_000), now);
        assert_eq!(silence.end().0, now + (10 + 600) * SECOND);
    }
}
