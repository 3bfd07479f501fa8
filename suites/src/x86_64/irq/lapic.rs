//! The local APIC's state as guest and userspace see it, its modes, and its timer (SDM vol. 3, chapter
//! "APIC"; api.rst on KVM_GET_LAPIC and KVM_SET_LAPIC).
use crate::prelude::*;
use apic::{ApicBase, DIVIDE_BY_1, LVT_MASKED, LVT_PERIODIC, LVT_TSC_DEADLINE, XAPIC_BASE, reg};
use msr::{IA32_APIC_BASE, IA32_TSC_DEADLINE};

const VECTOR: u8 = 0x61;
const READY: u64 = 1;
/// Ticks by which a timer is older than one that has just been started.
const AGED: u32 = 1 << 21;

/// Registers that guest and userspace read alike, with values that are not their reset values.
const REGISTERS: [(&str, u32, u32); 7] = [
    ("TPR", reg::TPR, 0x30),
    ("LDR", reg::LDR, 0x0200_0000),
    ("SPIV", reg::SPIV, 0x1e7),
    ("LVT timer", reg::LVT_TIMER, LVT_MASKED | LVT_PERIODIC | 0x41),
    ("LVT LINT1", reg::LVT_LINT1, LVT_MASKED | 0x400),
    ("LVT error", reg::LVT_ERROR, 0x43),
    ("TDCR", reg::TDCR, DIVIDE_BY_1),
];

#[guest]
fn reads_and_writes_registers(g: &mut Guest) {
    let apic = Apic::enable();
    for (_, reg, value) in REGISTERS {
        apic.write(reg, value);
    }
    g.sync(READY, &[]);
    for (name, reg, value) in REGISTERS {
        check_eq!(
            "the guest reads {name} as userspace set it",
            apic.read(reg),
            changed(reg, value)
        );
    }
}

/// Another valid value of a register.
fn changed(reg: u32, value: u32) -> u32 {
    match reg {
        reg::LDR => 0x8000_0000,
        reg::TDCR => 0b0001,
        _ => value ^ 0x10,
    }
}

#[guest]
fn sets_its_priority(g: &mut Guest) {
    const PRIORITY: u32 = 0x35;
    let apic = Apic::enable();
    apic.write(reg::TPR, PRIORITY);
    check_eq!("TPR reads as written", apic.read(reg::TPR), PRIORITY);
    g.sync(READY, &[]);
    check_eq!("TPR keeps its sub-class across an exit", apic.read(reg::TPR), PRIORITY);
    write_cr8(4);
    check_eq!("a write to CR8 clears the sub-class", apic.read(reg::TPR), 0x40);
    apic.write(reg::TPR, PRIORITY);
    check_eq!("CR8 reads as the class", read_cr8(), u64::from(PRIORITY >> 4));
}

#[guest]
fn takes_a_restored_interrupt(g: &mut Guest) {
    let apic = Apic::enable();
    let mut taken = 0;
    g.sync(READY, &[]);
    let on_interrupt = |_: &mut TrapFrame| {
        taken += 1;
        apic.eoi();
    };
    with_handler(VECTOR, on_interrupt, || {
        check!("a request that userspace restored is in IRR", apic.bit(reg::IRR, VECTOR));
        sti_hlt();
        cli();
    });
    check_eq!("the restored interrupt is taken exactly once", taken, 1);
    check!("the restored interrupt has left IRR when taken", !apic.bit(reg::IRR, VECTOR));
}

fn gp<T>(result: Result<T, Trap>) -> bool {
    result.err().map(|trap| trap.vector) == Some(vector::GP)
}

