//! One boot of the switchable kernel, and what its tests say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use lab::toolchain::{self, Build};
use lab::{Arch, Cache, Event, Kernel, Lab, Outcome, Profile, Request};
use results::journal::{Line, TestReport};
use results::outcome::Outcome as TestOutcome;
use results::trouble;
use serde::Serialize;

use crate::mutant::Mutant;

/// The longest that one boot and its tests may take.
const LONGEST_RUN: Duration = Duration::from_secs(300);
/// The longest that a host may say nothing: more than any test's deadline there.
const LONGEST_SILENCE: Duration = Duration::from_secs(45);
/// An emulated host is slow, but a broken kernel may make many tests wait for their deadlines.
const DEADLINE_SCALE: &str = "2";
/// Other suites map guests larger than the host, and touch little of them.
const MAP_MORE_THAN_THERE_IS: &str = "sysctl.vm.overcommit_memory=1";
/// Enough for what they do touch.
const MEMORY_MIB: u32 = 2048;
/// For the tests that need two vCPUs at the same time.
const NR_CPUS: u32 = 2;

/// Whether the test says that KVM is as it should be.
#[must_use]
pub fn is_green(result: &TestReport) -> bool {
    matches!(result.outcome, TestOutcome::Pass | TestOutcome::KnownFail)
}

/// Whether a test that ended so says that KVM is wrong.
#[must_use]
pub fn is_red(outcome: TestOutcome) -> bool {
    use TestOutcome::{Fail, HostBug, Timeout, Xpass};
    matches!(outcome, Fail | Xpass | Timeout | HostBug)
}

/// What a result is about: the first check that did not hold, else the reason.
#[must_use]
pub fn why(result: &TestReport) -> String {
    let check = result.failed_checks.first().map(|check| check.name.clone());
    check.or_else(|| result.reason.clone()).unwrap_or_else(|| result.outcome.to_string())
}

/// The static runner that is given, or one built from the workspace.
///
/// # Errors
/// It does not build.
pub fn runner(cache: &Cache, arch: Arch, given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(given) = given {
        return Ok(given.to_owned());
    }
    let what = Build { package: "suites", bin: "kvm-conformance", arch, strip: false, env: &[] };
    Ok(toolchain::build(cache, &what)?)
}

/// What one boot brought.
#[derive(Clone, Debug, Default)]
pub struct Boot {
    /// The results by test.
    pub results: BTreeMap<String, TestReport>,
    /// Why the host did not live until the end, if it did not.
    pub death: Option<String>,
    /// The test that ran when it died.
    pub victim: Option<String>,
}

/// A kernel, and a runner to put on it.
#[derive(Debug)]
pub struct Stand {
    lab: Lab,
    kernel: Kernel,
    runner: PathBuf,
}

impl Stand {
    /// Makes a stand of a boot image and a static runner.
    #[must_use]
    pub fn new(cache: Cache, arch: Arch, image: PathBuf, runner: PathBuf) -> Self {
        let kernel =
            Kernel { arch, name: "switchable kernel".into(), image, modules: None, fixed: false };
        Self { lab: Lab::new(cache), kernel, runner }
    }

    /// Boots with the switch at `number` (0: no mutant) and runs these tests.
    ///
    /// # Errors
    /// The host cannot be started.
    pub fn boot(&self, profile: &str, number: u32, tests: Tests) -> anyhow::Result<Boot> {
        let mut profile = Profile::load(profile)?;
        let parameters = profile.modules.entry("kvm".to_owned()).or_default();
        parameters.insert("mutant".to_owned(), number.to_string());
        profile.cmdline.push(MAP_MORE_THAN_THERE_IS.to_owned());
        profile.smp = profile.smp.max(NR_CPUS);
        profile.memory_mib = profile.memory_mib.max(MEMORY_MIB);
        let argv = ["--host", "native", "--json", "-", "--mark"].map(str::to_owned);
        let request = Request {
            env: vec![("KVM_CONFORMANCE_PROFILE".into(), profile.name.clone())],
            kernel: self.kernel.clone(),
            runner: self.runner.clone(),
            argv: [&argv[..], &tests.argv].concat(),
            files: tests.files,
            timeout: tests.timeout,
            patience: tests.patience,
            console_log: None,
            kvm_optional: false,
            warm: false,
            profile,
        };
        let (mut boot, mut errors) = (Boot::default(), Vec::new());
        let end = self.lab.run(&request, &mut |event| match event {
            Event::Line(line) => boot.take(line),
            Event::Stderr(line) => errors.push(line.to_owned()),
            _ => {}
        })?;
        boot.death = death(&end, &errors);
        Ok(boot)
    }
}

