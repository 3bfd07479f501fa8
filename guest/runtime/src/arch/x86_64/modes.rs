//! Code in other modes than 64-bit: real mode, 32-bit protected mode with and without paging, and
//! compatibility mode (SDM vol. 3, "Mode Switching"; APM vol. 2, "Long-Mode Activation").
//!
//! The code is `guest_asm!` of 16 or 32 bits, which is linked to low memory and called there: it ends by a
//! near return, or by whatever exception it takes. In compatibility mode, that is one without a handler.
#![expect(unsafe_code, reason = "a frame at a fixed address, and the way to other modes")]

use guest_protocol::layout::x86_64::low::{
    self, FRAME, IDT, IVT, PAGE_DIRECTORY, SEGMENT, STACK_END,
};
use guest_protocol::layout::x86_64::{CODE32, KERNEL_CS, KERNEL_DS};
use guest_protocol::layout::{PAGE_SIZE, vcpu_area};

use super::frame::TrapFrame;
use crate::asm::{Blob, symbol};
use crate::context::Context;
use crate::memory::{peek, poke};

/// A mode to run code in, in ring 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Mode {
    /// Real-address mode; code of 16 bits.
    Real = 0,
    /// Protected mode without paging; code of 32 bits.
    Protected = 1,
    /// Protected mode on 32-bit paging that maps everything to itself in 4 MiB pages; code of 32 bits.
    Paged = 2,
    /// Compatibility mode on this context's translation tables; code of 32 bits.
    Compatibility = 3,
}

impl Mode {
    /// All of them, with a name.
    pub const ALL: [(&'static str, Self); 4] = [
        ("real mode", Self::Real),
        ("protected mode", Self::Protected),
        ("protected mode with paging", Self::Paged),
        ("compatibility mode", Self::Compatibility),
    ];

    /// The width that its code is assembled for.
    pub const fn bits(self) -> u32 {
        if matches!(self, Self::Real) { 16 } else { 32 }
    }
}

/// Registers that code in another mode starts with, and those that it ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "the manual's register names")]
pub struct Regs {
    pub eax: u32,
    pub ecx: u32,
    pub edx: u32,
    pub ebx: u32,
    pub esp: u32,
    pub ebp: u32,
    pub esi: u32,
    pub edi: u32,
    pub eflags: u32,
    pub ds: u32,
    pub es: u32,
    pub fs: u32,
    pub gs: u32,
    pub ss: u32,
}

impl Regs {
    /// A stack, segments over what the mode can reach of low memory, and zeroes.
    pub fn new(mode: Mode) -> Self {
        Self::on(mode, Context::current().area())
    }

    /// The same for a vCPU whose context has this area.
    pub fn on(mode: Mode, area: u64) -> Self {
        let (segment, esp) = match mode {
            Mode::Real => (u32::from(SEGMENT), (STACK_END - low::TEXT) as u32),
            Mode::Protected | Mode::Paged => (KERNEL_DS.into(), STACK_END as u32),
            // Traps are taken in 64-bit mode, on a stack of this context.
            Mode::Compatibility => {
                (KERNEL_DS.into(), (area + vcpu_area::GUARD + 2 * PAGE_SIZE) as u32)
            }
        };
        Self {
            eax: 0,
            ecx: 0,
            edx: 0,
            ebx: 0,
            esp,
            ebp: 0,
            esi: 0,
            edi: 0,
            eflags: 2,
            ds: segment,
            es: segment,
            fs: segment,
            gs: segment,
            ss: segment,
        }
    }
}

/// How code in another mode ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By its near return.
    Returned,
    /// By an exception or interrupt.
    Trap {
        /// Its vector.
        vector: u8,
        /// Its error code, 0 where it has none.
        error: u32,
        /// Offset in the code of the instruction that the frame points to.
        offset: u64,
    },
}

/// What all ways in and out have in common, at [`FRAME`].
#[repr(C)]
struct Frame {
    mode: u32,
    /// In real mode from the start of the low segment.
    entry: u32,
    regs: Regs,
    eip: u32,
    cs: u32,
    /// [`RETURNED`], or the exception's vector.
    vector: u32,
    error: u32,
    reserved: u32,
    idtr: [u16; 4],
    rsp: u64,
    cr3: u64,
    cr4: u64,
    idtr64: [u16; 8],
}

