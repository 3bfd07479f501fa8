//! Who runs beside whom: weights, and tests that want to be alone.

use std::process::ExitCode;
use std::time::Duration;

use nix::sys::signal::Signal;
use runner::health::Health;
use runner::job::{Job, Launch};
use runner::pool::{Observer, Pool};
use runner::test::{Test, cpus};
use runner::verdict::Finished;
use vm::case::{TestCase, Weight};
use vm::failure::TestResult;

use crate::door::{Door, Named, text};
use crate::fakes::{FakeHost, fake, passes};

pub const TESTS: &[Named] =
    &[("schedule::weights_and_wishes_to_be_alone_are_kept", weights_and_wishes)];

const CAPACITY: usize = 4;

fn work() -> TestResult {
    std::thread::sleep(Duration::from_millis(20));
    passes()
}

static LIGHT: TestCase = fake("suites::common::schedule::light", work);
static HEAVY: TestCase =
    TestCase { weight: Weight::Cpus(3), ..fake("suites::common::schedule::heavy", work) };
static TOO_HEAVY: TestCase =
    TestCase { weight: Weight::Cpus(9), ..fake("suites::common::schedule::too_heavy", work) };

/// A run of many tests that tells after each event which ones are running.
pub fn crowded_door() -> ExitCode {
    let plan = [&LIGHT, &HEAVY, &LIGHT, &LIGHT, &TOO_HEAVY, &LIGHT, &HEAVY, &HEAVY, &LIGHT, &LIGHT];
    let tests = plan.map(Test::from);
    let jobs: Vec<Job<'_>> = tests
        .iter()
        .enumerate()
        .map(|(nth, test)| Job {
            test,
            timeout: Duration::from_secs(10),
            grace: Duration::from_secs(1),
            memory_bytes: 1 << 40,
            weight: match nth {
                3 => Weight::Alone,
                8 => Weight::AloneWithoutKvm,
                _ => test.weight,
            },
            parameters: Default::default(),
        })
        .collect();
    let (health, host) = (&mut Health::of(None, None), &FakeHost);
    let mut pool = Pool { launch: Launch::Fork, capacity: CAPACITY, health, signals: None, host };
    pool.run(&jobs, &mut Teller { jobs: &jobs, running: Vec::new() });
    ExitCode::SUCCESS
}

struct Teller<'a> {
    jobs: &'a [Job<'a>],
    running: Vec<usize>,
}

impl Observer for Teller<'_> {
    fn started(&mut self, index: usize) {
        self.running.push(index);
        let weights = || self.running.iter().map(|i| cpus(self.jobs[*i].weight));
        let weight: usize = weights().flatten().sum();
        let alone = weights().any(|weight| weight.is_none());
        println!("{} {weight} {alone} {}", self.running.len(), self.jobs[index].test.id);
    }

    fn finished(&mut self, index: usize, _: Finished) -> bool {
        self.running.retain(|i| *i != index);
        false
    }

    fn tick(&mut self, _: &[usize]) {}

    fn stopping(&mut self, _: Signal, _: bool) {}
}

fn weights_and_wishes() {
    let output = Door::new().command("crowd", &[]).output().unwrap();
    let told = text(&output.stdout);
    let mut most = 0;
    let (held, told): (Vec<_>, Vec<_>) =
        told.lines().partition(|line| ["let go", "taken back"].contains(line));
    assert_eq!(held, ["let go", "taken back"], "for the one test that unloads KVM");
    assert_eq!(told.len(), 10, "{told:?}{}", text(&output.stderr));
    for line in &told {
        let parts: Vec<&str> = line.split(' ').collect();
        let (running, weight): (usize, usize) =
            (parts[0].parse().unwrap(), parts[1].parse().unwrap());
        assert!(parts[2] == "false" || running == 1, "alone is alone: {told:?}");
        // What is heavier than everything runs too, by itself.
        assert!(weight <= CAPACITY || running == 1, "{told:?}");
        most = most.max(running);
    }
    assert!(most >= 2, "nothing ran side by side: {told:?}");
}
