//! A table of instructions: each row is one line, and can be run as it is or behind KVM's forced-emulation
//! prefix, with any registers.
//!
//! With kvm.force_emulation_prefix KVM emulates what follows the prefix, whatever the CPU could do itself.
//! A row's bytes are in the payload once, behind the prefix: its native form is entered behind it.
#![expect(unsafe_code, reason = "runs instructions with registers that tests choose")]

use core::ops::{Index, IndexMut};

use defs::x86::rflags::Rflags;
use guest_protocol::layout::vcpu_area::INSN;

use super::frame::{Trap, TrapFrame};
use crate::asm::symbol;
use crate::context::Context;

/// How a row is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// By the CPU, or by whatever KVM does with the instruction.
    Native,
    /// By KVM's emulator.
    Forced,
}

/// A general register, by its number in instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the manual's names")]
pub enum Gpr {
    Rax,
    Rcx,
    Rdx,
    Rbx,
    Rsp,
    Rbp,
    Rsi,
    Rdi,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
}

/// What an instruction does with an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads it.
    R,
    /// Writes it, without regard to what was there.
    W,
    /// Both.
    RW,
}

/// An operand of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// Memory of `bytes` at the address in `base`; of a string instruction, one element.
    Mem {
        /// Its width.
        bytes: u8,
        /// The register that has its address.
        base: Gpr,
        /// What is done with it.
        access: Access,
    },
    /// A general register, or its lowest `bytes`.
    Reg {
        /// Its width.
        bytes: u8,
        /// The register.
        gpr: Gpr,
        /// What is done with it.
        access: Access,
    },
    /// An XMM register, or its lowest `bytes`.
    Xmm {
        /// Its width.
        bytes: u8,
        /// Its number.
        number: u8,
        /// What is done with it.
        access: Access,
    },
}

/// The memory operand `[base]`.
pub const fn mem(bytes: u8, base: Gpr, access: Access) -> Operand {
    Operand::Mem { bytes, base, access }
}

/// A register operand.
pub const fn reg(bytes: u8, gpr: Gpr, access: Access) -> Operand {
    Operand::Reg { bytes, gpr, access }
}

/// A vector register operand.
pub const fn xmm(bytes: u8, number: u8, access: Access) -> Operand {
    Operand::Xmm { bytes, number, access }
}

/// Flags that instructions define, for the third column.
pub mod flags {
    use defs::x86::rflags::Rflags;

    /// All six status flags: set by the result, or left as they were.
    pub const ALL: Rflags = Rflags::CF
        .union(Rflags::PF)
        .union(Rflags::AF)
        .union(Rflags::ZF)
        .union(Rflags::SF)
        .union(Rflags::OF);
    /// All but AF, as logical instructions leave them.
    pub const LOGICAL: Rflags = ALL.difference(Rflags::AF);
    /// CF and ZF, as bit tests leave them: the manuals define no others.
    pub const BIT_TEST: Rflags = Rflags::CF.union(Rflags::ZF);
    /// None.
    pub const NONE: Rflags = Rflags::empty();
}

/// Exceptions that instructions may take, for the fourth column.
pub mod faults {
    use defs::x86::exception::vector::{AC, BR, DE, GP, MF, NM, NP, PF, SS, UD, XM};

    /// None but those of fetching it.
    pub const NONE: &[u8] = &[];
    /// Those of a memory operand.
    pub const MEMORY: &[u8] = &[SS, GP, PF, AC];
    /// Those of a memory operand, and #UD for LOCK where it is not allowed.
    pub const LOCKED: &[u8] = &[SS, GP, PF, AC, UD];
    /// Those of a division.
    pub const DIVIDE: &[u8] = &[DE];
    /// Those of an x87 instruction with a memory operand.
    pub const X87_MEMORY: &[u8] = &[SS, GP, PF, AC, NM, MF];
    /// Those of an x87 instruction.
    pub const X87: &[u8] = &[NM, MF];
    /// Those of an SSE instruction with a memory operand.
    pub const SSE_MEMORY: &[u8] = &[SS, GP, PF, AC, NM, UD, XM];
    /// Those of a load of a segment register.
    pub const SEGMENT: &[u8] = &[GP, NP, SS, UD];
    /// #GP of a privileged instruction, or of an operand that it refuses.
    pub const PRIVILEGED: &[u8] = &[GP];
    /// #UD of an instruction that may be turned off, and those of its operands.
    pub const OPTIONAL: &[u8] = &[UD, GP, SS, PF, BR];
}

/// What rows are written with.
pub mod columns {
    pub use super::Access::*;
    pub use super::Gpr::*;
    pub use super::{faults, flags, mem, reg, xmm};
}

/// Registers before or behind an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct State {
    /// The general registers by number. An RSP of 0 stands for a stack of the runtime's; any other must be in
    /// the stack of this context, with 512 bytes below it.
    pub gprs: [u64; 16],
    /// RFLAGS. With IF, the handler of an interrupt must run no row.
    pub rflags: Rflags,
}