/// What a runner runs on a host.
#[derive(Clone, Debug)]
pub struct Tests {
    /// Its arguments, beside those that make it print a stream.
    pub argv: Vec<String>,
    /// More files, by their place on the host.
    pub files: Vec<(String, PathBuf)>,
    /// How long all of it may take.
    pub timeout: Duration,
    /// How long the host may say nothing.
    pub patience: Duration,
}

impl Tests {
    /// Of our own suite those that are named, or all if none is.
    #[must_use]
    pub fn ours(names: &[String]) -> Self {
        let scale = ["--timeout-scale", DEADLINE_SCALE].map(str::to_owned);
        Self {
            argv: [&scale[..], names].concat(),
            files: Vec::new(),
            timeout: LONGEST_RUN,
            patience: LONGEST_SILENCE,
        }
    }
}

impl Boot {
    /// What is known of other kernels' failures does not hold on a ground that has them not.
    pub fn forget_policy(&mut self) {
        for result in self.results.values_mut() {
            result.outcome = match (result.outcome, result.failed_checks.is_empty()) {
                (TestOutcome::Xpass, true) => TestOutcome::Pass,
                (TestOutcome::KnownFail | TestOutcome::Xpass, _) => TestOutcome::Fail,
                (other, _) => other,
            };
        }
    }

    /// Takes a line of the stream in.
    pub(crate) fn take(&mut self, line: &str) {
        match serde_json::from_str(line) {
            Ok(Line::Start(start)) => self.victim = Some(start.test),
            Ok(Line::Result(result)) => {
                self.victim = None;
                self.results.insert(result.test.clone(), result);
            }
            Ok(_) | Err(_) => {}
        }
    }
}

/// Why the host or its runner came to no good end.
fn death(end: &Outcome, errors: &[String]) -> Option<String> {
    /// Exit codes with which a runner says that it did its work.
    const WORKED: [i32; 4] = [0, 1, 2, 3];
    let first = |log: &str| trouble::headline(log.lines()).unwrap_or_default().to_owned();
    match end {
        Outcome::Exited(code) if WORKED.contains(code) => None,
        Outcome::Exited(code) => {
            Some(format!("the runner ended with {code}: {}", errors.join(" ")))
        }
        Outcome::Killed(signal) => Some(format!("signal {signal} killed the runner")),
        Outcome::NoKvm(why) => Some(format!("no KVM: {why}")),
        Outcome::KernelDied { log } => Some(format!("the kernel died: {}", first(log))),
        Outcome::EmulatorDied { why, .. } => Some(format!("the emulator died: {why}")),
        Outcome::Hung { .. } | Outcome::TimedOut { .. } => Some("the host hangs".to_owned()),
        Outcome::HostFailed(why) => Some(format!("the host's init failed: {why}")),
        Outcome::Interrupted(signal) => Some(format!("cut short by {signal}")),
    }
}

/// What became of a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// A test that was to go red went red.
    Killed,
    /// All of them stayed green.
    Survived,
    /// Tests of other things went red too, or nothing could be seen.
    Broken,
    /// No test can tell it from the original.
    Equivalent,
    /// No test that would have to see it exists on this host.
    Untested,
}

/// A mutant's fate, and how it came about.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// The mutant.
    pub mutant: String,
    /// Its fate.
    pub fate: Fate,
    /// The expected tests that went red, each with the rule that it names.
    pub red: Vec<(String, String)>,
    /// What else there is to say.
    pub note: String,
    /// Boot and tests.
    pub seconds: f64,
}

