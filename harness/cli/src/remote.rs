//! A run that happens on another host: its result stream comes in, the same reports go out.

use std::io::Write as _;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tempfile::NamedTempFile;

use crate::args::RunArgs;
use crate::given::{Files, Given};
use crate::{BISECT_SKIP, MISUSE, Refusal, finished, outputs};
use results::journal::{Line, RunInfo, Start, Summary, TestReport};
use results::outcome::Outcome;
use results::report::Reporter;
use results::report::console::Console;

/// Where what has a result is listed on the other host.
const FINISHED: &str = "/finished";

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
    interrupted: Option<String>,
    bisect: bool,
    begin: Instant,
}

impl Remote {
    /// Opens the outputs that the command line asks for.
    ///
    /// # Errors
    ///
    /// One of them cannot be written, or an option needs the host itself.
    pub fn new(args: &RunArgs) -> Result<Self, String> {
        let open = || -> Result<_, Refusal> {
            if args.resume.is_some() {
                return Err(Refusal("--resume works on the native host only".into()));
            }
            let stdout_taken = args.formats.use_stdout().map_err(Refusal)?;
            let reporters = outputs::open(&args.formats, None, false)?;
            let mut command = std::env::var("KVM_CONFORMANCE_COMMAND")
                .unwrap_or_else(|_| "kvm-conformance".to_owned());
            // What reproduces a failure must name the same host.
            for (option, value) in
                [("--host", &args.host), ("--arch", &args.arch), ("--kernel", &args.kernel)]
            {
                if let Some(value) = value {
                    command.push_str(&format!(" {option} {value}"));
                }
            }
            let console =
                Console::new(stdout_taken, args.verbose, &command).map_err(Refusal::of)?;
            Ok((console, reporters))
        };
        let (console, reporters) = open().map_err(|e| e.to_string())?;
        Ok(Self {
            console,
            reporters,
            info: None,
            results: Vec::new(),
            running: None,
            complete: false,
            interrupted: None,
            bisect: args.bisect,
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

    /// A signal cut the run short; the test that ran has no verdict.
    pub fn interrupted(&mut self, signal: &str) {
        self.interrupted = Some(signal.to_owned());
    }

    /// Ends the run; gives the exit status.
    pub fn finish(mut self) -> u8 {
        let mut summary = Summary::of(&self.results);
        summary.duration_us = self.begin.elapsed().as_micros() as u64;
        summary.interrupted.clone_from(&self.interrupted);
        if !self.complete && summary.exit == 0 {
            summary.exit = MISUSE;
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
        match summary.exit {
            0 if broken => MISUSE,
            0 | 1 => summary.exit,
            _ if self.bisect => BISECT_SKIP,
            status => status,
        }
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

    #[test]
    fn after_a_death_the_other_repetitions_still_run() {
        let given = given(&["--repeat=2", "--shard=1/3", "x::*"].map(str::to_owned));
        let mut remote = Remote::new(&given.args).unwrap();
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
