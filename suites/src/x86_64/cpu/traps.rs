//! What tests rely on in the guest runtime, which is also what KVM owes every guest: exceptions and
//! interrupts reach their handlers (SDM vol. 3, chapter 6), translation tables are obeyed (chapter 4),
//! and vCPUs run apart from each other.
use crate::prelude::*;
use defs::x86::cpuid::feature::XSAVE;
use defs::x86::exception::PageFaultError;
use defs::x86::paging::LARGE_PAGE;
use insn_table::{Form, Insn, State};

const PAGE: u64 = layout::PAGE_SIZE;
/// Memory that tests map elsewhere.
const RAM: u64 = layout::SCRATCH;
/// Addresses that tests map: nothing else is there.
const WINDOW: u64 = layout::FREE;
/// A 2 MiB page of RAM behind the payload.
const LARGE_RAM: u64 = 0xe0_0000;

/// The trap of a fault that has no address.
fn trap_of<T>(result: Result<T, Trap>) -> Option<(u8, u32)> {
    result.err().map(|trap| (trap.vector, trap.error))
}

/// A selector of the GDT whose descriptor is not present (its table bit is 0).
const NOT_A_SEGMENT: u16 = 0x50;
/// Only the task priority's four bits are there.
const RESERVED_IN_CR8: u64 = 1 << 4;
/// A bit of EFER that must be zero on every vendor's CPU.
const RESERVED_IN_EFER: u64 = 1 << 9;

/// Loads a segment register.
fn load(insn: &Insn, selector: u16) -> Result<(), Trap> {
    let mut state = State::default();
    state[insn_table::Gpr::Rsi] = selector.into();
    insn.run(Form::Native, &mut state)
}

#[guest]
fn faults(_: &mut Guest) {
    check_eq!("DIV by zero is #DE", trap_of(insn::divide_by_zero_safe()), Some((vector::DE, 0)));
    check_eq!("UD2 in ring 0 is #UD", trap_of(ud2_safe()), Some((vector::UD, 0)));
    check_eq!(
        "a selector behind the GDT is #GP with it",
        trap_of(load(&insn::MOV_DS_R32, NOT_A_SEGMENT)),
        Some((vector::GP, NOT_A_SEGMENT.into()))
    );
    check_eq!(
        "a null SS in ring 0 is no fault in 64-bit mode",
        trap_of(load(&insn::MOV_SS_R32, 0)),
        None
    );
    check_eq!(
        "SS can be loaded again after a null selector",
        trap_of(load(&insn::MOV_SS_R32, layout::x86_64::KERNEL_DS)),
        None
    );
    check_eq!(
        "WRMSR of a reserved bit of EFER is #GP(0)",
        trap_of(wrmsr_safe(msr::IA32_EFER, rdmsr(msr::IA32_EFER) | RESERVED_IN_EFER)),
        Some((vector::GP, 0))
    );
    check_eq!(
        "a reserved bit of CR4 is #GP(0)",
        trap_of(write_cr4_safe(read_cr4() | 1 << 31)),
        Some((vector::GP, 0))
    );
    check_eq!(
        "CR0.PG without CR0.PE is #GP(0)",
        trap_of(write_cr0_safe(read_cr0() & !1)),
        Some((vector::GP, 0))
    );
    check_eq!(
        "a reserved bit of CR8 is #GP(0)",
        trap_of(write_cr8_safe(RESERVED_IN_CR8)),
        Some((vector::GP, 0))
    );
    check_eq!(
        "a non-canonical load is #GP(0)",
        trap_of(read_safe::<u8>(NON_CANONICAL)),
        Some((vector::GP, 0))
    );
    check_eq!(
        "a non-canonical store is #GP(0)",
        trap_of(write_safe(NON_CANONICAL, 1_u64)),
        Some((vector::GP, 0))
    );
    check_eq!("a valid load raises no trap", read_safe::<u64>(RAM), Ok(0));
}

/// Bit 47 differs from bit 48 and up.
const NON_CANONICAL: u64 = 1 << 47;

#[guest]
fn stack_fault(_: &mut Guest) {
    let trap = trap_of(insn::read_by_ss_safe(NON_CANONICAL));
    check_eq!("a non-canonical load by SS is #SS(0)", trap, Some((vector::SS, 0)));
}

