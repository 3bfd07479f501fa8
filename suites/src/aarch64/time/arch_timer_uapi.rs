//! The timers' interrupts and counts as userspace sets them (Documentation/virt/kvm/devices/vcpu.rst 2;
//! api.rst 4.139, KVM_ARM_SET_COUNTER_OFFSET).
use crate::prelude::*;
use timer::{CTL_ENABLE, CTL_ISTATUS, PHYSICAL, VIRTUAL};
/// PPIs that no device has.
const OTHER_PPIS: [u32; 2] = [20, 21];

#[guest]
fn fires_elsewhere(_: &mut Guest) {
    let gic = GuestGic::detect();
    gic.enable();
    for (timer, intid) in [VIRTUAL, PHYSICAL].into_iter().zip(OTHER_PPIS) {
        for intid in [intid, timer.intid] {
            gic.set_priority(intid, 0xa0);
            gic.set_group(intid, u32::from(gic == GuestGic::V3));
            gic.set(gicd::ISENABLER, intid);
        }
        timer.cval.write(0);
        timer.ctl.write(CTL_ENABLE);
        check!("the timer's interrupt comes", comes(|| gic.get(gicd::ISPENDR, intid)));
        let acknowledged = gic.acknowledge();
        check_eq!("the timer's interrupt has the INTID that userspace chose", acknowledged, intid);
        timer.ctl.write(0);
        gic.end(acknowledged);
        check_eq!("no interrupt but the timer's comes", gic.acknowledge(), gic::SPURIOUS);
    }
}

#[guest]
fn idles(_: &mut Guest) {}

#[guest]
fn reads_both_counts(g: &mut Guest) {
    g.sync(1, &[CNTVCT_EL0.read(), CNTPCT_EL0.read()]);
    g.sync(2, &[CNTVCT_EL0.read(), CNTPCT_EL0.read()]);
    let timer = PHYSICAL;
    timer.cval.write(timer.count.read() + (1 << 40));
    timer.ctl.write(CTL_ENABLE);
    check_eq!("a timer ahead is not due by the shifted count", timer.ctl.read() & CTL_ISTATUS, 0);
    timer.cval.write(timer.count.read());
    check_eq!("a timer is due by the shifted count", timer.ctl.read() & CTL_ISTATUS, CTL_ISTATUS);
    timer.ctl.write(0);
}

#[guest]
fn leaves_a_timer(g: &mut Guest) {
    VIRTUAL.cval.write(VIRTUAL.count.read() + CNTFRQ_EL0.read() / 100);
    VIRTUAL.ctl.write(CTL_ENABLE);
    g.sync(1, &[VIRTUAL.cval.read(), VIRTUAL.count.read()]);
}

#[guest]
fn takes_over_a_timer(g: &mut Guest) {
    let gic = GuestGic::detect();
    gic.enable();
    gic.set_priority(VIRTUAL.intid, 0xa0);
    gic.set_group(VIRTUAL.intid, u32::from(gic == GuestGic::V3));
    gic.set(gicd::ISENABLER, VIRTUAL.intid);
    check_eq!("the compare value is moved with the timer", VIRTUAL.cval.read(), g.arg(0));
    check!("the count goes on from where it was", VIRTUAL.count.read() >= g.arg(1));
    check_eq!("the moved timer is enabled", VIRTUAL.ctl.read() & CTL_ENABLE, CTL_ENABLE);
    check!("the moved timer raises its interrupt", comes(|| gic.get(gicd::ISPENDR, VIRTUAL.intid)));
    check!(
        "the moved timer's interrupt does not come early",
        VIRTUAL.count.read() >= VIRTUAL.cval.read()
    );
    check_eq!("the moved timer's interrupt can be acknowledged", gic.acknowledge(), VIRTUAL.intid);
}

#[host]
mod host {
    use super::*;
    use vm::bindings::{
        KVM_ARM_VCPU_TIMER_CTRL, KVM_ARM_VCPU_TIMER_IRQ_PTIMER, KVM_ARM_VCPU_TIMER_IRQ_VTIMER,
    };

    kvm_tests! { irqchip }

    /// `KVM_ARM_SET_COUNTER_OFFSET`.
    const KVM_ARM_SET_COUNTER_OFFSET: u64 = 0x4010_aeb5;

    /// Userspace chooses the timers' PPIs, one for each timer and for all vCPUs, before the first KVM_RUN:
    /// EINVAL for other numbers, EBUSY later (vcpu.rst 2.1).
    #[kvm_test(fires_elsewhere)]
    fn userspace_chooses_the_interrupts(t: &mut OneVcpu) -> TestResult {
        let attributes = [KVM_ARM_VCPU_TIMER_IRQ_VTIMER, KVM_ARM_VCPU_TIMER_IRQ_PTIMER];
        let set = |vcpu: &Vcpu, attr: u32, intid: u32| {
            vcpu.set_attr(KVM_ARM_VCPU_TIMER_CTRL, attr, intid)
        };
        for (attr, own) in attributes.into_iter().zip(OTHER_PPIS) {
            check!(
                "the timer's interrupt attribute exists",
                t.vcpu.has_attr(KVM_ARM_VCPU_TIMER_CTRL, attr)
            );
            for intid in [0, 15, 32, 1023, u32::MAX] {
                let got = set(&t.vcpu, attr, intid);
                check!(
                    "an INTID that is no PPI is EINVAL",
                    got == Err(Errno::EINVAL),
                    "{intid}: {got:?}"
                );
            }
            let nowhere = t.vcpu.set_attr_at(KVM_ARM_VCPU_TIMER_CTRL, attr, 0);
            check_eq!("an INTID at address 0 is EFAULT", nowhere, Err(Errno::EFAULT));
            check_eq!("a PPI is accepted before KVM_RUN", set(&t.vcpu, attr, own), Ok(()));
        }
        let unknown = t.vcpu.set_attr(KVM_ARM_VCPU_TIMER_CTRL, 77, 20_u32);
        check_eq!("another attribute of the group is ENXIO", unknown, Err(Errno::ENXIO));
        t.vcpu.run_until_done()?;
        for attr in attributes {
            check_eq!("a PPI after KVM_RUN is EBUSY", set(&t.vcpu, attr, 20), Err(Errno::EBUSY));
        }
        Ok(())
    }

