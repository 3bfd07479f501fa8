//! What a test function is handed.

use crate::case::GuestFn;
use crate::failure::{Failure, TestResult};
use crate::{Vcpu, Vm, VmConfig};

/// What `#[kvm_test]` knows when it makes a test's fixture.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The guest function named in the attribute.
    pub guest: Option<GuestFn>,
    /// What the VM is made of.
    pub config: VmConfig,
}

impl Setup {
    /// The guest function.
    ///
    /// # Errors
    ///
    /// The attribute names none.
    pub fn guest(&self) -> TestResult<GuestFn> {
        self.guest
            .ok_or_else(|| Failure::Error("the test's attribute names no guest function".into()))
    }
}

/// Something that a test function can take.
pub trait Fixture: Sized {
    /// Makes it.
    ///
    /// # Errors
    ///
    /// KVM or the host refuses.
    fn new(setup: Setup) -> TestResult<Self>;
}

/// A VM with one vCPU, about to run the test's guest function.
#[derive(Debug)]
pub struct OneVcpu {
    /// vCPU 0.
    pub vcpu: Vcpu,
    /// Its VM.
    pub vm: Vm,
}

impl Fixture for OneVcpu {
    fn new(setup: Setup) -> TestResult<Self> {
        let guest = setup.guest()?;
        let mut vm = Vm::new(setup.config)?;
        let vcpu = vm.add_vcpu(0, guest)?;
        Ok(Self { vcpu, vm })
    }
}

/// A VM without vCPUs.
#[derive(Debug)]
pub struct OneVm {
    /// The VM.
    pub vm: Vm,
    /// The guest function that the attribute names, if any.
    pub guest: Option<GuestFn>,
}

impl Fixture for OneVm {
    fn new(setup: Setup) -> TestResult<Self> {
        Ok(Self { vm: Vm::new(setup.config)?, guest: setup.guest })
    }
}

/// Nothing yet: the test makes what it needs.
#[derive(Debug)]
pub struct HostOnly {
    /// What the attribute says.
    pub setup: Setup,
}

impl Fixture for HostOnly {
    fn new(setup: Setup) -> TestResult<Self> {
        Ok(Self { setup })
    }
}
