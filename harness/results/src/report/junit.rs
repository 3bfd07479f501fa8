//! JUnit XML.

use std::time::Duration;

use quick_junit::{
    NonSuccessKind, Report, TestCase, TestCaseStatus, TestRerun, TestSuite, XmlString,
};

use crate::journal::{Run, TestReport};
use crate::outcome::Outcome;

/// One document with a test suite for each run.
pub fn render(runs: &[Run]) -> Result<String, String> {
    let mut report = Report::new("kvm-conformance");
    for run in runs {
        report.add_test_suite(suite(run));
    }
    report.to_string().map(|xml| without_total_of_skips(&xml)).map_err(|e| e.to_string())
}

/// The schemas of CI servers know `skipped` for a suite, not for all of them together.
fn without_total_of_skips(xml: &str) -> String {
    let Some(root) = xml.find("<testsuites ") else { return xml.to_owned() };
    let end = xml[root..].find('>').map_or(xml.len(), |at| root + at);
    let cut = xml[root..end].find(" skipped=\"").map(|at| root + at);
    match cut.and_then(|from| Some((from, from + 10 + xml[from + 10..end].find('"')? + 1))) {
        Some((from, to)) => format!("{}{}", &xml[..from], &xml[to..]),
        None => xml.to_owned(),
    }
}

fn suite(run: &Run) -> TestSuite {
    let host = &run.info.host;
    let mut suite =
        TestSuite::new(format!("{} {} {} {}", host.arch, host.kernel, host.backend, host.profile));
    for (name, value) in [
        ("arch", &host.arch),
        ("kernel", &host.kernel),
        ("backend", &host.backend),
        ("profile", &host.profile),
        ("cpu_model", &host.cpu_model),
        ("version", &run.info.version),
    ] {
        suite.add_property((name, value.as_str()));
    }
    if let Some(summary) = &run.summary {
        suite.set_time(Duration::from_micros(summary.duration_us));
    }
    suite.add_test_cases(run.results.iter().map(case));
    // What only counts test cases must not take a part for the whole.
    if let Some(why) = run.shortfall() {
        let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
        status.set_message(why);
        status.set_type("cut short");
        let mut case = TestCase::new("every_test_has_a_result", status);
        case.set_classname("run");
        suite.add_test_case(case);
    }
    suite
}

fn case(result: &TestReport) -> TestCase {
    let reason = result.reason.clone().unwrap_or_default();
    let bad = |kind: NonSuccessKind| {
        let mut status = TestCaseStatus::non_success(kind);
        status.set_message(reason.clone());
        status.set_type(result.outcome.name());
        status.set_description(description(result));
        status
    };
    let skipped = |message: String| {
        let mut status = TestCaseStatus::skipped();
        status.set_message(message);
        status
    };
    let status = match result.outcome {
        Outcome::Pass if result.flaky => {
            let mut status = TestCaseStatus::success();
            let mut rerun = TestRerun::new(NonSuccessKind::Failure);
            rerun.set_message(result.details.first().cloned().unwrap_or_default());
            rerun.set_description(result.details.join("\n"));
            rerun.set_type("flaky");
            status.add_rerun(rerun);
            status
        }
        Outcome::Pass => TestCaseStatus::success(),
        Outcome::Skip => skipped(reason),
        Outcome::KnownFail => skipped(format!("known failure: {reason}")),
        Outcome::Fail | Outcome::Xpass | Outcome::HostBug => bad(NonSuccessKind::Failure),
        Outcome::Error | Outcome::Timeout => bad(NonSuccessKind::Error),
    };
    let (class, name) = result.test.rsplit_once("::").unwrap_or(("", &result.test));
    let name = match result.iteration {
        1 => name.to_owned(),
        n => format!("{name} #{n}"),
    };
    let mut case = TestCase::new(name, status);
    case.set_classname(class);
    case.set_time(Duration::from_micros(result.duration_us));
    if !result.log.is_empty() {
        case.set_system_out(XmlString::new(result.log.join("\n")));
    }
    case
}

/// Everything that helps, as plain lines.
pub(super) fn description(result: &TestReport) -> String {
    let mut lines: Vec<String> = result
        .failed_checks
        .iter()
        .map(|check| format!("check failed: {}: {}", check.name, check.detail))
        .collect();
    lines.extend(result.details.iter().cloned());
    lines.extend(super::stats_lines(result));
    lines.extend(result.kernel_log.iter().map(|line| format!("kernel: {line}")));
    if !result.location.is_empty() {
        lines.push(format!("test: {}", result.location));
    }
    lines.join("\n")
}