impl Default for State {
    fn default() -> Self {
        Self { gprs: [0; 16], rflags: Rflags::FIXED }
    }
}

impl Index<Gpr> for State {
    type Output = u64;

    fn index(&self, gpr: Gpr) -> &u64 {
        &self.gprs[gpr as usize]
    }
}

impl IndexMut<Gpr> for State {
    fn index_mut(&mut self, gpr: Gpr) -> &mut u64 {
        &mut self.gprs[gpr as usize]
    }
}

/// A row of a table.
#[derive(Clone, Copy, Debug)]
pub struct Insn {
    /// Its name.
    pub name: &'static str,
    /// What the assembler makes it of.
    pub text: &'static str,
    /// Its operands, implicit ones too. Where its first register is an address, the memory is an operand of
    /// its own.
    pub operands: &'static [Operand],
    /// The status flags whose value the manuals define, unchanged ones too.
    pub defined: Rflags,
    /// The exceptions that it may take.
    pub exceptions: &'static [u8],
    /// Addresses of the prefix, of the instruction, and of what follows it.
    #[doc(hidden)]
    pub code: fn() -> [u64; 3],
}

impl Insn {
    /// Where the instruction is, without the prefix.
    pub fn address(&self) -> u64 {
        (self.code)()[1]
    }

    /// Its bytes, without the prefix.
    pub fn bytes(&self) -> &'static [u8] {
        let [_, start, end] = (self.code)();
        if start == 0 {
            return &[];
        }
        // SAFETY: the assembler put the instruction there.
        unsafe { core::slice::from_raw_parts(start as *const u8, (end - start) as usize) }
    }

    /// Runs it, and leaves in `state` what it leaves; an exception is a value, whatever
    /// handlers there are, and `state` is as it found it.
    pub fn run(&self, form: Form, state: &mut State) -> Result<(), Trap> {
        let [forced, native, _] = (self.code)();
        let context = Context::current();
        let rsp = match state[Gpr::Rsp] {
            0 => stack(),
            rsp => rsp,
        };
        let frame = (context.area() + INSN) as *mut Frame;
        let target = if form == Form::Native { native } else { forced };
        let given = Frame { state: *state, own_rsp: 0, trap: None };
        // SAFETY: the frame is this context's, and the assembly keeps what the ABI wants kept.
        let taken = unsafe {
            frame.write_volatile(given);
            (&raw mut (*frame).state.gprs[Gpr::Rsp as usize]).write_volatile(rsp);
            ((rsp - 8) as *mut u64).write_volatile(target);
            #[cfg(kvm_guest)]
            insn_run(frame as u64);
            frame.read_volatile()
        };
        *state = taken.state;
        taken.trap.map_or(Ok(()), Err)
    }

    /// Runs it with `memory` in the base of its first memory operand and `value` in its first register
    /// operand, and returns what it leaves.
    ///
    /// # Panics
    ///
    /// It traps.
    pub fn with(&self, form: Form, memory: u64, value: u64) -> State {
        let mut state = State::default();
        self.operands.iter().rev().for_each(|operand| match *operand {
            Operand::Mem { base, .. } => state[base] = memory,
            Operand::Reg { gpr, .. } => state[gpr] = value,
            Operand::Xmm { .. } => {}
        });
        let result = self.run(form, &mut state);
        assert!(result.is_ok(), "{} takes {result:x?}", self.text);
        state
    }

    /// [`Insn::with`], by the CPU.
    pub fn native(&self, memory: u64, value: u64) -> State {
        self.with(Form::Native, memory, value)
    }

    /// [`Insn::with`], by KVM's emulator.
    pub fn forced(&self, memory: u64, value: u64) -> State {
        self.with(Form::Forced, memory, value)
    }
}

/// End of the stack that rows get in this context where a test gives none.
pub fn stack() -> u64 {
    Context::current().area() + STACK
}

/// Its offset in a context's area, in the main stack's lower half, above what ring 3 has there.
const STACK: u64 = guest_protocol::layout::vcpu_area::GUARD + 3 * guest_protocol::layout::PAGE_SIZE;

/// What a run keeps in its context's area.
#[repr(C)]
struct Frame {
    state: State,
    own_rsp: u64,
    trap: Option<Trap>,
}

/// Whether an instruction of a table, or what follows it, is at `rip`.
pub(super) fn contains(rip: u64) -> bool {
    (symbol!(insn_table_start)..symbol!(insn_table_end)).contains(&rip)
}

/// An exception of a row: the end of its run.
pub(super) fn end(frame: &mut TrapFrame) {
    let run = (Context::current().area() + INSN) as *mut Frame;
    // SAFETY: a run is under way in this context, and the trap interrupted it.
    let run = unsafe { &mut *run };
    run.trap = Some(frame.trap());
    run.state.gprs = [
        frame.rax, frame.rcx, frame.rdx, frame.rbx, frame.rsp, frame.rbp, frame.rsi, frame.rdi,
        frame.r8, frame.r9, frame.r10, frame.r11, frame.r12, frame.r13, frame.r14, frame.r15,
    ];
    run.state.rflags = Rflags::from_bits_retain(frame.rflags);
    frame.rip = symbol!(insn_out);
    frame.rsp = run.own_rsp;
    frame.rflags = Rflags::FIXED.bits();
}

