//! riscv64: vCPUs start in VS-mode with translation on, on tables that are part of the payload image.

mod describe;
mod image;

pub(crate) use describe::{PROGRAM_COUNTER, describe_trap, describe_vcpu, running};
pub(crate) use image::{extend_tables, prepare_image};

use guest_protocol::layout::{self, riscv64 as map, vcpu_area};
use kvm_bindings::{
    KVM_CREATE_DEVICE_TEST, KVM_MP_STATE_RUNNABLE, kvm_create_device,
    kvm_device_type_KVM_DEV_TYPE_RISCV_AIA, kvm_mp_state,
};
use kvm_ioctls::VmFd;

use crate::failure::{Failure, TestResult};
use crate::payload::Payload;
use crate::requirement::riscv64::AIA;
use crate::{Exit, Ioctl, Irqchip, Ram, System, Vcpu, Vm, VmConfig};

/// What a vCPU is made of beside all that KVM offers.
pub type VcpuConfig = VcpuFeatures;

/// vCPUs that can run guest functions.
pub const MAX_VCPUS: u64 = layout::MAX_VCPUS;
/// What a slot's memory must start at a multiple of, beside a page.
pub(crate) const SLOT_ALIGNMENT: Option<usize> = None;
/// RAM that a VM can have: tests' own memslots are behind it.
pub const MAX_RAM: u64 = layout::FREE;

/// Nothing has to be kept of a VM.
#[derive(Debug, Default)]
pub struct VmState;

/// Features of a vCPU.
#[derive(Clone, Debug, Default)]
pub struct VcpuFeatures {
    /// `KVM_RISCV_ISA_EXT_*` of extensions that it does not have.
    pub without: Vec<u64>,
}

impl VmConfig {
    /// With vCPUs that do not have extension `KVM_RISCV_ISA_EXT_*`.
    #[must_use]
    pub fn no_feature(self, extension: u64) -> Self {
        self.vcpu(move |features| features.without.push(extension))
    }
}

/// Registers for `KVM_GET_ONE_REG` (api.rst 4.68, "RISC-V registers").
pub mod reg {
    const KVM_REG_RISCV_U64: u64 = 0x8030_0000_0000_0000;
    const CORE: u64 = KVM_REG_RISCV_U64 | 2 << 24;
    const CSR: u64 = KVM_REG_RISCV_U64 | 3 << 24;

    /// mvendorid, in the configuration registers.
    pub const MVENDORID: u64 = KVM_REG_RISCV_U64 | 1 << 24 | 2;
    /// Whether the vCPU has ISA extension `KVM_RISCV_ISA_EXT_*`.
    pub const fn isa_extension(number: u64) -> u64 {
        KVM_REG_RISCV_U64 | 7 << 24 | number
    }
    /// The program counter.
    pub const PC: u64 = CORE;
    /// x`n`, for `n` from 1.
    pub const fn x(n: u64) -> u64 {
        CORE | n
    }
    /// Privilege mode: 1 for VS.
    pub const MODE: u64 = CORE | 32;
    /// sstatus.
    pub const SSTATUS: u64 = CSR;
    /// sie.
    pub const SIE: u64 = CSR | 1;
    /// stvec.
    pub const STVEC: u64 = CSR | 2;
    /// sscratch.
    pub const SSCRATCH: u64 = CSR | 3;
    /// sepc.
    pub const SEPC: u64 = CSR | 4;
    /// scause.
    pub const SCAUSE: u64 = CSR | 5;
    /// stval.
    pub const STVAL: u64 = CSR | 6;
    /// sip.
    pub const SIP: u64 = CSR | 7;
    /// satp.
    pub const SATP: u64 = CSR | 8;
    /// scounteren.
    pub const SCOUNTEREN: u64 = CSR | 9;
}

/// [`reg::MODE`]: VS.
const MODE_S: u64 = 1;

/// `KVM_CREATE_VM` of the default type.
pub(crate) fn create_vm(system: &System) -> Result<VmFd, kvm_ioctls::Error> {
    system.fd().create_vm()
}

