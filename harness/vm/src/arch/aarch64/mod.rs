//! aarch64: vCPUs start in EL1 with translation on, on tables that are part of the payload image.

mod attr;
mod describe;
mod device;
mod exits;
mod features;
mod gic;
mod image;
pub mod spe;

pub use attr::feature_id;
pub(crate) use describe::{PROGRAM_COUNTER, describe_trap, describe_vcpu, running};
pub use device::{Device, Number};
pub use exits::DebugExit;
pub use features::VcpuFeatures;
pub use gic::{Gic, GicVersion, Its};
pub(crate) use image::{extend_tables, prepare_image};

use std::sync::OnceLock;

use defs::aarch64::pmu;
use defs::aarch64::regs::mode;
use defs::aarch64::sysreg::{
    CPACR_EL1, CPTR_EL2, HCR_EL2, MAIR_EL1, MAIR_EL2, SCTLR_EL1, SCTLR_EL2, SP_EL2, SysReg,
    TCR_EL1, TCR_EL2, TTBR0_EL1, TTBR0_EL2, VBAR_EL1, VBAR_EL2,
};
use guest_protocol::layout::{self, aarch64 as map, vcpu_area};
use kvm_bindings::{KVM_ARM_VCPU_PMU_V3, KVM_ARM_VCPU_SVE, KVM_CAP_ARM_VM_IPA_SIZE, kvm_vcpu_init};
use kvm_ioctls::VmFd;
use nix::errno::Errno;

use crate::failure::{Failure, TestResult};
use crate::payload::Payload;
use crate::state::RestoredDevice;
use crate::{Exit, Ioctl, Irqchip, Ram, System, Vcpu, Vm, VmConfig};

/// What a vCPU is made of beside the preferred target.
pub type VcpuConfig = VcpuFeatures;

/// vCPUs that can run guest functions.
pub const MAX_VCPUS: u64 = layout::MAX_VCPUS;
/// What a slot's memory must start at a multiple of, beside a page.
pub(crate) const SLOT_ALIGNMENT: Option<usize> = None;
/// RAM that a VM can have: devices and tests' own memslots are behind it.
pub const MAX_RAM: u64 = map::GICD;

/// Bits of guest-physical address in a VM of type 0 (api.rst 4.2).
const DEFAULT_IPA_BITS: i64 = 40;

/// Core registers for `KVM_GET_ONE_REG` (api.rst 4.68, "ARM 64-bit core registers").
pub mod core_reg {
    use kvm_bindings::{KVM_REG_ARM_CORE, KVM_REG_ARM64, KVM_REG_SIZE_U64};

    const KVM_REG_ARM64_CORE_U64: u64 = KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE as u64;

    /// The id of the register `words` 32-bit words into `struct kvm_regs`.
    const fn at(words: u64) -> u64 {
        KVM_REG_ARM64_CORE_U64 | words
    }

    /// X`n`.
    pub const fn x(n: u64) -> u64 {
        at(n * 2)
    }
    /// SP_EL0.
    pub const SP_EL0: u64 = at(62);
    /// The program counter.
    pub const PC: u64 = at(64);
    /// PSTATE.
    pub const PSTATE: u64 = at(66);
    /// SP_EL1.
    pub const SP_EL1: u64 = at(68);
    /// ELR_EL1.
    pub const ELR_EL1: u64 = at(70);
    /// SPSR_EL1.
    pub const SPSR_EL1: u64 = at(72);
}

/// What is kept of a VM for its vCPUs.
#[derive(Debug, Default)]
pub struct VmState {
    target: kvm_vcpu_init,
    gic: OnceLock<Gic>,
    its: OnceLock<Its>,
}

impl VmState {
    /// The interrupt controller that `irqchip` made.
    ///
    /// # Errors
    ///
    /// The test did not ask for one.
    pub fn gic(&self) -> TestResult<&Gic> {
        self.gic.get().ok_or_else(|| Failure::Error("the VM has no interrupt controller".into()))
    }

    /// The interrupt translation service of a restored VM.
    pub fn its(&self) -> Option<&Its> {
        self.its.get()
    }
}

/// `KVM_CREATE_VM` with 40 bits of guest-physical address, or what the host has if that is less.
pub(crate) fn create_vm(system: &System) -> Result<VmFd, kvm_ioctls::Error> {
    let limit = system.check_extension(KVM_CAP_ARM_VM_IPA_SIZE);
    let bits = if (1..DEFAULT_IPA_BITS).contains(&limit) { limit as u64 } else { 0 };
    system.fd().create_vm_with_type(bits)
}

