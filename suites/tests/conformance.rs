//! `cargo test [FILTER]`: the same tests as `./run_tests.sh`, with the same isolation.

use std::process::ExitCode;

use runner::cli::{Data, Suite};
use runner::host::Kvm;
use runner::registry::mutants::Sources;
use runner::source::Native;
use suites as _;
use suites_embed::{files, names, policy};
use vm::case::TestCase;
use vm::payload::Payload;

const POLICY: (&[(&str, &str)], &str) = policy!("../unittests.yaml");

const DATA: Data = Data {
    policy: POLICY.0,
    prepared: POLICY.1,
    profiles: names!("../ci/hosts", "yaml"),
    mutants: Sources {
        files: files!("../ci/mutants", "yaml"),
        killed: files!("../ci/mutants", "jsonl"),
    },
};

fn main() -> ExitCode {
    if let Err(e) = Payload::init(suites::PAYLOAD) {
        eprintln!("kvm-conformance: {e}");
        return ExitCode::from(2);
    }
    let tests: Vec<&'static TestCase> = vm::TESTS.iter().collect();
    Suite::new(&[&Native(&tests)], &Kvm, DATA).libtest_main()
}
