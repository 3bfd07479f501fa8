//! Whole runs: selection, order, repetition, interruption, two at once.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::door::{Door, Named, lines, results, text};

pub const TESTS: &[Named] = &[
    ("runs::wrong_words_are_told_with_the_right_ones", wrong_words),
    ("runs::shards_part_the_tests", shards),
    ("runs::a_seed_decides_the_order", shuffle),
    ("runs::parallel_output_is_in_order", parallel),
    ("runs::repeat_and_retry_tell_flakes", flakes),
    ("runs::exit_status_serves_git_bisect", bisect),
    ("runs::what_failed_is_run_again", failed),
    ("runs::words_that_are_not_utf8_are_no_panic", odd_words),
    ("runs::resume_goes_on_where_it_stopped", resume),
    ("runs::what_is_finished_is_left_out", finished),
    ("runs::interrupts_have_two_stages", interrupts),
    ("runs::two_runs_at_once_do_not_meet", two_at_once),
    ("runs::workers_die_with_the_runner", orphans),
    ("runs::listing_ten_thousand_tests_is_fast", many),
    ("runs::reporting_ten_thousand_tests_is_cheap", cheap),
    ("runs::mark_announces_each_test_with_its_deadline", mark),
    ("runs::no_kvm_is_told", no_kvm),
    ("runs::the_libtest_door_gives_the_same", libtest),
];

fn names(lines: &[Value]) -> Vec<String> {
    results(lines).iter().map(|r| r["test"].as_str().unwrap().to_owned()).collect()
}

fn wrong_words() {
    let door = Door::new();
    for (arguments, message) in [
        (&["ends::pas"][..], "no test is named `ends::pas`; did you mean `ends::pass`?"),
        (&["qqqq"], "no test is named `qqqq`; `-l` lists them"),
        (&["zzz*"], "`zzz*` matches no test"),
        (&["/[/"], "regex parse error"),
        (&["-g", "fakse"], "unknown group `fakse`; did you mean `fakes`?"),
        (&["-x", "pas"], "no test is named `pas`"),
        (&["--shard", "3/2"], "a shard is I/N with 1 <= I <= N"),
        (&["-j", "0"], "a number of at least 1 and at most "),
        (&["--timeout=-1"], "a number of seconds greater than 0 and at most "),
        (&["--arch", "mips", "pass"], "this program has the tests of "),
        (&["-l", "--arch", "mips"], "this program has the tests of "),
        (
            &["--host", "native", "--arch", "mips"],
            "--arch mips with --host native: this machine is ",
        ),
        (
            &["--host", "native", "--kernel", "debian:sid"],
            "--kernel names the kernel of an emulated",
        ),
        (&["--host", "amd64-svm", "pass"], "host `amd64-svm` is booted by the lab"),
        (&["-q", "-v", "pass"], "cannot be used with"),
        (&["--jsn", "x"], "'--json'"),
        (&["-t", "--junit", "-"], "only one format fits on standard output, not --junit and --tap"),
        (&["--json", "/nowhere/x", "pass"], "/nowhere/x: No such file or directory"),
    ] {
        let output = door.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let told = text(&output.stderr);
        assert!(told.contains(message), "{arguments:?}: {told}");
    }
}

