//! A run that happens on another host: its result stream comes in, the same reports go out.

use std::io::Write as _;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tempfile::NamedTempFile;

use crate::given::{Files, Given};
use crate::{MISUSE, Refusal, SIGNALLED, exit_status, finished, outputs};
use results::journal::{self, Line, RunInfo, Start, Summary, TestReport};
use results::outcome::Outcome;
use results::report::Reporter;
use results::report::console::Console;

/// Where what has a result is listed on the other host.
const FINISHED: &str = "/finished";

/// The result that a death of the host between two tests has.
const HOST_LIVES: &str = "lab::host_lives_between_tests";

/// What a runner on another host is started with.
#[derive(Debug)]
pub struct Order {
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Files by their place there.
    pub files: Files,
    _finished: Option<NamedTempFile>,
}

/// What is known so far of a run on another host.
pub struct Remote {
    console: Console,
    reporters: Vec<Box<dyn Reporter>>,
    info: Option<RunInfo>,
    results: Vec<TestReport>,
    /// The test that runs.
    running: Option<Start>,
    complete: bool,
    /// The signal that ended the run.
    signal: Option<(String, u8)>,
    /// Why the run could not go on.
    cut_short: Option<String>,
    bisect: bool,
    strict: bool,
    begin: Instant,
}

impl Remote {
    /// Opens the outputs that the command line asks for.
    ///
    /// # Errors
    ///
    /// One of them cannot be written, or an option needs the host itself.
    pub fn new(given: &Given) -> Result<Self, String> {
        let args = &given.args;
        let open = || -> Result<_, Refusal> {
            if args.resume.is_some() {
                return Err(Refusal("--resume works on the native host only".into()));
            }
            let stdout_taken = args.formats.use_stdout().map_err(Refusal)?;
            let reporters = outputs::open(&args.formats, None, false)?;
            let console =
                Console::new(stdout_taken, args.detail(), &given.again()).map_err(Refusal::of)?;
            Ok((console.with_stream(args.stream()), reporters))
        };
        let (console, reporters) = open().map_err(|e| e.to_string())?;
        Ok(Self {
            console,
            reporters,
            info: None,
            results: Vec::new(),
            running: None,
            complete: false,
            signal: None,
            cut_short: None,
            bisect: args.bisect,
            strict: args.strict,
            begin: Instant::now(),
        })
    }

    /// What the runner on the other host is started with: to run what was asked for, but for what has a
    /// result, with its results as a stream.
    ///
    /// # Errors
    ///
    /// A file that was given cannot be read.
    pub fn order(&self, given: &Given) -> Result<Order, Refusal> {
        let (mut inner, mut files) = given.inner()?;
        let mut arguments: Vec<String> =
            ["--host=native", "--mark", "--json=-"].map(String::from).into();
        let mut finished = None;
        if !self.results.is_empty() {
            let mut file = NamedTempFile::new().map_err(Refusal::of)?;
            file.write_all(finished::write(&self.results).as_bytes()).map_err(Refusal::of)?;
            arguments.push(format!("--finished={FINISHED}"));
            files.push((FINISHED.to_owned(), file.path().to_owned()));
            finished = Some(file);
        }
        arguments.append(&mut inner);
        Ok(Order { arguments, files, _finished: finished })
    }

    /// Takes one line of the stream; one that is no part of it is passed on to the user.
    pub fn line(&mut self, text: &str) {
        match serde_json::from_str::<Line>(text) {
            Ok(Line::Run(info)) => self.start(info),
            Ok(Line::Start(start)) => {
                self.console.tick(&[&start.test]);
                self.reporters.iter_mut().for_each(|reporter| reporter.started(&start));
                self.running = Some(start);
            }
            Ok(Line::Result(result)) => self.result(result),
            Ok(Line::Summary(_)) => {
                self.running = None;
                self.complete = true;
            }
            Err(_) => self.console.say(text),
        }
    }

