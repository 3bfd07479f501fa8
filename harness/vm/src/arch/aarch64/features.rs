//! Optional features of a vCPU (`KVM_ARM_VCPU_INIT`), and what KVM offers to guests.

use defs::aarch64::sysreg::SysReg;
use kvm_bindings::{
    KVM_ARM_VCPU_PMU_V3, KVM_ARM_VCPU_PSCI_0_2, KVM_ARM_VCPU_PTRAUTH_ADDRESS,
    KVM_ARM_VCPU_PTRAUTH_GENERIC, KVM_ARM_VCPU_SVE, kvm_vcpu_init,
};
use kvm_ioctls::{VcpuFd, VmFd};

use super::gic::GicVersion;
use crate::System;
use crate::requirement::aarch64::{GICV2, GICV3, ID_REGISTER_FEATURES, IdField};

/// What `KVM_ARM_VCPU_INIT` is asked for beside the preferred target: PSCI 0.2 or later to begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuFeatures(pub [u32; 7]);

impl Default for VcpuFeatures {
    fn default() -> Self {
        Self([1 << KVM_ARM_VCPU_PSCI_0_2, 0, 0, 0, 0, 0, 0])
    }
}

impl VcpuFeatures {
    /// Asks for feature `KVM_ARM_VCPU_*`.
    pub fn add(&mut self, feature: u32) {
        self.0[feature as usize / 32] |= 1 << (feature % 32);
    }

    /// Does not ask for it.
    pub fn remove(&mut self, feature: u32) {
        self.0[feature as usize / 32] &= !(1 << (feature % 32));
    }

    /// Whether it is asked for.
    pub fn has(&self, feature: u32) -> bool {
        self.0[feature as usize / 32] >> (feature % 32) & 1 != 0
    }
}

/// Names of what a guest can be given here.
pub(super) fn probe(system: &System, vm: &VmFd) -> Vec<String> {
    let mut names = Vec::new();
    for (version, requirement) in [(GicVersion::V2, GICV2), (GicVersion::V3, GICV3)] {
        if version.offered(vm) {
            names.push(requirement.name.to_owned());
        }
    }
    let Some(vcpu) = richest_vcpu(system, vm) else { return names };
    let value = |&(register, field): &IdField| field.get(read(&vcpu, &register));
    for (requirement, id, values) in ID_REGISTER_FEATURES {
        if values.contains(&value(id)) {
            names.push(requirement.name.to_owned());
        }
    }
    names
}

/// A vCPU with every feature that changes the id registers.
fn richest_vcpu(system: &System, vm: &VmFd) -> Option<VcpuFd> {
    use kvm_bindings::{
        KVM_CAP_ARM_PMU_V3, KVM_CAP_ARM_PTRAUTH_ADDRESS, KVM_CAP_ARM_PTRAUTH_GENERIC,
        KVM_CAP_ARM_SVE,
    };
    let vcpu = vm.create_vcpu(0).ok()?;
    let mut init = kvm_vcpu_init::default();
    vm.get_preferred_target(&mut init).ok()?;
    for (cap, feature) in [
        (KVM_CAP_ARM_PMU_V3, KVM_ARM_VCPU_PMU_V3),
        (KVM_CAP_ARM_SVE, KVM_ARM_VCPU_SVE),
        (KVM_CAP_ARM_PTRAUTH_ADDRESS, KVM_ARM_VCPU_PTRAUTH_ADDRESS),
        (KVM_CAP_ARM_PTRAUTH_GENERIC, KVM_ARM_VCPU_PTRAUTH_GENERIC),
    ] {
        if system.check_extension(cap) > 0 {
            init.features[0] |= 1 << feature;
        }
    }
    vcpu.vcpu_init(&init).ok()?;
    if init.features[0] >> KVM_ARM_VCPU_SVE & 1 != 0 {
        vcpu.vcpu_finalize(&(KVM_ARM_VCPU_SVE as i32)).ok()?;
    }
    Some(vcpu)
}

fn read(vcpu: &VcpuFd, register: &SysReg) -> u64 {
    let mut bytes = [0; 8];
    // A register that KVM does not have reads as "not implemented".
    let _ = vcpu.get_one_reg(register.one_reg(), &mut bytes);
    u64::from_ne_bytes(bytes)
}
