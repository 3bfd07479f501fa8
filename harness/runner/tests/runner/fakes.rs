//! Tests that end in every way a test can, for the runner to run.

use std::time::Duration;

use nix::sys::signal::{Signal, raise};
use results::HostFacts;
use runner::cli::Data;
use runner::host::Host;
use runner::registry::mutants::Sources;
use vm::case::{TestCase, Weight};
use vm::failure::{Failure, TestResult};
use vm::perf::ITERATIONS;
use vm::record;
use vm::requirement::Requirement;

/// A fake of that name and body.
pub const fn fake(path: &'static str, run: fn() -> TestResult) -> TestCase {
    TestCase {
        path,
        file: "suites/src/common/fake.rs",
        line: 7,
        doc: "The runner tells this end from every other.",
        requires: &[],
        groups: &["fakes"],
        weight: Weight::Cpus(1),
        options: &[],
        sees: &[],
        run,
    }
}

/// Takes 300 ms of a CPU, however long that takes.
fn computes() -> TestResult {
    use nix::time::{ClockId, clock_gettime};
    let used = || clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from);
    while used().is_ok_and(|used| used < Duration::from_millis(300)) {}
    passes()
}

/// The body of a test that passes.
pub fn passes() -> TestResult {
    record::check("nothing is wrong here", true, "");
    Ok(())
}

const HAS_IT: Requirement = Requirement::new("KVM_CAP_THERE", |_| true);
const LACKS_IT: Requirement =
    Requirement::new("KVM_CAP_MISSING", |facts| facts.caps.contains_key("KVM_CAP_MISSING"));

