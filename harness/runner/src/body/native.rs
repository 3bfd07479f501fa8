//! Tests of this program: the worker's last event is its verdict, and without it there is no pass.

use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use results::outcome::Outcome;
use vm::payload::Payload;

use super::{Reader, Verdict, ended};
use crate::verdict::{Ending, Seconds};

/// Takes the worker's own word.
#[derive(Debug)]
pub(super) struct Verdicts;

impl Reader for Verdicts {
    /// The first stops its vCPUs, so that the test ends with the guest's state; the second makes a
    /// worker whose host half hangs say where its vCPUs stand.
    fn last_words(&self) -> &'static [Signal] {
        &[Signal::SIGUSR1, Signal::SIGUSR2]
    }

    fn line(&mut self, _: &str) {}

    fn judge(&mut self, ending: &mut Ending) -> Verdict {
        let limit = Seconds(ending.timeout);
        let Some((outcome, reason, details)) = ending.tally.verdict.take() else {
            return without_a_word(ending);
        };
        let verdict = Verdict { outcome, reason, details };
        // Our own kill says more than what the worker said before it hung again.
        if ending.late {
            return match outcome {
                Outcome::Timeout | Outcome::Fail => verdict,
                _ => {
                    let text = verdict.reason.map_or_else(String::new, |r| format!(": {r}"));
                    let reason =
                        format!("ended only after its deadline of {limit} ({outcome}{text})");
                    Verdict { outcome: Outcome::Timeout, reason: Some(reason), ..verdict }
                }
            };
        }
        if !matches!(ending.status, WaitStatus::Exited(_, 0)) {
            let reason = format!("the worker {} after its verdict", ended(&ending.status));
            return Verdict { outcome: Outcome::Error, reason: Some(reason), ..verdict };
        }
        match outcome {
            Outcome::Pass if !ending.tally.failed.is_empty() => {
                Verdict { outcome: Outcome::Fail, ..verdict }
            }
            Outcome::Pass | Outcome::Fail | Outcome::Error | Outcome::Timeout | Outcome::Skip => {
                verdict
            }
            other => {
                let reason = format!("a worker may not say `{other}`");
                Verdict { outcome: Outcome::Error, reason: Some(reason), ..verdict }
            }
        }
    }
}

fn without_a_word(ending: &Ending) -> Verdict {
    if ending.late && ending.was_killed() {
        let limit = Seconds(ending.timeout);
        let reason = format!("no verdict within {limit}: the host half did not return, killed");
        let details = ending.stuck.iter().cloned().chain(vcpus(ending)).collect();
        return Verdict { outcome: Outcome::Timeout, reason: Some(reason), details };
    }
    if !ending.misdeeds.is_empty() {
        return Verdict::new(Outcome::Error, ending.misdeed());
    }
    let reason = format!("the worker {} before its verdict", ended(&ending.status));
    Verdict::new(Outcome::Error, reason)
}

/// Where the vCPUs of a worker that had to be killed stood.
fn vcpus(ending: &Ending) -> impl Iterator<Item = String> {
    ending.tally.vcpus.iter().map(|(index, exits, pc)| {
        let place = pc.map_or_else(String::new, |pc| {
            let symbol = Payload::get().map_or(String::new(), |p| p.symbolize(pc));
            format!(", stands at {pc:#x} {symbol}")
        });
        let exits = format!("{exits} {}", if *exits == 1 { "exit" } else { "exits" });
        format!("vCPU {index}: {exits}{place}")
    })
}
