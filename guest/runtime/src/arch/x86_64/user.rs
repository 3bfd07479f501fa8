//! Ring 3: runs a function there, and comes back on a trap.
#![expect(unsafe_code, reason = "switches privilege level")]

use core::arch::asm;

use defs::x86::exception::vector;
use defs::x86::rflags::Rflags;
use guest_protocol::layout::x86_64::{USER_CS, USER_DS};
use guest_protocol::layout::{self, vcpu_area};

use super::cpu;
use super::frame::TrapFrame;
use crate::context::Context;
use crate::handlers::with_handler;

/// Bytes at the end of the vCPU's main stack's lower half that ring-3 code gets.
const USER_STACK: u64 = 0x1000;

/// Runs `f` in ring 3 on a stack of its own until it returns; it may not use privileged
/// instructions. A trap in between goes to its handler as always. Returns what `f` does.
pub fn run(rflags: Rflags, f: extern "C" fn(u64) -> u64, arg: u64) -> u64 {
    let area = Context::current().area();
    let user_rsp = area + vcpu_area::GUARD + layout::PAGE_SIZE + USER_STACK;
    let state = area + vcpu_area::STATE;
    let mut result = 0;
    let on_return = |frame: &mut TrapFrame| {
        // The `ud2` behind the call below: go back to ring 0 where `run` left off.
        result = frame.rax;
        frame.rip = super::memory::peek(state + 8);
        frame.rsp = super::memory::peek(state);
        frame.cs = layout::x86_64::KERNEL_CS.into();
        frame.ss = layout::x86_64::KERNEL_DS.into();
        frame.rflags = Rflags::FIXED.bits();
    };
    let rflags_before = cpu::rflags();
    with_handler(vector::UD, on_return, || {
        // SAFETY: everything that ring 3 may change is named as clobbered; RBX and RBP are saved.
        unsafe {
            asm!(
                "push rbx",
                "push rbp",
                "mov [{state}], rsp",
                "lea rax, [rip + 3f]",
                "mov [{state} + 8], rax",
                "push {user_ss}",
                "push {user_rsp}",
                "push {rflags}",
                "push {user_cs}",
                "lea rax, [rip + 2f]",
                "push rax",
                "xor ebp, ebp",
                "iretq",
                "2:",
                "call {f}",
                "ud2",
                "3:",
                "pop rbp",
                "pop rbx",
                state = in(reg) state,
                user_ss = in(reg) u64::from(USER_DS),
                user_rsp = in(reg) user_rsp,
                rflags = in(reg) (rflags | Rflags::FIXED).bits(),
                user_cs = in(reg) u64::from(USER_CS),
                f = in(reg) f,
                in("rdi") arg,
                out("rax") _,
                lateout("r12") _, lateout("r13") _, lateout("r14") _, lateout("r15") _,
                clobber_abi("C"),
            );
        }
    });
    cpu::set_rflags(rflags_before);
    result
}
