//! s390x: vCPUs start in z/Architecture mode without translation, each with a low core of its own.
#![expect(unsafe_code, reason = "the registers that kvm_run synchronizes are in a union")]

mod describe;

pub(crate) use describe::{PROGRAM_COUNTER, describe_trap, describe_vcpu, running};

use guest_protocol::layout::s390x::{self as map, low_core, start};
use guest_protocol::layout::{self, vcpu_area};
use kvm_bindings::{KVM_SYNC_CRS, KVM_SYNC_GPRS, KVM_SYNC_PREFIX, kvm_sync_regs};
use kvm_ioctls::VmFd;
use nix::errno::Errno;

use crate::failure::{Failure, TestResult};
use crate::payload::Payload;
use crate::{Exit, Ioctl, Irqchip, Ram, System, Vcpu, Vm, VmConfig};

/// There is nothing to choose.
pub type VcpuConfig = ();

/// vCPUs that can run guest functions.
pub const MAX_VCPUS: u64 = layout::MAX_VCPUS;
/// What a slot's memory must start at a multiple of, beside a page: KVM/s390 maps a guest's memory by
/// segments.
pub(crate) const SLOT_ALIGNMENT: Option<usize> = Some(1 << 20);
/// RAM that a VM can have: tests' own memslots are behind it.
pub const MAX_RAM: u64 = layout::FREE;

/// Guest functions run without translation.
pub(crate) fn extend_tables(_: &Ram, _: u32) {}

/// Nothing has to be kept of a VM.
#[derive(Debug, Default)]
pub struct VmState;

/// Registers for `KVM_GET_ONE_REG` (api.rst 4.68).
pub mod reg {
    const KVM_REG_S390_U32: u64 = 0x5020_0000_0000_0000;
    const KVM_REG_S390_U64: u64 = 0x5030_0000_0000_0000;
    /// The TOD programmable register, of 32 bits.
    pub const TODPR: u64 = KVM_REG_S390_U32 | 1;
    /// The CPU timer.
    pub const CPU_TIMER: u64 = KVM_REG_S390_U64 | 3;
    /// The clock comparator.
    pub const CLOCK_COMPARATOR: u64 = KVM_REG_S390_U64 | 4;
    /// The token of the page-fault handshake.
    pub const PFAULT_TOKEN: u64 = KVM_REG_S390_U64 | 5;
    /// The program parameter.
    pub const PROGRAM_PARAMETER: u64 = KVM_REG_S390_U64 | 8;
    /// The breaking-event address.
    pub const BREAKING_EVENT: u64 = KVM_REG_S390_U64 | 9;
}

/// New PSWs of the low core, and the code of each.
const NEW_PSWS: [(u64, &str); 5] = [
    (low_core::EXTERNAL_NEW, "trap_external"),
    (low_core::SVC_NEW, "trap_svc"),
    (low_core::PROGRAM_NEW, "trap_program"),
    (low_core::MACHINE_CHECK_NEW, "trap_machine_check"),
    (low_core::IO_NEW, "trap_io"),
];

/// Interception code of an instruction.
const ICPT_INSTRUCTION: u8 = 4;

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

/// The payload needs no tables.
pub(crate) fn prepare_image(
    _: &mut [u8],
    symbol: impl Fn(&str) -> Option<u64>,
) -> Result<(), String> {
    match NEW_PSWS.iter().find(|(_, name)| symbol(name).is_none()) {
        Some((_, name)) => Err(format!("the payload has no {name}")),
        None => Ok(()),
    }
}

/// What a guest rings with: DIAGNOSE of the doorbell's function.
pub(crate) fn doorbell(vcpu: &mut Vcpu, exit: &Exit) -> Option<u32> {
    let (ipa, function) = map::DOORBELL;
    let ipb = u32::from(function) << 16;
    if *exit != (Exit::S390Sieic { code: ICPT_INSTRUCTION, ipa, ipb }) {
        return None;
    }
    // More than 32 bits are no message's address, and told as one that is not.
    Some(vcpu.sync_regs().gprs[2].try_into().unwrap_or(0))
}

