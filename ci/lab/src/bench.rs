//! How long a host takes: to its init, to the first verdict, to the end of the smoke group.

use std::time::{Duration, Instant};

use crate::cache::Cache;
use crate::error::{LabError, Result};
use crate::kernel::Kernel;
use crate::lab::Lab;
use crate::profile::Profile;
use crate::run::{Event, Outcome, Request};
use crate::{emulator, toolchain};

/// A cold host's first verdict may take this many times the boot alone.
const COLD_LIMIT: f64 = 2.5;
/// A restored host's first verdict may take this part of a cold one's.
const WARM_LIMIT: f64 = 0.25;
/// No bench takes longer.
const LONGEST: Duration = Duration::from_secs(600);

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Bench {
    /// Host profile.
    pub host: String,
    /// As for `run`.
    #[arg(long)]
    pub kernel: Option<String>,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
}

/// One run, from the start of the emulator.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    /// The kernel is booted: its init runs. Nothing of ours was done yet.
    booted: Duration,
    /// The first result line.
    verdict: Duration,
    /// The whole smoke group.
    whole: Duration,
}

/// Measures cold and, where the emulator allows, restored hosts in turns, and prints a table. Returns
/// the exit status: 1 if a limit was passed.
///
/// # Errors
/// The host cannot be started, or has no result.
pub fn run(bench: &Bench) -> Result<u8> {
    let profile = Profile::load(&bench.host)?;
    let cache = Cache::open()?;
    let kernel = bench.kernel.as_ref().unwrap_or(&profile.kernel).parse()?;
    let request = Request {
        kernel: Kernel::resolve(&kernel, profile.arch, &cache)?,
        runner: toolchain::runner(&cache, profile.arch)?,
        argv: ["--host", "native", "-g", "smoke", "--json", "-"].map(String::from).to_vec(),
        env: Vec::new(),
        files: Vec::new(),
        timeout: LONGEST,
        patience: LONGEST,
        console_log: None,
        kvm_optional: false,
        warm: false,
        profile,
    };
    let lab = Lab::new(cache);
    let restores = emulator::of(&request.profile)?.can_save(&request.profile);
    let warm_request = Request { warm: true, ..request.clone() };
    if restores {
        // The first such run takes the snapshot.
        measure(&lab, &warm_request)?;
    }
    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds.max(1) {
        cold.push(measure(&lab, &request)?);
        if restores {
            warm.push(measure(&lab, &warm_request)?);
        }
    }
    let cold = medians(&cold);
    println!("{} {}, medians of {}", request.profile.name, request.kernel.name, bench.rounds);
    println!("          to its init   first verdict   smoke group");
    let row = |name: &str, times: Times| {
        let Times { booted, verdict, whole } = times;
        println!("{name:<8}  {booted:>11.2?}   {verdict:>13.2?}   {whole:>11.2?}");
    };
    row("cold", cold);
    let mut good =
        within("cold: first verdict / boot alone", cold.verdict, cold.booted, COLD_LIMIT);
    if restores {
        let warm = medians(&warm);
        row("restored", warm);
        good &= within("first verdict: restored / cold", warm.verdict, cold.verdict, WARM_LIMIT);
    }
    Ok(u8::from(!good))
}

fn within(what: &str, one: Duration, other: Duration, limit: f64) -> bool {
    let ratio = one.as_secs_f64() / other.as_secs_f64().max(1e-9);
    let good = ratio <= limit;
    println!("{what}: {ratio:.2} (limit {limit}){}", if good { "" } else { ": TOO SLOW" });
    good
}

fn measure(lab: &Lab, request: &Request) -> Result<Times> {
    let begin = Instant::now();
    let mut times = Times::default();
    let outcome = lab.run(request, &mut |event| match event {
        Event::Booted { after, .. } => times.booted = after,
        Event::Line(line) if times.verdict.is_zero() && line.contains("\"type\":\"result\"") => {
            times.verdict = begin.elapsed();
        }
        _ => {}
    })?;
    times.whole = begin.elapsed();
    match outcome {
        Outcome::Exited(_) if !times.verdict.is_zero() => Ok(times),
        other => Err(LabError::Other(format!("{}: {other:?}", request.profile.name))),
    }
}

fn medians(all: &[Times]) -> Times {
    let median = |part: fn(&Times) -> Duration| {
        let mut parts: Vec<Duration> = all.iter().map(part).collect();
        parts.sort_unstable();
        parts[parts.len() / 2]
    };
    Times {
        booted: median(|times| times.booted),
        verdict: median(|times| times.verdict),
        whole: median(|times| times.whole),
    }
}