/// PSCI, and nothing else that is optional.
pub(crate) fn default_vcpu_config(_: &System) -> VcpuConfig {
    VcpuFeatures::default()
}

/// What KVM can give to guests.
pub(crate) fn cpu_features(system: &System, vm: &VmFd) -> Vec<String> {
    features::probe(system, vm)
}

/// What a guest rings with: a 32-bit store to the doorbell.
pub(crate) fn doorbell(vcpu: &mut Vcpu, exit: &Exit) -> Option<u32> {
    let rings = *exit == Exit::Mmio { gpa: map::DOORBELL, len: 4, is_write: true };
    rings.then(|| vcpu.exit_word(exit)).flatten()
}

/// The caller of the function whose frame record is at `fp`: its own record, and where it goes on.
pub(crate) fn caller(ram: &Ram, fp: u64) -> Option<(u64, u64)> {
    Some((ram.word(fp)?, ram.word(fp + 8)?))
}

/// Set-up that must precede the first vCPU.
pub(crate) fn prepare_vm(vm: &Vm, irqchip: Irqchip) -> TestResult<VmState> {
    let mut target = kvm_vcpu_init::default();
    vm.fd().get_preferred_target(&mut target).ioctl("KVM_ARM_PREFERRED_TARGET")?;
    let gic = match irqchip {
        Irqchip::None => None,
        Irqchip::Kernel => Some(Gic::newest(vm)?),
        Irqchip::Gic(version) => Some(Gic::create(vm, version)?),
        Irqchip::Split => return Err(Failure::Skip("KVM_CAP_SPLIT_IRQCHIP".into())),
    };
    let state = VmState { target, ..VmState::default() };
    gic.into_iter().for_each(|gic| drop(state.gic.set(gic)));
    Ok(state)
}

/// Initializes the interrupt controller, now that the vCPUs are there.
pub(crate) fn before_first_run(vm: &VmState) -> TestResult {
    vm.gic.get().map_or(Ok(()), Gic::init)
}

/// Makes a new vCPU one that can run.
pub(crate) fn prepare_vcpu(vcpu: &Vcpu, features: &VcpuConfig) -> TestResult {
    init_vcpu(vcpu, features)?;
    finalize_vcpu(vcpu, features)
}

/// `KVM_ARM_VCPU_INIT`.
pub(crate) fn init_vcpu(vcpu: &Vcpu, features: &VcpuConfig) -> TestResult {
    let mut init = vcpu.vm.target;
    for (word, wanted) in init.features.iter_mut().zip(features.0) {
        *word |= wanted;
    }
    vcpu.fd().vcpu_init(&init).ioctl("KVM_ARM_VCPU_INIT")?;
    vcpu.with_entry(|entry| entry.features = *features);
    Ok(())
}

/// `KVM_ARM_VCPU_FINALIZE`, where a feature wants it.
pub(crate) fn finalize_vcpu(vcpu: &Vcpu, features: &VcpuConfig) -> TestResult {
    if features.has(KVM_ARM_VCPU_SVE) {
        let sve = KVM_ARM_VCPU_SVE as i32;
        vcpu.fd().vcpu_finalize(&sve).ioctl("KVM_ARM_VCPU_FINALIZE(KVM_ARM_VCPU_SVE)")?;
    }
    Ok(())
}

/// What has to wait until all vCPUs are there: their PMUs.
pub(crate) fn make_ready(vm: &Vm, vcpus: &[Vcpu], config: &VmConfig) -> TestResult {
    if !config.has_pmu {
        return Ok(());
    }
    vm.state().gic()?.init()?;
    for vcpu in vcpus {
        vcpu.set_pmu_irq(pmu::INTID).ioctl("KVM_ARM_VCPU_PMU_V3_IRQ")?;
        vcpu.init_pmu().ioctl("KVM_ARM_VCPU_PMU_V3_INIT")?;
    }
    Ok(())
}

impl VmConfig {
    /// With vCPUs that have feature `KVM_ARM_VCPU_*`.
    #[must_use]
    pub fn feature(self, feature: u32) -> Self {
        self.vcpu(move |features| features.add(feature))
    }

    /// With vCPUs that do not have feature `KVM_ARM_VCPU_*`.
    #[must_use]
    pub fn no_feature(self, feature: u32) -> Self {
        self.vcpu(move |features| features.remove(feature))
    }

