//! A guest debugs itself: breakpoints, watchpoints, single steps and the OS lock (ARM ARM D2).
use crate::prelude::*;
use defs::aarch64::debug::{Mdscr, OSLSR_OSLK, control};
use insn::{Insn, LOAD, NOP, STORE, SVC};

/// What EL0 runs.
const PROGRAM: [Insn; 6] = [NOP, NOP, LOAD, STORE, NOP, SVC];
/// Indices in it.
const AT_LOAD: u64 = 2;
const AT_STORE: u64 = 3;
const END: u64 = 6;

fn run() -> user::Stop {
    user::run(&PROGRAM, [5, user::DATA, 0, 0])
}

/// Unlocks debug, and makes EL0's pages.
fn set_up() {
    OSLAR_EL1.write(0);
    MDSCR_EL1.write(Mdscr::MDE.bits());
    check_eq!("the program runs to its end without breakpoints", run().next, END);
}

#[guest]
fn breaks_at_el0(_: &mut Guest) {
    set_up();
    let breakpoints = [(DBGBVR0_EL1, DBGBCR0_EL1), (DBGBVR1_EL1, DBGBCR1_EL1)];
    for ((value, control), at) in breakpoints.into_iter().zip([AT_LOAD, AT_STORE]) {
        value.write(user::CODE + 4 * at);
        control.write(control::E | control::EL0 | control::INSTRUCTION);
        let stop = run();
        check_eq!(
            "a breakpoint has its exception class",
            stop.trap.vector,
            vector::BREAKPOINT_LOWER
        );
        check_eq!("a breakpoint stops at its instruction", stop.next, at);
        check_eq!(
            "the instruction at a breakpoint has not run",
            stop.x[0],
            if at == AT_LOAD { 5 } else { 0 }
        );
        MDSCR_EL1.write(0);
        check_eq!("no breakpoint stops EL0 without MDE", run().next, END);
        MDSCR_EL1.write(Mdscr::MDE.bits());
        control.write(control::EL0 | control::INSTRUCTION);
        check_eq!("no breakpoint stops EL0 without E", run().next, END);
    }
}

#[guest]
fn watches_el0(_: &mut Guest) {
    set_up();
    for (value, control) in [(DBGWVR0_EL1, DBGWCR0_EL1), (DBGWVR1_EL1, DBGWCR1_EL1)] {
        for (kind, at) in [
            (control::LOAD, AT_LOAD),
            (control::STORE, AT_STORE),
            (control::LOAD | control::STORE, AT_LOAD),
        ] {
            value.write(user::DATA);
            control.write(control::E | control::EL0 | kind | control::EIGHT_BYTES);
            let stop = run();
            check_eq!(
                "a watchpoint has its exception class",
                stop.trap.vector,
                vector::WATCHPOINT_LOWER
            );
            check_eq!("a watchpoint stops at the access that it watches", stop.next, at);
            check_eq!("a watchpoint reports the accessed address", stop.trap.addr, user::DATA);
            let write = stop.trap.iss() & esr::WNR != 0;
            check_eq!("a watchpoint reports the direction of the access", write, at == AT_STORE);
            value.write(user::DATA + 8);
            check_eq!("an access beside the watched address is not stopped", run().next, END);
        }
        control.write(0);
    }
}

#[guest]
fn watches_itself(_: &mut Guest) {
    OSLAR_EL1.write(0);
    let hits = AtomicU64::new(0);
    let touch = || {
        poke::<u64>(layout::SCRATCH, 1);
        hits.swap(0, SeqCst)
    };
    DBGWVR0_EL1.write(layout::SCRATCH);
    DBGWCR0_EL1.write(control::E | control::EL1_EL0 | control::STORE | control::EIGHT_BYTES);
    let handler = |frame: &mut TrapFrame| {
        hits.fetch_add(1, SeqCst);
        check_eq!("a watchpoint at EL1 reports its address", frame.trap().addr, layout::SCRATCH);
        DBGWCR0_EL1.write(0);
    };
    with_handler(vector::WATCHPOINT, handler, || {
        MDSCR_EL1.write(bits!(Mdscr::{MDE | KDE}));
        check_eq!("a watchpoint at EL1 waits while PSTATE.D is set", touch(), 0);
        debug_enable();
        check_eq!("a watchpoint at EL1 comes when PSTATE.D is clear", touch(), 1);
        DBGWCR0_EL1.write(control::E | control::EL1_EL0 | control::STORE | control::EIGHT_BYTES);
        MDSCR_EL1.write(Mdscr::MDE.bits());
        check_eq!("no watchpoint at EL1 comes without KDE", touch(), 0);
        debug_disable();
    });
}

