//! What a test function is handed.

use std::slice;

use crate::case::{GuestFn, Sees, Weight};
use crate::failure::{Failure, TestResult};
use crate::perf::TestOption;
use crate::requirement::Requirement;
use crate::{Vcpu, Vm, VmConfig, arch};

/// What `kvm_tests!` says for every test of a file.
#[derive(Clone, Copy, Debug)]
pub struct FileDefaults {
    /// What the host must have.
    pub requires: &'static [Requirement],
    /// Groups that the tests are in.
    pub groups: &'static [&'static str],
    /// What else may run beside them.
    pub weight: Weight,
    /// What a user can set of them.
    pub options: &'static [TestOption],
    /// Variants that they cannot but see, and why.
    pub sees: &'static [Sees],
    /// What their VMs are made of.
    pub config: fn() -> VmConfig,
}

/// Of a file without `kvm_tests!`: the prelude has it under this name, and what the macro makes shadows it.
pub const KVM_TESTS: FileDefaults = FileDefaults {
    requires: &[],
    groups: &[],
    weight: Weight::Cpus(1),
    options: &[],
    sees: &[],
    config: VmConfig::new,
};

/// Both lists, one after the other; `N` is their length, and `filler` is in no list.
pub const fn joined<T: Copy, const N: usize>(filler: T, first: &[T], second: &[T]) -> [T; N] {
    assert!(first.len() + second.len() == N);
    let mut all = [filler; N];
    let mut i = 0;
    while i < N {
        all[i] = if i < first.len() { first[i] } else { second[i - first.len()] };
        i += 1;
    }
    all
}

/// What `#[kvm_test]` knows when it makes a test's fixture.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The guest functions named in the attribute.
    pub guests: &'static [GuestFn],
    /// What the VM is made of.
    pub config: VmConfig,
}

impl Setup {
    /// The guest function.
    ///
    /// # Errors
    ///
    /// The attribute names none, or more.
    pub fn guest(&self) -> TestResult<GuestFn> {
        match self.guests {
            [guest] => Ok(*guest),
            [] => Err(Failure::Error("the test's attribute names no guest function".into())),
            _ => Err(Failure::Error("the test's attribute names several guest functions".into())),
        }
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
        let mut vm = Vm::new(&setup.config)?;
        let vcpu = vm.add_vcpu(0, guest)?;
        arch::make_ready(&vm, slice::from_ref(&vcpu), &setup.config)?;
        Ok(Self { vcpu, vm })
    }
}

/// A VM with a vCPU for each of the test's guest functions, about to run them.
#[derive(Debug)]
pub struct Vcpus {
    /// vCPUs 0, 1, ….
    pub vcpus: Vec<Vcpu>,
    /// Their VM.
    pub vm: Vm,
}

impl Fixture for Vcpus {
    fn new(setup: Setup) -> TestResult<Self> {
        let mut vm = Vm::new(&setup.config)?;
        let guests = setup.guests.iter().zip(0..);
        let vcpus: TestResult<Vec<Vcpu>> =
            guests.map(|(guest, index)| vm.add_vcpu(index, *guest)).collect();
        let vcpus = vcpus?;
        arch::make_ready(&vm, &vcpus, &setup.config)?;
        Ok(Self { vcpus, vm })
    }
}

/// A VM without vCPUs.
#[derive(Debug)]
pub struct OneVm {
    /// The VM.
    pub vm: Vm,
    /// What the attribute says.
    pub setup: Setup,
}

impl OneVm {
    /// Creates vCPU `index`, about to run the test's guest function.
    ///
    /// # Errors
    ///
    /// KVM refuses, or the attribute names no guest function.
    pub fn add_vcpu(&mut self, index: u32) -> TestResult<Vcpu> {
        let guest = self.setup.guest()?;
        self.vm.add_vcpu(index, guest)
    }
}

impl Fixture for OneVm {
    fn new(setup: Setup) -> TestResult<Self> {
        Ok(Self { vm: Vm::new(&setup.config)?, setup })
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
