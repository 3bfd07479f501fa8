//! A run that happens on another host: its result stream comes in, the same reports go out.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::args::RunArgs;
use crate::{BISECT_SKIP, MISUSE, Refusal, outputs};
use results::journal::{KnownEnd, Line, RunInfo, Summary, TestReport};
use results::outcome::Outcome;
use results::report::Reporter;
use results::report::console::Console;

/// What is known so far of a run on another host.
pub struct Remote {
    console: Console,
    reporters: Vec<Box<dyn Reporter>>,
    info: Option<RunInfo>,
    results: Vec<TestReport>,
    /// The test that runs, and the ends that it is known for.
    running: Option<(String, Vec<KnownEnd>)>,
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
            for (given, option) in
                [(args.resume.is_some(), "--resume"), (args.config.is_some(), "--config")]
            {
                if given {
                    return Err(Refusal(format!("{option} works on the native host only")));
                }
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

    /// Arguments for the runner on the other host: what to run, with its results as a stream.
    pub fn inner_arguments(&self, args: &RunArgs) -> Vec<String> {
        let mut inner: Vec<String> =
            ["--host", "native", "--mark", "--json", "-"].map(String::from).into();
        let mut option = |name: &str, value: String| inner.extend([name.to_owned(), value]);
        option("--jobs", args.jobs.to_string());
        option("--repeat", args.repeat.to_string());
        option("--retry", args.retry.to_string());
        if let Some(timeout) = args.timeout {
            option("--timeout", timeout.as_secs_f64().to_string());
        }
        if let Some(scale) = args.timeout_scale {
            option("--timeout-scale", scale.to_string());
        }
        if let Some(seed) = args.shuffle {
            option("--shuffle", seed.to_string());
        }
        if let Some(shard) = args.shard {
            option("--shard", format!("{}/{}", shard.index, shard.of));
        }
        for (name, value) in &args.set {
            option("--set", format!("{name}={value}"));
        }
        for group in &args.group {
            option("--group", group.clone());
        }
        // What has a result already must not run again after a fresh boot.
        let done = self.results.iter().map(|r| &r.test);
        for name in args.exclude.iter().chain(done) {
            option("--exclude", name.clone());
        }
        for (given, flag) in
            [(args.all, "--all"), (args.perf, "--perf"), (args.verbose, "--verbose")]
        {
            if given {
                inner.push(flag.to_owned());
            }
        }
        inner.extend(args.names.iter().cloned());
        inner
    }

    /// Takes one line of the stream; one that is no part of it is passed on to the user.
    pub fn line(&mut self, text: &str) {
        match serde_json::from_str::<Line>(text) {
            Ok(Line::Run(info)) => self.start(info),
            Ok(Line::Start(start)) => {
                self.console.tick(&[&start.test]);
                self.reporters.iter_mut().for_each(|reporter| reporter.started(&start));
                self.running = Some((start.test, start.known_ends));
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
        if self.running.as_ref().is_some_and(|(test, _)| *test == result.test) {
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
        let (test, known_ends) = self.running.take()?;
        let mut result = TestReport::bare(&test, outcome);
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
