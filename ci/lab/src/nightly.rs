//! The suite on every cell of the kernel matrix: one merged report, and what changed since the last
//! night.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cli::args::Shard;
use results::journal::{self, Counts, Line, Run, RunInfo, Summary, TestReport};
use results::outcome::Outcome;
use results::report::compare::compare;
use results::report::document::Form;

use crate::cache::Cache;
use crate::error::{At as _, LabError, Result};
use crate::matrix::{self, Cell};
use crate::{Arch, Profile, interrupt, toolchain};

/// The result that shows whether a cell's host ran the suite at all.
const CELL_RAN: &str = "lab::cell_ran";
/// The merged result stream.
const STREAM: &str = "nightly.jsonl";
/// The merged stream of the last night.
const LAST_NIGHT: &str = "last-night.jsonl";
/// A pass this much slower than before is reported.
const SLOWER: f64 = 3.0;
/// Lines of a cell's own output that its report holds.
const NR_OUTPUT_LINES: usize = 40;

/// Which cells, and where everything goes.
#[derive(Clone, Debug, clap::Args)]
pub struct Nightly {
    /// Directory for results; what the last night left in it is compared with.
    #[arg(long, default_value = "nightly")]
    pub out: PathBuf,
    /// Only the I-th of N parts of the matrix.
    #[arg(long, value_name = "I/N")]
    pub shard: Option<Shard>,
    /// Another matrix than ci/kernels.yaml.
    #[arg(long, value_name = "FILE")]
    pub matrix: Option<PathBuf>,
    /// Result stream to compare with, instead of what is in the directory.
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,
    /// Cells at a time [default: one for every two CPUs].
    #[arg(short, long, value_name = "N")]
    pub parallel: Option<usize>,
    /// Minutes that a cell may take.
    #[arg(long, value_name = "MINUTES", default_value_t = 60)]
    pub limit: u64,
    /// Arguments for the runner, such as `-g smoke`.
    #[arg(last = true)]
    pub arguments: Vec<String>,
}

/// A cell that runs.
struct Running<'a> {
    cell: &'a Cell,
    child: Child,
    begin: Instant,
}

/// Runs the cells and reports. Returns the exit status: 0 nothing regressed, 1 something did (or, on
/// a first night, something is wrong), 2 a cell has no whole result, or the night was cut short.
///
/// # Errors
/// The matrix cannot be read, or the directory not be written.
pub fn run(night: &Nightly) -> Result<u8> {
    let mut cells = matrix::cells(night.matrix.as_deref())?;
    if let Some(shard) = night.shard {
        cells = matrix::shard(cells, shard);
    }
    let dir = night.out.join("cells");
    fs::create_dir_all(&dir).at(&dir)?;
    let stream = night.out.join(STREAM);
    let last = night.out.join(LAST_NIGHT);
    if stream.exists() {
        fs::rename(&stream, &last).at(&stream)?;
    }
    let baseline = night.baseline.clone().or_else(|| last.exists().then_some(last));
    let before = baseline.map_or(Ok(Vec::new()), |file| read(&file))?;
    build_runners(&cells)?;
    interrupt::take()?;
    let runs = run_cells(night, &dir, &cells)?;
    write(night, &stream, &runs)?;
    Ok(report(&before, &runs, &night.out))
}

/// Builds each architecture's runner once, before cells need it side by side.
fn build_runners(cells: &[Cell]) -> Result<()> {
    let cache = Cache::open()?;
    let mut built: Vec<Arch> = Vec::new();
    for cell in cells {
        let profile = Profile::load(&cell.host)?;
        let arch = profile.arch;
        if profile.no_kvm.is_none() && !built.contains(&arch) {
            built.push(arch);
            // Where it does not build, its cells report it.
            if let Err(error) = toolchain::runner(&cache, arch) {
                eprintln!("{arch}: {error}");
            }
        }
    }
    Ok(())
}

fn run_cells(night: &Nightly, dir: &Path, cells: &[Cell]) -> Result<Vec<Run>> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let at_a_time = night.parallel.unwrap_or(cpus / 2).max(1);
    let limit = Duration::from_secs(night.limit * 60);
    let mut waiting = cells.iter();
    let mut running: Vec<Running<'_>> = Vec::new();
    let mut runs = Vec::new();
    loop {
        let stop = interrupt::pending().is_some();
        while running.len() < at_a_time && !stop {
            let Some(cell) = waiting.next() else { break };
            if let Some(why) = Profile::load(&cell.host)?.no_kvm {
                eprintln!("{cell}: skip: {why}");
                runs.push(without_kvm(cell, &why));
                continue;
            }
            eprintln!("{cell}: started");
            let child = start(night, dir, cell)?;
            running.push(Running { cell, child, begin: Instant::now() });
        }
        if running.is_empty() {
            return Ok(runs);
        }
        std::thread::sleep(interrupt::LATENCY);
        let mut still = Vec::new();
        for mut one in running {
            let over = one.begin.elapsed() > limit;
            let ended = one.child.try_wait().at("lab test")?;
            if ended.is_none() && !over && !stop {
                still.push(one);
                continue;
            }
            let why = match ended {
                Some(status) => status.to_string(),
                None => {
                    end_now(&mut one.child);
                    let limit = night.limit;
                    if over {
                        format!("took longer than {limit} minutes")
                    } else {
                        "stopped".into()
                    }
                }
            };
            let run = result_of(dir, one.cell, &why);
            eprintln!("{}: {}, {:.0?}", one.cell, summary_text(&run), one.begin.elapsed());
            runs.push(run);
        }
        running = still;
    }
}