static FAKES: [TestCase; 33] = [
    fake("suites::common::ends::pass", || {
        record::check("two is two", true, "");
        record::check("two is two", true, "");
        record::check("three is three", true, "");
        record::metric("exits", "count", 3.0);
        Ok(())
    }),
    fake("suites::common::ends::fail_by_check", || {
        record::check("one is one", true, "");
        record::check("one is two", false, format_args!("at guest.rs:{}: 1 != 2", 12));
        Ok(())
    }),
    fake("suites::common::ends::fail_by_body", || {
        Err(Failure::Fail("KVM_RUN gave EFAULT\nrip 0x1000".into()))
    }),
    fake("suites::common::ends::checks_nothing", || Ok(())),
    fake("suites::common::ends::error", || Err(Failure::Error("no memory".into()))),
    fake("suites::common::ends::skip_late", || Err(Failure::Skip("nested paging".into()))),
    TestCase {
        requires: &[HAS_IT, LACKS_IT],
        ..fake("suites::common::ends::skip_early", || Err(Failure::Fail("was run".into())))
    },
    fake("suites::common::ends::panic", || panic!("out of cheese")),
    fake("suites::common::ends::sigkill", || {
        raise(Signal::SIGKILL).unwrap();
        Ok(())
    }),
    fake("suites::common::ends::sigsegv", || {
        record::log("about to crash");
        // The standard library's handler steps back at the first one.
        raise(Signal::SIGSEGV).unwrap();
        raise(Signal::SIGSEGV).unwrap();
        Ok(())
    }),
    fake("suites::common::ends::exit_zero", || std::process::exit(0)),
    fake("suites::common::ends::never_returns", || {
        record::log("last words");
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    }),
    fake("suites::common::ends::spins", || {
        loop {
            std::hint::spin_loop();
        }
    }),
    fake("suites::common::busy::computes", computes),
    fake("suites::common::ends::told_to_stop", told_to_stop),
    fake("suites::common::ends::dawdles", || {
        std::thread::sleep(Duration::from_secs(2));
        passes()
    }),
    fake("suites::common::ends::leaves_a_process", || leaves("sleep", &["600"])),
    fake("suites::common::ends::leaves_a_session", || leaves("setsid", &["sleep", "600"])),
    fake("suites::common::ends::leaks_an_fd", || {
        std::mem::forget(std::fs::File::open("/proc/version").unwrap());
        passes()
    }),
    fake("suites::common::ends::prints", || {
        println!("to stdout");
        eprint!("to stderr");
        Err(Failure::Fail("see the log".into()))
    }),
    fake("suites::common::ends::floods", || {
        for n in 0..200_000 {
            println!("line {n}");
        }
        passes()
    }),
    fake("suites::common::ends::garbage", || {
        use std::io::Write as _;
        // The event pipe is the one descriptor that a worker has beside stdio.
        for fd in 3..32 {
            if let Ok(mut file) =
                std::fs::OpenOptions::new().write(true).open(format!("/proc/self/fd/{fd}"))
            {
                file.write_all(b"{scribble\n").unwrap();
            }
        }
        passes()
    }),
    fake("suites::common::ends::many_processes", many_processes),
    fake("suites::common::ends::flaky", || {
        let marker = std::path::PathBuf::from(std::env::var("FAKE_MARKER").unwrap_or_default());
        if marker.exists() {
            return passes();
        }
        std::fs::write(&marker, "seen").map_err(|e| Failure::Error(e.to_string()))?;
        Err(Failure::Fail("first time unlucky".into()))
    }),
    fake("suites::common::ends::memory_hog", || {
        let mut all: Vec<Vec<u8>> = Vec::new();
        while all.len() < 64 {
            let mut chunk: Vec<u8> = Vec::new();
            chunk.try_reserve_exact(1 << 30).map_err(|e| Failure::Error(e.to_string()))?;
            all.push(chunk);
        }
        passes()
    }),
    fake("suites::common::ends::isolation", isolation),
    fake("suites::common::ends::many_files", || {
        let mut open = Vec::new();
        loop {
            match std::fs::File::open("/proc/version") {
                Ok(_) if open.len() == 10_000 => return Err(Failure::Fail("no limit".into())),
                Ok(file) => open.push(file),
                Err(e) => return Err(Failure::Error(e.to_string())),
            }
        }
    }),
    TestCase {
        options: &[ITERATIONS],
        ..fake("suites::common::ends::parameter", || match ITERATIONS.count(1)? {
            42 => passes(),
            other => Err(Failure::Fail(format!("iterations is {other}"))),
        })
    },
    fake("suites::common::ends::undeclared", || ITERATIONS.count(1).map(drop)),
    fake("suites::common::ends::odd_text", || {
        record::check("a # in a name, and </script>", false, "1 < 2 && \"3\" > ']]>' \u{1b}[0m");
        record::log("ok 1 - not a result\r");
        record::log("<b>&amp;</b> `code` | pipe");
        Err(Failure::Fail(
            "</script><script>alert(1)</script> # SKIP\nsecond line \0 \u{fffe}".into(),
        ))
    }),
    TestCase { groups: &["nodefault"], ..fake("suites::common::rare::on_request", passes) },
    TestCase { groups: &["perf"], ..fake("suites::common::rare::measures", passes) },
    TestCase {
        weight: Weight::Alone,
        ..fake("suites::common::rare::alone", || {
            std::thread::sleep(Duration::from_millis(30));
            passes()
        })
    },
];

/// What a worker must be, as its own process sees it.
fn isolation() -> TestResult {
    use nix::sys::resource::{Resource, getrlimit};
    use nix::unistd::{getpgrp, getpid};
    record::check("a process group of its own", getpgrp() == getpid(), "");
    let death = nix::sys::prctl::get_pdeathsig();
    record::check("dies with the runner", death == Ok(Some(Signal::SIGKILL)), format!("{death:?}"));
    for (name, resource, most) in [
        ("the address space is limited", Resource::RLIMIT_AS, 1 << 40),
        ("there are no core dumps", Resource::RLIMIT_CORE, 0),
        ("open files are limited", Resource::RLIMIT_NOFILE, 4096),
        ("processes are limited", Resource::RLIMIT_NPROC, 1 << 20),
    ] {
        let limits = getrlimit(resource);
        record::check(name, limits.is_ok_and(|(_, hard)| hard <= most), format!("{limits:?}"));
    }
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    // Standard ones, the event pipe, and the folder that is being read.
    record::check("nothing of the runner is open", open == 5, format!("{open} open"));
    Ok(())
}

