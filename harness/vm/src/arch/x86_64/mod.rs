//! x86_64: vCPUs start in 64-bit mode, ring 0, on tables that are part of the payload image.

mod describe;
mod filter;
pub mod hyperv;
mod image;
mod interrupts;
mod modes;
mod msrs;
mod state;

pub(crate) use describe::{PROGRAM_COUNTER, describe_trap, describe_vcpu, running};
pub use filter::{MsrRange, bitmap_bytes};
pub(crate) use image::{extend_tables, prepare_image};
pub use interrupts::IoapicState;

use std::sync::OnceLock;

use defs::bits;
use defs::x86::cpuid::{Feature, INITIAL_APIC_ID_SHIFT, leaf};
use defs::x86::cr::{Cr0, Cr4, Efer};
use defs::x86::ioapic;
use defs::x86::rflags::Rflags;
use defs::x86::segment::{self, GATE_SIZE, tss};
use guest_protocol::layout::{self, vcpu_area, x86_64 as map};
use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, KVM_MP_STATE_RUNNABLE, kvm_dtable, kvm_enable_cap, kvm_mp_state,
    kvm_regs, kvm_segment,
};
use kvm_ioctls::VmFd;
use zerocopy::IntoBytes;

use crate::failure::TestResult;
use crate::payload::Payload;
use crate::requirement::cpu;
use crate::{Exit, IoDirection, Ioctl, Irqchip, Ram, System, Vcpu, Vm, VmConfig};

/// What `KVM_SET_CPUID2` gets.
pub type VcpuConfig = CpuId;

/// vCPUs that can run guest functions.
pub const MAX_VCPUS: u64 = layout::MAX_VCPUS;
/// What a slot's memory must start at a multiple of, beside a page.
pub(crate) const SLOT_ALIGNMENT: Option<usize> = None;
/// RAM that a VM can have: devices and tests' own memslots are behind it.
pub const MAX_RAM: u64 = layout::FREE;

/// Nothing has to be kept of a VM.
#[derive(Debug, Default)]
pub struct VmState;

/// `KVM_CREATE_VM` of the default type.
pub(crate) fn create_vm(system: &System) -> Result<VmFd, kvm_ioctls::Error> {
    system.fd().create_vm()
}

/// Where KVM may put its three pages for real mode on old Intel CPUs (api.rst 4.35).
const TSS_ADDRESS: usize = 0xfffb_d000;

fn supported_cpuid(system: &System) -> &'static CpuId {
    static CPUID: OnceLock<CpuId> = OnceLock::new();
    CPUID.get_or_init(|| {
        // A KVM without it offers no features.
        system
            .fd()
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .unwrap_or_else(|_| CpuId::from_entries(&[]).expect("an empty list of CPUID entries"))
    })
}

/// What a guest rings with: a 32-bit write of the doorbell's port.
pub(crate) fn doorbell(vcpu: &mut Vcpu, exit: &Exit) -> Option<u32> {
    let rings = matches!(
        *exit,
        Exit::Io { direction: IoDirection::Out, size: 4, count: 1, port } if port == map::DOORBELL_PORT
    );
    rings.then(|| vcpu.exit_word(exit)).flatten()
}

/// Everything that KVM supports.
pub(crate) fn default_vcpu_config(system: &System) -> VcpuConfig {
    supported_cpuid(system).clone()
}

/// Notable features in `KVM_GET_SUPPORTED_CPUID`.
pub(crate) fn cpu_features(system: &System, _: &VmFd) -> Vec<String> {
    let entries = supported_cpuid(system).as_slice();
    let has = |feature: &Feature| {
        entries.iter().any(|e| {
            (e.function, e.index) == (feature.leaf, feature.subleaf)
                && feature.is_set([e.eax, e.ebx, e.ecx, e.edx])
        })
    };
    cpu::ALL
        .iter()
        .filter(|(_, feature)| has(feature))
        .map(|(name, _)| (*name).to_owned())
        .collect()
}

/// The caller of the function whose frame record is at `fp`: its own record, and where it goes on.
pub(crate) fn caller(ram: &Ram, fp: u64) -> Option<(u64, u64)> {
    Some((ram.word(fp)?, ram.word(fp + 8)?))
}

/// Set-up that must precede the first vCPU.
pub(crate) fn prepare_vm(vm: &Vm, irqchip: Irqchip) -> TestResult<VmState> {
    vm.fd().set_tss_address(TSS_ADDRESS).ioctl("KVM_SET_TSS_ADDR")?;
    match irqchip {
        Irqchip::None => {}
        Irqchip::Kernel => vm.fd().create_irq_chip().ioctl("KVM_CREATE_IRQCHIP")?,
        Irqchip::Split => {
            let cap = kvm_enable_cap {
                cap: kvm_bindings::KVM_CAP_SPLIT_IRQCHIP,
                args: [ioapic::PINS.into(), 0, 0, 0],
                ..Default::default()
            };
            vm.fd().enable_cap(&cap).ioctl("KVM_ENABLE_CAP(KVM_CAP_SPLIT_IRQCHIP)")?;
        }
    }
    Ok(VmState)
}