/// No exception.
const RETURNED: u32 = u32::MAX;

/// Calls `code` in `mode` with `regs`; interrupts are off, unless EFLAGS.IF is in them. One vCPU at a time.
///
/// # Panics
///
/// The code is of another width.
pub fn call(mode: Mode, code: &Blob, regs: &Regs) -> (Regs, End) {
    assert!(code.bits() == mode.bits(), "{} is no code for {mode:?}", code.name());
    assert!(code.address() < low::TEXT_END, "{} is not in low memory", code.name());
    prepare_tables();
    let base = if mode == Mode::Real { low::TEXT } else { 0 };
    let (idt, limit) = if mode == Mode::Real { (IVT, 0x3ff) } else { (IDT, 0x7ff) };
    let frame = Frame {
        mode: mode as u32,
        entry: (code.address() - base) as u32,
        regs: *regs,
        eip: 0,
        cs: 0,
        vector: RETURNED,
        error: 0,
        reserved: 0,
        idtr: [limit, idt as u16, (idt >> 16) as u16, 0],
        rsp: 0,
        cr3: 0,
        cr4: 0,
        idtr64: [0; 8],
    };
    let place = FRAME as *mut Frame;
    // SAFETY: low memory is the runtime's, and the assembly below keeps what the ABI wants kept.
    let frame = unsafe {
        place.write_volatile(frame);
        #[cfg(kvm_guest)]
        modes_enter();
        place.read_volatile()
    };
    let end = match frame.vector {
        RETURNED => End::Returned,
        vector => {
            let base = if mode == Mode::Real { u64::from(frame.cs) << 4 } else { 0 };
            let offset = (base + u64::from(frame.eip)).wrapping_sub(code.address());
            End::Trap { vector: vector as u8, error: frame.error, offset }
        }
    };
    (frame.regs, end)
}

/// Interrupt tables of real and protected mode, which lead to the stubs below, and page tables.
fn prepare_tables() {
    if peek::<u32>(IVT) != 0 {
        return;
    }
    let (stubs16, stubs32) = (symbol!(modes_traps16), symbol!(modes_traps32));
    for vector in 0..256 {
        let real = stubs16 + vector * low::STUB_SIZE - low::TEXT;
        poke(IVT + 4 * vector, real as u32 | u32::from(SEGMENT) << 16);
        let handler = stubs32 + vector * low::STUB_SIZE;
        poke(IDT + 8 * vector, handler as u32 & 0xffff | u32::from(CODE32) << 16);
        poke(IDT + 8 * vector + 4, handler as u32 & 0xffff_0000 | GATE32);
    }
    for nth in 0..PAGE_DIRECTORY_ENTRIES {
        poke(PAGE_DIRECTORY + 4 * u64::from(nth), page_directory_entry(nth));
    }
}

/// Upper half of a 32-bit interrupt gate: present, ring 0.
const GATE32: u32 = 0x8e00;

/// An entry of the page directory, which maps 4 GiB to themselves: a present, writable page of 4 MiB that was
/// accessed and written.
pub const fn page_directory_entry(nth: u32) -> u32 {
    nth << 22 | 0xe3
}

/// Entries of the page directory.
pub const PAGE_DIRECTORY_ENTRIES: u32 = 1024;

/// Whether a trap comes from compatibility mode.
pub(super) fn is_from_compatibility(frame: &TrapFrame) -> bool {
    frame.cs == CODE32.into()
}

/// A trap in compatibility mode that nobody handles: the end of the call.
pub(super) fn end_compatibility(frame: &mut TrapFrame) {
    // SAFETY: a call is under way, so that low memory has its frame.
    let call = unsafe { &mut *(FRAME as *mut Frame) };
    call.regs = Regs {
        eax: frame.rax as u32,
        ecx: frame.rcx as u32,
        edx: frame.rdx as u32,
        ebx: frame.rbx as u32,
        esp: frame.rsp as u32,
        ebp: frame.rbp as u32,
        esi: frame.rsi as u32,
        edi: frame.rdi as u32,
        eflags: frame.rflags as u32,
        ss: frame.ss as u32,
        ..call.regs
    };
    (call.eip, call.vector, call.error) =
        (frame.rip as u32, frame.vector as u32, frame.error as u32);
    frame.rip = symbol!(modes_long);
    frame.cs = KERNEL_CS.into();
    frame.ss = KERNEL_DS.into();
    frame.rflags = 2;
    frame.rsp = call.rsp;
}