#[guest]
fn uses_x87_while_off(_: &mut Guest) {
    let cr0 = read_cr0();
    write_cr0(cr0 | Cr0::TS.bits());
    check_eq!(
        "x87 with CR0.TS is #NM",
        trap_of(insn::FNINIT.run(Form::Native, &mut State::default())),
        Some((vector::NM, 0))
    );
    write_cr0(cr0);
    check_eq!(
        "x87 without CR0.TS is no fault",
        trap_of(insn::FNINIT.run(Form::Native, &mut State::default())),
        None
    );
}

#[guest]
fn divides_by_zero_in_x87(_: &mut Guest) {
    let trap = trap_of(insn::x87_divide_by_zero_safe());
    check_eq!("an unmasked x87 exception is #MF at FWAIT", trap, Some((vector::MF, 0)));
}

#[guest]
fn divides_by_zero_in_sse(_: &mut Guest) {
    let trap = trap_of(insn::sse_divide_by_zero_safe());
    check_eq!("an unmasked SIMD exception is #XM", trap, Some((vector::XM, 0)));
}

#[guest]
fn takes_software_interrupts(g: &mut Guest) {
    let vector = g.arg(0) as u8;
    let mut frames = 0;
    let on_trap = |frame: &mut TrapFrame| {
        check_eq!("the trap frame has the vector", frame.vector, u64::from(vector));
        check_eq!(
            "the trap frame has the code segment",
            frame.cs,
            u64::from(layout::x86_64::KERNEL_CS)
        );
        frames += 1;
    };
    with_handler(vector, on_trap, || insn::int(vector));
    check_eq!("INT n reaches its handler exactly once", frames, 1);
}

/// Vectors that are free for interrupts.
const INTERRUPTS: core::ops::RangeInclusive<u8> = 32..=255;
/// The guest is ready for the next event, or tells the vector that came.
const PORT: u16 = 0x7d8;
const READY: u8 = 0;

#[guest]
fn takes_injected_interrupts(_: &mut Guest) {
    for vector in INTERRUPTS {
        let report = |frame: &mut TrapFrame| outb(PORT, frame.vector as u8);
        with_handler(vector, report, || {
            sti();
            outb(PORT, READY);
            cli();
        });
    }
}

#[guest]
fn takes_injected_exceptions(g: &mut Guest) {
    let (vector, error) = (g.arg(0) as u8, g.arg(1));
    let mut seen = None;
    with_handler(vector, |frame| seen = Some((frame.vector, frame.error)), || outb(PORT, READY));
    check_eq!("the handler gets vector and error code", seen, Some((vector.into(), error)));
}

#[guest]
fn nests(_: &mut Guest) {
    let hole = WINDOW;
    mmu::unmap(hole, mmu::Size::Small);
    let (mut outer, mut scoped) = (0, 0);
    let on_ud = |frame: &mut TrapFrame| {
        let inner = read_safe::<u8>(hole).map_err(|trap| (trap.vector, trap.addr));
        check_eq!(
            "a fault in a handler is a value to that handler",
            inner,
            Err((vector::PF, hole))
        );
        let deeper = with_handler(
            vector::UD,
            |frame| frame.rip += UD2_BYTES,
            || {
                ud2();
                write_cr8_safe(RESERVED_IN_CR8).map_err(|trap| trap.vector)
            },
        );
        check_eq!("a handler's own handler holds inside it", deeper, Err(vector::GP));
        outer += 1;
        frame.rip += UD2_BYTES;
        frame.rbx = 0x5a;
    };
    with_handler(vector::UD, on_ud, || {
        ud2();
        with_handler(
            vector::UD,
            |frame| {
                scoped += 1;
                frame.rip += UD2_BYTES
            },
            ud2,
        );
        ud2();
    });
    check_eq!("the outer handler is in force again behind the inner one", (outer, scoped), (2, 1));
}

/// Bytes of UD2.
const UD2_BYTES: u64 = 2;

extern "C" fn add_one(value: u64) -> u64 {
    value + 1
}

