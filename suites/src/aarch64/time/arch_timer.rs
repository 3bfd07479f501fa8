//! The generic timer (ARM ARM D12; Documentation/virt/kvm/devices/vcpu.rst 2).
use crate::prelude::*;
use timer::{CTL_ENABLE, CTL_IMASK, CTL_ISTATUS, PHYSICAL, VIRTUAL};

/// Rounds in which an interrupt that may not come would.
const PATIENCE: u64 = 10_000;

/// CNT{P,V}_TVAL_EL0 is a signed 32-bit distance.
const LONG_AGO: u64 = 0x8000_0000;
/// The same for minus one.
const JUST_NOW: u64 = 0xffff_ffff;

/// How far off a deadline is: 1 ms.
fn soon() -> u64 {
    CNTFRQ_EL0.read() / 1000
}

fn timer_by_number(number: u64) -> Timer {
    if number == 0 { VIRTUAL } else { PHYSICAL }
}

#[guest]
fn counts(g: &mut Guest) {
    let timer = timer_by_number(g.arg(0));
    check!("CNTFRQ_EL0 is not 0", CNTFRQ_EL0.read() > 0);
    let mut before = timer.count.read();
    let mut backwards = 0;
    for _ in 0..100 {
        let now = timer.count.read();
        backwards += u64::from(now < before);
        before = now;
    }
    check_eq!("the counter never goes back", backwards, 0);
    timer.ctl.write(0);
    timer.cval.write(0x1234_5678_9abc_def0);
    check_eq!("CVAL keeps all its bits", timer.cval.read(), 0x1234_5678_9abc_def0);
    let low = timer.count.read();
    timer.tval.write(0x1000);
    let high = timer.count.read();
    let cval = timer.cval.read();
    check!(
        "writing TVAL sets CVAL to the count plus it",
        (low + 0x1000..=high + 0x1000).contains(&cval),
        "CVAL {cval:#x}, counts {low:#x} and {high:#x}"
    );
    let low = timer.count.read();
    timer.tval.write(LONG_AGO);
    let high = timer.count.read();
    let cval = timer.cval.read();
    let distance = |count: u64| count.wrapping_sub(1 << 31);
    check!(
        "TVAL reads as a signed distance",
        cval.wrapping_sub(distance(low)) <= high - low,
        "CVAL {cval:#x}, counts {low:#x} and {high:#x}"
    );
    timer.cval.write(timer.count.read() + (1 << 30));
    timer.ctl.write(CTL_ENABLE | CTL_IMASK);
    check_eq!("ISTATUS is clear before the deadline", timer.ctl.read() & CTL_ISTATUS, 0);
    timer.cval.write(timer.count.read());
    check_eq!("ISTATUS is set from the deadline on", timer.ctl.read() & CTL_ISTATUS, CTL_ISTATUS);
}