#[guest]
fn changes_modes(g: &mut Guest) {
    let (en, extd) = (ApicBase::EN.bits(), ApicBase::EXTD.bits());
    let base = rdmsr(IA32_APIC_BASE) & !(en | extd);
    let [off, xapic, x2apic] = [0, en, en | extd].map(|m| base | m);
    let set = |mode| wrmsr_safe(IA32_APIC_BASE, mode);
    check_eq!("the APIC is in xAPIC mode at reset", rdmsr(IA32_APIC_BASE), xapic);
    check!(
        "x2APIC's registers are #GP in xAPIC mode",
        gp(rdmsr_safe(apic::x2apic_msr(reg::VERSION)))
    );
    let version: u32 = peek(XAPIC_BASE + u64::from(reg::VERSION));
    check!("EXTD without EN is #GP", gp(set(base | extd)));
    check_eq!("a refused mode leaves IA32_APIC_BASE unchanged", rdmsr(IA32_APIC_BASE), xapic);
    check_eq!("xAPIC to x2APIC is allowed", set(x2apic), Ok(()));
    check_eq!("IA32_APIC_BASE reports x2APIC mode", rdmsr(IA32_APIC_BASE), x2apic);
    check_eq!(
        "the version is the same in x2APIC mode",
        rdmsr_safe(apic::x2apic_msr(reg::VERSION)),
        Ok(u64::from(version))
    );
    check_eq!("the x2APIC ID is the vCPU's", rdmsr(apic::x2apic_msr(reg::ID)), u64::from(g.vcpu()));
    let id = g.vcpu();
    let ldr = u64::from((id >> 4) << 16 | 1 << (id & 15));
    check_eq!("LDR is derived from the x2APIC ID", rdmsr(apic::x2apic_msr(reg::LDR)), ldr);
    for (name, reg) in [
        ("ID", reg::ID),
        ("version", reg::VERSION),
        ("LDR", reg::LDR),
        ("PPR", reg::PPR),
        ("ISR", reg::ISR),
        ("IRR", reg::IRR),
        ("TMCCT", reg::TMCCT),
    ] {
        check!("a write to read-only {name} is #GP", gp(wrmsr_safe(apic::x2apic_msr(reg), 0)));
    }
    for (name, reg) in [("EOI", reg::EOI), ("SELF IPI", reg::SELF_IPI)] {
        check!("a read of write-only {name} is #GP", gp(rdmsr_safe(apic::x2apic_msr(reg))));
    }
    for (name, reg) in [("DFR", reg::DFR), ("ICR's upper half", reg::ICR_HIGH)] {
        check!("an access to {name} is #GP in x2APIC mode", gp(rdmsr_safe(apic::x2apic_msr(reg))));
    }
    check!("an EOI of another value than 0 is #GP", gp(wrmsr_safe(apic::x2apic_msr(reg::EOI), 1)));
    check!("reserved bits of SPIV are #GP", gp(wrmsr_safe(apic::x2apic_msr(reg::SPIV), 1 << 32)));
    check!("x2APIC to xAPIC is #GP", gp(set(xapic)));
    check_eq!("x2APIC to disabled is allowed", set(off), Ok(()));
    check!(
        "x2APIC's registers are #GP while disabled",
        gp(rdmsr_safe(apic::x2apic_msr(reg::VERSION)))
    );
    check!("disabled to x2APIC is #GP", gp(set(x2apic)));
    check_eq!("disabled to xAPIC is allowed", set(xapic), Ok(()));
    check!("reserved bits of IA32_APIC_BASE are #GP", gp(set(xapic | 1 << 9)));
    check_eq!(
        "the APIC is mapped again after it was disabled",
        peek::<u32>(XAPIC_BASE + u64::from(reg::VERSION)),
        version
    );
}

/// Interrupts of [`VECTOR`] that `body`, which halts or spins, lets in.
fn count(apic: Apic, body: impl FnOnce()) -> u64 {
    let mut taken = 0;
    let on_interrupt = |_: &mut TrapFrame| {
        taken += 1;
        apic.eoi();
    };
    with_handler(VECTOR, on_interrupt, body);
    taken
}

