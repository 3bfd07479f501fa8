//! The runner: every test of this architecture, with its payload, in one file.

use std::process::ExitCode;

use harness::case::TestCase;
use harness::facts::HostFacts;
use harness::payload::Payload;

fn main() -> ExitCode {
    if let Err(e) = Payload::init(suites::PAYLOAD) {
        eprintln!("kvm-conformance: {e}");
        return ExitCode::from(2);
    }
    let tests: Vec<&'static TestCase> = harness::TESTS.iter().collect();
    harness::cli::main(&tests, HostFacts::probe)
}
