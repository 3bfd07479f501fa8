//! `lab`: emulated hosts with KVM, from the command line.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use cli::args::Shard;
use cli::{exit_status, process};
use lab::setup;
use lab::toolchain::Build;
use lab::{Arch, Cache, Event, Kernel, Lab, Outcome, Profile, Request, matrix};

/// Exit codes of what is not the runner's own end.
const EXIT_ERROR: u8 = 2;
const EXIT_NO_KVM: u8 = 3;

/// Emulated hosts with KVM.
#[derive(Debug, Parser)]
#[command(name = "lab", version)]
struct Arguments {
    /// Debian mirror for kernels and toolchains [default: that of this machine's apt sources].
    #[arg(long, env = "KVM_LAB_MIRROR", global = true)]
    mirror: Option<String>,
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Boot a host and run a static runner in it; its lines go to standard output.
    Run(Run),
    /// Boot a host with a shell on this terminal; Ctrl-A X ends the emulator.
    Shell {
        /// Host profile.
        host: String,
        /// As for `run`.
        #[arg(long)]
        kernel: Option<String>,
        /// Program to put into the host as /store/runner.
        #[arg(long)]
        runner: Option<PathBuf>,
        /// Wait for a debugger on TCP port 1234.
        #[arg(long)]
        gdb: bool,
    },
    /// List the cells of ci/kernels.yaml, one `HOST KERNEL` a line.
    Matrix {
        /// Only the I-th of N parts.
        #[arg(long, value_name = "I/N")]
        shard: Option<Shard>,
    },
    /// Run the suite in a host, with the runner's own command line; results look as if native.
    Test(Box<lab::remote::Test>),
    /// Run the suite on every cell of ci/kernels.yaml and compare with the last night.
    Nightly(lab::nightly::Nightly),
    /// Measure how long a host takes to its first verdict, cold and restored.
    Bench(lab::bench::Bench),
    /// List the kernels of the Debian archive.
    Kernels {
        /// Architecture.
        #[arg(long, default_value = "x86_64")]
        arch: Arch,
    },
    /// Install what the lab needs and this machine lacks; a second run does nothing.
    Setup {
        /// Only for these architectures [default: all].
        #[arg(long, value_delimiter = ',')]
        arch: Vec<Arch>,
        /// Only print what is missing.
        #[arg(long)]
        dry_run: bool,
    },
    /// List the host profiles.
    Hosts,
    /// Build a static program of this workspace for an architecture, and print its path.
    Build {
        /// Architecture.
        #[arg(long)]
        arch: Arch,
        /// Cargo package.
        #[arg(short, long)]
        package: String,
        /// Program in it [default: as the package].
        #[arg(long)]
        bin: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
struct Run {
    /// Host profile.
    #[arg(long)]
    host: String,
    /// debian:SUITE, debian:VERSION, path:IMAGE[,modules=DIR] or tree:DIR [default: the profile's].
    #[arg(long)]
    kernel: Option<String>,
    /// Static program of the host's architecture.
    #[arg(long)]
    runner: PathBuf,
    /// Seconds that the runner may take.
    #[arg(long, default_value_t = 300)]
    timeout: u64,
    /// Seconds that the host may be silent, beyond the deadlines of tests that the runner announces,
    /// before it counts as hanging [default: as long as the runner may take].
    #[arg(long, value_name = "SECONDS")]
    patience: Option<u64>,
    /// File for the kernel's console.
    #[arg(long)]
    console: Option<PathBuf>,
    /// Processors of the host [default: the profile's].
    #[arg(long)]
    smp: Option<u32>,
    /// Put a file into the host.
    #[arg(long = "file", value_name = "GUEST_PATH=FILE")]
    files: Vec<String>,
    /// Run without /dev/kvm too.
    #[arg(long)]
    kvm_optional: bool,
    /// Start from a snapshot of the booted host, taken by the first such run.
    #[arg(long)]
    warm: bool,
    /// Report what happens, on standard error.
    #[arg(short, long)]
    verbose: bool,
    /// The runner's arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    argv: Vec<String>,
}

fn main() -> ExitCode {
    let arguments: Arguments = match process::parse() {
        Ok(arguments) => arguments,
        Err(status) => return ExitCode::from(status),
    };
    let bisect = matches!(&arguments.command, Action::Test(test) if test.run.args.bisect);
    ExitCode::from(act(arguments).unwrap_or_else(|error| {
        eprintln!("lab: {error:#}");
        exit_status(EXIT_ERROR, bisect)
    }))
}

fn act(arguments: Arguments) -> anyhow::Result<u8> {
    lab::apt::choose_mirror(arguments.mirror);
    match arguments.command {
        Action::Run(run) => run_host(run),
        Action::Test(test) => Ok(lab::remote::test(&test)?),
        Action::Bench(bench) => Ok(lab::bench::run(&bench)?),
        Action::Nightly(nightly) => Ok(lab::nightly::run(&nightly)?),
        Action::Shell { host, kernel, runner, gdb } => shell(&host, kernel, runner, gdb),
        Action::Matrix { shard } => list_matrix(shard),
        Action::Kernels { arch } => list_kernels(arch),
        Action::Setup { arch, dry_run } => set_up(&arch, dry_run),
        Action::Hosts => list_hosts(),
        Action::Build { arch, package, bin } => {
            let bin = bin.as_ref().unwrap_or(&package);
            let what = Build { package: &package, bin, arch, strip: false, env: &[] };
            println!("{}", lab::toolchain::build(&Cache::open()?, &what)?.display());
            Ok(0)
        }
    }
}

/// Writes one line of a list; whoever reads it may stop when he has seen enough.
fn list(line: std::fmt::Arguments<'_>) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        written => Ok(written?),
    }
}

fn list_hosts() -> anyhow::Result<u8> {
    for name in Profile::list()? {
        let profile = Profile::load(&name)?;
        list(format_args!("{name:<20} {:<8} {}", profile.arch, profile.summary))?;
    }
    Ok(0)
}

fn list_matrix(shard: Option<Shard>) -> anyhow::Result<u8> {
    let mut cells = matrix::cells(None)?;
    if let Some(shard) = shard {
        cells = matrix::shard(cells, shard);
    }
    for cell in cells {
        list(format_args!("{cell}"))?;
    }
    Ok(0)
}

fn shell(
    host: &str,
    kernel: Option<String>,
    runner: Option<PathBuf>,
    gdb: bool,
) -> anyhow::Result<u8> {
    let mut profile = Profile::load(host)?;
    if gdb {
        profile.emulator_args.extend(["-s", "-S"].map(str::to_owned));
    }
    let cache = Cache::open()?;
    let spec = kernel.as_ref().unwrap_or(&profile.kernel).parse()?;
    let kernel = Kernel::resolve(&spec, profile.arch, &cache)?;
    let files: Vec<_> =
        runner.map(|runner| (lab_init::RUNNER_PATH.to_owned(), runner)).into_iter().collect();
    lab::shell(&Lab::new(cache), &profile, &kernel, &files)?;
    Ok(0)
}

fn list_kernels(arch: Arch) -> anyhow::Result<u8> {
    for kernel in lab::kernel::list(arch, &Cache::open()?)? {
        let (suite, release) = (&kernel.suite, &kernel.release);
        list(format_args!("{suite:<20} {release:<36} {}", kernel.version))?;
    }
    Ok(0)
}

fn set_up(archs: &[Arch], dry_run: bool) -> anyhow::Result<u8> {
    let archs = if archs.is_empty() { &Arch::ALL } else { archs };
    let cache = Cache::open()?;
    let wants = setup::missing(&cache, archs)?;
    for want in &wants {
        let from = if want.backports { " (backports)" } else { "" };
        println!("package {}{from}: {}", want.package, want.reason);
    }
    if wants.is_empty() {
        println!("packages: nothing is missing");
    }
    if dry_run {
        return Ok(0);
    }
    setup::install(&cache, &wants)?;
    for &arch in archs {
        println!("standard library for {arch}: {}", setup::standard_library(&cache, arch)?);
    }
    Ok(0)
}

fn run_host(run: Run) -> anyhow::Result<u8> {
    let mut profile = Profile::load(&run.host)?;
    profile.smp = run.smp.unwrap_or(profile.smp);
    let cache = Cache::open()?;
    let spec = run.kernel.as_ref().unwrap_or(&profile.kernel).parse()?;
    let kernel = Kernel::resolve(&spec, profile.arch, &cache)?;
    let files = run.files.iter().map(|file| {
        let (path, source) = file.split_once('=').context("--file takes GUEST_PATH=FILE")?;
        Ok((path.to_owned(), PathBuf::from(source)))
    });
    let request = Request {
        kernel,
        runner: run.runner,
        argv: run.argv,
        env: Vec::new(),
        files: files.collect::<anyhow::Result<_>>()?,
        timeout: Duration::from_secs(run.timeout),
        // How long a program that announces no tests may be silent, nobody knows.
        patience: Duration::from_secs(run.patience.unwrap_or(2 * run.timeout)),
        console_log: run.console,
        kvm_optional: run.kvm_optional,
        warm: run.warm,
        profile,
    };
    if run.verbose {
        eprintln!("lab: kernel {}", request.kernel.name);
    }
    let outcome = Lab::new(cache).run(&request, &mut |event| show(&event, run.verbose))?;
    if run.verbose {
        eprintln!("lab: {outcome:?}");
    }
    Ok(exit_code(&outcome))
}

fn show(event: &Event<'_>, verbose: bool) {
    match event {
        Event::Line(line) => println!("{line}"),
        Event::Stderr(line) => eprintln!("{line}"),
        Event::Booted { after, guest_ms, release } if verbose => {
            eprintln!("lab: {release} booted after {after:.2?} (its own clock: {guest_ms} ms)");
        }
        Event::Started { after } if verbose => eprintln!("lab: runner started after {after:.2?}"),
        Event::Fact(name, value) if verbose => eprintln!("lab: {name} = {value}"),
        Event::Console(line) if verbose => eprintln!("| {line}"),
        _ => {}
    }
}

fn exit_code(outcome: &Outcome) -> u8 {
    let explain = |what: &str, log: &str| eprintln!("lab: {what}\n{log}");
    match outcome {
        Outcome::Exited(code) => u8::try_from(*code).unwrap_or(EXIT_ERROR),
        Outcome::Killed(signal) => {
            eprintln!("lab: signal {signal} killed the runner");
            EXIT_ERROR
        }
        Outcome::NoKvm(why) => {
            eprintln!("lab: no KVM in this host: {why}");
            EXIT_NO_KVM
        }
        Outcome::KernelDied { log } => {
            explain("the host's kernel crashed", log);
            EXIT_ERROR
        }
        Outcome::EmulatorDied { why, log } => {
            explain(&format!("the emulator died: {why}"), log);
            EXIT_ERROR
        }
        Outcome::Hung { why, log } => {
            explain(&format!("the host hangs: {why}"), log);
            EXIT_ERROR
        }
        Outcome::TimedOut { log } => {
            explain("the time is up", log);
            EXIT_ERROR
        }
        Outcome::HostFailed(why) => {
            eprintln!("lab: the host's init failed: {why}");
            EXIT_ERROR
        }
        Outcome::Interrupted(signal) => {
            eprintln!("lab: {signal}");
            cli::SIGNALLED + *signal as u8
        }
    }
}