/// Everything that KVM offers.
pub(crate) fn default_vcpu_config(_: &System) -> VcpuConfig {
    VcpuConfig::default()
}

/// What KVM can give to guests.
pub(crate) fn cpu_features(_: &System, vm: &VmFd) -> Vec<String> {
    let mut device = kvm_create_device {
        type_: kvm_device_type_KVM_DEV_TYPE_RISCV_AIA,
        fd: 0,
        flags: KVM_CREATE_DEVICE_TEST,
    };
    let has_aia = vm.create_device(&mut device).is_ok();
    has_aia.then(|| AIA.name.to_owned()).into_iter().collect()
}

/// What a guest rings with: an SBI call of the doorbell's extension.
pub(crate) fn doorbell(_: &mut Vcpu, exit: &Exit) -> Option<u32> {
    match *exit {
        Exit::RiscvSbi { extension: map::DOORBELL_EXTENSION, function: 0, args } => {
            // More than 32 bits are no message's address, and told as one that is not.
            Some(args[0].try_into().unwrap_or(0))
        }
        _ => None,
    }
}

/// The caller of the function whose frame ends at `fp`: its own frame, and where it goes on.
pub(crate) fn caller(ram: &Ram, fp: u64) -> Option<(u64, u64)> {
    Some((ram.word(fp.checked_sub(16)?)?, ram.word(fp - 8)?))
}

/// Set-up that must precede the first vCPU.
pub(crate) fn prepare_vm(_: &Vm, irqchip: Irqchip) -> TestResult<VmState> {
    match irqchip {
        Irqchip::None => Ok(VmState),
        Irqchip::Kernel => {
            Err(Failure::Skip("an interrupt controller set up by the harness".into()))
        }
        Irqchip::Split => Err(Failure::Skip("KVM_CAP_SPLIT_IRQCHIP".into())),
    }
}

/// Nothing has to wait until all vCPUs are there.
pub(crate) fn before_first_run(_: &VmState) -> TestResult {
    Ok(())
}

/// Takes from a new vCPU what it is not to have.
pub(crate) fn prepare_vcpu(vcpu: &Vcpu, features: &VcpuConfig) -> TestResult {
    features.without.iter().try_for_each(|&extension| {
        vcpu.set_reg(reg::isa_extension(extension), 0).ioctl("KVM_SET_ONE_REG(ISA extension)")
    })
}

/// Nothing is left to do when all vCPUs are there.
pub(crate) fn make_ready(_: &Vm, _: &[Vcpu], _: &VmConfig) -> TestResult {
    Ok(())
}

/// Calls KVM_RUN by `run`.
pub(crate) fn around_kvm_run(run: impl FnOnce() -> i32) -> i32 {
    run()
}

/// Sets registers so that a vCPU starts in the guest function at `entry`.
pub(crate) fn start_vcpu(vcpu: &mut Vcpu, entry: u64, args: [u64; 6]) -> TestResult {
    let area = super::write_start_info(vcpu, entry, args);
    let payload = Payload::get()?;
    for (register, value) in [
        (reg::PC, payload.start()),
        (reg::x(10), area + vcpu_area::START_INFO),
        (reg::x(2), area + vcpu_area::STACK_END),
        (reg::MODE, MODE_S),
        (reg::SSTATUS, map::start::SSTATUS),
        (reg::SIE, 0),
        (reg::STVEC, payload.symbol("trap_vector")?),
        (reg::SSCRATCH, area + vcpu_area::STATE),
        (reg::SATP, map::start::SATP),
    ] {
        vcpu.set_reg(register, value).ioctl("KVM_SET_ONE_REG")?;
    }
    if vcpu.index() != 0 {
        // KVM leaves all but the first vCPU stopped, for SBI to start them.
        let runnable = kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE };
        vcpu.fd().set_mp_state(runnable).ioctl("KVM_SET_MP_STATE")?;
    }
    Ok(())
}
