//! What differs between host architectures; each supplies the names used by `kvm`.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "aarch64")]
pub use aarch64::*;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the harness does not know this architecture yet");

use guest_protocol::layout::{vcpu_area, vcpu_area::MESSAGE};

use crate::kvm::Vcpu;

/// Where vCPU `index` puts its messages.
pub(crate) fn message_gpa(index: u32) -> u64 {
    vcpu_area(index.into()) + MESSAGE
}

/// Puts the host's answer to a sync into the message.
pub(crate) fn write_answer(vcpu: &mut Vcpu, values: &[u64]) {
    assert!(values.len() < guest_protocol::NR_ARGS, "too many values in an answer");
    let args =
        message_gpa(vcpu.index()) + std::mem::offset_of!(guest_protocol::Message, args) as u64;
    for (i, value) in values.iter().enumerate() {
        let gpa = args + 8 * (i as u64 + 1);
        vcpu.ram.write(gpa, &value.to_ne_bytes()).expect("the message page is RAM");
    }
}

/// Puts the host's arguments into the start info.
pub(crate) fn write_args(vcpu: &mut Vcpu, args: [u64; 6]) {
    let info = vcpu_area(vcpu.index().into()) + guest_protocol::layout::vcpu_area::START_INFO;
    let gpa = info + std::mem::offset_of!(guest_protocol::StartInfo, args) as u64;
    for (i, arg) in args.iter().enumerate() {
        vcpu.ram.write(gpa + 8 * i as u64, &arg.to_ne_bytes()).expect("the start info is RAM");
    }
}
