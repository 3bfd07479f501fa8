//! A virtual machine.
#![expect(unsafe_code, reason = "gives KVM memory that this VM keeps mapped")]

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use guest_runtime::asm::Blob;
use guest_runtime::shared::Shared;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use nix::errno::Errno;

use super::{Ioctl, Irqchip, Mapping, Ram, System, Vcpu, VmConfig, raw_ioctl, stats};
use crate::arch;
use crate::case::GuestFn;
use crate::failure::{Failure, TestResult};
use crate::payload::{Payload, code_bytes};
use crate::state::Core;
use crate::variant;

/// A VM with the payload in its memslot 0.
#[derive(Debug)]
pub struct Vm {
    core: Arc<Core>,
    ram: Arc<Ram>,
    mappings: Vec<Arc<Mapping>>,
    for_new_vcpus: ForNewVcpus,
    state: Arc<arch::VmState>,
}

/// What vCPUs made from now on are made of, and how many can run guest functions.
pub(crate) type ForNewVcpus = (arch::VcpuConfig, u32);

const _: () = {
    const fn sendable<T: Send>() {}
    sendable::<Vm>();
};

impl Vm {
    /// A statistic of the VM; `None` where this KVM counts no such thing.
    pub fn stat(&self, name: &str) -> Option<u64> {
        stats::stat(self, name)
    }

    /// Creates a VM.
    ///
    /// # Errors
    ///
    /// KVM or the host refuses, or the guest-physical map has no room for it.
    pub fn new(config: impl Into<VmConfig>) -> TestResult<Self> {
        let config = config.into();
        config.check()?;
        let system = System::get()?;
        let fd = arch::create_vm(system).ioctl("KVM_CREATE_VM")?;
        let ram = Payload::get()?.instantiate(config.ram_size())?;
        arch::extend_tables(&ram, config.nr_vcpus());
        let vcpu_config = config.vcpu_config(arch::default_vcpu_config(system));
        let mut vm = Self::around(
            Core::new(fd, config.irqchip),
            Arc::new(ram),
            Vec::new(),
            (vcpu_config, config.nr_vcpus()),
        );
        vm.set_region(0, 0, 0, config.ram_size(), vm.ram.mapping().hva())
            .ioctl("KVM_SET_USER_MEMORY_REGION")?;
        for (cap, args) in config.caps {
            vm.enable_cap(cap, args).ioctl(&format!("KVM_ENABLE_CAP({cap})"))?;
        }
        vm.prepare(config.irqchip)?;
        Ok(vm)
    }

    /// A VM of these parts, on which nothing is done yet.
    pub(crate) fn around(
        core: Core,
        ram: Arc<Ram>,
        mappings: Vec<Arc<Mapping>>,
        for_new_vcpus: ForNewVcpus,
    ) -> Self {
        Self { core: Arc::new(core), ram, mappings, for_new_vcpus, state: Arc::default() }
    }

