//! Userspace debugs a guest: KVM_SET_GUEST_DEBUG (api.rst 4.87; ARM ARM D2).
use crate::prelude::*;
use defs::aarch64::debug::control;
use insn::{BRK, Insn, LOAD, NOP, STORE, SVC};

/// What EL0 runs: instructions at [`user::CODE`] and behind.
const PROGRAM: [Insn; 6] = [NOP, NOP, LOAD, STORE, NOP, SVC];
const AT_LOAD: u64 = user::CODE + 8;
const AT_STORE: u64 = user::CODE + 12;

#[guest]
fn runs_a_program(g: &mut Guest) {
    // The first run makes EL0's pages.
    user::run(&[SVC], [0; 4]);
    poke::<u64>(user::DATA_GPA, 77);
    let mine = [DBGBVR0_EL1, DBGBCR0_EL1, DBGWVR0_EL1, DBGWCR0_EL1, MDSCR_EL1];
    let before = mine.map(|r| r.read());
    g.sync(1, &[]);
    let stop = user::run(&PROGRAM, [0, user::DATA, 0, 0]);
    check_eq!("the program runs to its end", stop.trap.vector, vector::SVC);
    check_eq!(
        "each instruction of the program has run exactly once",
        [stop.x[0], stop.next],
        [77, 6]
    );
    g.sync(2, &[]);
    let stop = user::run(&PROGRAM, [0, user::DATA, 0, 0]);
    check_eq!("the program runs a second time", stop.next, 6);
    check_eq!("the guest's own debug registers are as they were", mine.map(|r| r.read()), before);
}

#[guest]
fn breaks(g: &mut Guest) {
    for stage in 1..=2 {
        let stop = user::run(&[NOP, BRK, SVC], [0; 4]);
        // Userspace skips the first one; the second is the guest's own.
        g.sync(stage, &[stop.trap.vector.into(), stop.next]);
    }
}

#[guest]
fn keeps_debug_registers(g: &mut Guest) {
    g.sync(1, &[]);
    for (register, value, flip) in STATE {
        let name = register.name;
        check_eq!("the guest reads {name} as userspace set it", register.read(), value);
        register.write(value ^ flip);
    }
    g.sync(2, &[]);
}

/// Values that all implementations keep (breakpoints and watchpoints that are not enabled), and bits of
/// them that can be flipped.
const STATE: [(SysReg, u64, u64); 8] = [
    (DBGBVR0_EL1, 0x12_3456_7890, 0xff_ff00),
    (DBGBVR1_EL1, 0x65_4321_0010, 0xff_ff00),
    (DBGBCR0_EL1, control::INSTRUCTION | control::EL0, control::EL1_EL0),
    (DBGBCR1_EL1, control::INSTRUCTION | control::EL1_EL0, control::EL0),
    (DBGWVR0_EL1, 0x77_0000_1110, 0xff_ff00),
    (DBGWVR1_EL1, 0x77_0000_2220, 0xff_ff00),
    (DBGWCR0_EL1, control::EIGHT_BYTES | control::LOAD, control::LOAD | control::STORE),
    (DBGWCR1_EL1, control::EIGHT_BYTES | control::STORE, control::LOAD | control::STORE),
];

#[host]
mod host {
    use super::*;
    use vm::bindings::{
        KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW, KVM_GUESTDBG_USE_SW_BP,
        kvm_guest_debug,
    };

    /// Debug registers as userspace gives them, and what is enabled.
    fn debug(vcpu: &Vcpu, control: u32, fill: impl FnOnce(&mut kvm_guest_debug)) -> TestResult {
        let mut debug = kvm_guest_debug { control, ..Default::default() };
        fill(&mut debug);
        vcpu.set_guest_debug(&debug).ioctl("KVM_SET_GUEST_DEBUG")
    }

    fn pc(vcpu: &Vcpu) -> TestResult<u64> {
        vcpu.get_reg(core_reg::PC).ioctl("KVM_GET_ONE_REG of PC")
    }

    /// Runs to a debug exit; gives its class, its PC and its address.
    fn run_to_debug(vcpu: &mut Vcpu) -> TestResult<(u8, u64, u64)> {
        vcpu.run_until(Exit::Debug)?;
        let exit = vcpu.debug_exit().ok_or_else(|| Failure::Error("no debug exit".into()))?;
        Ok((exit.class, pc(vcpu)?, exit.far))
    }

