//! Following a running host: its three streams, its deadline, its end.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use lab_init::Report;
use results::trouble;

use crate::emulator::Machine;
use crate::error::{At as _, LabError, Result};
use crate::interrupt;
use crate::lab::{Event, Outcome, Request};

/// How long a host may take to boot, on a busy machine too.
const BOOT_PATIENCE: Duration = Duration::from_secs(600);
/// How long a host that reported ready may take until it waits.
const SETTLE: Duration = Duration::from_millis(300);
/// How long other streams may still bring something after the last report.
const DRAIN: Duration = Duration::from_millis(50);
/// How long a kernel may take from its last words to the emulator's end.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Console lines kept for the crash log.
const NR_LOG_LINES: usize = 600;
/// Console lines told where there is no sign of trouble in them.
const NR_TAIL_LINES: usize = 40;
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Results,
    Stderr,
    Console,
}

#[derive(Debug)]
enum Message {
    Line(Stream, String),
    End(Stream),
}

/// What a stretch of a host's life ends with.
#[derive(Debug)]
enum End {
    Outcome(Outcome),
    Parked,
}

/// A host that runs.
#[derive(Debug)]
pub struct Session {
    machine: Machine,
    started: Instant,
    messages: Receiver<Message>,
    first: Option<Message>,
    console_log: Option<File>,
    log: VecDeque<String>,
    booted: bool,
    running: bool,
    trouble: bool,
    dying: bool,
}

impl Session {
    /// Takes over a machine that was just started.
    pub fn new(mut machine: Machine, started: Instant, console_log: Option<&Path>) -> Result<Self> {
        let (sender, messages) = channel();
        let streams = [
            (Stream::Results, machine.results.take()),
            (Stream::Stderr, machine.stderr.take()),
            (Stream::Console, machine.console.take()),
        ];
        for (stream, source) in streams {
            if let Some(source) = source {
                let sender = sender.clone();
                std::thread::spawn(move || forward(stream, source, &sender));
            }
        }
        let console_log = console_log.map(|path| File::create(path).at(path)).transpose()?;
        Ok(Self {
            machine,
            started,
            messages,
            first: None,
            console_log,
            log: VecDeque::new(),
            booted: false,
            running: false,
            trouble: false,
            dying: false,
        })
    }

    /// Passes everything on until the host has ended, one way or another.
    pub fn follow(
        mut self,
        request: &Request,
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> Result<Outcome> {
        match self.watch(request.timeout, request.patience, on_event) {
            End::Outcome(outcome) => Ok(outcome),
            End::Parked => Err(LabError::Other("the host parked itself unasked".into())),
        }
    }

    /// Whether the first report comes in time: a restored host may be dead.
    pub fn awakes(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.messages.recv_timeout(left) {
                Ok(Message::Line(Stream::Results, line)) => {
                    self.first = Some(Message::Line(Stream::Results, line));
                    return true;
                }
                Ok(Message::Line(_, line)) => self.keep(&line),
                Ok(Message::End(_)) | Err(_) => return false,
            }
        }
    }

    /// Waits until the host stands ready, and writes a checkpoint of it into the directory.
    pub fn park(mut self, dir: &Path) -> Result<()> {
        match self.watch(Duration::ZERO, Duration::ZERO, &mut |_| {}) {
            End::Parked => {}
            End::Outcome(outcome) => {
                return Err(LabError::Other(format!("no checkpoint: the host ended: {outcome:?}")));
            }
        }
        std::thread::sleep(SETTLE);
        match &mut self.machine.control {
            Some(control) => control.park(dir),
            None => Err(LabError::Other("this emulator makes no checkpoints".into())),
        }
    }