/// Nothing has to wait until all vCPUs are there.
pub(crate) fn before_first_run(_: &VmState) -> TestResult {
    Ok(())
}

/// Gives a new vCPU its CPUID.
pub(crate) fn prepare_vcpu(vcpu: &Vcpu, cpuid: &VcpuConfig) -> TestResult {
    let mut cpuid = cpuid.clone();
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            leaf::FEATURES => {
                let others = entry.ebx & !(!0 << INITIAL_APIC_ID_SHIFT);
                entry.ebx = others | vcpu.index() << INITIAL_APIC_ID_SHIFT;
            }
            leaf::TOPOLOGY | leaf::TOPOLOGY_V2 => entry.edx = vcpu.index(),
            _ => {}
        }
    }
    vcpu.fd().set_cpuid2(&cpuid).ioctl("KVM_SET_CPUID2")
}

impl Vm {
    /// The CPUID that vCPUs made from now on get.
    pub fn cpuid_mut(&mut self) -> &mut CpuId {
        self.vcpu_config_mut()
    }
}

/// A segment of ring 0 over all addresses.
fn flat(selector: u16, kind: u8) -> kvm_segment {
    let code = kind == segment::CODE;
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_: kind,
        present: 1,
        db: (!code).into(),
        s: 1,
        l: code.into(),
        g: 1,
        ..Default::default()
    }
}

/// Nothing is left to do when all vCPUs are there.
pub(crate) fn make_ready(_: &Vm, _: &[Vcpu], _: &VmConfig) -> TestResult {
    Ok(())
}

/// Calls KVM_RUN by `run`.
pub(crate) fn around_kvm_run(run: impl FnOnce() -> i32) -> i32 {
    run()
}

/// Sets registers and this vCPU's tables so that it starts in the guest function at `entry`.
pub(crate) fn start_vcpu(vcpu: &mut Vcpu, entry: u64, args: [u64; 6]) -> TestResult {
    let area = super::write_start_info(vcpu, entry, args);
    let tables = image::tables(area);
    let write =
        |offset, bytes: &[u8]| vcpu.ram.write(area + offset, bytes).expect("vCPU area is RAM");
    write(vcpu_area::TABLES, tables.gdt.as_bytes());
    write(vcpu_area::TSS, &tables.tss);

    let mut sregs = vcpu.fd().get_sregs().ioctl("KVM_GET_SREGS")?;
    sregs.cs = flat(map::KERNEL_CS, segment::CODE);
    let data = flat(map::KERNEL_DS, segment::DATA);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment {
        base: area + vcpu_area::TSS,
        limit: tss::SIZE as u32 - 1,
        selector: map::TSS_SELECTOR,
        type_: segment::BUSY_TSS,
        present: 1,
        ..Default::default()
    };
    sregs.gdt = kvm_dtable {
        base: area + vcpu_area::TABLES,
        limit: (tables.gdt.len() * 8 - 1) as u16,
        ..Default::default()
    };
    sregs.idt = kvm_dtable {
        base: map::IDT,
        limit: (map::NR_VECTORS * GATE_SIZE - 1) as u16,
        ..Default::default()
    };
    sregs.cr0 = bits!(Cr0::{PE | MP | ET | NE | WP | AM | PG});
    sregs.cr3 = layout::PAGE_TABLES;
    sregs.cr4 = bits!(Cr4::{PAE | OSFXSR | OSXMMEXCPT});
    sregs.efer = bits!(Efer::{LME | LMA | NXE});
    vcpu.fd().set_sregs(&sregs).ioctl("KVM_SET_SREGS")?;

    let regs = kvm_regs {
        rip: Payload::get()?.start(),
        rdi: area + vcpu_area::START_INFO,
        // The entry calls, so that functions see the ABI's alignment.
        rsp: area + vcpu_area::STACK_END,
        rflags: Rflags::FIXED.bits(),
        ..Default::default()
    };
    vcpu.fd().set_regs(&regs).ioctl("KVM_SET_REGS")?;
    if vcpu.index() != 0 {
        // With an in-kernel APIC all but the first vCPU would wait for a SIPI.
        let runnable = kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE };
        vcpu.fd().set_mp_state(runnable).ioctl("KVM_SET_MP_STATE")?;
    }
    Ok(())
}
