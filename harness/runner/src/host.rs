//! The host under test, as far as the runner itself has to do with it.

use results::HostFacts;
use vm::System;
use vm::failure::TestResult;

/// The host under test.
pub trait Host: Sync {
    /// What is known of it; called only where that is needed.
    ///
    /// # Errors
    ///
    /// Its KVM cannot be used.
    fn facts(&self) -> Result<HostFacts, String>;

    /// Lets go of KVM, for a test that unloads it.
    ///
    /// # Errors
    ///
    /// The host refuses.
    fn let_go(&self) -> Result<(), String>;

    /// Takes KVM back when that test has ended.
    ///
    /// # Errors
    ///
    /// It is not there.
    fn take_back(&self) -> Result<(), String>;
}

/// This machine and its `/dev/kvm`.
#[derive(Clone, Copy, Debug)]
pub struct Kvm;

impl Host for Kvm {
    fn facts(&self) -> Result<HostFacts, String> {
        vm::facts::probe().map_err(|e| e.to_string())
    }

    fn let_go(&self) -> Result<(), String> {
        with_kvm(System::let_go)
    }

    fn take_back(&self) -> Result<(), String> {
        with_kvm(System::take_back)
    }
}

/// Nothing to do where KVM was never opened.
fn with_kvm(act: fn(&System) -> TestResult) -> Result<(), String> {
    match System::get() {
        Ok(system) => act(system).map_err(|e| e.to_string()),
        Err(_) => Ok(()),
    }
}
