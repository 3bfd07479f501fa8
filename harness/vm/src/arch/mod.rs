//! What differs between host architectures; each supplies the names used by `kvm`.

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

#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "powerpc64",
    target_arch = "riscv64",
    target_arch = "s390x"
)))]
compile_error!("the harness does not know this architecture yet");

#[cfg(not(target_arch = "x86_64"))]
mod one_reg;

use guest_protocol::layout::{self, vcpu_area, vcpu_area::START_INFO};
use guest_protocol::{L1, MAGIC, PROTOCOL_VERSION, StartInfo};
use zerocopy::IntoBytes;

use crate::Vcpu;

/// Where the payload may have code beside its own place: for x86's other modes.
pub(crate) const LOW_TEXT: std::ops::Range<u64> = if cfg!(target_arch = "x86_64") {
    layout::x86_64::low::TEXT..layout::x86_64::low::TEXT_END
} else {
    0..0
};

/// Puts the host's answer to the last sync into its message.
pub(crate) fn write_answer(vcpu: &mut Vcpu, values: &[u64]) {
    assert!(values.len() < guest_protocol::NR_ARGS, "too many values in an answer");
    let args = vcpu.sender.message() + std::mem::offset_of!(guest_protocol::Message, args) as u64;
    for (i, value) in values.iter().enumerate() {
        let gpa = args + 8 * (i as u64 + 1);
        vcpu.ram.write(gpa, &value.to_ne_bytes()).expect("the message page is RAM");
    }
}

/// Tells a vCPU where its guest function is. Returns the vCPU's area.
fn write_start_info(vcpu: &Vcpu, entry: u64, args: [u64; 6]) -> u64 {
    assert!(u64::from(vcpu.index()) < layout::MAX_VCPUS, "vCPU index beyond the layout");
    let area = vcpu_area(vcpu.index().into());
    let info = StartInfo {
        magic: MAGIC,
        version: PROTOCOL_VERSION,
        entry,
        vcpu: vcpu.index(),
        level: L1,
        args,
        ram_size: vcpu.ram.mapping().len() as u64,
    };
    vcpu.ram.write(area + START_INFO, info.as_bytes()).expect("vCPU area is RAM");
    area
}

/// Puts the host's arguments into the start info.
pub(crate) fn write_args(vcpu: &mut Vcpu, args: [u64; 6]) {
    let info = vcpu_area(vcpu.index().into()) + START_INFO;
    let gpa = info + std::mem::offset_of!(guest_protocol::StartInfo, args) as u64;
    for (i, arg) in args.iter().enumerate() {
        vcpu.ram.write(gpa + 8 * i as u64, &arg.to_ne_bytes()).expect("the start info is RAM");
    }
}

/// The 2 MiB blocks of RAM behind the default one, and of each the pages that must not be mapped: those at
/// the offsets `guards` of the areas of vCPUs that begin there.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
fn more_ram(ram: &crate::Ram, nr_vcpus: u32, guards: &[u64]) -> Vec<(u64, Vec<u64>)> {
    const BLOCK: u64 = 2 << 20;
    let blocks = (layout::DEFAULT_RAM_SIZE..ram.mapping().len() as u64).step_by(BLOCK as usize);
    let guards = |block: u64| {
        let areas = (layout::DEFAULT_VCPUS..nr_vcpus.into()).map(vcpu_area);
        let inside = areas.filter(move |area| (block..block + BLOCK).contains(area));
        inside.flat_map(|area| guards.iter().map(move |guard| area + guard)).collect()
    };
    blocks.map(|block| (block, guards(block))).collect()
}