    /// With vCPUs that have a PMU; fixtures with vCPUs make it ready, with interrupt [`pmu::INTID`]. It
    /// takes an interrupt controller in the kernel.
    #[must_use]
    pub fn pmu(mut self) -> Self {
        self.has_pmu = true;
        self.feature(KVM_ARM_VCPU_PMU_V3)
    }
}

/// Registers of the exception level in which guest functions run.
struct Level {
    mair: SysReg,
    tcr: SysReg,
    ttbr0: SysReg,
    vbar: SysReg,
    cpacr: SysReg,
    sctlr: SysReg,
    /// What PSTATE.M differs in from EL1's.
    pstate: u64,
}

const EL1: Level = Level {
    mair: MAIR_EL1,
    tcr: TCR_EL1,
    ttbr0: TTBR0_EL1,
    vbar: VBAR_EL1,
    cpacr: CPACR_EL1,
    sctlr: SCTLR_EL1,
    pstate: 0,
};

/// A vCPU with `KVM_ARM_VCPU_HAS_EL2` starts there, with E2H and TGE: the names of EL1 mean these.
const EL2: Level = Level {
    mair: MAIR_EL2,
    tcr: TCR_EL2,
    ttbr0: TTBR0_EL2,
    vbar: VBAR_EL2,
    cpacr: CPTR_EL2,
    sctlr: SCTLR_EL2,
    pstate: mode::EL2T ^ mode::EL1T,
};

/// Calls KVM_RUN by `run`.
pub(crate) fn around_kvm_run(run: impl FnOnce() -> i32) -> i32 {
    run()
}

/// Sets registers so that a vCPU starts in the guest function at `entry`.
pub(crate) fn start_vcpu(vcpu: &mut Vcpu, entry: u64, args: [u64; 6]) -> TestResult {
    let area = super::write_start_info(vcpu, entry, args);
    let trap_stack = area + map::TRAP_STACK_END;
    let at = if vcpu.get_sysreg(&HCR_EL2).is_ok() {
        vcpu.set_sysreg(&HCR_EL2, map::start::HCR).ioctl("KVM_SET_ONE_REG of HCR_EL2")?;
        vcpu.set_sysreg(&SP_EL2, trap_stack).ioctl("KVM_SET_ONE_REG of SP_EL2")?;
        &EL2
    } else {
        vcpu.set_reg(core_reg::SP_EL1, trap_stack).ioctl("KVM_SET_ONE_REG of SP_EL1")?;
        &EL1
    };
    for (register, value) in [
        (at.mair, map::start::MAIR),
        (at.tcr, map::start::TCR),
        (at.ttbr0, layout::PAGE_TABLES),
        (at.vbar, layout::PAYLOAD),
        (at.cpacr, map::start::CPACR),
        (at.sctlr, map::start::SCTLR),
    ] {
        vcpu.set_sysreg(&register, value).ioctl("KVM_SET_ONE_REG of a system register")?;
    }
    for (register, value) in [
        (core_reg::PC, Payload::get()?.start()),
        (core_reg::x(0), area + vcpu_area::START_INFO),
        (core_reg::SP_EL0, area + vcpu_area::STACK_END),
        (core_reg::PSTATE, map::start::PSTATE ^ at.pstate),
    ] {
        vcpu.set_reg(register, value).ioctl("KVM_SET_ONE_REG of a core register")?;
    }
    Ok(())
}

impl Vm {
    /// Takes over the devices of a restored VM.
    pub(crate) fn own_devices(&self, devices: Vec<RestoredDevice>) {
        for device in devices {
            match device {
                RestoredDevice::Gic(gic) => drop(self.state().gic.set(gic)),
                RestoredDevice::Its(its) => drop(self.state().its.set(its)),
            }
        }
    }

    /// The features that vCPUs made from now on get.
    pub fn features_mut(&mut self) -> &mut VcpuFeatures {
        self.vcpu_config_mut()
    }
}

impl Vcpu {
    /// `KVM_GET_ONE_REG` of a system register.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn get_sysreg(&self, register: &SysReg) -> Result<u64, Errno> {
        self.get_reg(register.one_reg())
    }

    /// `KVM_SET_ONE_REG` of a system register.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn set_sysreg(&self, register: &SysReg, value: u64) -> Result<(), Errno> {
        self.set_reg(register.one_reg(), value)
    }
}