    fn watch(
        &mut self,
        timeout: Duration,
        patience: Duration,
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> End {
        let mut end = self.started + BOOT_PATIENCE;
        let mut heard = Instant::now();
        loop {
            let deadline = if self.running { end.min(heard + patience) } else { end };
            let (was_dying, was_running) = (self.dying, self.running);
            let left = deadline.saturating_duration_since(Instant::now());
            let next = match self.first.take() {
                Some(first) => Ok(first),
                None => self.messages.recv_timeout(left.min(interrupt::LATENCY)),
            };
            if let Some(signal) = interrupt::pending() {
                self.drain(on_event);
                return End::Outcome(Outcome::Interrupted(signal));
            }
            match next {
                Ok(Message::Line(stream, line)) => {
                    if stream == Stream::Results {
                        heard = Instant::now();
                    }
                    if let Some(end) = self.take(stream, &line, on_event) {
                        if let End::Outcome(_) = end {
                            self.drain(on_event);
                        }
                        return end;
                    }
                }
                Ok(Message::End(Stream::Stderr)) => {}
                Ok(Message::End(_)) | Err(RecvTimeoutError::Disconnected) => {
                    self.drain(on_event);
                    return End::Outcome(self.sudden_end());
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(RecvTimeoutError::Timeout) => {
                    let log = self.log_text();
                    return End::Outcome(match self.dying {
                        true => Outcome::KernelDied { log },
                        false => Outcome::TimedOut { log },
                    });
                }
            }
            if self.running && !was_running {
                end = Instant::now() + timeout;
                heard = Instant::now();
            }
            if self.dying && !was_dying {
                end = end.min(Instant::now() + LAST_WORDS);
            }
        }
    }

    /// One line; gives back the outcome if it is the last report.
    fn take(
        &mut self,
        stream: Stream,
        line: &str,
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> Option<End> {
        match stream {
            Stream::Stderr => on_event(Event::Stderr(line)),
            // Where there is no result port, results come over the console.
            Stream::Console if Report::decode(line).is_none() && !line.starts_with("{\"type\"") => {
                self.keep(line);
                on_event(Event::Console(line));
            }
            Stream::Console | Stream::Results => match Report::decode(line) {
                Some(report) => return self.take_report(&report, on_event),
                None => on_event(Event::Line(line)),
            },
        }
        None
    }

    fn take_report(&mut self, report: &Report, on_event: &mut dyn FnMut(Event<'_>)) -> Option<End> {
        let after = self.started.elapsed();
        let outcome = match report {
            // The emulator did not end when the kernel restarted the host.
            Report::Booted { .. } if self.booted => Outcome::KernelDied { log: self.log_text() },
            Report::Booted { uptime_ms, release } => {
                self.booted = true;
                on_event(Event::Booted { after, guest_ms: *uptime_ms, release });
                return None;
            }
            Report::Fact { name, value } => {
                on_event(Event::Fact(name, value));
                return None;
            }
            Report::Started => {
                self.running = true;
                // What was said while the host booted is not the runner's doing.
                self.trouble = false;
                self.log.clear();
                on_event(Event::Started { after });
                return None;
            }
            Report::Stderr(line) => {
                on_event(Event::Stderr(line));
                return None;
            }
            Report::Parked => return Some(End::Parked),
            Report::NoKvm(why) => Outcome::NoKvm(why.clone()),
            Report::Exited(code) => Outcome::Exited(*code),
            Report::Killed(signal) => Outcome::Killed(*signal),
            Report::Failed(why) => Outcome::HostFailed(why.clone()),
        };
        Some(End::Outcome(outcome))
    }

    fn keep(&mut self, line: &str) {
        if let Some(file) = &mut self.console_log {
            let _ = writeln!(file, "{line}");
        }
        if !self.trouble && trouble::begins(line) {
            self.trouble = true;
            let surplus = self.log.len().saturating_sub(NR_TAIL_LINES);
            self.log.drain(..surplus);
        }
        if trouble::is_fatal(line) {
            self.dying = true;
        }
        // Of a long story the beginning and the end are kept; without trouble, the end.
        let (limit, least) = match self.trouble {
            true => (NR_LOG_LINES, NR_LOG_LINES / 2),
            false => (NR_TAIL_LINES, 0),
        };
        if self.log.len() >= limit {
            self.log.remove(least);
        }
        self.log.push_back(line.to_owned());
    }

    /// Takes what is still on its way.
    fn drain(&mut self, on_event: &mut dyn FnMut(Event<'_>)) {
        let deadline = Instant::now() + DRAIN;
        while let Ok(message) =
            self.messages.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            if let Message::Line(stream, line) = message {
                self.take(stream, &line, on_event);
            }
        }
    }

    /// The streams ended without a last report: whose death was it?
    fn sudden_end(&mut self) -> Outcome {
        let log = self.log_text();
        let status = self.machine.child.wait();
        let mut words = String::new();
        if let Some(log) = &self.machine.log {
            let text = std::fs::read_to_string(log).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            words = lines[lines.len().saturating_sub(NR_TAIL_LINES)..].join("\n");
        } else if let Some(stderr) = &mut self.machine.child.stderr {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            let told = text.lines().filter(|line| !line.contains(": warning:"));
            words = told.collect::<Vec<_>>().join("\n");
        }
        match status {
            Ok(status) if status.success() => Outcome::KernelDied { log },
            Ok(_) if self.dying => Outcome::KernelDied { log },
            Ok(status) => Outcome::EmulatorDied { why: format!("{status}: {}", words.trim()), log },
            Err(error) => Outcome::EmulatorDied { why: error.to_string(), log },
        }
    }

    fn log_text(&self) -> String {
        self.log.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

/// Sends the whole lines of a stream; a last one that was cut off is dropped, but for the console.
fn forward(stream: Stream, source: File, sender: &Sender<Message>) {
    let mut reader = BufReader::new(source);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        match reader.read_until(b'\n', &mut bytes) {
            Ok(length) if length > 0 => {}
            _ => break,
        }
        let whole = bytes.ends_with(b"\n");
        if !whole && stream == Stream::Results {
            break;
        }
        let text = String::from_utf8_lossy(&bytes);
        let line = text.trim_end_matches(['\n', '\r']).to_owned();
        if sender.send(Message::Line(stream, line)).is_err() {
            return;
        }
    }
    let _ = sender.send(Message::End(stream));
}