    /// Does what must precede the first vCPU.
    pub(crate) fn prepare(&mut self, irqchip: Irqchip) -> TestResult {
        self.state = Arc::new(arch::prepare_vm(self, irqchip)?);
        Ok(())
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(crate) fn mappings(&self) -> &[Arc<Mapping>] {
        &self.mappings
    }

    pub(crate) fn for_new_vcpus(&self) -> ForNewVcpus {
        self.for_new_vcpus.clone()
    }

    /// The wrapped descriptor, for ioctls that kvm-ioctls knows.
    pub fn fd(&self) -> &VmFd {
        &self.core.fd
    }

    /// The default memslot's memory.
    pub fn ram(&self) -> &Arc<Ram> {
        &self.ram
    }

    /// What the architecture keeps of the VM, such as its interrupt controller.
    pub fn state(&self) -> &arch::VmState {
        &self.state
    }

    /// What vCPUs made from now on are made of ([`VmConfig::vcpu`]).
    #[cfg_attr(
        not(any(target_arch = "x86_64", target_arch = "aarch64")),
        expect(dead_code, reason = "tests change it there only")
    )]
    pub(crate) fn vcpu_config_mut(&mut self) -> &mut arch::VcpuConfig {
        &mut self.for_new_vcpus.0
    }

    /// Creates vCPU `index`, set to run `guest` from its first instruction.
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn add_vcpu(&mut self, index: u32, guest: GuestFn) -> TestResult<Vcpu> {
        if index >= self.for_new_vcpus.1 {
            return Err(Failure::Error(format!(
                "vCPU {index} runs a guest function: VmConfig::vcpus gave room for {}",
                self.for_new_vcpus.1
            )));
        }
        let mut vcpu = self.create_vcpu(index)?;
        vcpu.start_at(guest)?;
        Ok(vcpu)
    }

    /// Creates vCPU `index` in the state KVM gives it, except for what [`VmConfig::vcpu`] covers.
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn create_vcpu(&mut self, index: u32) -> TestResult<Vcpu> {
        let vcpu = self.bare_vcpu(index)?;
        arch::prepare_vcpu(&vcpu, &self.for_new_vcpus.0)?;
        Ok(vcpu)
    }

    /// Creates vCPU `index`, and nothing else.
    pub(crate) fn bare_vcpu(&self, index: u32) -> TestResult<Vcpu> {
        let fd = self.core.fd.create_vcpu(index.into()).ioctl("KVM_CREATE_VCPU")?;
        Vcpu::new(fd, index, Arc::clone(&self.ram), Arc::clone(&self.state), &self.core)
    }

    /// `KVM_SET_USER_MEMORY_REGION` as it is: `userspace_addr` must be this process's memory, or the
    /// kernel's to refuse.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn set_region(
        &self,
        slot: u32,
        flags: u32,
        gpa: u64,
        size: u64,
        hva: u64,
    ) -> Result<(), Errno> {
        let region = kvm_userspace_memory_region {
            slot,
            flags: variant::flags(flags, size, &self.core),
            guest_phys_addr: gpa,
            memory_size: size,
            userspace_addr: hva,
        };
        if variant::cuts(slot) {
            return variant::set_cut_region(&self.core, region);
        }
        self.core.set_region(region)
    }

    /// Adds a memslot over fresh zeroes, kept by the VM. Returns its mapping.
    ///
    /// # Errors
    ///
    /// KVM or the host refuses.
    pub fn add_memory(
        &mut self,
        slot: u32,
        flags: u32,
        gpa: u64,
        size: u64,
    ) -> TestResult<&Mapping> {
        let mapping = Mapping::anonymous(size as usize)?;
        self.add_mapping(slot, flags, gpa, mapping)
    }

    /// Adds a memslot over all of `mapping`, kept by the VM.
    ///
    /// # Errors
    ///
    /// KVM refuses.
    pub fn add_mapping(
        &mut self,
        slot: u32,
        flags: u32,
        gpa: u64,
        mapping: Mapping,
    ) -> TestResult<&Mapping> {
        self.set_region(slot, flags, gpa, mapping.len() as u64, mapping.hva())
            .ioctl("KVM_SET_USER_MEMORY_REGION")?;
        self.mappings.push(Arc::new(mapping));
        Ok(&self.mappings[self.mappings.len() - 1])
    }

    /// A mapping that was given to the VM, in the order of giving.
    pub fn mapping(&self, index: usize) -> &Mapping {
        &self.mappings[index]
    }

    /// The guest's copy of a shared static (`#[shared]`): `vm.shared(shared_static!(FLAG))`.
    ///
    /// # Panics
    ///
    /// The payload has no such static: host and payload are of different builds.
    pub fn shared<T: Shared>(&self, name: SharedStatic<T>) -> &T {
        let gpa = Payload::get().and_then(|p| p.shared(name.path, size_of::<T>())).unwrap();
        self.ram.mapping().shared(gpa as usize)
    }

    /// Where a shared static is, guest-physical.
    ///
    /// # Panics
    ///
    /// As [`Vm::shared`].
    pub fn shared_gpa<T: Shared>(&self, name: SharedStatic<T>) -> u64 {
        Payload::get().and_then(|p| p.shared(name.path, size_of::<T>())).unwrap()
    }

    /// Copies code of `guest_asm!` to guest-physical memory.
    ///
    /// # Errors
    ///
    /// The payload has no such code, or `gpa` is not in RAM.
    pub fn put_code(&self, gpa: u64, blob: &Blob) -> TestResult {
        let written = self.ram.write(gpa, code_bytes(blob)?);
        written.ok_or_else(|| Failure::Error(format!("{} does not fit at {gpa:#x}", blob.name())))
    }

    /// `KVM_CHECK_EXTENSION` on the VM.
    pub fn check_extension(&self, cap: u32) -> i32 {
        self.core.fd.check_extension_raw(cap.into())
    }

    /// `KVM_ENABLE_CAP` on the VM.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn enable_cap(&self, cap: u32, args: [u64; 4]) -> Result<(), Errno> {
        let enable = kvm_bindings::kvm_enable_cap { cap, args, ..Default::default() };
        self.core.fd.enable_cap(&enable).errno()?;
        self.core.inventory().caps.push((cap, args));
        Ok(())
    }

    /// An ioctl on the VM with a structure of plain bytes ([`raw_ioctl`]).
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn raw(&self, request: u64, bytes: &mut [u8]) -> Result<i32, Errno> {
        raw_ioctl(self, request, bytes)
    }
}

impl Core {
    /// `KVM_SET_USER_MEMORY_REGION`, remembered if KVM takes it.
    pub(crate) fn set_region(&self, region: kvm_userspace_memory_region) -> Result<(), Errno> {
        // SAFETY: a guest can write what is at `userspace_addr`: tests give memory of their own mappings,
        // which the VM or the test keeps for as long as the slot lives.
        unsafe { self.fd.set_user_memory_region(region) }.errno()?;
        self.inventory().set_slot(region);
        Ok(())
    }
}

impl AsRawFd for Vm {
    fn as_raw_fd(&self) -> RawFd {
        self.core.as_raw_fd()
    }
}

/// Names a `#[shared]` static and its type; made by `shared_static!`.
#[derive(Clone, Copy, Debug)]
pub struct SharedStatic<T> {
    path: &'static str,
    _type: std::marker::PhantomData<fn() -> T>,
}

impl<T: Shared> SharedStatic<T> {
    /// The static at `path`, whose host twin gives the type.
    pub const fn new(path: &'static str, _: &'static T) -> Self {
        Self { path, _type: std::marker::PhantomData }
    }
}