/// Lets a while pass, and then in whatever has come: an interrupt of lower priority is taken last.
fn a_while(apic: Apic) {
    const LOWER: u8 = 0x41;
    let taken = core::cell::Cell::new(false);
    let until = rdtsc() + 3_000_000;
    wait_until(|| rdtsc() >= until);
    apic.ipi(0, u32::from(LOWER) | apic::ICR_ASSERT | apic::ICR_SELF);
    let on_lower = |_: &mut TrapFrame| {
        taken.set(true);
        apic.eoi();
    };
    with_handler(LOWER, on_lower, || {
        while !taken.get() {
            sti_hlt();
            cli();
        }
    });
}

#[guest]
fn uses_timer_modes(g: &mut Guest) {
    const PERIODS: u64 = 4;
    const PATIENCE: u64 = 10_000_000;
    let apic = if g.arg(0) != 0 { Apic::enable_x2apic() } else { Apic::enable() };
    let lvt = |flags: u32| apic.write(reg::LVT_TIMER, u32::from(VECTOR) | flags);
    let start = |shot: u32| apic.write(reg::TMICT, shot);
    apic.write(reg::TDCR, DIVIDE_BY_1);

    lvt(LVT_PERIODIC);
    // Stopped from within: where an interrupt takes longer than a period, nothing else ever runs.
    let periods = core::cell::Cell::new(0);
    let on_period = |_: &mut TrapFrame| {
        periods.set(periods.get() + 1);
        if periods.get() == PERIODS {
            start(0);
        }
        apic.eoi();
    };
    let came = with_handler(VECTOR, on_period, || {
        start(100_000);
        sti();
        let came = spin_for(PATIENCE, || periods.get() >= PERIODS);
        cli();
        came
    });
    check!("a periodic timer interrupts again and again", came, "{}", periods.get());
    start(0);
    let after = count(apic, || a_while(apic));
    check!("TMICT 0 stops the timer", after <= 1, "{after}");
    check_eq!("TMCCT of a stopped timer is 0", apic.read(reg::TMCCT), 0);

    lvt(LVT_MASKED);
    start(1000);
    let masked = count(apic, || a_while(apic));
    check_eq!("a masked timer interrupts nobody", masked, 0);
    check_eq!("a masked timer still counts down", apic.read(reg::TMCCT), 0);

    lvt(0);
    start(u32::MAX);
    let [first, second] = [apic.read(reg::TMCCT), apic.read(reg::TMCCT)];
    check!("TMCCT counts down from TMICT", first >= second && second > 0, "{first} {second}");
    check_eq!("TMICT reads as written", apic.read(reg::TMICT), u32::MAX);
    start(0);
}

/// Interrupts of a deadline that `disarm` came before. Where it came too late, a later deadline is tried.
fn disarmed_by(apic: Apic, disarm: impl Fn()) -> u64 {
    /// By this much a timer may fire early: KVM waits for the rest.
    const EARLY: u64 = 100_000;
    let mut margin = 1_000_000;
    loop {
        margin *= 2;
        apic.write(reg::LVT_TIMER, u32::from(VECTOR) | LVT_TSC_DEADLINE);
        let deadline = rdtsc() + margin;
        wrmsr(IA32_TSC_DEADLINE, deadline);
        disarm();
        let in_time = rdtsc() + EARLY < deadline;
        wait_until(|| rdtsc() > deadline);
        let taken = count(apic, || a_while(apic));
        if in_time {
            return taken;
        }
    }
}