#[cfg(kvm_guest)]
unsafe extern "C" {
    fn insn_run(frame: u64);
}

#[cfg(kvm_guest)]
core::arch::global_asm!(
    ".pushsection .text.insn_run, \"ax\"",
    "insn_run:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "pushfq",
    "mov [rdi + {own_rsp}], rsp",
    "push qword ptr [rdi + {rflags}]",
    "popfq",
    "mov rax, [rdi]",
    "mov rcx, [rdi + 8]",
    "mov rdx, [rdi + 16]",
    "mov rbx, [rdi + 24]",
    "mov rsp, [rdi + 32]",
    "mov rbp, [rdi + 40]",
    "mov rsi, [rdi + 48]",
    "mov r8, [rdi + 64]",
    "mov r9, [rdi + 72]",
    "mov r10, [rdi + 80]",
    "mov r11, [rdi + 88]",
    "mov r12, [rdi + 96]",
    "mov r13, [rdi + 104]",
    "mov r14, [rdi + 112]",
    "mov r15, [rdi + 120]",
    "mov rdi, [rdi + 56]",
    "jmp qword ptr [rsp - 8]",
    //
    // Behind the instruction: only its stack is known, which is in this context's area.
    ".globl insn_done",
    "insn_done:",
    "push rax",
    "pushfq",
    "lea rax, [rsp + 15]",
    "and rax, -{area}",
    "mov [rax + {frame} + 8], rcx",
    "mov [rax + {frame} + 16], rdx",
    "mov [rax + {frame} + 24], rbx",
    "mov [rax + {frame} + 40], rbp",
    "mov [rax + {frame} + 48], rsi",
    "mov [rax + {frame} + 56], rdi",
    "mov [rax + {frame} + 64], r8",
    "mov [rax + {frame} + 72], r9",
    "mov [rax + {frame} + 80], r10",
    "mov [rax + {frame} + 88], r11",
    "mov [rax + {frame} + 96], r12",
    "mov [rax + {frame} + 104], r13",
    "mov [rax + {frame} + 112], r14",
    "mov [rax + {frame} + 120], r15",
    "pop qword ptr [rax + {frame} + {rflags}]",
    "pop qword ptr [rax + {frame}]",
    "mov [rax + {frame} + 32], rsp",
    "mov rsp, [rax + {frame} + {own_rsp}]",
    ".globl insn_out",
    "insn_out:",
    "popfq",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    ".popsection",
    area = const guest_protocol::layout::VCPU_AREA_SIZE,
    frame = const INSN,
    own_rsp = const core::mem::offset_of!(Frame, own_rsp),
    rflags = const core::mem::offset_of!(Frame, state) + core::mem::offset_of!(State, rflags),
);

/// Tables of instructions, one line each:
///
/// ```ignore
/// use insn_table::columns::*;
///
/// insn_table! {
///     /// What is in it.
///     pub static ALU;
///     ADD_M64_R64: "add [rdi], rax", [mem(8, Rdi, RW), reg(8, Rax, R)], flags::ALL, faults::MEMORY;
/// }
/// ```
///
/// Each row is a constant [`Insn`], and `ALU` is all of them.
#[macro_export]
macro_rules! insn_table {
    (
        $(#[$meta:meta])*
        $visibility:vis static $table:ident;
        $($name:ident: $text:literal, [$($operand:expr),* $(,)?], $defined:expr, $exceptions:expr;)*
    ) => {
        $(
            #[doc = concat!("`", $text, "`")]
            $visibility const $name: $crate::arch::x86_64::insn_table::Insn = {
                #[inline(never)]
                fn code() -> [u64; 3] {
                    #[cfg(kvm_guest)]
                    {
                        let (forced, native, end): (u64, u64, u64);
                        // SAFETY: gives addresses.
                        unsafe {
                            core::arch::asm!(
                                "lea {forced}, [rip + 772f]",
                                "lea {native}, [rip + 773f]",
                                "lea {end}, [rip + 774f]",
                                ".pushsection .text.insn_table, \"ax\"",
                                "772:",
                                "ud2",
                                ".ascii \"kvm\"",
                                "773:",
                                $text,
                                "774:",
                                "jmp insn_done",
                                ".popsection",
                                forced = out(reg) forced,
                                native = out(reg) native,
                                end = out(reg) end,
                                options(nomem, nostack, preserves_flags)
                            );
                        }
                        [forced, native, end]
                    }
                    #[cfg(not(kvm_guest))]
                    [0; 3]
                }
                $crate::arch::x86_64::insn_table::Insn {
                    name: stringify!($name),
                    text: $text,
                    operands: &[$($operand),*],
                    defined: $defined,
                    exceptions: $exceptions,
                    code,
                }
            };
        )*

        $(#[$meta])*
        $visibility static $table: &[$crate::arch::x86_64::insn_table::Insn] = &[$($name),*];
    };
}
