//! Tests of the runner against fake tests that end in every way.
//!
//! This program is three: with `FAKE_DOOR` it is the runner's command line or
//! libtest front door over the fakes, otherwise the tests that start those.

mod door;
mod ends;
mod fakes;
mod outputs;
mod policy;
mod runs;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    match std::env::var("FAKE_DOOR").as_deref() {
        Ok("cli") => return harness::cli::main(&fakes::all(), fakes::probe),
        Ok("libtest") => return harness::cli::libtest_main(&fakes::all(), fakes::probe),
        _ => {}
    }
    let trials = [ends::TESTS, outputs::TESTS, policy::TESTS, runs::TESTS]
        .concat()
        .into_iter()
        .map(|(name, test)| {
            Trial::test(name, move || {
                test();
                Ok(())
            })
        })
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
