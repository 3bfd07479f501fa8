//! `mutants`: builds the switchable kernel, boots it once a mutant, and says which bugs the tests
//! see.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use lab::{Arch, Cache};
use mutants::mutant::{self, Mutant};
use mutants::run::{self, Finding, Stand, Tests};
use mutants::source::Tree;
use mutants::{kernel, report};
use results::journal::TestReport;
use results::outcome::Outcome;

/// Exit status of an error or misuse.
const EXIT_ERROR: u8 = 2;

/// Breaks a real KVM, one bug at a time, and tells which of them the tests see.
///
/// Exit status: 0 every mutant was killed, 1 one was not, 2 an error or misuse.
#[derive(Debug, Parser)]
#[command(name = "mutants")]
struct Arguments {
    /// Mutants to run [default: all]: names or globs.
    names: Vec<String>,
    /// Architecture.
    #[arg(long, default_value = "x86_64")]
    arch: Arch,
    /// Kernel to break.
    #[arg(long, default_value = "6.12")]
    kernel: String,
    /// Run every N-th mutant only.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    sample: u64,
    /// Which of the N samples: another one each day covers all of them.
    #[arg(long, value_name = "I", default_value_t = 0)]
    sample_from: u64,
    /// List the mutants.
    #[arg(short, long)]
    list: bool,
    /// Find every anchor in the kernel's source, and stop there.
    #[arg(long)]
    check: bool,
    /// Build the kernel, print its path, and stop there.
    #[arg(long)]
    build: bool,
    /// Boot image of a kernel with the mutants [default: built from Debian's source].
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Static runner [default: built from the workspace].
    #[arg(long, value_name = "FILE")]
    runner: Option<PathBuf>,
    /// Run all tests on each mutant, and tell all that go red.
    #[arg(long)]
    all_tests: bool,
    /// Jobs of the kernel build.
    #[arg(short, long, value_name = "N", default_value_t = 2)]
    jobs: usize,
    /// Write one JSON line a mutant.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a table.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Write a stream of results for `kvm-conformance report`.
    #[arg(long, value_name = "FILE")]
    stream: Option<PathBuf>,
}

fn main() -> ExitCode {
    match act(&Arguments::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("mutants: {error:#}");
            ExitCode::from(EXIT_ERROR)
        }
    }
}

fn act(arguments: &Arguments) -> anyhow::Result<u8> {
    let all = mutant::load(arguments.arch)?;
    let chosen = choose(arguments, &all)?;
    if arguments.list {
        let mut out = std::io::stdout().lock();
        for mutant in &chosen {
            let line =
                writeln!(out, "{:<48} {:>10}  {}", mutant.name, mutant.number(), mutant.rule);
            match line {
                Err(error) if error.kind() == ErrorKind::BrokenPipe => break, // It read enough.
                other => other?,
            }
        }
        return Ok(0);
    }
    let cache = Cache::open()?;
    let tree = Tree::open(&cache, &arguments.kernel, arguments.arch)?;
    if arguments.check {
        let places = kernel::locate(&tree, &all)?;
        let edits: usize = places.values().map(Vec::len).sum();
        println!("{edits} edits found in {} files of {}", places.len(), arguments.kernel);
        return Ok(0);
    }
    let image = match &arguments.image {
        Some(image) => image.clone(),
        None => kernel::woven(&tree, &all, arguments.jobs)?,
    };
    if arguments.build {
        println!("{}", image.display());
        return Ok(0);
    }
    let runner = run::runner(&cache, arguments.arch, arguments.runner.as_deref())?;
    let stand = Stand::new(cache, arguments.arch, image, runner);
    let findings = run_all(arguments, &stand, &chosen)?;
    println!("{}", report::summary(&findings));
    if let Some(path) = &arguments.markdown {
        fs::write(path, report::markdown(&findings)).with_context(|| path.display().to_string())?;
    }
    if let Some(path) = &arguments.stream {
        let profile = chosen.first().map_or("", |mutant| &mutant.profile);
        let stream = report::stream(&findings, arguments.arch.id(), &arguments.kernel, profile);
        fs::write(path, stream).with_context(|| path.display().to_string())?;
    }
    Ok(u8::from(!report::all_dead(&findings)))
}

fn choose<'a>(arguments: &Arguments, all: &'a [Mutant]) -> anyhow::Result<Vec<&'a Mutant>> {
    let named = mutant::choose(all, &arguments.names, &arguments.kernel)?;
    let sampled = (0_u64..)
        .zip(named)
        .filter(|(index, _)| index % arguments.sample == arguments.sample_from % arguments.sample);
    Ok(sampled.map(|(_, mutant)| mutant).collect())
}

fn run_all(
    arguments: &Arguments,
    stand: &Stand,
    chosen: &[&Mutant],
) -> anyhow::Result<Vec<Finding>> {
    let mut json = match &arguments.json {
        Some(path) => Some(File::create(path).with_context(|| path.display().to_string())?),
        None => None,
    };
    let mut baselines: BTreeMap<(&str, u32), BTreeMap<String, TestReport>> = BTreeMap::new();
    let mut findings = Vec::new();
    for mutant in chosen {
        let place = |mutant: &'_ Mutant| (mutant.profile.clone(), mutant.unmutated());
        let key = (mutant.profile.as_str(), mutant.unmutated());
        if let Entry::Vacant(free) = baselines.entry(key) {
            let of_place: Vec<_> =
                chosen.iter().filter(|other| place(other) == place(mutant)).copied().collect();
            free.insert(baseline(arguments, stand, &of_place)?);
        }
        let finding = run::judge(stand, mutant, &baselines[&key], arguments.all_tests)?;
        println!("{}", report::line(&finding));
        if let Some(json) = &mut json {
            writeln!(json, "{}", serde_json::to_string(&finding)?)?;
        }
        findings.push(finding);
    }
    Ok(findings)
}

/// What the tests say with the switch at 0; red ones are told and count for no mutant.
fn baseline(
    arguments: &Arguments,
    stand: &Stand,
    chosen: &[&Mutant],
) -> anyhow::Result<BTreeMap<String, TestReport>> {
    let mut wanted: Vec<String> = Vec::new();
    // Groups are known only once tests have run: without names, everything runs.
    if !arguments.all_tests && !arguments.names.is_empty() {
        wanted = chosen.iter().flat_map(|mutant| mutant.expect.iter().cloned()).collect();
        wanted.sort();
        wanted.dedup();
    }
    let mut boot = stand.boot(&chosen[0].profile, chosen[0].unmutated(), Tests::ours(&wanted))?;
    if chosen[0].builds_on.is_some() {
        boot.forget_policy();
    }
    if let Some(death) = &boot.death {
        anyhow::bail!(
            "unmutated kernel, test {}: {death}",
            boot.victim.as_deref().unwrap_or("none")
        );
    }
    for result in boot.results.values() {
        if run::is_red(result.outcome) || result.outcome == Outcome::Error {
            println!("unmutated: {} {}: {}", result.outcome, result.test, run::why(result));
        }
    }
    let green = boot.results.values().filter(|result| run::is_green(result)).count();
    println!("unmutated: {green} of {} tests are green", boot.results.len());
    Ok(boot.results)
}
