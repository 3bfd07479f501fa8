//! ppc64le: vCPUs start in supervisor state and real mode, with interrupt vectors in the payload image.

pub mod callers_registers;
mod describe;
mod image;

pub(crate) use callers_registers::around_kvm_run;
pub(crate) use describe::{PROGRAM_COUNTER, describe_trap, describe_vcpu, running};
pub(crate) use image::prepare_image;

use guest_protocol::layout::{self, ppc64le as map, vcpu_area};
use kvm_bindings::kvm_regs;
use kvm_ioctls::VmFd;

use crate::failure::{Failure, TestResult};
use crate::payload::Payload;
use crate::{Exit, Ioctl, Irqchip, Ram, System, Vcpu, Vm, VmConfig};

/// There is nothing to choose.
pub type VcpuConfig = ();

/// vCPUs that can run guest functions.
pub const MAX_VCPUS: u64 = layout::MAX_VCPUS;
/// What a slot's memory must start at a multiple of, beside a page.
pub(crate) const SLOT_ALIGNMENT: Option<usize> = None;
/// RAM that a VM can have: tests' own memslots are behind it.
pub const MAX_RAM: u64 = layout::FREE;

/// Guest functions run without translation.
pub(crate) fn extend_tables(_: &Ram, _: u32) {}

/// Nothing has to be kept of a VM.
#[derive(Debug, Default)]
pub struct VmState;

/// Registers for `KVM_GET_ONE_REG` (api.rst 4.68).
pub mod reg {
    const KVM_REG_PPC_U64: u64 = 0x1030_0000_0000_0000;
    /// The logical partitioning control register.
    pub const LPCR: u64 = KVM_REG_PPC_U64 | 0xb5;
    /// The first data address watchpoint.
    pub const DAWR: u64 = KVM_REG_PPC_U64 | 0xaa;
    /// And its extension.
    pub const DAWRX: u64 = KVM_REG_PPC_U64 | 0xab;
    /// The second data address watchpoint.
    pub const DAWR1: u64 = KVM_REG_PPC_U64 | 0xc4;
    /// And its extension.
    pub const DAWRX1: u64 = KVM_REG_PPC_U64 | 0xc5;
}

/// `KVM_CAP_PPC_PAPR`: all that KVM HV runs.
const KVM_CAP_PPC_PAPR: u32 = 68;

/// `KVM_CREATE_VM` of the default type.
pub(crate) fn create_vm(system: &System) -> Result<VmFd, kvm_ioctls::Error> {
    system.fd().create_vm()
}

/// Nothing to choose.
pub(crate) fn default_vcpu_config(_: &System) -> VcpuConfig {}

/// None has a name yet.
pub(crate) fn cpu_features(_: &System, _: &VmFd) -> Vec<String> {
    Vec::new()
}

/// What a guest rings with: a hypercall of the doorbell's number.
pub(crate) fn doorbell(_: &mut Vcpu, exit: &Exit) -> Option<u32> {
    match *exit {
        // More than 32 bits are no message's address, and told as one that is not.
        Exit::PaprHcall { nr: map::DOORBELL_HCALL, args } => Some(args[0].try_into().unwrap_or(0)),
        _ => None,
    }
}

/// The caller of the function with this stack pointer: its stack pointer, and where it goes on.
pub(crate) fn caller(ram: &Ram, sp: u64) -> Option<(u64, u64)> {
    /// Where a function keeps its return address in its caller's frame.
    const LR: u64 = 16;
    let back_chain = ram.word(sp)?;
    Some((back_chain, ram.word(back_chain.checked_add(LR)?)?))
}

/// Set-up that must precede the first vCPU.
pub(crate) fn prepare_vm(_: &Vm, irqchip: Irqchip) -> TestResult<VmState> {
    match irqchip {
        Irqchip::None => Ok(VmState),
        Irqchip::Kernel | Irqchip::Split => {
            Err(Failure::Skip("an interrupt controller set up by the harness".into()))
        }
    }
}

/// Nothing has to wait until all vCPUs are there.
pub(crate) fn before_first_run(_: &VmState) -> TestResult {
    Ok(())
}

/// Makes a new vCPU one that KVM runs.
pub(crate) fn prepare_vcpu(vcpu: &Vcpu, (): &VcpuConfig) -> TestResult {
    vcpu.enable_cap(KVM_CAP_PPC_PAPR, [0; 4]).ioctl("KVM_ENABLE_CAP(KVM_CAP_PPC_PAPR)")
}

/// Nothing is left to do when all vCPUs are there.
pub(crate) fn make_ready(_: &Vm, _: &[Vcpu], _: &VmConfig) -> TestResult {
    Ok(())
}

/// Sets registers so that a vCPU starts in the guest function at `entry`.
pub(crate) fn start_vcpu(vcpu: &mut Vcpu, entry: u64, args: [u64; 6]) -> TestResult {
    let area = super::write_start_info(vcpu, entry, args);
    let lpcr = vcpu.get_reg(reg::LPCR).ioctl("KVM_GET_ONE_REG(KVM_REG_PPC_LPCR_64)")?;
    vcpu.set_reg(reg::LPCR, lpcr | map::start::LPCR_ILE)
        .ioctl("KVM_SET_ONE_REG(KVM_REG_PPC_LPCR_64)")?;
    let mut regs = kvm_regs {
        pc: Payload::get()?.start(),
        msr: map::start::MSR,
        sprg: [area + vcpu_area::STATE, 0, 0, 0, 0, 0, 0, 0],
        ..Default::default()
    };
    regs.gpr[1] = area + vcpu_area::STACK_END - map::STACK_FRAME;
    regs.gpr[3] = area + vcpu_area::START_INFO;
    vcpu.fd().set_regs(&regs).ioctl("KVM_SET_REGS")
}