#[guest]
fn fires(g: &mut Guest) {
    let timer = timer_by_number(g.arg(0));
    let gic = GuestGic::detect();
    gic.enable();
    gic.set_priority(timer.intid, 0xa0);
    gic.set_group(timer.intid, u32::from(gic == GuestGic::V3));
    gic.set(gicd::ISENABLER, timer.intid);
    let fired = AtomicU64::new(0);
    let early = AtomicU64::new(0);
    let other = AtomicU64::new(0);
    let handler = |_: &mut TrapFrame| {
        let acknowledged = gic.acknowledge();
        if acknowledged == timer.intid {
            fired.fetch_add(1, SeqCst);
            early.fetch_add(u64::from(timer.count.read() < timer.cval.read()), SeqCst);
            timer.ctl.write(CTL_ENABLE | CTL_IMASK);
        } else {
            other.fetch_add(1, SeqCst);
        }
        gic.end(acknowledged);
    };
    with_handler(vector::IRQ, handler, || {
        irq_enable();
        timer.cval.write(timer.count.read() + soon());
        timer.ctl.write(CTL_ENABLE);
        wait_until(|| timer.ctl.read() & CTL_ISTATUS != 0);
        comes(|| fired.load(SeqCst) > 0);
        check_eq!("the timer's interrupt comes exactly once", fired.load(SeqCst), 1);
        check_eq!("the timer's interrupt does not come early", early.load(SeqCst), 0);

        timer.tval.write(JUST_NOW);
        spin_for(PATIENCE, || fired.load(SeqCst) > 1);
        check_eq!("IMASK holds back the timer's interrupt", fired.load(SeqCst), 1);
        timer.ctl.write(CTL_ENABLE);
        comes(|| fired.load(SeqCst) > 1);
        check_eq!(
            "clearing IMASK after the deadline raises the interrupt at once",
            fired.load(SeqCst),
            2
        );

        timer.ctl.write(0);
        timer.cval.write(0);
        spin_for(PATIENCE, || fired.load(SeqCst) > 2);
        check_eq!("a disabled timer raises no interrupt", fired.load(SeqCst), 2);

        irq_disable();
        timer.cval.write(timer.count.read() + soon());
        timer.ctl.write(CTL_ENABLE);
        // WFI may end early, but not never.
        wait_until(|| {
            wfi();
            timer.ctl.read() & CTL_ISTATUS != 0
        });
        irq_enable();
        comes(|| fired.load(SeqCst) > 2);
        check_eq!(
            "the masked interrupt that ends WFI is taken when unmasked",
            fired.load(SeqCst),
            3
        );
        irq_disable();
    });
    check_eq!("no interrupt but the timer's comes", other.load(SeqCst), 0);
}

#[guest]
fn reads_the_virtual_count(g: &mut Guest) {
    let before = CNTVCT_EL0.read();
    g.sync(1, &[before]);
    let after = CNTVCT_EL0.read();
    g.sync(2, &[after]);
}

#[host]
mod host {
    use super::*;

    kvm_tests! { irqchip }

    /// Counter, compare value and its view as a distance agree.
    #[kvm_test(counts, params = [virtual_timer: 0, physical_timer: 1])]
    fn registers_agree(t: &mut OneVcpu, timer: u64) -> TestResult {
        t.vcpu.set_args(&[timer]);
        t.vcpu.run_until_done()
    }

    /// The timer's interrupt comes once, on time, and only when it may.
    #[kvm_test(fires, params = [virtual_timer: 0, physical_timer: 1])]
    fn interrupt_comes_at_the_deadline(t: &mut OneVcpu, timer: u64) -> TestResult {
        t.vcpu.set_args(&[timer]);
        t.vcpu.run_until_done()
    }

    /// `KVM_REG_ARM_TIMER_CNT` (whose id, by api.rst, is CNTV_CVAL_EL0's encoding) sets the virtual count.
    #[kvm_test(reads_the_virtual_count)]
    fn userspace_sets_the_virtual_count(t: &mut OneVcpu) -> TestResult {
        const KVM_REG_ARM_TIMER_CNT: u64 = CNTV_CVAL_EL0.one_reg();
        const FAR_AHEAD: u64 = 1 << 50;
        let before = t.vcpu.run_until_sync(1)?[0];
        let register = t.vcpu.get_reg(KVM_REG_ARM_TIMER_CNT).ioctl("KVM_GET_ONE_REG")?;
        check!(
            "KVM_REG_ARM_TIMER_CNT reads as the virtual count",
            register >= before && register < FAR_AHEAD,
            "{register:#x}"
        );
        t.vcpu.set_reg(KVM_REG_ARM_TIMER_CNT, FAR_AHEAD).ioctl("KVM_SET_ONE_REG")?;
        let after = t.vcpu.run_until_sync(2)?[0];
        check!(
            "the virtual count goes on from what userspace set",
            (FAR_AHEAD..FAR_AHEAD * 2).contains(&after),
            "{after:#x}"
        );
        t.vcpu.run_until_done()
    }
}