/// The watchdog's part: SIGUSR1 ends the test with the guest's state.
fn told_to_stop() -> TestResult {
    use nix::sys::signal::{SigSet, SigmaskHow};
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGUSR1);
    nix::sys::signal::sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None).unwrap();
    let _ = mask.wait();
    record::stats("VM", [("exits".to_owned(), 3), ("odd\u{1b}[0m".to_owned(), 1)].into());
    record::stats("vCPU 0", [("halt_exits".to_owned(), 2)].into());
    Err(Failure::Timeout("guest at rip 0x1234 (spin+0x4)".into()))
}

#[expect(clippy::zombie_processes, reason = "leaving it is the point")]
fn leaves(program: &str, arguments: &[&str]) -> TestResult {
    std::process::Command::new(program).args(arguments).spawn().unwrap();
    // Time for setsid to become what it starts.
    std::thread::sleep(Duration::from_millis(100));
    passes()
}

/// A fork bomb that ends by itself: the cap keeps this test harmless should the runner fail.
fn many_processes() -> TestResult {
    const CAP: usize = 3000;
    let mut started = 0;
    while started < CAP {
        match std::process::Command::new("sleep").arg("20").spawn() {
            Ok(_) => started += 1,
            Err(e) => return Err(Failure::Error(format!("{started} started, then: {e}"))),
        }
    }
    std::thread::sleep(Duration::from_secs(20));
    Err(Failure::Fail("nobody stopped it".into()))
}

/// No policy, and a few mutants.
pub const DATA: Data = Data {
    policy: &[("p.yaml", "{}")],
    prepared: "",
    profiles: &["amd64-svm", "native"],
    mutants: MUTANTS,
};

const MUTANTS: Sources<'static> = Sources {
    files: &[(
        "fake.yaml",
        "- {name: no_body, rule: bodies are run, expect: [\"ends::fail_by_b*\"]}\n\
         - {name: no_check, rule: checks count, expect: [\"ends::*\"]}\n",
    )],
    killed: &[(
        "fake.jsonl",
        "{\"mutant\":\"no_check\",\"fate\":\"killed\",\"red\":[[\"ends::skip_early\",\"one is two\"]]}\n",
    )],
};

/// Every fake, and as many generated ones as `FAKE_COUNT` says.
pub fn all() -> Vec<&'static TestCase> {
    let count: usize = std::env::var("FAKE_COUNT").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    let generated = (0..count).map(|n| {
        let path = format!("suites::common::generated::number_{n:05}");
        &*Box::leak(Box::new(fake(Box::leak(path.into_boxed_str()), passes)))
    });
    FAKES.iter().chain(generated).collect()
}

/// A host that is the same everywhere; `FAKE_NO_KVM` takes it away.
pub struct FakeHost;

impl Host for FakeHost {
    fn facts(&self) -> Result<HostFacts, String> {
        if std::env::var_os("FAKE_NO_KVM").is_some() {
            return Err("/dev/kvm: No such file or directory".into());
        }
        Ok(HostFacts {
            arch: "x86_64".into(),
            kernel: std::env::var("FAKE_KERNEL").unwrap_or_else(|_| "6.12.3-fake".into()),
            backend: "kvm_fake".into(),
            cpus: 2,
            profile: "native".into(),
            caps: [("KVM_CAP_THERE".to_owned(), 1)].into(),
            module_params: [("kvm_fake.nested".to_owned(), "Y".to_owned())].into(),
            ..HostFacts::default()
        })
    }

    fn let_go(&self) -> Result<(), String> {
        println!("let go");
        Ok(())
    }

    fn take_back(&self) -> Result<(), String> {
        println!("taken back");
        Ok(())
    }
}
