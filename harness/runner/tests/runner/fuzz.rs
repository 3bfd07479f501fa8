//! Inputs that nobody meant, for everything that reads what others wrote: no panic, no hang, at most
//! 256 MiB. Each target runs in a process of its own; `docs/fuzzing.md` tells how to run long.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::resource::{Resource, setrlimit};
use results::HostFacts;
use results::{journal, report};
use runner::registry::known::KnownHere;
use runner::registry::mutants::{Mutants, Sources};
use runner::registry::policy::File;
use runner::registry::{Policy, Registry};
use runner::tally::Tally;
use runner::test::Test;
use runner::yaml::FileError;
use vm::Message;
use vm::payload::Image;
use vm::record::Event;

use crate::door::{Door, Named, text};
use crate::{fakes, seeds};

pub const TESTS: &[Named] = &[
    ("fuzz::unspoilt_inputs_are_taken", unspoilt),
    ("fuzz::any_message_is_decoded_or_refused", || fuzz("message")),
    ("fuzz::any_elf_is_loaded_or_refused", || fuzz("elf")),
    ("fuzz::any_policy_is_read_or_refused", || fuzz("policy")),
    ("fuzz::any_mutants_are_read_or_refused", || fuzz("mutants")),
    ("fuzz::any_stream_is_read_or_refused", || fuzz("stream")),
    ("fuzz::any_event_is_read_or_refused", || fuzz("event")),
];

/// Address space of the process, all of it.
const MEMORY: u64 = 256 << 20;
/// One input takes less, on any host.
const PATIENCE: Duration = Duration::from_secs(10);
/// Inputs for each target in an ordinary run of the tests.
const INPUTS: u64 = 5000;

/// Something that reads.
struct Target {
    seeds: Vec<Vec<u8>>,
    words: &'static [&'static str],
    read: fn(&[u8]),
}

fn target(name: &str) -> Target {
    const YAML: &[&str] = &[
        "- ",
        ": ",
        "{",
        "[",
        "&a ",
        "*a ",
        "\n  ",
        "!!",
        "\"",
        "1e999",
        "-1",
        "\0",
        "<<: ",
        "|\n",
        "*",
        "[!a-",
        "::",
        ">=5.10",
        "known_failures:\n- test: a::b\n",
    ];
    const JSON: &[&str] = &[
        "{",
        "}",
        "[",
        "]",
        "\"",
        "\\u0000",
        "\\ud800",
        "\n",
        "null",
        "1e999",
        "-1",
        "\u{fffe}",
        "18446744073709551616",
        "[[[[[[[[",
        "\"type\":",
        "\"test\":\"a\"",
    ];
    let (seeds, words, read): (_, _, fn(&[u8])) = match name {
        "message" => (seeds::messages(), &[][..], |bytes| drop(Message::decode(bytes, 0, 1))),
        "elf" => (vec![seeds::elf()], &["guest_entries", "trap_stubs"], |b| drop(Image::parse(b))),
        "policy" => (seeds::policies(), YAML, read_policy),
        "mutants" => (seeds::mutants(), YAML, read_mutants),
        "stream" => (seeds::streams(), JSON, read_stream),
        "event" => (seeds::events(), JSON, read_events),
        other => panic!("no target {other}"),
    };
    Target { seeds, words, read }
}

fn read_policy(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let policy =
        Policy::parse(file("p.yaml", text), |name| included(name, text)).map_err(|e| e.to_string());
    let Ok(policy) = policy else { return };
    let facts = HostFacts { kernel: "6.1".into(), ..HostFacts::default() };
    let _ = policy.check_capabilities(&facts).map_err(|e| e.to_string());
    let known = KnownHere::new(&policy.known_failures, &facts);
    let _ = (known.of("ends::pass"), known.of("ends::pass").timeout().is_some());
    if let Ok(registry) = Registry::new(fakes::all().into_iter().map(Test::from).collect(), policy)
        .map_err(|e| e.to_string())
    {
        let _ = registry.groups();
    }
}

/// A file that includes a part of itself.
fn included(name: &str, text: &str) -> Result<File, FileError> {
    Ok(file(name, text.find("known_failures:").map_or("", |at| &text[at..])))
}

fn file(name: &str, text: &str) -> File {
    (name.to_owned().into(), text.to_owned().into())
}

fn read_mutants(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let sources = Sources { files: &[("m.yaml", text)], killed: &[("m.jsonl", text)] };
    let _ = Mutants::read(sources);
    if let Ok(mutants) = Mutants::read(Sources { killed: &[], ..sources }) {
        let _ = mutants.of("x86_64::pio::in");
    }
}

fn read_stream(bytes: &[u8]) {
    if let Ok(runs) = journal::parse("j.json", bytes) {
        let _ = report::markdown::render(&runs);
        let _ = report::html::render(&runs);
        let _ = report::junit::render(&runs);
        let _ = report::compare::compare(&runs, &runs, 2.0);
    }
}

fn read_events(bytes: &[u8]) {
    let mut tally = Tally::default();
    for line in bytes.split(|b| *b == b'\n') {
        if let Ok(event) = serde_json::from_slice::<Event>(line) {
            tally.add(event);
        }
    }
    let _ = tally.failed_checks();
}

/// A small generator (xorshift): input `number` of a target is the same in every run.
struct Random(u64);

