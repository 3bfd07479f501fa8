//! EL0: runs a few instructions there, and comes back with what ended them.
#![expect(unsafe_code, reason = "cleans instructions to where they are fetched from")]

use core::arch::asm;
use core::cell::Cell;
use core::sync::atomic::{AtomicBool, Ordering::SeqCst};

use defs::aarch64::paging::Descriptor;
use defs::aarch64::regs::{Spsr, mode};
use guest_protocol::layout::{self, PAGE_SIZE};

use super::cpu::svc;
use super::insn::Insn;
use super::memory::poke;
use super::mmu;
use super::trap::{Trap, TrapFrame, vector};
use crate::handlers::with_handler;

pub use super::insn;

/// What ended a run at EL0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// The exception.
    pub trap: Trap,
    /// X0 to X3.
    pub x: [u64; 4],
    /// Index of the instruction to return to: behind an SVC, at a faulting one.
    pub next: u64,
}

impl Stop {
    /// X0 if an SVC ended the run, else the exception's class.
    pub fn value(&self) -> Result<u64, u8> {
        if self.trap.vector == vector::SVC { Ok(self.x[0]) } else { Err(self.trap.vector) }
    }
}

/// Where EL0's instructions are, virtual and physical: the last pages below 3 GiB and of the scratch
/// memory.
pub const CODE: u64 = 0xbfff_0000;
const CODE_GPA: u64 = layout::SCRATCH_END - PAGE_SIZE;
/// A page that EL0 may read and write, virtual.
pub const DATA: u64 = CODE + PAGE_SIZE;
/// The same, physical.
pub const DATA_GPA: u64 = CODE_GPA - PAGE_SIZE;
/// The most instructions of a program.
const ROOM: usize = 64;

/// How EL0 is entered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mode {
    /// IRQs are taken.
    pub interrupts: bool,
    /// One instruction is stepped over (MDSCR_EL1.SS).
    pub step: bool,
}

/// Runs `program` at EL0 with X0 to X3 until its first synchronous exception: end it with
/// [`insn::SVC`].
pub fn run(program: &[Insn], x: [u64; 4]) -> Stop {
    run_in(Mode::default(), program, x)
}

/// The same, entered as `mode` says.
pub fn run_in(mode: Mode, program: &[Insn], x: [u64; 4]) -> Stop {
    load(program);
    let mut spsr = Spsr::DAIF.bits() | mode::EL0T;
    if mode.interrupts {
        spsr &= !Spsr::I.bits();
    }
    if mode.step {
        spsr |= Spsr::SS.bits();
    }
    let kernel = Cell::new(([0; 31], 0, 0, 0));
    let stop = Cell::new(None);
    let enter = |frame: &mut TrapFrame| {
        kernel.set((frame.x, frame.sp, frame.elr, frame.spsr));
        frame.x[..4].copy_from_slice(&x);
        (frame.elr, frame.spsr) = (CODE, spsr);
    };
    let leave = |frame: &mut TrapFrame| {
        let [x0, x1, x2, x3, ..] = frame.x;
        let next = frame.elr.wrapping_sub(CODE) / 4;
        stop.set(Some(Stop { trap: frame.trap(), x: [x0, x1, x2, x3], next }));
        (frame.x, frame.sp, frame.elr, frame.spsr) = kernel.get();
    };
    with_handler(vector::SVC, enter, || with_handler(vector::FROM_LOWER, leave, svc));
    stop.get().expect("an exception ended the run")
}

/// Puts `program` where EL0 finds it.
fn load(program: &[Insn]) {
    assert!(program.len() <= ROOM, "a program of more than {ROOM} instructions");
    place(CODE_GPA, program);
    if !MAPPED.swap(true, SeqCst) {
        let code = Descriptor::AP_EL0 | Descriptor::AP_READ_ONLY | Descriptor::PXN;
        mmu::map(CODE, CODE_GPA, mmu::Size::Small, mmu::DEFAULT - Descriptor::UXN | code);
        mmu::map(DATA, DATA_GPA, mmu::Size::Small, mmu::DEFAULT | Descriptor::AP_EL0);
    }
}

/// Writes instructions to RAM, and makes them visible to fetches, cached or not.
pub fn place(address: u64, instructions: &[Insn]) {
    for (instruction, address) in instructions.iter().zip((address..).step_by(4)) {
        poke(address, instruction.word());
        // SAFETY: cleans a line of the guest's own memory.
        unsafe { asm!("dc cvac, {a}", a = in(reg) address) };
    }
    // All of it: fetches may be by another address, and an instruction cache may be indexed by it.
    // SAFETY: drops cached instructions.
    unsafe { asm!("dsb ish", "ic ialluis", "dsb ish", "isb") };
}

static MAPPED: AtomicBool = AtomicBool::new(false);
