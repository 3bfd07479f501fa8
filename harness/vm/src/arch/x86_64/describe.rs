//! vCPUs and traps in words.

use defs::x86::cr::{Cr4, Efer};
use defs::x86::exception;
use guest_protocol::{NR_ARGS, trap};
use kvm_bindings::{KVM_STATE_NESTED_GUEST_MODE, kvm_regs};
use kvm_ioctls::KvmNestedStateBuffer;

use crate::context::Context;
use crate::payload::Payload;
use crate::{ProgramCounter, Vcpu, request};

/// Where a vCPU stands, for a signal handler.
pub(crate) const PROGRAM_COUNTER: ProgramCounter =
    ProgramCounter::Regs(request::ior::<kvm_regs>(0x81), std::mem::offset_of!(kvm_regs, rip));

/// The context whose registers KVM gives, of a vCPU that is a hypervisor itself (api.rst,
/// KVM_GET_NESTED_STATE).
pub(crate) fn running(vcpu: &Vcpu) -> Option<Context> {
    let mut nested = KvmNestedStateBuffer::empty();
    vcpu.fd().nested_state(&mut nested).ok()?;
    let (regs, sregs) = (vcpu.fd().get_regs().ok()?, vcpu.fd().get_sregs().ok()?);
    if u32::from(nested.flags) & KVM_STATE_NESTED_GUEST_MODE != 0 {
        return Some(Context::of_guest(&vcpu.ram, vcpu.index, regs.rsp));
    }
    let is_hypervisor = sregs.efer & Efer::SVME.bits() != 0 || sregs.cr4 & Cr4::VMXE.bits() != 0;
    is_hypervisor.then(|| Context::of_vcpu(vcpu.index))
}

/// Registers and backtrace of a vCPU that stopped in an unexpected way.
pub(crate) fn describe_vcpu(vcpu: &mut Vcpu) -> String {
    let (Ok(regs), Ok(sregs)) = (vcpu.fd().get_regs(), vcpu.fd().get_sregs()) else {
        return "\nregisters cannot be read".into();
    };
    // Outside 64-bit mode code has a segment.
    let pc = if sregs.cs.l == 0 { sregs.cs.base.wrapping_add(regs.rip) } else { regs.rip };
    let backtrace = Payload::get().map_or(String::new(), |p| p.backtrace(&vcpu.ram, pc, regs.rbp));
    format!(
        "\nrip {:016x} rflags {:08x} cr0 {:08x} cr2 {:x} cr3 {:x} cr4 {:x} efer {:x} cs {:x}{}{backtrace}",
        regs.rip,
        regs.rflags,
        sregs.cr0,
        sregs.cr2,
        sregs.cr3,
        sregs.cr4,
        sregs.efer,
        sregs.cs.selector,
        general(
            [
                regs.rax, regs.rbx, regs.rcx, regs.rdx, regs.rsi, regs.rdi, regs.r8, regs.r9,
                regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
            ],
            regs.rsp,
            regs.rbp
        ),
    )
}

fn general(regs: [u64; 14], rsp: u64, rbp: u64) -> String {
    let names = [
        "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8 ", "r9 ", "r10", "r11", "r12", "r13", "r14",
        "r15",
    ];
    let mut text = format!("\nrsp {rsp:016x} rbp {rbp:016x}");
    for (i, (name, value)) in names.iter().zip(regs).enumerate() {
        text.push_str(if i % 4 == 2 { "\n" } else { " " });
        text.push_str(&format!("{name} {value:016x}"));
    }
    text
}

/// A trap message in words.
pub(crate) fn describe_trap(context: &Context, args: &[u64; NR_ARGS]) -> String {
    let vector = args[trap::VECTOR];
    let name = exception::name(vector)
        .map_or(format!("vector {vector}"), |n| format!("{n} (vector {vector})"));
    let mut regs = [0; 14];
    regs.copy_from_slice(&args[trap::REGS..trap::REGS + 14]);
    let overflow =
        vector == u64::from(exception::vector::PF) && context.is_below_stack(args[trap::ADDR]);
    let overflow =
        if overflow { ", in the guard page below the stack: stack overflow" } else { "" };
    format!(
        "{name}, error code {:#x}, on {context}{overflow}\nrip {:016x} rflags {:08x} cr2 {:x}{}",
        args[trap::CODE],
        args[trap::PC],
        args[trap::FLAGS],
        args[trap::ADDR],
        general(regs, args[trap::SP], args[trap::FP]),
    )
}