/// Asks a lab to stop and report, and ends it if it does not.
fn end_now(child: &mut Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        let pid = nix::unistd::Pid::from_raw(pid);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    }
    for _ in 0..50 {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        std::thread::sleep(interrupt::LATENCY);
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn start(night: &Nightly, dir: &Path, cell: &Cell) -> Result<Child> {
    let stream = dir.join(format!("{}.jsonl", cell.file_name()));
    let _ = fs::remove_file(&stream);
    let log = dir.join(format!("{}.log", cell.file_name()));
    let log = File::create(&log).at(&log)?;
    let program = std::env::current_exe().at("/proc/self/exe")?;
    Command::new(program)
        .args(["test", "--host", &cell.host, "--kernel", &cell.kernel, "--json"])
        .arg(stream)
        .args(&night.arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone().at("log")?)
        .stderr(log)
        .spawn()
        .at("lab test")
}

/// What a cell left, with a result of its own for whether it came to its end.
fn result_of(dir: &Path, cell: &Cell, why: &str) -> Run {
    let stream = dir.join(format!("{}.jsonl", cell.file_name()));
    let log = dir.join(format!("{}.log", cell.file_name()));
    let run = journal::read(&stream).ok().and_then(|mut runs| runs.pop()).unwrap_or_default();
    let whole = !run.results.is_empty() && run.results.len() >= run.info.tests;
    let verdict = if whole { Outcome::Pass } else { Outcome::Error };
    let mut ran = TestReport::bare(CELL_RAN, verdict);
    if !whole {
        let output = fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<&str> = output.lines().collect();
        let tail = &lines[lines.len().saturating_sub(NR_OUTPUT_LINES)..];
        let last = tail.iter().rev().find(|line| !line.trim().is_empty()).copied();
        ran.reason = Some(last.unwrap_or(why).to_owned());
        ran.log = tail.iter().map(|line| (*line).to_owned()).collect();
    }
    of_cell(run, cell, ran)
}

/// A cell whose host is known to have no KVM.
fn without_kvm(cell: &Cell, why: &str) -> Run {
    let mut ran = TestReport::bare(CELL_RAN, Outcome::Skip);
    ran.reason = Some(why.to_owned());
    of_cell(Run::default(), cell, ran)
}

fn of_cell(mut run: Run, cell: &Cell, ran: TestReport) -> Run {
    let info = &mut run.info;
    if info.host.arch.is_empty() {
        info.host.arch = Profile::load(&cell.host).map_or(String::new(), |p| p.arch.to_string());
        info.host.kernel.clone_from(&cell.kernel);
        info.started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
    }
    info.host.profile.clone_from(&cell.host);
    info.host.kernel_spec.clone_from(&cell.kernel);
    let not_run = info.tests.saturating_sub(run.results.len());
    run.results.push(ran);
    info.tests = run.results.len() + not_run;
    run.unfinished = None;
    let Summary { interrupted, cut_short, .. } = run.summary.unwrap_or_default();
    run.summary = Some(Summary { interrupted, cut_short, not_run, ..Summary::of(&run.results) });
    run
}

fn summary_text(run: &Run) -> String {
    let mut counts = Counts::default();
    for result in &run.results {
        match (result.test.as_str(), result.outcome, &result.reason) {
            (CELL_RAN, Outcome::Error, Some(why)) => return format!("no whole result: {why}"),
            (CELL_RAN, Outcome::Skip, Some(why)) => return format!("skip: {why}"),
            (CELL_RAN, ..) => {}
            (_, outcome, _) => counts.add(outcome),
        }
    }
    let seen = Outcome::ALL.iter().filter(|outcome| counts.of(**outcome) > 0);
    seen.map(|outcome| format!("{} {outcome}", counts.of(*outcome))).collect::<Vec<_>>().join(", ")
}

/// Whether the cell's host ran the suite to its end, by its own result.
fn whether_ran(run: &Run) -> Outcome {
    let ran = run.results.iter().find(|result| result.test == CELL_RAN);
    ran.map_or(Outcome::Error, |result| result.outcome)
}

fn read(file: &Path) -> Result<Vec<Run>> {
    journal::read(file).map_err(|error| LabError::Other(error.to_string()))
}

fn write(night: &Nightly, stream: &Path, runs: &[Run]) -> Result<()> {
    let mut text = String::new();
    for run in runs {
        let info = RunInfo { tests: run.results.len(), ..run.info.clone() };
        let summary = run.summary.clone().unwrap_or_default();
        let lines = std::iter::once(Line::Run(info))
            .chain(run.results.iter().cloned().map(Line::Result))
            .chain(std::iter::once(Line::Summary(summary)));
        for line in lines {
            let line =
                serde_json::to_string(&line).map_err(|error| LabError::Other(error.to_string()))?;
            text.push_str(&line);
            text.push('\n');
        }
    }
    File::create(stream).and_then(|mut file| file.write_all(text.as_bytes())).at(stream)?;
    for (form, name) in
        [(Form::Html, "nightly.html"), (Form::Markdown, "nightly.md"), (Form::Junit, "nightly.xml")]
    {
        let place = night.out.join(name);
        form.write(&place.display().to_string(), runs).map_err(LabError::Other)?;
    }
    Ok(())
}

/// Prints what changed, cell by cell: the same profile with the same SPEC is the same cell, whatever
/// kernel that is today.
fn report(before: &[Run], runs: &[Run], out: &Path) -> u8 {
    let mut regressed = false;
    let mut silent = 0;
    for run in runs {
        let host = &run.info.host;
        println!("{} {} ({}): {}", host.profile, host.kernel_spec, host.kernel, summary_text(run));
        match whether_ran(run) {
            Outcome::Pass => {}
            Outcome::Skip => continue,
            _ => {
                silent += 1;
                continue;
            }
        }
        let old =
            before.iter().filter(|old| same_cell(old, run) && whether_ran(old) == Outcome::Pass);
        let old: Vec<Run> = old.cloned().collect();
        if old.is_empty() {
            println!("    no earlier night to compare with");
            regressed |= journal::exit_status(&Summary::of(&run.results).counts, true) == 1;
        } else {
            let comparison = compare(&old, std::slice::from_ref(run), SLOWER);
            comparison.text.lines().for_each(|line| println!("    {line}"));
            regressed |= comparison.regressed;
        }
    }
    let cut = interrupt::pending();
    println!(
        "{} cells, {silent} without results{}; the report is in {}",
        runs.len(),
        cut.map_or(String::new(), |signal| format!(", cut short by {signal}")),
        out.join("nightly.html").display()
    );
    match (regressed, silent > 0 || cut.is_some()) {
        (true, _) => 1,
        (false, true) => 2,
        (false, false) => 0,
    }
}

fn same_cell(one: &Run, other: &Run) -> bool {
    let (one, other) = (&one.info.host, &other.info.host);
    one.profile == other.profile && one.kernel_spec == other.kernel_spec
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cell's run under the kernel that its SPEC means that night, with one test and its outcome.
    fn cell_run(kernel: &str, outcome: Outcome, ran: Outcome) -> Run {
        let mut run = Run::default();
        run.info.host.arch = "x86_64".into();
        run.info.host.kernel = kernel.into();
        run.results.push(TestReport::bare("a::b", outcome));
        let cell = Cell { host: "amd64-svm".into(), kernel: "debian:sid".into() };
        of_cell(run, &cell, TestReport::bare(CELL_RAN, ran))
    }

    fn status(before: Option<Run>, now: Run) -> u8 {
        report(before.as_slice(), &[now], Path::new("nightly"))
    }

    #[test]
    fn a_regression_is_reported_across_kernel_releases() {
        let pass = |kernel| cell_run(kernel, Outcome::Pass, Outcome::Pass);
        let fail = |kernel| cell_run(kernel, Outcome::Fail, Outcome::Pass);
        assert_eq!(status(Some(pass("7.1")), fail("7.2")), 1);
        assert_eq!(status(Some(fail("7.1")), fail("7.2")), 0, "old news");
        assert_eq!(status(Some(fail("7.1")), pass("7.2")), 0);
        assert_eq!(status(None, fail("7.2")), 1, "a first night has no old news");
    }

    #[test]
    fn a_cell_that_did_not_run_is_its_own_error() {
        let silent = cell_run("7.2", Outcome::Pass, Outcome::Error);
        assert_eq!(status(Some(cell_run("7.1", Outcome::Pass, Outcome::Pass)), silent.clone()), 2);
        assert_eq!(status(Some(silent), cell_run("7.3", Outcome::Fail, Outcome::Pass)), 1);
    }
}
