//! A host kernel that complains, and a host with nothing on it.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, ExitCode};
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::signal::Signal;
use runner::body::{Body, ExitMap, Program};
use runner::health::Health;
use runner::job::{Job, Launch};
use runner::pool::{Observer, Pool};
use runner::test::Test;
use runner::verdict::Finished;
use vm::case::TestCase;
use vm::failure::TestResult;
use vm::keep_open;

use crate::door::{Door, Named, lines, text};
use crate::fakes;

pub const TESTS: &[Named] = &[
    ("host::complaints_are_those_of_the_tests_that_ran", complaints),
    ("host::an_empty_root_is_enough", empty_root),
];

static LOG: OnceLock<UnixDatagram> = OnceLock::new();

fn complain() -> TestResult {
    std::thread::sleep(Duration::from_millis(50));
    let record = b"4,9,9,-;BUG: unable to handle page fault for address: 0\n";
    LOG.get().unwrap().send(record).unwrap();
    fakes::passes()
}

static QUIET: TestCase = fakes::fake("suites::common::host::quiet", fakes::passes);
static COMPLAINS: TestCase = fakes::fake("suites::common::host::complains", complain);

/// A front door on a host whose log a test can write.
pub fn sick_door() -> ExitCode {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    keep_open(ours.as_raw_fd());
    LOG.set(ours).unwrap();
    let health = &mut Health::of(None, Some(File::from(OwnedFd::from(theirs))));
    let host = &fakes::FakeHost;
    let mut pool = Pool { launch: Launch::Fork, capacity: 2, health, signals: None, host };
    let mut tests = [&QUIET, &QUIET, &COMPLAINS, &QUIET].map(Test::from);
    // One of another suite, for which a complaint counts as for ours.
    tests[1].body = Body::Program(Box::new(Program {
        path: "/bin/sleep".into(),
        args: vec!["0.3".into()],
        exit_map: ExitMap::default(),
    }));
    let jobs = tests.each_ref().map(|test| Job {
        test,
        timeout: Duration::from_secs(10),
        grace: Duration::from_secs(1),
        memory_bytes: 1 << 40,
        weight: test.weight,
        parameters: Default::default(),
    });
    pool.run(&jobs, &mut Teller);
    ExitCode::SUCCESS
}

struct Teller;

impl Observer for Teller {
    fn started(&mut self, _: usize) {}
    fn finished(&mut self, index: usize, end: Finished) -> bool {
        println!("{index} {} {} {:?}", end.outcome, end.reason.unwrap_or_default(), end.details);
        false
    }
    fn tick(&mut self, _: &[usize]) {}
    fn stopping(&mut self, _: Signal, _: bool) {}
}

fn complaints() {
    let output = Door::new().command("sick", &[]).output().unwrap();
    let told = text(&output.stdout);
    let mut all: Vec<&str> = told.lines().collect();
    all.sort_unstable();
    let bug = "BUG: unable to handle page fault for address: 0 [\"the test itself: pass\"]";
    assert_eq!(all.len(), 4, "{told} {}", text(&output.stderr));
    assert_eq!(all[0], "0 pass  []");
    assert_eq!(all[1], format!("1 host_bug {bug}"), "it ran at the same time");
    assert_eq!(all[2], format!("2 host_bug {bug}"));
    assert_eq!(all[3], "3 pass  []", "it started later");
}

/// No /proc, no /dev, no libraries: the one file must do.
fn empty_root() {
    let program = std::env::current_exe().unwrap();
    let is_static = Command::new("readelf").args(["-l", program.to_str().unwrap()]).output();
    if !nix::unistd::geteuid().is_root()
        || !is_static.is_ok_and(|o| !text(&o.stdout).contains("INTERP"))
    {
        eprintln!("needs root and a static build");
        return;
    }
    let door = Door::new();
    std::fs::copy(&program, door.path("runner")).unwrap();
    let output = Command::new("chroot")
        .args([door.folder.path().to_str().unwrap(), "/runner"])
        .args(["--json", "/j", "--html", "/h", "pass", "ends::fail_by_check", "sigsegv", "prints"])
        .args(["--timeout", "0.3", "told_to_stop", "never_returns"])
        .env("FAKE_DOOR", "cli")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let all = lines(&door.path("j"));
    let summary = all.last().unwrap();
    let counts = ["pass", "fail", "error", "timeout"].map(|key| summary[key].as_u64().unwrap());
    assert_eq!(counts, [1, 2, 1, 2]);
    assert!(door.path("h").exists());
}
