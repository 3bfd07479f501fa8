//! `peers`: runs other suites' tests on the mutants whose topic they claim, and says who saw what.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context as _;
use clap::Parser;
use lab::{Arch, Cache};
use mutants::mutant::{self, Mutant};
use mutants::peers::{PeerFinding, Peers, our_fates};
use mutants::run::{self, Stand};
use mutants::source::Tree;
use mutants::{kernel, report};
use results::outcome::Outcome;

/// Exit status of an error or misuse.
const EXIT_ERROR: u8 = 2;

/// Runs the Linux KVM selftests, and kvm-unit-tests from a built tree, on the mutants whose topic
/// they claim (`peers` in the mutants' files), and tells who sees which bug.
///
/// Exit status: 0 what they see we see too, 1 they see one that we do not, 2 an error or misuse.
#[derive(Debug, Parser)]
#[command(name = "peers")]
struct Arguments {
    /// Mutants to run [default: all that a test of theirs claims]: names or globs.
    names: Vec<String>,
    /// Architecture.
    #[arg(long, default_value = "x86_64")]
    arch: Arch,
    /// Kernel to break.
    #[arg(long, default_value = "6.12")]
    kernel: String,
    /// Boot image of a kernel with the mutants [default: built from Debian's source].
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Static runner [default: built from the workspace].
    #[arg(long, value_name = "FILE")]
    runner: Option<PathBuf>,
    /// Our own results, from `ci/mutants/run --json`.
    #[arg(long, value_name = "FILE")]
    ours: Option<PathBuf>,
    /// A built tree of kvm-unit-tests.
    #[arg(long, value_name = "DIR")]
    unit_tests: Option<PathBuf>,
    /// Jobs of the builds.
    #[arg(short, long, value_name = "N", default_value_t = 2)]
    jobs: usize,
    /// Write one JSON line a mutant.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a table.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

fn main() -> ExitCode {
    match act(&Arguments::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("peers: {error:#}");
            ExitCode::from(EXIT_ERROR)
        }
    }
}

fn act(arguments: &Arguments) -> anyhow::Result<u8> {
    let all = mutant::load(arguments.arch)?;
    let chosen = mutant::choose(&all, &arguments.names, &arguments.kernel)?;
    let ours = match &arguments.ours {
        Some(path) => our_fates(path)?,
        None => BTreeMap::new(),
    };
    let cache = Cache::open()?;
    let tree = Tree::open(&cache, &arguments.kernel, arguments.arch)?;
    let image = match &arguments.image {
        Some(image) => image.clone(),
        None => kernel::woven(&tree, &all, arguments.jobs)?,
    };
    let runner = run::runner(&cache, arguments.arch, arguments.runner.as_deref())?;
    let names: BTreeSet<String> = chosen.iter().flat_map(|m| m.peers.iter().cloned()).collect();
    let unit_tests = arguments.unit_tests.as_deref();
    let peers = Peers::prepare(&tree, &names, unit_tests, arguments.jobs)?;
    let stand = Stand::new(cache, arguments.arch, image, runner);
    let findings = run_all(arguments, &stand, &peers, &chosen, &ours)?;
    println!("{}", report::peer_summary(&findings));
    if let Some(path) = &arguments.markdown {
        let table = report::peer_markdown(&findings);
        fs::write(path, table).with_context(|| path.display().to_string())?;
    }
    let better = |finding: &PeerFinding| {
        finding.caught_by().next().is_some()
            && finding.ours.as_deref().is_some_and(|fate| fate != "killed")
    };
    Ok(u8::from(findings.iter().any(better)))
}

fn run_all(
    arguments: &Arguments,
    stand: &Stand,
    peers: &Peers,
    chosen: &[&Mutant],
    ours: &BTreeMap<String, String>,
) -> anyhow::Result<Vec<PeerFinding>> {
    let mut json = match &arguments.json {
        Some(path) => Some(File::create(path).with_context(|| path.display().to_string())?),
        None => None,
    };
    // By profile and ground: a test counts where it passes without the bug.
    let mut sane: BTreeMap<(&str, u32), BTreeSet<String>> = BTreeMap::new();
    let mut findings = Vec::new();
    for mutant in chosen.iter().filter(|mutant| mutant.equivalent.is_none()) {
        let place = (mutant.profile.as_str(), mutant.unmutated());
        if let Entry::Vacant(place_of) = sane.entry(place) {
            place_of.insert(baseline(stand, peers, place, chosen)?);
        }
        let passing = &sane[&place];
        let names: Vec<_> =
            mutant.peers.iter().filter(|name| passing.contains(*name)).cloned().collect();
        let started = Instant::now();
        let ends = match names.is_empty() {
            true => Vec::new(),
            false => peers.run(stand, &mutant.profile, mutant.number(), &names)?,
        };
        let finding = PeerFinding {
            mutant: mutant.name.clone(),
            ours: ours.get(&mutant.name).cloned(),
            claimed: mutant.peers.clone(),
            ends,
            seconds: started.elapsed().as_secs_f64(),
        };
        println!("{}", report::peer_line(&finding));
        if let Some(json) = &mut json {
            writeln!(json, "{}", serde_json::to_string(&finding)?)?;
        }
        findings.push(finding);
    }
    Ok(findings)
}

/// The tests of theirs that pass on the unmutated kernel; the others are told and count for nothing.
fn baseline(
    stand: &Stand,
    peers: &Peers,
    (profile, number): (&str, u32),
    chosen: &[&Mutant],
) -> anyhow::Result<BTreeSet<String>> {
    let of_place = chosen
        .iter()
        .filter(|mutant| (mutant.profile.as_str(), mutant.unmutated()) == (profile, number));
    let names: BTreeSet<_> = of_place.flat_map(|mutant| mutant.peers.iter().cloned()).collect();
    let (there, missing): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| peers.has(name));
    for name in missing {
        println!("unmutated: no {name}");
    }
    let ends = peers.run(stand, profile, number, &there)?;
    for end in ends.iter().filter(|end| end.verdict != Outcome::Pass) {
        println!("unmutated: {} {}: {}", end.verdict, end.test, end.why);
    }
    let passing = ends.into_iter().filter(|end| end.verdict == Outcome::Pass);
    let passing: BTreeSet<_> = passing.map(|end| end.test).collect();
    println!("unmutated: {} of {} tests pass", passing.len(), there.len());
    Ok(passing)
}
