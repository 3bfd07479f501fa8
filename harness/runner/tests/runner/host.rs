//! A host kernel that complains, and a host with nothing on it.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
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

/// A complaint in the kernel's log, by the time that the runner looks.
fn complain(lines: &[&str]) -> TestResult {
    std::thread::sleep(Duration::from_millis(50));
    for line in lines {
        LOG.get().unwrap().send(format!("4,9,9,-;{line}\n").as_bytes()).unwrap();
    }
    fakes::passes()
}

/// Of KVM, by a thread that is no test's.
fn complains_of_kvm() -> TestResult {
    complain(&[
        "BUG: unable to handle page fault for address: 0",
        "RIP: 0010:kvm_foo+0x1/0x2 [kvm]",
    ])
}

/// Of KVM, by this thread.
fn complains_of_this() -> TestResult {
    let thread = nix::unistd::gettid();
    complain(&[&format!("WARNING: CPU: 0 PID: {thread} at arch/x86/kvm/x.c:5 f+0x1/0x2 [kvm]")])
}

/// Of something else.
fn complains_of_usb() -> TestResult {
    complain(&["WARNING: CPU: 0 PID: 0 at drivers/usb/x.c:5 f+0x1/0x2 [usb]"])
}

static QUIET: TestCase = fakes::fake("suites::common::host::quiet", fakes::passes);
static KVM: TestCase = fakes::fake("suites::common::host::kvm", complains_of_kvm);
static THIS: TestCase = fakes::fake("suites::common::host::this", complains_of_this);
static USB: TestCase = fakes::fake("suites::common::host::usb", complains_of_usb);

/// A front door on a host whose log a test can write.
pub fn sick_door() -> ExitCode {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    keep_open(ours.as_raw_fd());
    LOG.set(ours).unwrap();
    let health = &mut Health::of(None, Some(File::from(OwnedFd::from(theirs))));
    let host = &fakes::FakeHost;
    let mut pool = Pool { launch: Launch::Fork, capacity: 2, health, signals: None, host };
    let mut tests = [&QUIET, &QUIET, &THIS, &USB, &KVM, &QUIET].map(Test::from);
    // One of another suite, for which a complaint counts as for ours.
    tests[1].body = Body::Program(Box::new(Program {
        path: "/bin/sleep".into(),
        args: vec!["0.8".into()],
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

/// Elsewhere than in the initial PID namespace the kernel's numbers are not those that tests see.
fn numbers_are_ours() -> bool {
    std::fs::metadata("/proc/self/ns/pid").is_ok_and(|namespace| namespace.ino() == 0xefff_fffc)
}

fn complaints() {
    let output = Door::new().command("sick", &[]).output().unwrap();
    let told = text(&output.stdout);
    let mut all: Vec<&str> = told.lines().collect();
    all.sort_unstable();
    assert_eq!(all.len(), 6, "{told} {}", text(&output.stderr));
    assert_eq!(all[0], "0 pass  []");
    let bug = "BUG: unable to handle page fault for address: 0 [\"the test itself: pass\"";
    let usb = "the kernel complained meanwhile, neither of KVM nor of this test: WARNING: CPU: 0 \
               PID: 0 at drivers/usb/x.c:5 f+0x1/0x2 [usb]";
    if numbers_are_ours() {
        assert!(all[1].starts_with(&format!("1 host_bug {bug}")), "it ran meanwhile: {}", all[1]);
    }
    assert!(all[1].contains(usb), "it ran meanwhile: {}", all[1]);
    assert!(all[2].starts_with("2 host_bug WARNING"), "{}", all[2]);
    assert_eq!(all[3], format!("3 pass  [\"{usb}\"]"));
    assert!(all[4].starts_with(&format!("4 host_bug {bug}")), "{}", all[4]);
    assert_eq!(all[5], "5 pass  []", "it started later");
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