/// Runs a mutant's tests against what the unmutated kernel said.
///
/// # Errors
/// The host cannot be started.
pub fn judge(
    stand: &Stand,
    mutant: &Mutant,
    baseline: &BTreeMap<String, TestReport>,
    everything: bool,
) -> anyhow::Result<Finding> {
    let mut finding = Finding {
        mutant: mutant.name.clone(),
        fate: Fate::Equivalent,
        red: Vec::new(),
        note: mutant.equivalent.clone().unwrap_or_default(),
        seconds: 0.0,
    };
    if mutant.equivalent.is_some() {
        return Ok(finding);
    }
    let sane = || baseline.values().filter(|result| is_green(result));
    let expected: Vec<_> = sane().filter(|verdict| mutant.expects(&verdict.test)).collect();
    if expected.is_empty() {
        finding.fate = Fate::Untested;
        finding.note = "no test of that name is green on the unmutated kernel".to_owned();
        return Ok(finding);
    }
    let is_guard =
        |result: &TestReport| result.groups.iter().any(|group| mutant.green.contains(group));
    let others = sane().filter(|verdict| !mutant.expects(&verdict.test) && is_guard(verdict));
    let mut tests: Vec<_> =
        expected.iter().chain(&others.collect::<Vec<_>>()).map(|v| v.test.clone()).collect();
    if everything {
        tests = sane().map(|verdict| verdict.test.clone()).collect();
    }
    let started = Instant::now();
    let mut boot =
        stand.boot(&mutant.profile, mutant.number(), Tests::ours(&tests)).context("boot")?;
    if mutant.builds_on.is_some() {
        boot.forget_policy();
    }
    finding.seconds = started.elapsed().as_secs_f64();
    decide(&mut finding, mutant, &boot, everything);
    Ok(finding)
}

fn decide(finding: &mut Finding, mutant: &Mutant, boot: &Boot, everything: bool) {
    let red = |expected: bool| {
        boot.results
            .values()
            .filter(move |r| is_red(r.outcome) && mutant.expects(&r.test) == expected)
    };
    finding.red = red(true).map(|result| (result.test.clone(), why(result))).collect();
    let mut notes = Vec::new();
    if let (Some(death), Some(victim)) = (&boot.death, &boot.victim)
        && mutant.expects(victim)
    {
        finding.red.push((victim.clone(), death.clone()));
    }
    let strays: Vec<_> = red(false).map(|verdict| verdict.test.as_str()).collect();
    finding.fate = if finding.red.is_empty() { Fate::Survived } else { Fate::Killed };
    if !strays.is_empty() {
        notes.push(format!("red besides: {}", strays.join(", ")));
        if !everything {
            finding.fate = Fate::Broken;
        }
    }
    if let Some(death) = &boot.death {
        notes.push(death.clone());
        if finding.red.is_empty() {
            finding.fate = Fate::Broken;
        }
    }
    finding.note = notes.join("; ");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutant() -> Mutant {
        serde_yaml::from_str("{name: m, rule: r, edits: [], expect: ['a::*']}").expect("a mutant")
    }

    fn fate(lines: &[&str], death: Option<&str>) -> (Fate, Finding) {
        let mut boot = Boot { death: death.map(str::to_owned), ..Boot::default() };
        lines.iter().for_each(|line| boot.take(line));
        let mut finding = Finding {
            mutant: "m".into(),
            fate: Fate::Equivalent,
            red: Vec::new(),
            note: String::new(),
            seconds: 0.0,
        };
        decide(&mut finding, &mutant(), &boot, false);
        (finding.fate, finding)
    }

    const GREEN: &str = r#"{"type":"result","test":"a::x","outcome":"pass"}"#;
    const RED: &str =
        r#"{"type":"result","test":"a::y","outcome":"fail","failed_checks":[{"name":"rule"}]}"#;
    const STRAY: &str = r#"{"type":"result","test":"b::z","outcome":"fail"}"#;
    const ERROR: &str = r#"{"type":"result","test":"a::z","outcome":"error"}"#;
    const START: &str = r#"{"type":"start","test":"a::z"}"#;

    #[test]
    fn one_red_test_kills() {
        let (fate, finding) = fate(&[GREEN, RED], None);
        assert_eq!(fate, Fate::Killed);
        assert_eq!(finding.red, [("a::y".to_owned(), "rule".to_owned())]);
    }

    #[test]
    fn green_tests_and_errors_do_not_kill() {
        assert_eq!(fate(&[GREEN], None).0, Fate::Survived);
        assert_eq!(fate(&[GREEN, ERROR], None).0, Fate::Survived);
    }

    #[test]
    fn a_stray_red_test_makes_it_broken() {
        assert_eq!(fate(&[RED, STRAY], None).0, Fate::Broken);
    }

    #[test]
    fn a_host_that_dies_in_an_expected_test_kills() {
        assert_eq!(fate(&[GREEN, START], Some("panic")).0, Fate::Killed);
        assert_eq!(fate(&[GREEN], Some("no boot")).0, Fate::Broken);
    }
}