#[guest]
fn uses_deadlines(_: &mut Guest) {
    let apic = Apic::enable();
    let lvt = |flags: u32| apic.write(reg::LVT_TIMER, u32::from(VECTOR) | flags);
    let halt = || {
        sti_hlt();
        cli();
    };
    lvt(0);
    wrmsr(IA32_TSC_DEADLINE, rdtsc() + 1000);
    check_eq!("IA32_TSC_DEADLINE reads as 0 in another mode", rdmsr(IA32_TSC_DEADLINE), 0);
    check_eq!(
        "a write to IA32_TSC_DEADLINE is ignored in another mode",
        count(apic, || a_while(apic)),
        0
    );
    apic.write(reg::TMICT, u32::MAX);
    wait_until(|| apic.read(reg::TMCCT) <= u32::MAX - AGED);
    let before = apic.read(reg::TMCCT);
    wrmsr(IA32_TSC_DEADLINE, rdtsc() + 1000);
    let after = apic.read(reg::TMCCT);
    check!(
        "a one-shot timer counts on after the ignored write",
        (1..=before).contains(&after),
        "{before} then {after}"
    );
    apic.write(reg::TMICT, 0);

    lvt(LVT_TSC_DEADLINE);
    let deadline = rdtsc() + 500_000;
    wrmsr(IA32_TSC_DEADLINE, deadline);
    let armed = rdmsr(IA32_TSC_DEADLINE);
    check!(
        "an armed IA32_TSC_DEADLINE reads as written",
        armed == deadline || rdtsc() >= deadline,
        "{armed:#x}"
    );
    let mut at = 0;
    let taken = count(apic, || {
        halt();
        at = rdtsc_ordered();
    });
    check_eq!("a deadline is exactly one interrupt", taken, 1);
    check!("a deadline's interrupt does not come early", at >= deadline, "{at} before {deadline}");
    check_eq!("a passed deadline reads as 0", rdmsr(IA32_TSC_DEADLINE), 0);
    check_eq!("no interrupt follows a passed deadline", count(apic, || a_while(apic)), 0);

    wrmsr(IA32_TSC_DEADLINE, 1);
    check_eq!("a deadline of the past interrupts at once", count(apic, halt), 1);
    check_eq!(
        "writing 0 to IA32_TSC_DEADLINE disarms the timer",
        disarmed_by(apic, || wrmsr(IA32_TSC_DEADLINE, 0)),
        0
    );
    check_eq!("leaving TSC-deadline mode disarms the timer", disarmed_by(apic, || lvt(0)), 0);
    check_eq!("TMICT is 0 in TSC-deadline mode", apic.read(reg::TMICT), 0);
}

#[host]
mod host {
    use super::*;
    use cpuid::{feature, leaf};

    kvm_tests! { irqchip }

    fn register(vcpu: &Vcpu, reg: u32) -> TestResult<u32> {
        let state = vcpu.fd().get_lapic().ioctl("KVM_GET_LAPIC")?;
        let at = reg as usize;
        Ok(u32::from_le_bytes([0, 1, 2, 3].map(|i| state.regs[at + i] as u8)))
    }

    fn set_register(vcpu: &Vcpu, reg: u32, value: u32) -> TestResult {
        let mut state = vcpu.fd().get_lapic().ioctl("KVM_GET_LAPIC")?;
        for (i, byte) in value.to_le_bytes().into_iter().enumerate() {
            state.regs[reg as usize + i] = byte as _;
        }
        vcpu.fd().set_lapic(&state).ioctl("KVM_SET_LAPIC")
    }

