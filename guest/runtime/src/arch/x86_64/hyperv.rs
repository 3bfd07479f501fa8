//! Hyper-V's interface as a guest sees it: MSRs, the hypercall page and its calling convention
//! (Hyper-V Hypervisor Top-Level Functional Specification).
#![expect(unsafe_code, reason = "calls the hypercall page")]

use core::arch::asm;

use defs::x86::exception::vector;
pub use defs::x86::hyperv::*;

use super::cpu::wrmsr;
use super::frame::{Trap, TrapFrame};
use crate::handlers::with_handler;

/// Calls through the hypercall page of this partition.
#[derive(Clone, Copy, Debug)]
pub struct Hypercalls {
    page: u64,
}

impl Hypercalls {
    /// Tells the hypervisor of a guest OS, and has it fill the hypercall page at `page`, which must
    /// be mapped at its own address.
    pub fn enable(page: u64, guest_os_id: u64) -> Self {
        wrmsr(msr::GUEST_OS_ID, guest_os_id);
        wrmsr(msr::HYPERCALL, page | ENABLE);
        Self { page }
    }

    /// The page of a partition in which another vCPU has enabled it.
    pub const fn at(page: u64) -> Self {
        Self { page }
    }

    /// A call with `input` in memory at a guest-physical address.
    pub fn slow(self, control: Control, input_gpa: u64, output_gpa: u64) -> Result<u64, Trap> {
        self.call(control, input_gpa, output_gpa, &[0; FAST_WORDS - 2])
    }

    /// A call with its input in registers.
    pub fn fast(self, control: Control, input: &[u64; FAST_WORDS]) -> Result<u64, Trap> {
        let [rdx, r8, xmm @ ..] = input;
        self.call(control.with_fast(true), *rdx, *r8, xmm)
    }

    fn call(
        self,
        control: Control,
        rdx: u64,
        r8: u64,
        xmm: &[u64; FAST_WORDS - 2],
    ) -> Result<u64, Trap> {
        let mut trap = None;
        // VMCALL and VMMCALL have three bytes; the page's RET is next.
        let on_ud = |frame: &mut TrapFrame| {
            trap = Some(frame.trap());
            frame.rip += 3;
        };
        let mut result: u64 = 0;
        with_handler(vector::UD, on_ud, || {
            // SAFETY: the page holds a hypercall instruction and RET; what Hyper-V lets a hypercall
            // change is named, and nobody keeps anything in the XMM registers.
            unsafe {
                asm!(
                    "movdqu xmm0, [{xmm}]",
                    "movdqu xmm1, [{xmm} + 16]",
                    "movdqu xmm2, [{xmm} + 32]",
                    "movdqu xmm3, [{xmm} + 48]",
                    "movdqu xmm4, [{xmm} + 64]",
                    "movdqu xmm5, [{xmm} + 80]",
                    "call {page}",
                    xmm = in(reg) xmm.as_ptr(), page = in(reg) self.page,
                    inout("rcx") control.into_bits() => _, inout("rdx") rdx => _, inout("r8") r8 => _,
                    inout("rax") result,
                    out("r9") _, out("r10") _, out("r11") _,
                );
            }
        });
        match trap {
            None => Ok(result),
            Some(trap) => Err(trap),
        }
    }
}

/// Reads the reference TSC page at `gva` by the protocol of its sequence; `None` where that is 0: the page
/// is not valid, and TIME_REF_COUNT counts.
pub fn read_reference_tsc(gva: u64) -> Option<ReferenceTscPage> {
    loop {
        let before: u32 = super::memory::peek(gva);
        if before == 0 {
            return None;
        }
        let page: ReferenceTscPage = super::memory::peek(gva);
        let after: u32 = super::memory::peek(gva);
        if before == after {
            return Some(ReferenceTscPage { tsc_sequence: before, ..page });
        }
        super::cpu::relax();
    }
}