/// The caller of the function with this stack pointer: its stack pointer, and where it goes on.
pub(crate) fn caller(ram: &Ram, sp: u64) -> Option<(u64, u64)> {
    /// Where a function keeps its return address in its caller's frame.
    const R14: u64 = 112;
    let back_chain = ram.word(sp)?;
    Some((back_chain, ram.word(back_chain.checked_add(R14)?)?))
}

/// Set-up that must precede the first vCPU.
pub(crate) fn prepare_vm(_: &Vm, irqchip: Irqchip) -> TestResult<VmState> {
    match irqchip {
        Irqchip::None => Ok(VmState),
        Irqchip::Kernel | Irqchip::Split => {
            Err(Failure::Skip("an interrupt controller besides the CPU's own".into()))
        }
    }
}

/// Nothing has to wait until all vCPUs are there.
pub(crate) fn before_first_run(_: &VmState) -> TestResult {
    Ok(())
}

/// Nothing to choose.
pub(crate) fn prepare_vcpu(_: &Vcpu, (): &VcpuConfig) -> TestResult {
    Ok(())
}

/// Nothing is left to do when all vCPUs are there.
pub(crate) fn make_ready(_: &Vm, _: &[Vcpu], _: &VmConfig) -> TestResult {
    Ok(())
}

/// Calls KVM_RUN by `run`.
pub(crate) fn around_kvm_run(run: impl FnOnce() -> i32) -> i32 {
    run()
}

/// Sets registers and this vCPU's low core so that it starts in the guest function at `entry`.
pub(crate) fn start_vcpu(vcpu: &mut Vcpu, entry: u64, args: [u64; 6]) -> TestResult {
    let area = super::write_start_info(vcpu, entry, args);
    let payload = Payload::get()?;
    let prefix = area + map::LOW_CORE;
    let put = |offset: u64, value: u64| {
        vcpu.ram.write(prefix + offset, &value.to_ne_bytes()).expect("vCPU area is RAM");
    };
    for (offset, name) in NEW_PSWS {
        put(offset, start::PSW_MASK);
        put(offset + 8, payload.symbol(name)?);
    }
    put(low_core::AREA, area);
    let run = vcpu.kvm_run();
    run.psw_mask = start::PSW_MASK;
    run.psw_addr = payload.start();
    run.kvm_dirty_regs = KVM_SYNC_PREFIX | KVM_SYNC_GPRS | KVM_SYNC_CRS;
    let regs = vcpu.sync_regs();
    regs.prefix = prefix;
    regs.gprs = [0; 16];
    regs.gprs[2] = area + vcpu_area::START_INFO;
    regs.gprs[15] = area + vcpu_area::STACK_END - map::STACK_FRAME;
    regs.crs = [0; 16];
    regs.crs[0] = start::CR0;
    regs.crs[14] = start::CR14;
    Ok(())
}

impl Vcpu {
    /// `KVM_GET_ONE_REG` of a 32-bit register.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn get_reg32(&self, id: u64) -> Result<u32, Errno> {
        let mut bytes = [0; 4];
        self.fd().get_one_reg(id, &mut bytes).errno()?;
        Ok(u32::from_ne_bytes(bytes))
    }

    /// `KVM_SET_ONE_REG` of a 32-bit register.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn set_reg32(&self, id: u64, value: u32) -> Result<(), Errno> {
        let result = self.fd().set_one_reg(id, &value.to_ne_bytes());
        result.map(drop).errno()
    }

    /// The registers that `kvm_run` synchronizes (api.rst 5, `KVM_CAP_SYNC_REGS`): the guest's after
    /// a KVM_RUN; with the bits of `kvm_dirty_regs` set, the guest's at the next one.
    pub fn sync_regs(&mut self) -> &mut kvm_sync_regs {
        // SAFETY: plain integers on s390x.
        unsafe { &mut self.kvm_run().s.regs }
    }
}
