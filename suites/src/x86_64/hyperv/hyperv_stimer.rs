//! Hyper-V's synthetic timers: registers, and expiry by vector (TLFS, "Synthetic Timers").
use crate::prelude::*;
use hyperv::{ENABLE, REFERENCE_TIME_HZ, msr, stimer};
use stimer::{AUTO_ENABLE, COUNT, DIRECT, LAZY, PERIODIC, SINT_SHIFT, VECTOR_SHIFT, config, count};

const VECTOR: u8 = 0x61;
const SOURCE: u64 = 3;
/// Reference time counts 100 ns.
const MS: u64 = REFERENCE_TIME_HZ / 1000;
const HOUR: u64 = 3_600_000 * MS;

const DIRECT_VECTOR: u64 = DIRECT | (VECTOR as u64) << VECTOR_SHIFT;
const BY_MESSAGE: u64 = SOURCE << SINT_SHIFT;

fn now() -> u64 {
    rdmsr(msr::TIME_REF_COUNT)
}

fn is_enabled(timer: u32) -> bool {
    rdmsr(config(timer)) & ENABLE != 0
}

fn fault(result: Result<(), Trap>) -> Option<(u8, u32)> {
    result.err().map(|trap| (trap.vector, trap.error))
}

/// Halts until `taken` has reached `want`.
fn wait(taken: &AtomicU64, want: u64) {
    while taken.load(SeqCst) < want {
        sti_hlt();
        cli();
    }
}

/// Lets what is pending be taken, and `time` pass.
fn pass(time: u64) {
    let end = now() + time;
    loop {
        sti();
        cli();
        if now() >= end {
            return;
        }
    }
}

#[guest]
fn sets_registers(_: &mut Guest) {
    for timer in 0..COUNT {
        check_eq!("the configuration of timer {timer} is 0 at reset", rdmsr(config(timer)), 0);
        check_eq!("the count of timer {timer} is 0 at reset", rdmsr(count(timer)), 0);
    }
    let far = now() + HOUR;
    for timer in 0..COUNT {
        let kept = BY_MESSAGE | LAZY | if timer == 1 { PERIODIC } else { 0 };
        wrmsr(config(timer), kept);
        wrmsr(count(timer), far + u64::from(timer));
        check_eq!(
            "timer {timer} keeps its configuration while disabled",
            rdmsr(config(timer)),
            kept
        );
        let rest = (timer + 1..COUNT).all(|t| rdmsr(config(t)) == 0 && rdmsr(count(t)) == 0);
        check!("a write of timer {timer} leaves the timers behind it", rest);
    }
    for timer in 0..COUNT {
        let want = far + u64::from(timer);
        check_eq!("timer {timer} keeps its count while disabled", rdmsr(count(timer)), want);
        wrmsr(config(timer), BY_MESSAGE | ENABLE);
        check!("timer {timer} can be enabled with a count", is_enabled(timer));
        check_eq!("timer {timer} keeps its count when enabled", rdmsr(count(timer)), want);
        wrmsr(config(timer), ENABLE);
        check!("timer {timer} enabled without a source is disabled", !is_enabled(timer));
        wrmsr(config(timer), BY_MESSAGE | ENABLE);
        wrmsr(count(timer), 0);
        check_eq!("a count of 0 disables timer {timer}", rdmsr(config(timer)), BY_MESSAGE);
        wrmsr(count(timer), far);
        check!("a new count alone does not enable timer {timer}", !is_enabled(timer));
        wrmsr(config(timer), BY_MESSAGE | AUTO_ENABLE);
        check!("automatic enabling does not yet enable timer {timer}", !is_enabled(timer));
        wrmsr(count(timer), 0);
        check!("a count of 0 does not enable timer {timer} automatically", !is_enabled(timer));
        wrmsr(count(timer), far);
        check!("a count enables timer {timer} with automatic enabling", is_enabled(timer));
        check_eq!(
            "automatic enabling sets only the enable bit of timer {timer}",
            rdmsr(config(timer)) & !ENABLE,
            BY_MESSAGE | AUTO_ENABLE
        );
        wrmsr(config(timer), 0);
    }
}

/// Enables a timer and stops it before it expires: by its configuration, or by a count of 0.
fn stop_in_time(timer: u32, direct: u64) {
    let mut time = MS;
    loop {
        wrmsr(config(timer), direct);
        let expiry = now() + time;
        wrmsr(count(timer), expiry);
        wrmsr(config(timer), direct | ENABLE);
        if timer.is_multiple_of(2) {
            wrmsr(config(timer), direct);
        } else {
            wrmsr(count(timer), 0);
        }
        if now() < expiry {
            return;
        }
        time *= 2;
    }
}