    fn start(&mut self, info: RunInfo) {
        // After a fresh boot the run goes on: it began once.
        if self.info.is_none() {
            self.console.start(&info);
            self.reporters.iter_mut().for_each(|reporter| reporter.start(&info));
            self.info = Some(info);
        }
    }

    fn result(&mut self, result: TestReport) {
        let of = |start: &Start| start.test == result.test && start.iteration == result.iteration;
        if self.running.as_ref().is_some_and(of) {
            self.running = None;
        }
        self.console.result(&result);
        self.reporters.iter_mut().for_each(|reporter| reporter.result(&result));
        self.results.push(result);
    }

    /// Says something beside the results.
    pub fn say(&mut self, line: &str) {
        self.console.say(line);
    }

    /// Whether the other runner has told its summary.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The host died: the test that ran gets `outcome` and the log, unless it is known to end
    /// that way. `None` if no test ran.
    pub fn died(&mut self, outcome: Outcome, reason: &str, log: &str) -> Option<String> {
        let Start { test, iteration, known_ends, .. } = self.running.take()?;
        let mut result = TestReport { iteration, ..TestReport::bare(&test, outcome) };
        result.reason = Some(reason.to_owned());
        if let Some(known) = known_ends.into_iter().find(|known| known.outcome == outcome) {
            result.outcome = Outcome::KnownFail;
            result.details.push(format!("seen: {reason}"));
            result.reason = Some(known.reason);
            result.reference = known.reference;
        }
        result.kernel_log = log.lines().map(ToOwned::to_owned).collect();
        self.result(result);
        Some(test)
    }

    /// The host died while no test ran: a result of its own holds the log.
    pub fn died_between_tests(&mut self, outcome: Outcome, reason: &str, log: &str) {
        let earlier = self.results.iter().filter(|result| result.test == HOST_LIVES).count();
        let mut result = TestReport {
            iteration: earlier as u32 + 1,
            reason: Some(reason.to_owned()),
            kernel_log: log.lines().map(ToOwned::to_owned).collect(),
            ..TestReport::bare(HOST_LIVES, outcome)
        };
        if let Some(last) = self.results.last() {
            result.details.push(format!("the last test to end was {}", last.test));
        }
        self.result(result.printable());
    }

    /// How many results there are.
    pub fn results(&self) -> usize {
        self.results.len()
    }

    /// Shows what is waited for before the first test.
    pub fn waiting(&mut self, what: &str, sign: &str) {
        if self.info.is_none() {
            self.console.waiting(what, sign);
        }
    }

    /// A signal cut the run short; the test that ran has no verdict.
    pub fn interrupted(&mut self, signal: &str, number: u8) {
        self.signal = Some((signal.to_owned(), number));
    }

    /// The run cannot go on.
    pub fn cut_short(&mut self, why: &str) {
        self.cut_short = Some(why.to_owned());
    }

