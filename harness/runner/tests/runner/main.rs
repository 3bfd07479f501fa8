//! Tests of the runner against fake tests that end in every way.
//!
//! This program is three: with `FAKE_DOOR` it is the runner's command line or
//! libtest front door over the fakes, otherwise the tests that start those.

mod door;
mod ends;
mod fakes;
mod foreign;
mod formats;
mod fuzz;
mod host;
mod outputs;
mod page;
mod policy;
mod programs;
mod robust;
mod runs;
mod schedule;
mod seeds;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use runner::cli::Suite;
use runner::source::Native;

fn main() -> ExitCode {
    match std::env::var("FAKE_DOOR").as_deref() {
        Ok("cli") => {
            let tests = fakes::all();
            return Suite::new(&[&Native(&tests)], &fakes::FakeHost, fakes::DATA).main();
        }
        Ok("libtest") => {
            let tests = fakes::all();
            return Suite::new(&[&Native(&tests)], &fakes::FakeHost, fakes::DATA).libtest_main();
        }
        Ok("crowd") => return schedule::crowded_door(),
        Ok("fuzz") => return fuzz::run(),
        Ok("sick") => return host::sick_door(),
        _ => {}
    }
    let trials = [
        ends::TESTS,
        foreign::TESTS,
        formats::TESTS,
        fuzz::TESTS,
        host::TESTS,
        outputs::TESTS,
        page::TESTS,
        policy::TESTS,
        programs::TESTS,
        robust::TESTS,
        runs::TESTS,
        schedule::TESTS,
    ]
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