    /// Both timers on one interrupt do not run: EINVAL (vcpu.rst 2.1).
    #[kvm_test(idles)]
    fn timers_do_not_share_an_interrupt(t: &mut OneVcpu) -> TestResult {
        for attr in [KVM_ARM_VCPU_TIMER_IRQ_VTIMER, KVM_ARM_VCPU_TIMER_IRQ_PTIMER] {
            t.vcpu
                .set_attr(KVM_ARM_VCPU_TIMER_CTRL, attr, 20_u32)
                .ioctl("KVM_ARM_VCPU_TIMER_IRQ")?;
        }
        let run = t.vcpu.run_once()?;
        check_eq!(
            "KVM_RUN with both timers on one interrupt is EINVAL",
            run,
            Exit::RunFailed { errno: Errno::EINVAL as i32 }
        );
        Ok(())
    }

    /// KVM_ARM_SET_COUNTER_OFFSET takes one offset from both counters; from then on writes to the counters by
    /// KVM_SET_ONE_REG are ignored.
    #[kvm_test(reads_both_counts, requires(cap::COUNTER_OFFSET))]
    fn one_offset_shifts_both_counters(t: &mut OneVcpu) -> TestResult {
        /// Far more than any test takes.
        const SHIFT: u64 = 1 << 48;
        const KVM_REG_ARM_TIMER_CNT: u64 = CNTV_CVAL_EL0.one_reg();
        let vm = &t.vm;
        let set = |offset: u64, reserved: u64| {
            let mut bytes = [offset.to_ne_bytes(), reserved.to_ne_bytes()].concat();
            vm.raw(KVM_ARM_SET_COUNTER_OFFSET, &mut bytes).map(drop)
        };
        let before = t.vcpu.run_until_sync(1)?;
        check_eq!(
            "reserved bits of kvm_arm_counter_offset are EINVAL",
            set(0, 1),
            Err(Errno::EINVAL)
        );
        check_eq!("an offset of 0 is accepted", set(0, 0), Ok(()));
        check_eq!(
            "a second, different offset is accepted",
            set(0_u64.wrapping_sub(SHIFT), 0),
            Ok(())
        );
        check_eq!(
            "a write to the count after an offset is accepted",
            t.vcpu.set_reg(KVM_REG_ARM_TIMER_CNT, 5),
            Ok(())
        );
        let after = t.vcpu.run_until_sync(2)?;
        check!(
            "the virtual count has the offset, not the written value",
            after[0] > SHIFT,
            "{:#x}",
            after[0]
        );
        check!(
            "the physical count has the offset",
            after[1] > SHIFT + before[1],
            "{:#x}",
            after[1]
        );
        check!(
            "both counters have the same offset",
            after[1].abs_diff(after[0]) < SHIFT,
            "{after:x?}"
        );
        t.vcpu.run_until_done()
    }

    /// A timer that runs moves to another VM: count, compare value and control.
    #[kvm_test(leaves_a_timer)]
    fn running_timer_migrates(t: &mut OneVcpu) -> TestResult {
        /// api.rst: the ids of the count and of the compare value are exchanged.
        const KVM_REG_ARM_TIMER_CNT: u64 = CNTV_CVAL_EL0.one_reg();
        const KVM_REG_ARM_TIMER_CVAL: u64 = CNTVCT_EL0.one_reg();
        let seen = t.vcpu.run_until_sync(1)?;
        let ids = [KVM_REG_ARM_TIMER_CNT, KVM_REG_ARM_TIMER_CVAL, CNTV_CTL_EL0.one_reg()];
        let mut values = Vec::new();
        for id in ids {
            values.push(t.vcpu.get_reg(id).ioctl("KVM_GET_ONE_REG of the timer")?);
        }
        check_eq!("userspace reads the guest's compare value", values[1], seen[0]);
        check!("userspace reads the guest's count", values[0] >= seen[1]);
        let mut other = Vm::new(Irqchip::Kernel)?;
        let mut target = other.add_vcpu(0, guest_fn!(takes_over_a_timer))?;
        for (id, value) in ids.into_iter().zip(&values) {
            target.set_reg(id, *value).ioctl("KVM_SET_ONE_REG of the timer")?;
        }
        target.set_args(&[seen[0], values[0]]);
        target.run_until_done()
    }
}