#[cfg(kvm_guest)]
unsafe extern "C" {
    fn modes_enter();
}

#[cfg(kvm_guest)]
mod entry {
    use core::mem::offset_of;

    use super::{CODE32, FRAME, Frame, KERNEL_CS, KERNEL_DS, Mode, Regs, SEGMENT, low};
    use defs::x86::msr::IA32_EFER;
    use guest_protocol::layout::x86_64::{CODE16, DATA16};

    macro_rules! trampoline {
        ($($line:expr,)*) => {
            core::arch::global_asm!(
                $($line,)*
                frame = const FRAME,
                near = const FRAME - low::TEXT,
                mode = const offset_of!(Frame, mode),
                entry = const offset_of!(Frame, entry),
                eax = const offset_of!(Frame, regs) + offset_of!(Regs, eax),
                ecx = const offset_of!(Frame, regs) + offset_of!(Regs, ecx),
                edx = const offset_of!(Frame, regs) + offset_of!(Regs, edx),
                ebx = const offset_of!(Frame, regs) + offset_of!(Regs, ebx),
                esp = const offset_of!(Frame, regs) + offset_of!(Regs, esp),
                ebp = const offset_of!(Frame, regs) + offset_of!(Regs, ebp),
                esi = const offset_of!(Frame, regs) + offset_of!(Regs, esi),
                edi = const offset_of!(Frame, regs) + offset_of!(Regs, edi),
                eflags = const offset_of!(Frame, regs) + offset_of!(Regs, eflags),
                ds = const offset_of!(Frame, regs) + offset_of!(Regs, ds),
                es = const offset_of!(Frame, regs) + offset_of!(Regs, es),
                fs = const offset_of!(Frame, regs) + offset_of!(Regs, fs),
                gs = const offset_of!(Frame, regs) + offset_of!(Regs, gs),
                ss = const offset_of!(Frame, regs) + offset_of!(Regs, ss),
                eip = const offset_of!(Frame, eip),
                cs = const offset_of!(Frame, cs),
                vector = const offset_of!(Frame, vector),
                error = const offset_of!(Frame, error),
                page_directory = const low::PAGE_DIRECTORY,
                text = const low::TEXT,
                idtr = const offset_of!(Frame, idtr),
                rsp = const offset_of!(Frame, rsp),
                cr3 = const offset_of!(Frame, cr3),
                cr4 = const offset_of!(Frame, cr4),
                idtr64 = const offset_of!(Frame, idtr64),
                code32 = const CODE32,
                code16 = const CODE16,
                data16 = const DATA16,
                code64 = const KERNEL_CS,
                data = const KERNEL_DS,
                segment = const SEGMENT,
                paged = const Mode::Paged as u32,
                protected = const Mode::Protected as u32,
                compatibility = const Mode::Compatibility as u32,
                stack_end = const low::STACK_END,
                stub = const low::STUB_SIZE,
                efer = const IA32_EFER,
                no_pg = const 0x7fff_ffff_u32,
                pg = const 0x8000_0000_u32,
                lme = const 1 << 8,
                pae = const 1 << 5,
                pse = const 1 << 4,
                options(att_syntax)
            );
        };
    }