fn shards() {
    let door = Door::new();
    let list = |shard: &str| {
        let output = door.run(&["-l", "--shard", shard]);
        text(&output.stdout).lines().map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    let all: Vec<String> = list("1/1");
    let parts: Vec<Vec<String>> = ["1/3", "2/3", "3/3"].iter().map(|s| list(s)).collect();
    assert_eq!(parts.iter().map(Vec::len).sum::<usize>(), all.len());
    assert_eq!(parts.concat().into_iter().collect::<BTreeSet<_>>(), all.iter().cloned().collect());
    assert!(parts.iter().all(|part| part.len().abs_diff(all.len() / 3) <= 1));
    let output = Door::new().run(&["--shard", "9/9", "pass"]);
    assert_eq!(output.status.code(), Some(3), "an empty shard ran nothing");
}

fn shuffle() {
    let door = Door::new().with("FAKE_COUNT", 50);
    let order = |seed: &str| text(&door.run(&["-l", "--shuffle", seed, "generated"]).stdout);
    assert_eq!(order("7"), order("7"));
    assert_ne!(order("7"), order("8"));
    let sorted = |text: String| text.lines().map(ToOwned::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(sorted(order("7")), sorted(order("8")));
}

fn parallel() {
    let door = Door::new().with("FAKE_COUNT", 40);
    let tap = |jobs: &str| {
        let output =
            door.run(&["-t", "-j", jobs, "generated", "rare", "leaves_a_session", "fail_by_check"]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        let all = text(&output.stdout);
        let is_result = |line: &&str| line.starts_with("ok ") || line.starts_with("not ok ");
        all.lines().filter(is_result).map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    let (one, four) = (tap("1"), tap("4"));
    assert_eq!(one.len(), 45);
    assert_eq!(one, four);
    let (_, all) = door.json(&["-j", "4", "generated"]);
    assert_eq!(results(&all).len(), 40);
}

fn flakes() {
    let door = Door::new();
    let marker = door.path("marker");
    let door = door.with("FAKE_MARKER", marker.display());
    let (code, result) = door.one(&["--retry", "2", "flaky"]);
    assert_eq!((code, &result["outcome"], &result["flaky"]), (0, &"pass".into(), &true.into()));
    assert_eq!(result["attempts"], 2);
    assert_eq!(result["details"][0], "attempt 1: fail: first time unlucky");
    std::fs::remove_file(&marker).unwrap();
    let output = door.run(&["--retry", "2", "flaky"]);
    assert!(text(&output.stdout).contains("ends::flaky: passed only on attempt 2"));
    std::fs::remove_file(&marker).unwrap();
    let output = door.run(&["--repeat", "3", "flaky"]);
    assert!(
        text(&output.stdout).contains("ends::flaky: passed 2 of 3"),
        "{}",
        text(&output.stdout)
    );
    assert_eq!(output.status.code(), Some(1));
    let (_, result) = door.one(&["--retry", "2", "fail_by_body"]);
    assert_eq!((&result["outcome"], &result["attempts"]), (&"fail".into(), &3.into()));
    let told = text(&door.run(&["--repeat", "3", "pass"]).stdout);
    assert!(told.contains("\nflaky: none in 3 repetitions\n"), "{told}");
    let (_, lines) = door.json(&["--repeat", "2", "pass"]);
    assert_eq!(results(&lines)[1]["iteration"], 2);
    assert_eq!(lines.last().unwrap()["flaky"], 0);
}

fn bisect() {
    let door = Door::new();
    for (test, status) in
        [("pass", 0), ("fail_by_check", 1), ("error", 125), ("skip_late", 125), ("nope", 125)]
    {
        assert_eq!(door.run(&["--bisect", test]).status.code(), Some(status), "{test}");
    }
    // A wrong command line is no verdict on a commit.
    for wrong in
        [&["--bisect", "--nonsense"][..], &["-j0", "--bisect"], &["--bisect", "--arch=mips"]]
    {
        assert_eq!(door.run(wrong).status.code(), Some(125), "{wrong:?}");
    }
    assert_eq!(door.run(&["--nonsense", "--", "--bisect"]).status.code(), Some(2));
}

fn failed() {
    let door = Door::new();
    let names = ["ends::pass", "ends::fail_by_check", "ends::error", "ends::skip_late"];
    let output = door.run(&[&["--json", "j"], &names[..]].concat());
    let told = text(&output.stdout);
    assert!(told.ends_with("all that failed: ./run_tests.sh --failed j\n"), "{told}");
    let listed = |arguments: &[&str]| text(&door.run(&[&["-l"], arguments].concat()).stdout);
    assert_eq!(listed(&["--failed", "j"]), "ends::error\nends::fail_by_check\n");
    assert_eq!(listed(&["--failed", "j", "*check"]), "ends::fail_by_check\n");
    let (status, lines) = door.json(&["--failed", "j"]);
    assert_eq!((status, results(&lines).len()), (1, 2));
    door.run(&["--json", "good", "ends::pass"]);
    let output = door.run(&["--failed", "good"]);
    assert_eq!(text(&output.stderr), "error: good: no test failed there\n");
    assert_eq!(output.status.code(), Some(2));
}

/// Words that are no UTF-8, wherever they stand.
fn odd_words() {
    let odd = OsStr::from_bytes(b"ends::\xff");
    let begins =
        [&[][..], &["-l"], &["--config"], &["--json", "j", "-x"], &["--resume"], &["explain"]];
    for before in begins {
        let output = Door::new().command("cli", before).arg(odd).output().unwrap();
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{before:?}: {told}");
        assert!(told.starts_with("error: "), "{before:?}: {told}");
    }
}

fn resume() {
    let door = Door::new().with("FAKE_COUNT", 6);
    let journal = door.path("j.json");
    let path = journal.to_str().unwrap();
    let arguments = ["--resume", path, "generated"];
    assert!(door.run(&arguments).status.success());
    let whole = lines(&journal);
    assert_eq!(results(&whole).len(), 6);
    // A crash in the middle of the fourth result.
    let text_so_far = std::fs::read_to_string(&journal).unwrap();
    let fourth = text_so_far.lines().take(4).map(|l| l.len() + 1).sum::<usize>();
    std::fs::write(&journal, &text_so_far[..fourth + 20]).unwrap();
    let tap = door.path("tap");
    let output = door.run(&["--tap", tap.to_str().unwrap(), "--resume", path, "generated"]);
    assert!(output.status.success());
    assert!(text(&output.stdout).contains("going on after 3 earlier results"));
    let again = lines(&journal);
    assert_eq!(names(&again), names(&whole));
    assert_eq!(again.iter().filter(|l| l["type"] == "run").count(), 1);
    assert_eq!(again.last().unwrap()["pass"], 6);
    let tap = std::fs::read_to_string(tap).unwrap();
    assert!(tap.contains("1..6\n") && tap.contains("\nok 6 - "), "{tap}");
    // Nothing is left to do.
    let output = door.run(&arguments);
    assert_eq!(output.status.code(), Some(0));
    // A run that died at once left nothing, or a part of its first line.
    for begun in ["", "{\"type\":\"ru"] {
        std::fs::write(&journal, begun).unwrap();
        assert!(door.run(&arguments).status.success());
        assert_eq!(names(&lines(&journal)), names(&whole), "{begun}");
    }
    // Another kernel's results are not gone on with.
    let other = Door::new().with("FAKE_KERNEL", "5.10.0");
    let output = other.run(&["--resume", path, "pass"]);
    assert!(text(&output.stderr).contains("was made on x86_64 6.12.3-fake kvm_fake"));
    assert_eq!(output.status.code(), Some(2));
}

fn finished() {
    let door = Door::new();
    let file = door.file("f", "[\"ends::pass\",1]\n[\"rare::alone\",2]\n[\"gone\",1]\n");
    let arguments = ["--finished", &file, "--repeat", "2", "--mark", "ends::pass", "rare::alone"];
    let (code, lines) = door.json(&arguments);
    let units = |kind: &str| -> Vec<(String, u64)> {
        let told = lines.iter().filter(|line| line["type"] == kind);
        told.map(|line| {
            (line["test"].as_str().unwrap().to_owned(), line["iteration"].as_u64().unwrap_or(1))
        })
        .collect()
    };
    let wanted = [("rare::alone", 1), ("ends::pass", 2)].map(|(test, n)| (test.to_owned(), n));
    assert_eq!((code, units("result")), (0, wanted.to_vec()));
    assert_eq!(units("start"), wanted);
    let file = door.file("f", "x\n");
    let output = door.run(&["--finished", &file, "ends::pass"]);
    assert!(text(&output.stderr).starts_with(&format!("error: {file}: expected value")));
}

/// Waits until something is so, as long as the busiest machine may take.
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The process of the test that a runner runs now. (With `--timeout-scale`: to measure it, the
/// runner forks too.)
fn worker_of(runner: u32) -> Option<i32> {
    let file = format!("/proc/{runner}/task/{runner}/children");
    std::fs::read_to_string(file).ok()?.split_whitespace().next()?.parse().ok()
}

fn interrupts() {
    // SIGINT twice: the running test is not waited for.
    let door = Door::new();
    let journal = door.path("j.json");
    let start = |test: &str| {
        let limit = ["--timeout", "100", "--timeout-scale", "1"];
        door.command(
            "cli",
            &[&["--json", journal.to_str().unwrap(), "pass", test][..], &limit].concat(),
        )
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
    };
    for (signals, code) in [(&[Signal::SIGINT, Signal::SIGINT][..], 130), (&[Signal::SIGTERM], 143)]
    {
        let _ = std::fs::remove_file(&journal);
        let mut child = start("told_to_stop");
        wait_until("the second test", || {
            let told = std::fs::read_to_string(&journal).unwrap_or_default();
            told.contains("ends::pass") && worker_of(child.id()).is_some()
        });
        let begin = Instant::now();
        for signal in signals {
            kill(Pid::from_raw(child.id() as i32), *signal).unwrap();
            std::thread::sleep(Duration::from_millis(200));
        }
        assert_eq!(child.wait().unwrap().code(), Some(code));
        assert!(begin.elapsed() < Duration::from_secs(50), "the test was waited for");
        let all = lines(&journal);
        assert_eq!(names(&all), ["ends::pass"]);
        assert_eq!(all.last().unwrap()["not_run"], 1);
        assert_eq!(all.last().unwrap()["interrupted"], signals[0].as_str());
        assert_eq!(all.last().unwrap()["exit"], code);
    }
    // SIGINT once: the running test ends in its own time.
    let mut child = door
        .command(
            "cli",
            &[
                "--json",
                journal.to_str().unwrap(),
                "--timeout",
                "1",
                "--timeout-scale",
                "1",
                "told_to_stop",
                "rare",
            ],
        )
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the first test", || worker_of(child.id()).is_some());
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(names(&lines(&journal)), ["ends::told_to_stop"]);
}

fn two_at_once() {
    let doors: Vec<Door> = (0..2).map(|_| Door::new().with("FAKE_COUNT", 60)).collect();
    let runs: Vec<_> = doors
        .iter()
        .map(|door| {
            let json = door.path("j.json");
            let arguments = [
                "--json",
                json.to_str().unwrap(),
                "generated",
                "leaves_a_process",
                "rare",
                "dawdles",
            ];
            door.command("cli", &arguments).stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    // A stream belongs to one run, which loses nothing when another wants it.
    let json = doors[0].path("j.json");
    wait_until("the first line", || std::fs::metadata(&json).is_ok_and(|file| file.len() > 0));
    for option in ["--json", "--resume"] {
        let output = doors[0].run(&[option, json.to_str().unwrap(), "pass"]);
        let told = text(&output.stderr);
        assert!(told.contains("another run writes its results there"), "{option}: {told}");
        assert_eq!(output.status.code(), Some(2));
    }
    for (run, door) in runs.into_iter().zip(&doors) {
        assert_eq!(run.wait_with_output().unwrap().status.code(), Some(2));
        let all = lines(&door.path("j.json"));
        assert_eq!(all.last().unwrap()["pass"], 64);
        assert_eq!(all.last().unwrap()["error"], 1);
    }
}

fn orphans() {
    let door = Door::new();
    let arguments = ["--timeout", "100", "--timeout-scale", "1", "spins"];
    let mut child = door.command("cli", &arguments).stdout(Stdio::null()).spawn().unwrap();
    let mut worker = None;
    wait_until("the worker", || {
        worker = worker_of(child.id());
        worker.is_some()
    });
    let worker = worker.unwrap();
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    let gone = (0..50).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        let stat = std::fs::read_to_string(format!("/proc/{worker}/stat")).unwrap_or_default();
        // What is dead and waits for init counts as gone.
        stat.is_empty() || stat.rsplit(')').next().is_some_and(|s| s.trim_start().starts_with('Z'))
    });
    assert!(gone, "worker {worker} lives on");
}

/// The best of some tries: this machine may be busy with other things.
fn best<T: Ord>(tries: u32, enough: &T, measure: impl Fn() -> T) -> T {
    let mut best = measure();
    for _ in 1..tries {
        if best < *enough {
            break;
        }
        best = best.min(measure());
    }
    best
}

/// How many times longer everything takes because others want this machine's CPUs too.
pub fn business() -> f64 {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().and_then(|n| n.parse::<f64>().ok()).unwrap_or(1.0);
    (load / std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64)).max(1.0)
}

fn many() {
    let limit = Duration::from_millis(100).mul_f64(business());
    let door = Door::new().with("FAKE_COUNT", 10_000);
    let listed = best(20, &limit, || {
        let begin = Instant::now();
        let output = door.run(&["-l", "generated"]);
        let time = begin.elapsed();
        assert_eq!(text(&output.stdout).lines().count(), 10_000);
        time
    });
    assert!(listed < limit, "listing took {listed:?}");
}

/// What the runner spends beside the tests themselves, with results told in three forms. (A journal
/// in a file waits for the disk besides: once a verdict.)
fn cheap() {
    const TESTS: u64 = 10_000;
    let limit_us = (2e6 * business()) as u64;
    let door = Door::new().with("FAKE_COUNT", TESTS);
    let (html, tap) = (door.path("html"), door.path("tap"));
    let forms = ["--json", "-", "--html", html.to_str().unwrap(), "--tap", tap.to_str().unwrap()];
    let overhead = best(3, &limit_us, || {
        let output = door.run(&[&forms[..], &["generated"]].concat());
        let all: Vec<Value> =
            text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let time = |line: &Value| line["duration_us"].as_u64().unwrap();
        assert_eq!(results(&all).len() as u64, TESTS);
        let inside: u64 = results(&all).iter().map(time).sum();
        time(all.last().unwrap()) - inside
    });
    println!("{overhead} us beside {TESTS} tests");
    assert!(overhead < limit_us, "{overhead} us beside {TESTS} tests");
}

fn mark() {
    let (_, lines) =
        Door::new().json(&["--mark", "--timeout", "7", "--timeout-scale", "3", "ends::pass"]);
    let kinds: Vec<_> = lines.iter().map(|line| line["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["run", "start", "result", "summary"]);
    assert_eq!(lines[1]["test"], lines[2]["test"]);
    assert_eq!(lines[1]["deadline_ms"], 7000);
}

fn no_kvm() {
    let door = Door::new().with("FAKE_NO_KVM", 1);
    let output = door.run(&["pass"]);
    assert_eq!(text(&output.stderr), "error: /dev/kvm: No such file or directory\n");
    assert_eq!(output.status.code(), Some(2));
    let output = door.run(&["-l", "-v", "pass", "skip_early"]);
    assert_eq!(
        text(&output.stdout),
        "ends::pass  groups: common,fake,fakes\n\
         ends::skip_early  groups: common,fake,fakes  requires: KVM_CAP_THERE, KVM_CAP_MISSING\n"
    );
    let output = Door::new().run(&["-l", "-v", "skip_early"]);
    assert!(text(&output.stdout).ends_with("skipped here: no KVM_CAP_MISSING\n"));
}

fn libtest() {
    let door = Door::new();
    let run = |arguments: &[&str]| {
        let output = door.command("libtest", arguments).output().unwrap();
        (output.status.code(), text(&output.stdout))
    };
    let (code, listed) = run(&["--list", "--format", "terse"]);
    assert_eq!(code, Some(0));
    assert!(listed.contains("ends::pass: test\n"), "{listed}");
    let (_, ignored) = run(&["--list", "--format", "terse", "--ignored"]);
    assert_eq!(ignored, "rare::measures: test\nrare::on_request: test\n");
    assert_eq!(run(&["--exact", "ends::pass"]).0, Some(0));
    let (code, told) = run(&["--exact", "ends::fail_by_check"]);
    assert_eq!(code, Some(101));
    assert!(told.contains("check: one is two: at guest.rs:12: 1 != 2"), "{told}");
    let (code, told) = run(&["skip_"]);
    assert_eq!(code, Some(0));
    assert!(told.contains("needs KVM_CAP_MISSING") && told.contains("2 ignored"), "{told}");
    let (_, told) = run(&["sigsegv"]);
    assert!(told.contains("the worker was ended by SIGSEGV before its verdict"), "{told}");
    let (_, told) = run(&["leaves_a_process"]);
    assert!(told.contains("left 1 process(es) running"), "{told}");
    assert_eq!(run(&["rare", "--include-ignored"]).0, Some(0));
}