    /// Ends the run; gives the exit status.
    pub fn finish(mut self) -> u8 {
        let mut summary = Summary::of(&self.results);
        summary.exit = journal::exit_status(&summary.counts, self.strict);
        summary.duration_us = self.begin.elapsed().as_micros() as u64;
        if !self.complete {
            let own = self.results.iter().filter(|result| result.test == HOST_LIVES).count();
            let planned = self.info.as_ref().map_or(0, |info| info.tests);
            summary.not_run = (planned + own).saturating_sub(self.results.len());
            let gone = || self.signal.is_none().then(|| "the host is gone".to_owned());
            summary.cut_short = self.cut_short.or_else(gone);
            // That nothing ran is no news where it could not.
            summary.exit = if summary.exit == 1 { 1 } else { MISUSE };
        }
        if let Some((signal, number)) = self.signal {
            summary.interrupted = Some(signal);
            summary.exit = SIGNALLED + number;
        }
        let info = self.info.unwrap_or_else(|| RunInfo {
            started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs()),
            ..RunInfo::default()
        });
        for reporter in &mut self.reporters {
            reporter.finish(&info, &self.results, &summary);
        }
        self.console.finish(&info, &self.results, &summary);
        let broken = self.reporters.iter().any(|r| r.broken().is_some());
        let broken = broken || self.console.lost().is_some();
        let status = if summary.exit == 0 && broken { MISUSE } else { summary.exit };
        exit_status(status, self.bisect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::given::tests::given;

    fn result(test: &str, iteration: u32) -> String {
        let iteration = format!("\"iteration\":{iteration}");
        format!("{{\"type\":\"result\",\"test\":\"{test}\",\"outcome\":\"pass\",{iteration}}}")
    }

    fn start(test: &str, iteration: u32) -> String {
        format!("{{\"type\":\"start\",\"test\":\"{test}\",\"iteration\":{iteration}}}")
    }

    /// A remote run of three tests of which the first has a result.
    fn begun(arguments: &[&str]) -> Remote {
        let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
        let mut remote = Remote::new(&given(&arguments)).unwrap();
        for line in [r#"{"type":"run","tests":3}"#.to_owned(), start("x::a", 1), result("x::a", 1)]
        {
            remote.line(&line);
        }
        remote
    }

    #[test]
    fn a_run_that_is_not_whole_ends_with_a_status_of_its_own() {
        for (bisect, interrupted, cut, died) in [(&[][..], 130, 2, 1), (&["--bisect"], 130, 125, 1)]
        {
            let mut remote = begun(bisect);
            remote.interrupted("SIGINT", 2);
            assert_eq!(remote.finish(), interrupted);
            let mut remote = begun(bisect);
            remote.cut_short("no KVM");
            assert_eq!(remote.finish(), cut);
            let mut remote = begun(bisect);
            remote.died_between_tests(Outcome::HostBug, "it died", "BUG");
            assert_eq!(remote.finish(), died);
        }
    }

    #[test]
    fn a_run_that_is_not_whole_says_how_much_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("j").display().to_string();
        let mut remote = begun(&["--json", &file]);
        remote.died_between_tests(Outcome::HostBug, "it died", "BUG");
        remote.cut_short("no KVM");
        remote.finish();
        let mut runs = results::journal::read(folder.path().join("j").as_path()).unwrap();
        let run = runs.pop().unwrap();
        assert_eq!(run.shortfall().unwrap(), "cut short: no KVM; 2 tests of 4 did not run");
        let death = &run.results[1];
        assert_eq!((death.test.as_str(), death.outcome), (HOST_LIVES, Outcome::HostBug));
        assert_eq!(death.details, ["the last test to end was x::a"]);
    }

    #[test]
    fn after_a_death_the_other_repetitions_still_run() {
        let given = given(&["--repeat=2", "--shard=1/3", "x::*"].map(str::to_owned));
        let mut remote = Remote::new(&given).unwrap();
        let order = remote.order(&given).unwrap();
        let first =
            ["--host=native", "--mark", "--json=-", "--repeat=2", "--shard=1/3", "--", "x::*"];
        assert_eq!((order.arguments, order.files), (first.map(str::to_owned).into(), vec![]));
        for line in [
            r#"{"type":"run"}"#.to_owned(),
            start("x::a", 1),
            result("x::a", 1),
            start("x::b", 1),
            result("x::b", 1),
            start("x::a", 2),
        ] {
            remote.line(&line);
        }
        assert_eq!(remote.died(Outcome::HostBug, "it died", "").as_deref(), Some("x::a"));
        let order = remote.order(&given).unwrap();
        assert_eq!(order.arguments[3], "--finished=/finished");
        assert_eq!(order.arguments[4..], first[3..]);
        let [(place, file)] = &order.files[..] else { panic!("{:?}", order.files) };
        assert_eq!(place, "/finished");
        let text = std::fs::read_to_string(file).unwrap();
        assert_eq!(text, "[\"x::a\",1]\n[\"x::b\",1]\n[\"x::a\",2]\n");
        let wanted = [("x::a", 1), ("x::b", 1), ("x::a", 2)].map(|(t, n)| (t.to_owned(), n));
        assert_eq!(finished::read(file).unwrap(), wanted.into());
    }
}