extern "C" fn privileged(which: u64) -> u64 {
    match which {
        0 => trap_number(rdmsr_safe(msr::IA32_TIME_STAMP_COUNTER)),
        1 => trap_number(write_cr3_safe(0)),
        2 => trap_number(wrmsr_safe(msr::IA32_TIME_STAMP_COUNTER, 0)),
        _ => trap_number(xsetbv_safe(0, 1)),
    }
}

extern "C" fn touch(gva: u64) -> u64 {
    trap_number(read_safe::<u8>(gva))
}

/// Vector and error code as one number; 0 is none.
fn trap_number<T>(result: Result<T, Trap>) -> u64 {
    result.err().map_or(0, |trap| u64::from(trap.error) << 8 | u64::from(trap.vector))
}

#[guest]
fn enters_ring_3(_: &mut Guest) {
    check_eq!(
        "a function in ring 3 returns its value",
        user::run(Rflags::empty(), add_one, 41),
        42
    );
    let mut cs = 0;
    extern "C" fn undefined(_: u64) -> u64 {
        trap_number(ud2_safe())
    }
    check_eq!(
        "#UD in ring 3 is a value to its caller",
        user::run(Rflags::empty(), undefined, 0),
        u64::from(vector::UD)
    );
    let has_xsetbv = XSAVE.is_set(cpuid(XSAVE.leaf, XSAVE.subleaf));
    if has_xsetbv {
        // Without it XSETBV is #UD in every ring.
        write_cr4(read_cr4() | Cr4::OSXSAVE.bits());
    }
    let instructions = ["RDMSR", "MOV to CR3", "WRMSR", "XSETBV"];
    let present = if has_xsetbv { &instructions[..] } else { &instructions[..3] };
    for (which, name) in (0..).zip(present) {
        let got = user::run(Rflags::empty(), privileged, which);
        check_eq!("{name} in ring 3 is #GP(0)", got, u64::from(vector::GP));
    }
    let ring_0_only = Pte::DEFAULT - Pte::US;
    mmu::map(WINDOW, RAM, mmu::Size::Small, ring_0_only);
    let user_read_protection =
        u64::from(bits!(PageFaultError::{P | US})) << 8 | u64::from(vector::PF);
    check_eq!(
        "a page of ring 0 is #PF with P and U in ring 3",
        user::run(Rflags::empty(), touch, WINDOW),
        user_read_protection
    );
    check_eq!("a page of ring 0 is readable in ring 0", read_safe::<u8>(WINDOW), Ok(0));
    mmu::unmap(WINDOW, mmu::Size::Small);
    check_eq!(
        "a hole is #PF with U in ring 3",
        user::run(Rflags::empty(), touch, WINDOW),
        u64::from(bits!(PageFaultError::{US})) << 8 | u64::from(vector::PF)
    );
    extern "C" fn fault_for_handler(gva: u64) -> u64 {
        peek::<u64>(gva)
    }
    let repair = |frame: &mut TrapFrame| {
        cs = frame.cs;
        mmu::map(WINDOW, RAM, mmu::Size::Small, Pte::DEFAULT);
    };
    poke(RAM, 0x1122_u64);
    let value =
        with_handler(vector::PF, repair, || user::run(Rflags::empty(), fault_for_handler, WINDOW));
    check_eq!("ring 3 goes on after a handler repaired its page", value, 0x1122);
    check_eq!("the trap frame has ring 3's code segment", cs, u64::from(layout::x86_64::USER_CS));
}

/// Fetches from `gva`, which has a RET. The error code of the #PF, if there was one.
fn fetch(gva: u64) -> Option<u64> {
    let mut error = None;
    let go_back = |frame: &mut TrapFrame| {
        error = Some(frame.error);
        frame.rip = peek(frame.rsp);
        frame.rsp += 8;
    };
    with_handler(vector::PF, go_back, || insn::call(gva));
    error
}

guest_asm! {
    RETURNS, bits64:
    "ret",
}