    /// A hardware breakpoint of userspace exits before its instruction, in EL0 and as often as it comes by;
    /// without it the guest runs on.
    #[kvm_test(runs_a_program, requires(cap::GUEST_DEBUG_HW_BPS))]
    fn hardware_breakpoints_exit(t: &mut OneVcpu) -> TestResult {
        let vcpu = &mut t.vcpu;
        vcpu.run_until_sync(1)?;
        let hardware = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW;
        let with = |vcpu: &Vcpu, address: u64| {
            debug(vcpu, hardware, |d| {
                d.arch.dbg_bvr[1] = address;
                d.arch.dbg_bcr[1] = control::E | control::EL1_EL0 | control::INSTRUCTION;
            })
        };
        with(vcpu, AT_LOAD)?;
        for _ in 0..2 {
            let exit = run_to_debug(vcpu)?;
            check_eq!("the breakpoint exits at its instruction", exit.1, AT_LOAD);
            check_eq!(
                "the breakpoint's exit has its exception class",
                exit.0,
                vector::BREAKPOINT_LOWER
            );
        }
        check_eq!(
            "the instruction at the breakpoint has not run",
            vcpu.get_reg(core_reg::x(0)),
            Ok(0)
        );
        with(vcpu, AT_STORE)?;
        check_eq!(
            "a second breakpoint exits at its own instruction",
            run_to_debug(vcpu)?.1,
            AT_STORE
        );
        check_eq!(
            "the instruction before the second breakpoint has run",
            vcpu.get_reg(core_reg::x(0)),
            Ok(77)
        );
        debug(vcpu, 0, |_| ())?;
        vcpu.run_until_sync(2)?;
        vcpu.run_until_done()
    }

