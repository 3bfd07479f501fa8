//! Inputs that nobody meant: no panic, no hang; and a clock that jumps.

use std::time::Instant;

use harness::journal;
use harness::registry::Policy;

use crate::door::{Door, Named, text};

pub const TESTS: &[Named] = &[
    ("robust::any_policy_is_read_or_refused", policies),
    ("robust::any_stream_is_read_or_refused", streams),
    ("robust::a_jumping_clock_moves_no_deadline", clock),
];

const POLICIES: &[&str] = &[
    include_str!("../../../unittests.yaml"),
    "defaults: { timeout: 10s, memory: 1GiB }\ngroups:\n  smoke: [a::b, \"c*\"]\ntests:\n  \
     a::b: { timeout: 30s, exclusive: true, parameters: { n: 3 } }\nknown_failures:\n- test: a::b\n  \
     checks: [\"x y\"]\n  when: { backend: kvm_pvm, kernel: \">=5.10, <6.1\" }\n  reason: r\n",
];

const STREAMS: &[&str] = &[
    "{\"type\":\"run\",\"arch\":\"x86_64\",\"kernel\":\"6.1\",\"caps\":{\"A\":1}}\n\
     {\"type\":\"start\",\"test\":\"a\"}\n\
     {\"type\":\"result\",\"test\":\"a\",\"outcome\":\"fail\",\"failed_checks\":[{\"name\":\"n\",\"detail\":\"d\"}]}\n\
     {\"type\":\"summary\",\"pass\":1,\"exit\":0}\n",
];

/// `FUZZ_INPUTS` raises the number of inputs for long runs.
fn inputs() -> u64 {
    std::env::var("FUZZ_INPUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000)
}

/// A small generator: the same inputs in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }
}

/// Cuts, doubles, swaps and scribbles in a seed.
fn mutate(seeds: &[&str], random: &mut Random) -> Vec<u8> {
    const WORDS: &[&str] = &[
        "- ", ": ", "{", "[", "&a ", "*a ", "\n  ", "!!", "\"", "1e999", "-1", "\0", "\u{ff}",
        "<<: ",
    ];
    let mut bytes = seeds[random.below(seeds.len())].as_bytes().to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        let to = (at + random.below(24)).min(bytes.len());
        match random.below(5) {
            0 => drop(bytes.drain(at..to)),
            1 => {
                let piece = bytes[at..to].to_vec();
                let place = random.below(bytes.len());
                bytes.splice(place..place, piece);
            }
            2 => drop(bytes.splice(at..at, WORDS[random.below(WORDS.len())].bytes())),
            3 => bytes.truncate(to),
            _ => bytes.iter_mut().skip(at).take(2).for_each(|b| *b = random.below(256) as u8),
        }
        if bytes.is_empty() {
            break;
        }
    }
    bytes
}

fn each(seeds: &[&str], mut read: impl FnMut(&[u8])) {
    let mut random = Random(0x1234_5678_9abc_def1);
    for _ in 0..inputs() {
        let input = mutate(seeds, &mut random);
        let begin = Instant::now();
        read(&input);
        let time = begin.elapsed();
        assert!(time.as_secs() < 5, "{time:?} for {:?}", String::from_utf8_lossy(&input));
    }
}

fn policies() {
    each(POLICIES, |input| {
        if let Ok(text) = std::str::from_utf8(input) {
            let _ = Policy::parse("p.yaml", text).map_err(|e| e.to_string());
        }
    });
}

fn streams() {
    each(STREAMS, |input| {
        if let Ok(runs) = journal::parse("j.json", input) {
            let _ = harness::report::markdown::render(&runs);
            let _ = harness::report::html::render(&runs);
            let _ = harness::report::junit::render(&runs);
            let _ = harness::report::compare::compare(&runs, &runs, 2.0);
        }
    });
}

/// In front of the C library's: with `FAKE_CLOCK`, the wall clock leaps at every look.
#[expect(unsafe_code, reason = "stands in for a function of the C library")]
mod jumping_clock {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicI64, Ordering};

    static LOOKS: AtomicI64 = AtomicI64::new(0);
    static JUMPS: OnceLock<bool> = OnceLock::new();

    // SAFETY: the signature is the C library's, and the time that is asked for is given.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn clock_gettime(id: libc::clockid_t, time: *mut libc::timespec) -> i32 {
        // SAFETY: the caller's pointer is passed on to the kernel, which checks it.
        let result = unsafe { libc::syscall(libc::SYS_clock_gettime, id, time) } as i32;
        let jumps = || *JUMPS.get_or_init(|| std::env::var_os("FAKE_CLOCK").is_some());
        if result == 0 && id == libc::CLOCK_REALTIME && jumps() {
            let sign = if LOOKS.fetch_add(1, Ordering::Relaxed) % 2 == 0 { 1 } else { -1 };
            // SAFETY: the kernel has just written there.
            unsafe { (*time).tv_sec += sign * 100_000_000 };
        }
        result
    }
}

fn clock() {
    let door = Door::new().with("FAKE_CLOCK", 1);
    let begin = Instant::now();
    let output =
        door.command("cli", &["--timeout", "0.5", "pass", "told_to_stop"]).output().unwrap();
    let told = text(&output.stdout);
    assert!(told.contains("PASS ends::pass (2 checks, "), "{told}");
    assert!(told.contains("TIMEOUT ends::told_to_stop: guest at rip 0x1234"), "{told}");
    // It did jump: the run's start is years away from now.
    let (_, lines) = door.json(&["pass"]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(lines[0]["started"].as_u64().unwrap().abs_diff(now) > 90_000_000);
    assert!((400..3000).contains(&begin.elapsed().as_millis()), "{:?}", begin.elapsed());
}