#[guest]
fn maps(g: &mut Guest) {
    let (size, ram) =
        if g.arg(0) == 0 { (mmu::Size::Small, RAM) } else { (mmu::Size::Large, LARGE_RAM) };
    let last = if g.arg(0) == 0 { PAGE - 8 } else { LARGE_PAGE - 8 };
    let fault = |error| Err(Trap { vector: vector::PF, error, addr: WINDOW });
    let content = 0x1111_0000 | u64::from(RETURNS.bytes()[0]);
    poke::<u64>(ram, content);
    poke::<u64>(ram + last, 0x2222);
    mmu::map(WINDOW, ram, size, Pte::DEFAULT);
    check_eq!("a mapped page shows its memory", peek::<u64>(WINDOW), content);
    check_eq!("a mapped page shows its memory's last byte", peek::<u64>(WINDOW + last), 0x2222);
    check_eq!("a page that allows execution can be executed", fetch(WINDOW), None);
    mmu::protect(WINDOW, size, Pte::DEFAULT - Pte::RW);
    check_eq!(
        "a store to a read-only page is #PF with P and W",
        write_safe(WINDOW, 1_u64),
        fault(3)
    );
    check_eq!("a load from a read-only page is no fault", trap_of(read_safe::<u64>(WINDOW)), None);
    mmu::protect(WINDOW, size, Pte::DEFAULT | Pte::XD);
    check_eq!("a fetch from a page with XD is #PF with P and I", fetch(WINDOW), Some(0x11));
    check_eq!("a store to a page with XD is no fault", write_safe(WINDOW + 8, 0x3333_u64), Ok(()));
    check_eq!("a store to a page with XD is in memory", peek::<u64>(ram + 8), 0x3333);
    mmu::unmap(WINDOW, size);
    check_eq!(
        "a load from an unmapped page is #PF",
        trap_of(read_safe::<u64>(WINDOW)),
        Some((vector::PF, 0))
    );
    check_eq!("a store to an unmapped page is #PF with W", write_safe(WINDOW, 1_u64), fault(2));
    check_eq!("a fetch from an unmapped page is #PF with I", fetch(WINDOW), Some(0x10));
}

#[guest]
fn marks_pages(_: &mut Guest) {
    let (a, d) = (Pte::A.bits(), Pte::D.bits());
    for (size, ram) in [(mmu::Size::Small, RAM), (mmu::Size::Large, LARGE_RAM)] {
        mmu::map(WINDOW, ram, size, Pte::DEFAULT - Pte::A - Pte::D);
        check_eq!(
            "{size:?}: a page that nobody used has neither A nor D",
            mmu::entry(WINDOW, size) & (a | d),
            0
        );
        peek::<u8>(WINDOW);
        check_eq!("{size:?}: a load sets A", mmu::entry(WINDOW, size) & (a | d), a);
        poke(WINDOW, 1_u8);
        check_eq!("{size:?}: a store sets D too", mmu::entry(WINDOW, size) & (a | d), a | d);
        mmu::unmap(WINDOW, size);
    }
    mmu::map(WINDOW, LARGE_RAM, mmu::Size::Large, Pte::DEFAULT);
    mmu::unmap(WINDOW + PAGE, mmu::Size::Small);
    check_eq!(
        "one unmapped page of a split large page is #PF",
        trap_of(read_safe::<u8>(WINDOW + PAGE)),
        Some((vector::PF, 0))
    );
    poke(LARGE_RAM + 2 * PAGE, 0x77_u8);
    check_eq!(
        "the next page of a split large page keeps its place",
        read_safe::<u8>(WINDOW + 2 * PAGE),
        Ok(0x77)
    );
}

#[host]
mod host {
    use super::*;