#[guest]
fn steps_el0(_: &mut Guest) {
    set_up();
    MDSCR_EL1.write(Mdscr::SS.bits());
    let step = user::Mode { step: true, ..Default::default() };
    let stop = user::run_in(step, &PROGRAM, [5, user::DATA, 0, 0]);
    check_eq!("a step has its exception class", stop.trap.vector, vector::SOFTWARE_STEP_LOWER);
    check_eq!("a step stops behind one instruction", stop.next, 1);
    let stop = run();
    check_eq!(
        "a step without SPSR.SS stops before the first instruction",
        stop.trap.vector,
        vector::SOFTWARE_STEP_LOWER
    );
    check_eq!("a step without SPSR.SS runs no instruction", stop.next, 0);
    MDSCR_EL1.write(0);
    let stop = user::run_in(step, &PROGRAM, [5, user::DATA, 0, 0]);
    check_eq!("no step stops EL0 without MDSCR.SS", stop.next, END);
}

#[guest]
fn locks(g: &mut Guest) {
    set_up();
    DBGBVR0_EL1.write(user::CODE + 4 * AT_LOAD);
    DBGBCR0_EL1.write(control::E | control::EL0 | control::INSTRUCTION);
    OSLAR_EL1.write(1);
    check_eq!("OSLAR sets the OS lock", OSLSR_EL1.read() & OSLSR_OSLK, OSLSR_OSLK);
    check_eq!("no breakpoint comes while the guest's OS lock is set", run().next, END);
    g.sync(1, &[]);
    OSLAR_EL1.write(0);
    check_eq!("OSLAR clears the OS lock", OSLSR_EL1.read() & OSLSR_OSLK, 0);
    check_eq!("the breakpoint comes after the OS lock is cleared", run().next, AT_LOAD);
    g.sync(2, &[]);
    check_eq!(
        "the guest sees the OS lock that userspace set",
        OSLSR_EL1.read() & OSLSR_OSLK,
        OSLSR_OSLK
    );
    check_eq!("no breakpoint comes while userspace's OS lock is set", run().next, END);
}

#[host]
mod host {
    use super::*;

    /// Breakpoints of the guest stop EL0.
    #[kvm_test(breaks_at_el0)]
    fn breakpoints_stop_el0(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// Watchpoints of the guest stop EL0.
    #[kvm_test(watches_el0)]
    fn watchpoints_stop_el0(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// Watchpoints of the guest stop EL1 too, where KDE and PSTATE.D let them.
    #[kvm_test(watches_itself)]
    fn watchpoints_stop_el1(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// The guest steps its EL0.
    #[kvm_test(steps_el0)]
    fn steps_stop_el0(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// The OS lock keeps debug exceptions away; userspace can save and restore it.
    #[kvm_test(locks)]
    fn os_lock_holds_exceptions(t: &mut OneVcpu) -> TestResult {
        let lock = |vcpu: &Vcpu| vcpu.get_sysreg(&OSLSR_EL1).map(|v| v & OSLSR_OSLK);
        t.vcpu.run_until_sync(1)?;
        check_eq!("userspace reads the OS lock as set", lock(&t.vcpu), Ok(OSLSR_OSLK));
        t.vcpu.run_until_sync(2)?;
        check_eq!("userspace reads the OS lock as cleared", lock(&t.vcpu), Ok(0));
        let value = t.vcpu.get_sysreg(&OSLSR_EL1).ioctl("KVM_GET_ONE_REG of OSLSR_EL1")?;
        let set = t.vcpu.set_sysreg(&OSLSR_EL1, value | OSLSR_OSLK);
        check_eq!("userspace can set the OS lock", set, Ok(()));
        t.vcpu.run_until_done()
    }
}
