//! `cargo test [FILTER]`: the same tests as `./run_tests.sh`, with the same isolation.

use std::process::ExitCode;

use harness::case::TestCase;
use harness::facts::HostFacts;
use harness::payload::Payload;
use suites as _;

fn main() -> ExitCode {
    if let Err(e) = Payload::init(suites::PAYLOAD) {
        eprintln!("kvm-conformance: {e}");
        return ExitCode::from(2);
    }
    let tests: Vec<&'static TestCase> = harness::TESTS.iter().collect();
    harness::cli::libtest_main(&tests, HostFacts::probe)
}