    trampoline! {
        ".pushsection .text.low, \"ax\"",
        ".code64",
        ".globl modes_enter",
        "modes_enter:",
        "pushq %rbx",
        "pushq %rbp",
        "pushq %r12",
        "pushq %r13",
        "pushq %r14",
        "pushq %r15",
        "pushfq",
        "cli",
        "movq %rsp, {frame} + {rsp}",
        "movq %cr3, %rax",
        "movq %rax, {frame} + {cr3}",
        "movq %cr4, %rax",
        "movq %rax, {frame} + {cr4}",
        "sidt {frame} + {idtr64}",
        "pushq ${code32}",
        "leaq 1f(%rip), %rax",
        "pushq %rax",
        "lretq",
        //
        ".code32",
        "1: movl ${data}, %eax",
        "movw %ax, %ds",
        "movw %ax, %es",
        "movw %ax, %ss",
        "movl ${stack_end}, %esp",
        "cmpl ${compatibility}, {frame} + {mode}",
        "je modes_run32",
        "lidtl {frame} + {idtr}",
        "movl %cr0, %eax",
        "andl ${no_pg}, %eax",
        "movl %eax, %cr0",
        "movl ${efer}, %ecx",
        "rdmsr",
        "andl $~{lme}, %eax",
        "wrmsr",
        "cmpl ${protected}, {frame} + {mode}",
        "je modes_run32",
        "cmpl ${paged}, {frame} + {mode}",
        "je 2f",
        "ljmpl ${code16}, $(modes_to_real - {text})",
        "2: movl %cr4, %eax",
        "andl $~{pae}, %eax",
        "orl ${pse}, %eax",
        "movl %eax, %cr4",
        "movl ${page_directory}, %eax",
        "movl %eax, %cr3",
        "movl %cr0, %eax",
        "orl ${pg}, %eax",
        "movl %eax, %cr0",
        //
        "modes_run32:",
        "movw %cs:{frame} + {es}, %es",
        "movw %cs:{frame} + {fs}, %fs",
        "movw %cs:{frame} + {gs}, %gs",
        "movw %cs:{frame} + {ds}, %ds",
        "movw %cs:{frame} + {ss}, %ss",
        "movl %cs:{frame} + {esp}, %esp",
        "movl %cs:{frame} + {eax}, %eax",
        "movl %cs:{frame} + {ecx}, %ecx",
        "movl %cs:{frame} + {edx}, %edx",
        "movl %cs:{frame} + {ebx}, %ebx",
        "movl %cs:{frame} + {ebp}, %ebp",
        "movl %cs:{frame} + {esi}, %esi",
        "movl %cs:{frame} + {edi}, %edi",
        "pushl %cs:{frame} + {eflags}",
        "popfl",
        "calll *%cs:{frame} + {entry}",
        // As a trap would leave it, with no vector.
        "pushfl",
        "pushl %cs",
        "pushl $0",
        "pushl $0",
        "pushl $-1",
        //
        // [vector][error][eip][cs][eflags]
        "modes_save32:",
        "pushl %ds",
        "pushl %eax",
        "movl ${data}, %eax",
        "movw %ax, %ds",
        "popl {frame} + {eax}",
        "popl {frame} + {ds}",
        "movl %ecx, {frame} + {ecx}",
        "movl %edx, {frame} + {edx}",
        "movl %ebx, {frame} + {ebx}",
        "movl %ebp, {frame} + {ebp}",
        "movl %esi, {frame} + {esi}",
        "movl %edi, {frame} + {edi}",
        "movw %es, {frame} + {es}",
        "movw %fs, {frame} + {fs}",
        "movw %gs, {frame} + {gs}",
        "movw %ss, {frame} + {ss}",
        "popl {frame} + {vector}",
        "popl {frame} + {error}",
        "popl {frame} + {eip}",
        "popl {frame} + {cs}",
        "popl {frame} + {eflags}",
        "movl %esp, {frame} + {esp}",
        "cld",
        "cmpl ${compatibility}, {frame} + {mode}",
        "je 3f",
        //
        "modes_to_long:",
        "movl ${data}, %eax",
        "movw %ax, %ds",
        "movl %cr0, %eax",
        "andl ${no_pg}, %eax",
        "movl %eax, %cr0",
        "movl {frame} + {cr4}, %eax",
        "movl %eax, %cr4",
        "movl {frame} + {cr3}, %eax",
        "movl %eax, %cr3",
        "movl ${efer}, %ecx",
        "rdmsr",
        "orl ${lme}, %eax",
        "wrmsr",
        "movl %cr0, %eax",
        "orl ${pg}, %eax",
        "movl %eax, %cr0",
        "3: ljmpl ${code64}, $modes_long",
        //
        ".code64",
        ".globl modes_long",
        "modes_long:",
        "movl ${data}, %eax",
        "movw %ax, %ds",
        "movw %ax, %es",
        "movw %ax, %ss",
        "movw %ax, %fs",
        "movw %ax, %gs",
        "movq {frame} + {rsp}, %rsp",
        "lidt {frame} + {idtr64}",
        "popfq",
        "popq %r15",
        "popq %r14",
        "popq %r13",
        "popq %r12",
        "popq %rbp",
        "popq %rbx",
        "retq",
        //
        ".code16",
        "modes_to_real:",
        // Segments of real mode have the limits of the descriptors that were loaded last.
        "movw ${data16}, %ax",
        "movw %ax, %ds",
        "movw %ax, %es",
        "movw %ax, %fs",
        "movw %ax, %gs",
        "movw %ax, %ss",
        "movl %cr0, %eax",
        "andl $~1, %eax",
        "movl %eax, %cr0",
        "ljmpw ${segment}, $(4f - {text})",
        "4: movw %cs:{near} + {es}, %es",
        "movw %cs:{near} + {fs}, %fs",
        "movw %cs:{near} + {gs}, %gs",
        "movw %cs:{near} + {ds}, %ds",
        "movw %cs:{near} + {ss}, %ss",
        "movl %cs:{near} + {esp}, %esp",
        "movl %cs:{near} + {eax}, %eax",
        "movl %cs:{near} + {ecx}, %ecx",
        "movl %cs:{near} + {edx}, %edx",
        "movl %cs:{near} + {ebx}, %ebx",
        "movl %cs:{near} + {ebp}, %ebp",
        "movl %cs:{near} + {esi}, %esi",
        "movl %cs:{near} + {edi}, %edi",
        "pushl %cs:{near} + {eflags}",
        "popfl",
        // What the assembler makes of `ret` in 16-bit code takes 32 bits off the stack.
        "calll *%cs:{near} + {entry}",
        "pushfw",
        "pushw %cs",
        "pushw $0",
        "pushw $-1",
        //
        // [vector][ip][cs][flags]; the code segment can be written in real mode.
        "modes_save16:",
        "movl %eax, %cs:{near} + {eax}",
        "movl %ecx, %cs:{near} + {ecx}",
        "movl %edx, %cs:{near} + {edx}",
        "movl %ebx, %cs:{near} + {ebx}",
        "movl %ebp, %cs:{near} + {ebp}",
        "movl %esi, %cs:{near} + {esi}",
        "movl %edi, %cs:{near} + {edi}",
        "movw %ds, %cs:{near} + {ds}",
        "movw %es, %cs:{near} + {es}",
        "movw %fs, %cs:{near} + {fs}",
        "movw %gs, %cs:{near} + {gs}",
        "movw %ss, %cs:{near} + {ss}",
        "popw %ax",
        "movswl %ax, %eax",
        "movl %eax, %cs:{near} + {vector}",
        "popw %cs:{near} + {eip}",
        "popw %cs:{near} + {cs}",
        "movl $0, %cs:{near} + {eflags}",
        "popw %cs:{near} + {eflags}",
        "movl %esp, %cs:{near} + {esp}",
        "cld",
        "movl %cr0, %eax",
        "orl $1, %eax",
        "movl %eax, %cr0",
        "ljmpl ${code32}, $modes_to_long",
        //
        ".balign 16",
        ".globl modes_traps16",
        "modes_traps16:",
        ".set vector, 0",
        ".rept 256",
        ".balign {stub}",
        "pushw $vector",
        "jmp modes_save16",
        ".set vector, vector + 1",
        ".endr",
        //
        ".code32",
        ".balign 16",
        ".globl modes_traps32",
        "modes_traps32:",
        ".set vector, 0",
        ".rept 256",
        ".balign {stub}",
        // The vectors for which the CPU pushes an error code.
        ".if (vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)",
        ".else",
        "pushl $0",
        ".endif",
        "pushl $vector",
        "jmp modes_save32",
        ".set vector, vector + 1",
        ".endr",
        ".code64",
        ".popsection",
    }
}