impl Random {
    fn new(number: u64) -> Self {
        let mut random = Self(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..4 {
            random.next();
        }
        random
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// Cuts, doubles, crosses and scribbles in a seed.
fn mutate(target: &Target, random: &mut Random) -> Vec<u8> {
    // Numbers at which sums and comparisons tip over.
    const EDGES: [u64; 8] = [0, 1, 0x7f, 0xff, 0x7fff_ffff, 0x1_0000_0000, u64::MAX >> 1, u64::MAX];
    let mut bytes = target.seeds[random.below(target.seeds.len())].clone();
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len());
        let to = (at + random.below(24)).min(bytes.len());
        match random.below(9) {
            0 => drop(bytes.drain(at..to)),
            1 => {
                let piece = bytes[at..to].to_vec();
                let place = random.below(bytes.len());
                bytes.splice(place..place, piece);
            }
            2 if !target.words.is_empty() => {
                let word = target.words[random.below(target.words.len())];
                drop(bytes.splice(at..at, word.bytes()));
            }
            3 => bytes.truncate(to),
            4 => {
                let other = &target.seeds[random.below(target.seeds.len())];
                let from = random.below(other.len());
                let piece = other[from..(from + random.below(200)).min(other.len())].to_vec();
                drop(bytes.splice(at..to, piece));
            }
            5 | 6 => {
                // Numbers in binary formats are aligned.
                let at = at & !7;
                let edge = EDGES[random.below(EDGES.len())].to_le_bytes();
                let width = 1 << random.below(4);
                bytes.iter_mut().skip(at).zip(&edge[..width]).for_each(|(b, e)| *b = *e);
            }
            7 => bytes.iter_mut().skip(at).take(1).for_each(|b| *b ^= 1 << random.below(8)),
            _ => bytes.iter_mut().skip(at).take(4).for_each(|b| *b = random.below(256) as u8),
        }
        if bytes.is_empty() {
            break;
        }
    }
    bytes
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// What is spoilt must be good before, or only the first check of each reader is seen.
fn unspoilt() {
    for message in seeds::messages() {
        assert_eq!(Message::decode(&message, 0, 1).unwrap().texts, ["a r", "ü", "l"]);
    }
    let elf = seeds::elf();
    let image = Image::parse(&elf).unwrap();
    assert_eq!(image.entries["suites::a::guest_fn"], image.start);
    assert_eq!(image.shared["suites::a::SHARED"].1, 8);
    for policy in seeds::policies() {
        let text = std::str::from_utf8(&policy).unwrap();
        Policy::parse(file("p", text), |name| included(name, text)).unwrap();
    }
    let mutants = seeds::mutants();
    let [file, killed] = [0, 1].map(|n| [("m", std::str::from_utf8(&mutants[n]).unwrap())]);
    let mutants = Mutants::read(Sources { files: &file, killed: &killed }).unwrap();
    assert_eq!(mutants.of("x86_64::pio::in").len(), 1);
    for stream in seeds::streams() {
        assert_eq!(journal::parse("j", &stream).unwrap().len(), 1);
    }
    for event in seeds::events() {
        for line in event.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            serde_json::from_slice::<Event>(line).unwrap();
        }
    }
}

/// Runs one target in a process of its own.
fn fuzz(name: &'static str) {
    let door = Door::new().with("FUZZ_TARGET", name);
    let output = door.command("fuzz", &[]).output().unwrap();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    println!("{}", text(&output.stdout));
}

/// The process of one target: the corpus first, then inputs made of it.
pub fn run() -> ExitCode {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let (from, inputs) =
        (number("FUZZ_FROM").unwrap_or(0), number("FUZZ_INPUTS").unwrap_or(INPUTS));
    setrlimit(Resource::RLIMIT_AS, MEMORY, MEMORY).unwrap();
    let mut target = target(&name);
    let corpus = corpus(&name);
    target.seeds.extend(corpus.iter().cloned());
    watch();
    for input in &corpus {
        (target.read)(input);
    }
    for n in from..from + inputs {
        AT.store(n, Ordering::Relaxed);
        let input = mutate(&target, &mut Random::new(n));
        if catch_unwind(AssertUnwindSafe(|| (target.read)(&input))).is_err() {
            println!("{name}: FUZZ_FROM={n} FUZZ_INPUTS=1 panics: {}", input.escape_ascii());
            if let Some(folder) = std::env::var_os("FUZZ_FOUND") {
                std::fs::write(PathBuf::from(folder).join(format!("{name}-{n}")), &input).unwrap();
            }
            return ExitCode::FAILURE;
        }
    }
    println!("{name}: {inputs} inputs, {} of memory at the peak", peak());
    ExitCode::SUCCESS
}

/// The input that is read now.
static AT: AtomicU64 = AtomicU64::new(u64::MAX);

/// Ends the process when one input takes too long.
fn watch() {
    std::thread::spawn(|| {
        loop {
            let before = AT.load(Ordering::Relaxed);
            std::thread::sleep(PATIENCE);
            if AT.load(Ordering::Relaxed) == before {
                println!("FUZZ_FROM={before} FUZZ_INPUTS=1 hangs");
                std::process::exit(1);
            }
        }
    });
}

/// What was found before, and must never come again.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name);
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = files.map(|file| file.path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Resident memory at its peak, as the kernel says it.
fn peak() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or_else(|| "?".to_owned(), |rest| rest.trim().to_owned())
}