/// Argument 0: bits of the configuration.
#[guest]
fn expires_directly(g: &mut Guest) {
    let apic = Apic::enable();
    let direct = DIRECT_VECTOR | g.arg(0);
    let (taken, first) = (AtomicU64::new(0), AtomicU64::new(0));
    let on_timer = |_: &mut TrapFrame| {
        if taken.fetch_add(1, SeqCst) == 0 {
            first.store(now(), SeqCst);
        }
        apic.eoi();
    };
    let nothing_comes = |timer: u32, what: &str| {
        pass(0);
        let before = taken.load(SeqCst);
        pass(3 * MS);
        check_eq!("timer {timer} does not expire: {what}", taken.load(SeqCst), before);
    };
    with_handler(VECTOR, on_timer, || {
        for timer in 0..COUNT {
            taken.store(0, SeqCst);
            wrmsr(config(timer), direct);
            let start = now();
            // The order of enabling does not matter: count, then configuration, and the reverse.
            let expiry = start + 2 * MS;
            if timer.is_multiple_of(2) {
                wrmsr(count(timer), expiry);
                wrmsr(config(timer), direct | ENABLE);
            } else {
                wrmsr(config(timer), direct | AUTO_ENABLE);
                wrmsr(count(timer), expiry);
            }
            wait(&taken, 1);
            let at = first.load(SeqCst);
            check!("timer {timer} does not expire early", at >= expiry, "{at}, not {expiry}");
            check!("an expired one-shot timer {timer} is disabled", !is_enabled(timer));
            check_eq!("an expired timer {timer} keeps its count", rdmsr(count(timer)), expiry);
            nothing_comes(timer, "that has expired");
            wrmsr(config(timer), direct | ENABLE);
            wait(&taken, 2);
            check!(
                "timer {timer} with a past count expires at once and is disabled",
                !is_enabled(timer)
            );
            wrmsr(config(timer), direct);
            wrmsr(count(timer), now() + 2 * MS);
            nothing_comes(timer, "that was not enabled");
            stop_in_time(timer, direct);
            nothing_comes(timer, "that was stopped");
            wrmsr(config(timer), 0);
        }
    });
}

/// Argument 0: whether direct mode is offered.
#[guest]
fn asks_for_direct_mode(g: &mut Guest) {
    let want = if g.arg(0) != 0 { None } else { Some((vector::GP, 0)) };
    for timer in 0..COUNT {
        let got = fault(wrmsr_safe(config(timer), DIRECT_VECTOR));
        check_eq!("timer {timer} has direct mode if that is offered", got, want);
        let kept = if want.is_none() { DIRECT_VECTOR } else { 0 };
        check_eq!(
            "timer {timer} reads back the accepted configuration",
            rdmsr(config(timer)),
            kept
        );
        let got = fault(wrmsr_safe(config(timer), BY_MESSAGE));
        check_eq!("timer {timer} accepts message mode in any case", got, None);
    }
}

#[host]
mod host {
    use super::*;
    use bindings::{KVM_CAP_HYPERV_ENFORCE_CPUID, KVM_CAP_HYPERV_SYNIC2};
    use hyperv::cpuid::Features;

    kvm_tests! { irqchip, requires(cap::HYPERV_SYNIC2) }

    /// vCPU `index` of a VM that offers Hyper-V, with a SynIC.
    fn vcpu_with_timers(vm: &mut Vm, index: u32, guest: GuestFn) -> TestResult<Vcpu> {
        let vcpu = vm.add_vcpu(index, guest)?;
        vcpu.enable_cap(KVM_CAP_HYPERV_SYNIC2, [0; 4]).ioctl("KVM_ENABLE_CAP(SYNIC2)")?;
        Ok(vcpu)
    }

    fn require_direct_mode(vm: &mut Vm) -> TestResult {
        let direct = vm.hyperv_features()?.contains(Features::DIRECT_SYNTHETIC_TIMERS);
        require!(direct, "HV_STIMER_DIRECT_MODE_AVAILABLE");
        Ok(())
    }

    /// Configuration and count are kept; a count of 0 disables, another one enables where that was asked
    /// for (TLFS, "Synthetic Timer Configuration Register").
    #[kvm_test(requires(cap::HYPERV_CPUID))]
    fn registers_enable_and_disable(t: &mut OneVm) -> TestResult {
        t.vm.offer_hyperv()?;
        vcpu_with_timers(&mut t.vm, 0, guest_fn!(sets_registers))?.run_until_done()
    }

    /// A timer in direct mode interrupts at its vector once reference time has reached its count, not
    /// before, and is then disabled (TLFS, "Direct Synthetic Timers"); a halted vCPU wakes up for it.
    #[kvm_test(requires(cap::HYPERV_CPUID), params = [eager: 0, lazy: LAZY])]
    fn one_shot_timers_expire_once(t: &mut OneVm, bits: u64) -> TestResult {
        t.vm.offer_hyperv()?;
        require_direct_mode(&mut t.vm)?;
        let mut vcpu = vcpu_with_timers(&mut t.vm, 0, guest_fn!(expires_directly))?;
        vcpu.set_args(&[bits]);
        vcpu.run_until_done()
    }

    /// Enforced, direct mode is a feature of its own.
    #[kvm_test(requires(cap::HYPERV_ENFORCE_CPUID), params = [
    offered: true, not_offered: false,
])]
    fn direct_mode_is_a_feature(t: &mut OneVm, offered: bool) -> TestResult {
        t.vm.offer_hyperv()?;
        require_direct_mode(&mut t.vm)?;
        if !offered {
            let features = t.vm.hyperv_features()?;
            t.vm.set_hyperv_features(features - Features::DIRECT_SYNTHETIC_TIMERS)?;
        }
        let mut vcpu = vcpu_with_timers(&mut t.vm, 0, guest_fn!(asks_for_direct_mode))?;
        vcpu.enable_cap(KVM_CAP_HYPERV_ENFORCE_CPUID, [1, 0, 0, 0])
            .ioctl("KVM_ENABLE_CAP(KVM_CAP_HYPERV_ENFORCE_CPUID)")?;
        vcpu.set_args(&[offered.into()]);
        vcpu.run_until_done()
    }
}