    /// A new vCPU's APIC is as after a reset (SDM vol. 3, "Local APIC State After Power-Up or Reset").
    #[kvm_test]
    fn new_apic_is_as_after_reset(t: &mut OneVm) -> TestResult {
        for index in [0, 1] {
            let vcpu = t.vm.create_vcpu(index)?;
            let get = |reg| register(&vcpu, reg);
            check_eq!("vCPU {index}: the APIC ID is the vCPU's", get(reg::ID)? >> 24, index);
            let version = get(reg::VERSION)?;
            let (low, lvts) = (version & 0xff, version >> 16 & 0xff);
            check!(
                "vCPU {index}: the version is an integrated APIC's",
                (0x10..=0x15).contains(&low),
                "{version:#x}"
            );
            check!(
                "vCPU {index}: there are four to seven LVT entries",
                (3..=6).contains(&lvts),
                "{version:#x}"
            );
            check_eq!(
                "vCPU {index}: software-disabled, spurious vector 0xff",
                get(reg::SPIV)?,
                0xff
            );
            check_eq!("vCPU {index}: DFR is all ones", get(reg::DFR)?, !0);
            for (name, reg) in [
                ("TPR", reg::TPR),
                ("ESR", reg::ESR),
                ("ICR", reg::ICR),
                ("TMICT", reg::TMICT),
                ("TDCR", reg::TDCR),
            ] {
                check_eq!("vCPU {index}: {name} is 0 at reset", get(reg)?, 0);
            }
            for (name, reg) in [
                ("timer", reg::LVT_TIMER),
                ("PMI", reg::LVT_PMI),
                ("LINT1", reg::LVT_LINT1),
                ("error", reg::LVT_ERROR),
            ] {
                check_eq!("vCPU {index}: LVT {name} is masked at reset", get(reg)?, LVT_MASKED);
            }
            for first in [reg::ISR, reg::TMR, reg::IRR] {
                let any = (0..8).map(|i| get(first + 16 * i)).collect::<TestResult<Vec<u32>>>()?;
                check_eq!("vCPU {index}: no interrupt is requested or in service", any, [0; 8]);
            }
        }
        Ok(())
    }

    /// What the guest writes userspace reads, and the other way round.
    #[kvm_test(reads_and_writes_registers)]
    fn guest_and_userspace_see_the_same_apic(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_sync(READY)?;
        for (name, reg, value) in REGISTERS {
            check_eq!("userspace reads {name} as the guest set it", register(&t.vcpu, reg)?, value);
            set_register(&t.vcpu, reg, changed(reg, value))?;
            check_eq!(
                "userspace reads {name} as it set it",
                register(&t.vcpu, reg)?,
                changed(reg, value)
            );
        }
        t.vcpu.run_until_done()
    }

    /// The task priority has a class, which CR8 is, and a sub-class (SDM vol. 3, "Task Priority Register").
    #[kvm_test(sets_its_priority, moved)]
    fn task_priority_has_a_sub_class(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_sync(READY)?;
        check_eq!("userspace reads TPR's class and sub-class", register(&t.vcpu, reg::TPR)?, 0x35);
        t.vcpu.run_until_done()
    }

    /// An interrupt request travels with KVM_GET_LAPIC and KVM_SET_LAPIC, as in a migration.
    #[kvm_test(takes_a_restored_interrupt)]
    fn pending_interrupt_is_restored(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_sync(READY)?;
        let vector = u32::from(VECTOR);
        set_register(&t.vcpu, reg::IRR + vector / 32 * 16, 1 << (vector % 32))?;
        check!("userspace reads the guest's request in IRR", t.vcpu.is_pending(VECTOR)?);
        t.vcpu.run_until_done()
    }

    /// The modes of IA32_APIC_BASE, which changes between them are allowed, and what is there in each.
    #[kvm_test(changes_modes, requires(cpu::X2APIC))]
    fn modes_change_as_the_architecture_allows(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// One-shot, periodic, masked and stopped (SDM vol. 3, "APIC Timer").
    #[kvm_test(uses_timer_modes, requires(cpu::X2APIC), params = [xapic: 0, x2apic: 1])]
    fn timer_has_its_modes(t: &mut OneVcpu, x2apic: u64) -> TestResult {
        t.vcpu.set_args(&[x2apic]);
        t.vcpu.run_until_done()
    }

    /// TSC-deadline mode (SDM vol. 3, "TSC-Deadline Mode").
    #[kvm_test(uses_deadlines, requires(cap::TSC_DEADLINE_TIMER))]
    fn tsc_deadline_is_kept(t: &mut OneVm) -> TestResult {
        for entry in
            t.vm.cpuid_mut().as_mut_slice().iter_mut().filter(|e| e.function == leaf::FEATURES)
        {
            entry.ecx |= feature::TSC_DEADLINE.mask();
        }
        t.vm.add_vcpu(0, guest_fn!(uses_deadlines))?.run_until_done()
    }
}
