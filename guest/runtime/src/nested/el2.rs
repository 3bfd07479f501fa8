//! A hypervisor at EL2 (ARM ARM D1 and D8), for guest functions that the host started there, with HCR_EL2.E2H
//! and TGE.
//!
//! Its guest runs at EL1 on the same translation tables, without stage 2, and nothing of it is trapped:
//! tests say what is ([`El2::hcr`]).
#![cfg_attr(kvm_guest, expect(unsafe_code, reason = "the guest's first instructions"))]

use core::cell::Cell;

use defs::aarch64::esr;
use defs::aarch64::regs::Hcr;
use guest_protocol::layout::aarch64::{self as map, start};
use guest_protocol::layout::vcpu_area;

use super::Hypervisor;
use crate::arch::aarch64::cpu::{self, svc};
use crate::arch::aarch64::sysreg::{
    CPACR_EL12, HCR_EL2, MAIR_EL12, SCTLR_EL12, SP_EL1, TCR_EL12, TTBR0_EL1, TTBR0_EL12, VBAR_EL1,
    VBAR_EL12,
};
use crate::arch::aarch64::trap::{Trap, TrapFrame, vector};
use crate::asm::symbol;
use crate::context::Context;
use crate::handlers::with_handler;

/// What an exception from the guest left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The exception.
    pub trap: Trap,
    /// Its preferred return address: behind an HVC, at anything else.
    pub elr: u64,
}

/// A hypervisor and its guest.
#[derive(Debug)]
pub struct El2 {
    context: Context,
    /// HCR_EL2 while the guest runs.
    pub hcr: u64,
    /// The guest's X0 to X30.
    pub x: [u64; 31],
    /// Its SP_EL0.
    pub sp: u64,
    /// Where it goes on.
    pub elr: u64,
    /// Its PSTATE.
    pub pstate: u64,
    last: Option<Exit>,
}

impl El2 {
    /// Makes a guest that traps nothing.
    pub fn new() -> Self {
        let hcr = HCR_EL2.read() & !Hcr::TGE.bits();
        let context = Context::nested();
        Self { context, hcr, x: [0; 31], sp: 0, elr: 0, pstate: 0, last: None }
    }
}

impl Default for El2 {
    fn default() -> Self {
        Self::new()
    }
}

impl Hypervisor for El2 {
    type Exit = Exit;

    fn context(&self) -> Context {
        self.context
    }

    fn reset(&mut self) {
        // Without `El2`'s names, which E2H redirects: those of the guest's EL1.
        MAIR_EL12.write(start::MAIR);
        TCR_EL12.write(start::TCR);
        TTBR0_EL12.write(TTBR0_EL1.read());
        CPACR_EL12.write(start::CPACR);
        SCTLR_EL12.write(start::SCTLR);
        VBAR_EL12.write(VBAR_EL1.read());
        let area = self.context.area();
        SP_EL1.write(area + map::TRAP_STACK_END);
        cpu::tlbi_alle1();
        self.x = [0; 31];
        self.x[0] = self.context.start_info();
        self.sp = area + vcpu_area::STACK_END;
        self.elr = symbol!(el2_guest);
        self.pstate = start::PSTATE;
    }

    fn run(&mut self) -> Exit {
        let own = Cell::new(([0; 31], 0, 0, 0));
        let own_hcr = HCR_EL2.read();
        let (x, sp, elr, pstate, hcr) = (self.x, self.sp, self.elr, self.pstate, self.hcr);
        let enter = |frame: &mut TrapFrame| {
            own.set((frame.x, frame.sp, frame.elr, frame.spsr));
            (frame.x, frame.sp, frame.elr, frame.spsr) = (x, sp, elr, pstate);
            HCR_EL2.write(hcr);
        };
        let mut exit = None;
        let leave = |frame: &mut TrapFrame| {
            HCR_EL2.write(own_hcr);
            exit = Some(Exit { trap: frame.trap(), elr: frame.elr });
            (self.x, self.sp, self.elr, self.pstate) = (frame.x, frame.sp, frame.elr, frame.spsr);
            (frame.x, frame.sp, frame.elr, frame.spsr) = own.get();
        };
        with_handler(vector::SVC, enter, || with_handler(vector::FROM_LOWER, leave, svc));
        let exit = exit.expect("an exception ended the run");
        self.last = Some(exit);
        exit
    }

    fn skip(&mut self) {
        if self.last.is_some_and(|exit| exit.trap.vector != vector::HVC) {
            self.elr += 4;
        }
    }

    fn has_returned(&self, exit: &Exit) -> bool {
        exit.trap.vector == vector::HVC && exit.elr == symbol!(el2_guest_end) + 4
    }

    fn doorbell(&self, exit: &Exit) -> Option<u32> {
        let Trap { vector, addr, .. } = exit.trap;
        let iss = exit.trap.iss();
        let rings = vector == vector::DATA_ABORT_LOWER
            && addr == map::DOORBELL
            && iss & (esr::ISV | esr::WNR) == esr::ISV | esr::WNR;
        let register = (iss >> 16 & 31) as usize;
        rings.then(|| self.x.get(register).map_or(0, |x| *x as u32))
    }
}

#[cfg(kvm_guest)]
core::arch::global_asm!(
    ".pushsection .text.nested, \"ax\"",
    "el2_guest:",
    // No frame is below this one.
    "mov x29, xzr",
    "mov x30, xzr",
    "bl {run}",
    "el2_guest_end:",
    "hvc #0",
    "b el2_guest_end",
    ".popsection",
    run = sym crate::entry::run,
);
