//! What KVM/riscv holds of a VM and its vCPUs (api.rst 4.68, "RISC-V registers").

use kvm_bindings::kvm_mp_state;

use super::{Core, Parts, Registers, State, keeps};
use crate::failure::TestResult;
use crate::{Ioctl, Irqchip, Vcpu, Vm};

/// Pieces that run on by themselves, and why they are not the same a moment later.
pub const RUNS_ON: &[(&str, &str)] = &[("register 0x8030000004000001", "the time counts")];

/// Kinds of registers: the third byte of an id.
mod kind {
    pub const CONFIG: u64 = 1;
    pub const TIMER: u64 = 4;
    pub const ISA_EXT: u64 = 7;
    pub const SBI_EXT: u64 = 8;
}

/// Nothing is the VM's alone: the time, which is, comes by its vCPUs. In-kernel interrupt controllers are
/// not saved.
#[derive(Clone, Debug)]
pub struct SavedVm;

/// What is a vCPU's.
#[derive(Clone, Debug)]
pub struct SavedVcpu {
    /// `KVM_GET_ONE_REG` of the whole list.
    pub registers: Registers,
    /// `KVM_GET_MP_STATE`.
    pub mp_state: kvm_mp_state,
}

/// The interrupt controller that a restored VM begins with.
pub(super) fn saved_irqchip(irqchip: Irqchip) -> Irqchip {
    irqchip
}

impl SavedVm {
    /// Reads it.
    pub(super) fn save(_: &Core, _: &mut [&mut Vcpu]) -> TestResult<Self> {
        Ok(Self)
    }

    /// Nothing has to come before the first vCPU.
    pub(super) fn init(&self, _: &Vm) -> TestResult {
        Ok(())
    }

    /// Writes the vCPUs: behind configuration and extensions, which say what registers there are, all others;
    /// the timer last, whose time is the whole VM's and whose state starts it.
    pub(super) fn restore(&self, _: &mut Vm, vcpus: &mut [Vcpu], state: &State) -> TestResult {
        let first = |id| matches!(kind_of(id), kind::CONFIG | kind::ISA_EXT | kind::SBI_EXT);
        let timer = |id| kind_of(id) == kind::TIMER;
        for (vcpu, saved) in vcpus.iter().zip(&state.vcpus) {
            if keeps("extensions") {
                saved.registers.write(vcpu, first)?;
            }
            if keeps("registers") {
                saved.registers.write(vcpu, |id| !first(id) && !timer(id))?;
            }
            if keeps("mp state") {
                vcpu.fd().set_mp_state(saved.mp_state).ioctl("KVM_SET_MP_STATE")?;
            }
        }
        for (vcpu, saved) in vcpus.iter().zip(&state.vcpus).filter(|_| keeps("timer")) {
            saved.registers.write(vcpu, timer)?;
        }
        Ok(())
    }

    /// All of it, as named pieces.
    pub(super) fn parts(&self, _: &mut Parts) {}
}

fn kind_of(id: u64) -> u64 {
    id >> 24 & 0xff
}

impl SavedVcpu {
    /// Reads it.
    pub(super) fn save(_: &Core, vcpu: &mut Vcpu) -> TestResult<Self> {
        Ok(Self {
            registers: Registers::listed(vcpu)?,
            mp_state: vcpu.fd().get_mp_state().ioctl("KVM_GET_MP_STATE")?,
        })
    }

    /// Nothing has to come before the registers.
    pub(super) fn init(&self, _: &Vcpu) -> TestResult {
        Ok(())
    }

    /// All of it, as named pieces.
    pub(super) fn parts(&self, parts: &mut Parts) {
        self.registers.parts(parts);
        parts.number("mp_state", self.mp_state.mp_state.into());
    }
}
