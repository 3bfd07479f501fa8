//! Save and restore: everything that KVM holds of a VM and its vCPUs, out of one set of descriptors and into
//! another.
//!
//! [`Vm::save`] reads, [`Vm::restored`] makes the VM again and writes; each architecture has its file, with
//! what it saves and the order in which KVM wants it back. Guest memory is not copied: the new VM has
//! memslots over the same.

mod inventory;
mod moved;
#[cfg(target_arch = "x86_64")]
mod msrs;
mod parts;

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "aarch64")]
pub use aarch64::*;

#[cfg(target_arch = "riscv64")]
mod riscv64;
#[cfg(target_arch = "riscv64")]
pub use riscv64::*;

#[cfg(target_arch = "s390x")]
mod s390x;
#[cfg(target_arch = "s390x")]
pub use s390x::*;

#[cfg(target_arch = "powerpc64")]
mod ppc64le;
#[cfg(target_arch = "powerpc64")]
pub use ppc64le::*;

#[cfg(not(target_arch = "x86_64"))]
mod registers;
#[cfg(not(target_arch = "x86_64"))]
pub use registers::Registers;

use std::sync::Arc;

#[cfg(target_arch = "aarch64")]
pub(crate) use inventory::DeviceEntry;
pub(crate) use inventory::{Core, VcpuEntry};
pub(crate) use moved::{keeps, move_in_place};
pub use parts::Parts;

use crate::failure::TestResult;
use crate::vm::ForNewVcpus;
use crate::{Ioctl, Mapping, Ram, System, Vcpu, Vm, arch};

/// A VM and its vCPUs, saved.
#[derive(Clone, Debug)]
pub struct State {
    inventory: inventory::Inventory,
    ram: Arc<Ram>,
    mappings: Vec<Arc<Mapping>>,
    for_new_vcpus: ForNewVcpus,
    /// What is the VM's.
    pub vm: SavedVm,
    /// What is each vCPU's, in the order of their creation.
    pub vcpus: Vec<SavedVcpu>,
}

impl State {
    /// Reads everything but what only [`Vm`] knows.
    fn of(core: &Core, ram: &Arc<Ram>, vcpus: &mut [&mut Vcpu]) -> TestResult<Self> {
        let vm = SavedVm::save(core, vcpus)?;
        let vcpus = vcpus.iter_mut().map(|vcpu| SavedVcpu::save(core, vcpu));
        let vcpus = vcpus.collect::<TestResult<_>>()?;
        let inventory = core.inventory().clone();
        Ok(Self {
            inventory,
            ram: Arc::clone(ram),
            mappings: Vec::new(),
            for_new_vcpus: (arch::default_vcpu_config(System::get()?), 0),
            vm,
            vcpus,
        })
    }

    /// All of it, as named pieces.
    pub fn parts(&self) -> Parts {
        let mut parts = Parts::default();
        self.vm.parts(&mut parts);
        for (saved, vcpu) in self.vcpus.iter().zip(&self.inventory.vcpus) {
            let mut own = Parts::default();
            saved.parts(&mut own);
            parts.append(&format!("vCPU {}", vcpu.index), own);
        }
        parts
    }

    /// What is not the same in `other`, a sentence each, apart from what runs on by itself ([`RUNS_ON`]).
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let runs_on = |name: &str| RUNS_ON.iter().any(|(part, _)| name.ends_with(part));
        self.parts().differences(&other.parts(), runs_on)
    }
}

impl Vm {
    /// Reads everything that KVM holds of the VM and of its vCPUs, which are all of the VM's, in the order of
    /// their creation. The last exit of each must have been completed ([`Vcpu::complete_exit`]).
    ///
    /// # Errors
    ///
    /// KVM refuses to tell.
    pub fn save(&self, vcpus: &mut [&mut Vcpu]) -> TestResult<State> {
        let mut state = State::of(self.core(), self.ram(), vcpus)?;
        state.mappings = self.mappings().to_vec();
        state.for_new_vcpus = self.for_new_vcpus();
        Ok(state)
    }

    /// Makes a saved VM and its vCPUs again, in fresh descriptors.
    ///
    /// # Errors
    ///
    /// KVM refuses what it has told of the saved one.
    pub fn restored(state: &State) -> TestResult<(Self, Vec<Vcpu>)> {
        let inventory = &state.inventory;
        let fd = arch::create_vm(System::get()?).ioctl("KVM_CREATE_VM")?;
        let mut vm = Self::around(
            Core::new(fd, inventory.irqchip),
            Arc::clone(&state.ram),
            state.mappings.clone(),
            state.for_new_vcpus.clone(),
        );
        for (cap, args) in inventory.caps.iter().filter(|_| keeps("caps")) {
            vm.enable_cap(*cap, *args).ioctl(&format!("KVM_ENABLE_CAP({cap}) again"))?;
        }
        vm.prepare(saved_irqchip(inventory.irqchip))?;
        state.vm.init(&vm)?;
        for slot in inventory.slots.values() {
            vm.core().set_region(*slot).ioctl("KVM_SET_USER_MEMORY_REGION again")?;
        }
        let mut vcpus = Vec::new();
        for (entry, saved) in inventory.vcpus.iter().zip(&state.vcpus) {
            let vcpu = vm.bare_vcpu(entry.index)?;
            for (cap, args) in entry.caps.iter().filter(|_| keeps("vcpu caps")) {
                vcpu.enable_cap(*cap, *args).ioctl(&format!("KVM_ENABLE_CAP({cap}) again"))?;
            }
            saved.init(&vcpu)?;
            vcpus.push(vcpu);
        }
        state.vm.restore(&mut vm, &mut vcpus, state)?;
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        for (entry, vcpu) in inventory.vcpus.iter().zip(&vcpus) {
            if let Some(debug) = entry.guest_debug
                && keeps("guest debug")
            {
                vcpu.set_guest_debug(&debug).ioctl("KVM_SET_GUEST_DEBUG again")?;
            }
        }
        for routes in inventory.routes.iter().filter(|_| keeps("routes")) {
            vm.set_gsi_routing(routes).ioctl("KVM_SET_GSI_ROUTING again")?;
        }
        for irqfd in inventory.irqfds.iter().filter(|_| keeps("irqfds")) {
            vm.irqfd(*irqfd).ioctl("KVM_IRQFD again")?;
        }
        for ioeventfd in inventory.ioeventfds.iter().filter(|_| keeps("ioeventfds")) {
            vm.ioeventfd(*ioeventfd).ioctl("KVM_IOEVENTFD again")?;
        }
        Ok((vm, vcpus))
    }
}