    /// Watchpoints of userspace exit at loads or stores, as they are told, with the address (KVM leaves the
    /// program counter at the instruction).
    #[kvm_test(runs_a_program, requires(cap::GUEST_DEBUG_HW_WPS), params = [
    loads: (control::LOAD, AT_LOAD),
    stores: (control::STORE, AT_STORE),
    both: (control::LOAD | control::STORE, AT_LOAD),
])]
    fn watchpoints_exit(t: &mut OneVcpu, (kind, at): (u64, u64)) -> TestResult {
        let vcpu = &mut t.vcpu;
        vcpu.run_until_sync(1)?;
        debug(vcpu, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW, |d| {
            d.arch.dbg_wvr[0] = user::DATA;
            d.arch.dbg_wcr[0] = control::E | control::EL1_EL0 | kind | control::EIGHT_BYTES;
        })?;
        let exit = run_to_debug(vcpu)?;
        check_eq!("the watchpoint exits at the access", exit.1, at);
        check_eq!(
            "the watchpoint's exit has its exception class",
            exit.0,
            vector::WATCHPOINT_LOWER
        );
        check_eq!("the watchpoint's exit has the address that was accessed", exit.2, user::DATA);
        let far_off = debug(vcpu, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW, |d| {
            d.arch.dbg_wvr[0] = user::DATA + 8;
            d.arch.dbg_wcr[0] = control::E | control::EL1_EL0 | kind | control::EIGHT_BYTES;
        });
        far_off?;
        vcpu.run_until_sync(2)?;
        debug(vcpu, 0, |_| ())?;
        vcpu.run_until_done()
    }

    /// Single-stepping exits behind every instruction, and goes with an exception into EL1.
    #[kvm_test(runs_a_program, requires(cap::SET_GUEST_DEBUG, cap::GUEST_DEBUG_HW_BPS))]
    fn single_steps_exit(t: &mut OneVcpu) -> TestResult {
        let vcpu = &mut t.vcpu;
        vcpu.run_until_sync(1)?;
        debug(vcpu, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW, |d| {
            d.arch.dbg_bvr[0] = user::CODE;
            d.arch.dbg_bcr[0] = control::E | control::EL1_EL0 | control::INSTRUCTION;
        })?;
        check_eq!("the program starts at its start", run_to_debug(vcpu)?.1, user::CODE);
        debug(vcpu, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP, |_| ())?;
        for n in 1..PROGRAM.len() as u64 {
            let exit = run_to_debug(vcpu)?;
            check_eq!("each step is one instruction", exit.1, user::CODE + 4 * n);
            check_eq!("a step's exit has its exception class", exit.0, vector::SOFTWARE_STEP_LOWER);
        }
        /// Synchronous exceptions from AArch64 at a lower level.
        const VECTOR: u64 = regs::vectors::LOWER_AARCH64_SYNC;
        let entered = run_to_debug(vcpu)?.1;
        let vector = layout::PAYLOAD + VECTOR;
        // The step may end before or behind the first instruction of the handler.
        check!(
            "a step over SVC is in the vector",
            matches!(entered.wrapping_sub(vector), 0 | 4),
            "{entered:#x}"
        );
        let next = run_to_debug(vcpu)?.1;
        check!(
            "the step after SVC goes on in the vector",
            next.wrapping_sub(entered) < 0x80 && next != entered,
            "{next:#x}"
        );
        debug(vcpu, 0, |_| ())?;
        vcpu.run_until_sync(2)?;
        vcpu.run_until_done()
    }

    /// BRK exits to userspace with KVM_GUESTDBG_USE_SW_BP, at the instruction; without, it is the guest's.
    #[kvm_test(breaks, requires(cap::SET_GUEST_DEBUG))]
    fn software_breakpoints_exit(t: &mut OneVcpu) -> TestResult {
        let vcpu = &mut t.vcpu;
        debug(vcpu, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP, |_| ())?;
        let (class, at, _) = run_to_debug(vcpu)?;
        check_eq!("BRK's exit has its exception class", class, vector::BRK);
        check_eq!("the program counter is at BRK", at, user::CODE + 4);
        check_eq!("BRK exits again until userspace skips it", run_to_debug(vcpu)?.1, at);
        vcpu.set_reg(core_reg::PC, at + 4).ioctl("KVM_SET_ONE_REG of PC")?;
        let seen = vcpu.run_until_sync(1)?;
        check_eq!(
            "the guest goes on behind the skipped BRK",
            seen[..2],
            [u64::from(vector::SVC), 3]
        );
        debug(vcpu, 0, |_| ())?;
        let seen = vcpu.run_until_sync(2)?;
        check_eq!(
            "BRK is the guest's exception without KVM_GUESTDBG_USE_SW_BP",
            seen[..2],
            [u64::from(vector::BRK), 1]
        );
        vcpu.run_until_done()
    }

    /// Flags that arm64 has not got are EINVAL.
    #[kvm_test(breaks, requires(cap::SET_GUEST_DEBUG))]
    fn unknown_flags_are_refused(t: &mut OneVcpu) -> TestResult {
        let known = KVM_GUESTDBG_ENABLE
            | KVM_GUESTDBG_SINGLESTEP
            | KVM_GUESTDBG_USE_SW_BP
            | KVM_GUESTDBG_USE_HW;
        for bit in (0..32).filter(|bit| known >> bit & 1 == 0) {
            let control = KVM_GUESTDBG_ENABLE | 1 << bit;
            let set = t.vcpu.set_guest_debug(&kvm_guest_debug { control, ..Default::default() });
            let errno = set.errno();
            check!(
                "an unknown flag of KVM_SET_GUEST_DEBUG is EINVAL",
                errno == Err(Errno::EINVAL),
                "bit {bit}: {errno:?}"
            );
        }
        let debug = kvm_guest_debug { control: known, ..Default::default() };
        check!("all known flags together are accepted", t.vcpu.set_guest_debug(&debug).is_ok());
        Ok(())
    }

    /// Debug registers are saved and restored like others.
    #[kvm_test(keeps_debug_registers)]
    fn debug_registers_are_saved_and_restored(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_sync(1)?;
        for (register, value, _) in STATE {
            t.vcpu.set_sysreg(&register, value).ioctl("KVM_SET_ONE_REG")?;
            let name = register.name;
            check_eq!("userspace reads {name} back", t.vcpu.get_sysreg(&register), Ok(value));
        }
        t.vcpu.run_until_sync(2)?;
        for (register, value, flip) in STATE {
            let name = register.name;
            let left = value ^ flip;
            check_eq!(
                "userspace reads {name} as the guest left it",
                t.vcpu.get_sysreg(&register),
                Ok(left)
            );
        }
        t.vcpu.run_until_done()
    }
}
