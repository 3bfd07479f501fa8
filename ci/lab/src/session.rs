//! Following a running host: its three streams, its deadline, its end.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use lab_init::Report;

use crate::console::{self, Console};
use crate::emulator::Machine;
use crate::error::{At as _, LabError, Result};
use crate::interrupt;
use crate::process;
use crate::run::{Event, Outcome, Request};
use crate::silence::Silence;

/// How long a host may take to boot, on a busy machine too.
const BOOT_PATIENCE: Duration = Duration::from_secs(600);
/// How long a host that is ready for its snapshot may take until it waits.
const SETTLE: Duration = Duration::from_millis(300);
/// How long other streams may still bring something after the last report.
const DRAIN: Duration = Duration::from_millis(50);
/// How long a crashing kernel may take from its panic to the emulator's end.
const CRASH_PATIENCE: Duration = Duration::from_secs(5);

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
    /// It can be saved.
    Ready,
}

/// A host that runs.
#[derive(Debug)]
pub struct Session {
    machine: Machine,
    started: Instant,
    messages: Receiver<Message>,
    first: Option<Message>,
    console: Console,
    booted: bool,
    /// Set while the runner runs.
    silence: Option<Silence>,
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
            console: Console::new(console_log),
            booted: false,
            silence: None,
        })
    }

    /// Passes everything on until the host has ended, one way or another.
    pub fn follow(
        mut self,
        request: &Request,
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> Result<Outcome> {
        let slowness = request.profile.slowness;
        let limits = Limits { timeout: request.timeout, patience: request.patience, slowness };
        match self.watch(&limits, on_event) {
            End::Outcome(outcome) => Ok(outcome),
            End::Ready => Err(LabError::Other("the host waits for a snapshot unasked".into())),
        }
    }

    /// Whether the first report comes in time: a restored host may be dead.
    pub fn wakes(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.messages.recv_timeout(left) {
                Ok(Message::Line(Stream::Results, line)) => {
                    self.first = Some(Message::Line(Stream::Results, line));
                    return true;
                }
                Ok(Message::Line(_, line)) => self.console.keep(&line),
                Ok(Message::End(_)) | Err(_) => return false,
            }
        }
    }

    /// Waits until the host is ready, and writes a snapshot of it into the directory.
    pub fn save(mut self, dir: &Path) -> Result<()> {
        match self.watch(&Limits::default(), &mut |_| {}) {
            End::Ready => {}
            End::Outcome(outcome) => {
                return Err(LabError::Other(format!("no snapshot: the host ended: {outcome:?}")));
            }
        }
        std::thread::sleep(SETTLE);
        match &mut self.machine.control {
            Some(control) => control.save(dir),
            None => Err(LabError::Other("this emulator takes no snapshots".into())),
        }
    }

    fn watch(&mut self, limits: &Limits, on_event: &mut dyn FnMut(Event<'_>)) -> End {
        let mut end = self.started + BOOT_PATIENCE;
        loop {
            let deadline = self.silence.as_ref().map_or(end, |silence| end.min(silence.end().0));
            let (was_dying, was_running) = (self.console.kernel_is_dying(), self.silence.is_some());
            let left = deadline.saturating_duration_since(Instant::now());
            let next = match self.first.take() {
                Some(first) => Ok(first),
                None => self.messages.recv_timeout(left.min(interrupt::LATENCY)),
            };
            if let Some(signal) = interrupt::pending() {
                self.drain(limits, on_event);
                return End::Outcome(Outcome::Interrupted(signal));
            }
            match next {
                Ok(Message::Line(stream, line)) => {
                    if let Some(end) = self.take(stream, &line, limits, on_event) {
                        if let End::Outcome(_) = end {
                            self.drain(limits, on_event);
                        }
                        return end;
                    }
                }
                Ok(Message::End(Stream::Stderr)) => {}
                Ok(Message::End(_)) | Err(RecvTimeoutError::Disconnected) => {
                    self.drain(limits, on_event);
                    return End::Outcome(self.sudden_end());
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(RecvTimeoutError::Timeout) => return End::Outcome(self.time_is_up(end)),
            }
            if self.silence.is_some() && !was_running {
                end = Instant::now() + limits.timeout;
            }
            if self.console.kernel_is_dying() && !was_dying {
                end = end.min(Instant::now() + CRASH_PATIENCE);
            }
        }
    }

    /// One line; returns the end if it is the last report.
    fn take(
        &mut self,
        stream: Stream,
        line: &str,
        limits: &Limits,
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> Option<End> {
        let report = match stream {
            Stream::Results => Report::of_line(line),
            Stream::Console => Report::of_console_line(line),
            Stream::Stderr => None,
        };
        match (report, stream) {
            (Some(report), _) => return self.take_report(&report, limits, on_event),
            (None, Stream::Stderr) => on_event(Event::Stderr(line)),
            // Where there is no result port, results come over the console.
            (None, Stream::Console) if !line.starts_with("{\"type\"") => {
                self.console.keep(line);
                on_event(Event::Console(line));
            }
            (None, Stream::Console | Stream::Results) => {
                if let Some(silence) = &mut self.silence {
                    silence.runner_wrote(line, Instant::now());
                }
                on_event(Event::Line(line));
            }
        }
        None
    }

    fn take_report(
        &mut self,
        report: &Report,
        limits: &Limits,
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> Option<End> {
        let after = self.started.elapsed();
        let outcome = match report {
            // The emulator did not end when the kernel restarted the host.
            Report::Booted { .. } if self.booted => {
                Outcome::KernelDied { log: self.console.text() }
            }
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
                self.console.runner_starts();
                self.silence = Some(Silence::new(limits.patience, limits.slowness, Instant::now()));
                on_event(Event::Started { after });
                return None;
            }
            Report::Alive => {
                if let Some(silence) = &mut self.silence {
                    silence.init_lives(Instant::now());
                }
                return None;
            }
            Report::Stderr(line) => {
                on_event(Event::Stderr(line));
                return None;
            }
            Report::Ready => return Some(End::Ready),
            Report::NoKvm(why) => Outcome::NoKvm(why.clone()),
            Report::Exited(code) => Outcome::Exited(*code),
            Report::Killed(signal) => Outcome::Killed(*signal),
            Report::Failed(why) => Outcome::HostFailed(why.clone()),
        };
        Some(End::Outcome(outcome))
    }

    /// Takes what is still on its way.
    fn drain(&mut self, limits: &Limits, on_event: &mut dyn FnMut(Event<'_>)) {
        let deadline = Instant::now() + DRAIN;
        while let Ok(message) =
            self.messages.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            if let Message::Line(stream, line) = message {
                self.take(stream, &line, limits, on_event);
            }
        }
    }

    /// Nothing came in time. `end` is that of the whole run.
    fn time_is_up(&mut self, end: Instant) -> Outcome {
        let log = self.console.text();
        if self.console.kernel_is_dying() {
            return Outcome::KernelDied { log };
        }
        let why = match &self.silence {
            Some(silence) if silence.end().0 < end => silence.end().1,
            Some(_) => return Outcome::TimedOut { log },
            None => format!("it did not boot within {} s", BOOT_PATIENCE.as_secs()),
        };
        let log = format!("{log}\n{}", self.machine_state());
        Outcome::Hung { why, log: log.trim().to_owned() }
    }

    /// What the emulator and the kernel below it show of a hanging host.
    fn machine_state(&mut self) -> String {
        let threads = process::threads(self.machine.child.id());
        let vcpus = match &mut self.machine.control {
            Some(control) => control.vcpu_states(),
            None => Err(LabError::Other("this emulator does not show them".into())),
        };
        let vcpus = vcpus.unwrap_or_else(|error| format!("not known: {error}"));
        format!("threads of the emulator:\n{threads}\nvCPUs:\n{vcpus}")
    }

    /// The streams ended without a last report: did the kernel die, or the emulator?
    fn sudden_end(&mut self) -> Outcome {
        let log = self.console.text();
        let status = self.machine.child.wait();
        let mut printed = String::new();
        if let Some(log) = &self.machine.log {
            printed = console::tail(&std::fs::read_to_string(log).unwrap_or_default());
        } else if let Some(stderr) = &mut self.machine.child.stderr {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            let lines = text.lines().filter(|line| !line.contains(": warning:"));
            printed = lines.collect::<Vec<_>>().join("\n");
        }
        match status {
            Ok(status) if status.success() => Outcome::KernelDied { log },
            Ok(_) if self.console.kernel_is_dying() => Outcome::KernelDied { log },
            Ok(status) => {
                Outcome::EmulatorDied { why: format!("{status}: {}", printed.trim()), log }
            }
            Err(error) => Outcome::EmulatorDied { why: error.to_string(), log },
        }
    }
}

/// How long a host may take for what.
#[derive(Clone, Copy, Debug, Default)]
struct Limits {
    /// From the runner's start to its end.
    timeout: Duration,
    /// For silence.
    patience: Duration,
    /// The profile's.
    slowness: f64,
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