    /// Faults come as values, with vector and error code (SDM vol. 3, 6.15).
    #[kvm_test(faults)]
    fn faults_are_values(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// The stack segment's own exception (SDM vol. 3, 6.15, interrupt 12).
    #[kvm_test(stack_fault)]
    fn non_canonical_stack_access_is_a_stack_fault(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// CR0.TS keeps the x87 unit off (SDM vol. 3, 2.5).
    #[kvm_test(uses_x87_while_off)]
    fn x87_with_task_switched_is_device_not_available(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// x87 exceptions that are not masked (SDM vol. 3, 6.15, interrupt 16).
    #[kvm_test(divides_by_zero_in_x87)]
    fn unmasked_x87_exception_is_a_fault(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// SIMD exceptions that are not masked (SDM vol. 3, 6.15, interrupt 19).
    #[kvm_test(divides_by_zero_in_sse)]
    fn unmasked_simd_exception_is_a_fault(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// INT n reaches the handler of its vector (SDM vol. 2, INT n). Vectors with an error code, which
    /// INT n does not push, are left out.
    #[kvm_test(takes_software_interrupts, params = [breakpoint: 3, overflow: 4, first_free: 32, linux_syscall: 0x80, last: 255])]
    fn software_interrupts_reach_their_handlers(t: &mut OneVcpu, vector: u64) -> TestResult {
        t.vcpu.set_args(&[vector]);
        t.vcpu.run_until_done()
    }

    /// Each vector from 32 to 255 that KVM_INTERRUPT injects reaches its own handler, once.
    #[kvm_test(takes_injected_interrupts)]
    fn every_interrupt_vector_reaches_its_handler(t: &mut OneVcpu) -> TestResult {
        for vector in INTERRUPTS {
            let ready = t.vcpu.run_until(Exit::io_out(PORT))?.data() == [READY];
            check!("each injected vector comes exactly once", ready, "{vector}");
            let open = t.vcpu.kvm_run().ready_for_interrupt_injection;
            check_eq!("kvm_run reports that an interrupt can be injected", open, 1);
            t.vcpu.interrupt(vector.into()).ioctl("KVM_INTERRUPT")?;
            let mut stop = t.vcpu.run_until(Exit::io_out(PORT))?;
            check_eq!("each vector reaches its own handler", stop.data(), [vector]);
        }
        t.vcpu.run_until_done()
    }

    /// An exception that KVM_SET_VCPU_EVENTS injects reaches its handler with its error code (api.rst
    /// 4.32).
    #[kvm_test(takes_injected_exceptions, requires(cap::VCPU_EVENTS), params = [
    de: (vector::DE, None), ud: (vector::UD, None), nm: (vector::NM, None),
    df: (vector::DF, Some(0)), ts: (vector::TS, Some(0x28)), np: (vector::NP, Some(0x30)),
    ss: (vector::SS, Some(0x10)), gp: (vector::GP, Some(0xfff8)), pf: (vector::PF, Some(7)),
    mf: (vector::MF, None), ac: (vector::AC, Some(0)), xm: (vector::XM, None),
])]
    fn injected_exceptions_reach_their_handlers(
        t: &mut OneVcpu,
        (nr, error): (u8, Option<u32>),
    ) -> TestResult {
        t.vcpu.set_args(&[nr.into(), error.unwrap_or(0).into()]);
        t.vcpu.run_until(Exit::io_out(PORT))?;
        let mut events = t.vcpu.fd().get_vcpu_events().ioctl("KVM_GET_VCPU_EVENTS")?;
        events.exception.injected = 1;
        events.exception.nr = nr;
        events.exception.has_error_code = error.is_some().into();
        events.exception.error_code = error.unwrap_or(0);
        t.vcpu.fd().set_vcpu_events(&events).ioctl("KVM_SET_VCPU_EVENTS")?;
        t.vcpu.run_until_done()
    }

    /// Traps nest, and handlers belong to their scope.
    #[kvm_test(nests)]
    fn traps_nest(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// Ring 3 runs without privileges, and its traps come back to ring 0 (SDM vol. 3, 5.5 and 4.6).
    #[kvm_test(enters_ring_3)]
    fn ring_3_has_no_privileges(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// Pages of 4 KiB and 2 MiB are mapped, protected and unmapped as the tables say, with exact error
    /// codes and CR2 (SDM vol. 3, 4.6 and 4.7).
    #[kvm_test(maps, params = [small: 0, large: 1])]
    fn pages_obey_the_tables(t: &mut OneVcpu, size: u64) -> TestResult {
        t.vcpu.set_args(&[size]);
        t.vcpu.run_until_done()
    }

    /// Loads and stores set the accessed and dirty bits (SDM vol. 3, 4.8); a large page can be split.
    #[kvm_test(marks_pages)]
    fn accesses_mark_pages(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }
}
