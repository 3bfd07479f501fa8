//! The local APIC's timer as KVM_SET_LAPIC restores it: it goes on from TMCCT, and one that had run out fires
//! at once (SDM vol. 3, "APIC Timer"; api.rst 4.58, KVM_SET_LAPIC).
use crate::prelude::*;
use apic::{DIVIDE_BY_1, LVT_MASKED, LVT_PERIODIC, reg};

const VECTOR: u8 = 0x61;

const READY: u64 = 1;

const RESTORED: u64 = 2;

/// What the host half expects of the guest.
const TAKES_ONE: u64 = 1;

/// Restored at [`READY`]; reports TMCCT, and takes one interrupt if it is told to.
#[guest]
fn has_a_restored_timer(g: &mut Guest) {
    let apic = Apic::enable();
    apic.write(reg::TDCR, DIVIDE_BY_1);
    let [order, ..] = g.sync(READY, &[]);
    let count = apic.read(reg::TMCCT);
    let mut taken = 0_u64;
    if order == TAKES_ONE {
        let on_interrupt = |_: &mut TrapFrame| {
            taken += 1;
            apic.write(reg::LVT_TIMER, LVT_MASKED);
            apic.eoi();
        };
        with_handler(VECTOR, on_interrupt, || {
            sti_hlt();
            cli();
        });
    }
    g.sync(RESTORED, &[count.into(), taken, apic.bit(reg::IRR, VECTOR).into()]);
}

#[host]
mod host {
    use super::*;
    use vm::bindings::kvm_lapic_state;

    kvm_tests! { irqchip }

    /// Writes the timer's registers as a migration would: with all others, in one call.
    fn restore(vcpu: &Vcpu, lvt: u32, initial: u32, current: u32) -> TestResult {
        let mut state: kvm_lapic_state = vcpu.fd().get_lapic().ioctl("KVM_GET_LAPIC")?;
        for (at, value) in [(reg::LVT_TIMER, lvt), (reg::TMICT, initial), (reg::TMCCT, current)] {
            for (i, byte) in value.to_le_bytes().into_iter().enumerate() {
                state.regs[at as usize + i] = byte as _;
            }
        }
        vcpu.fd().set_lapic(&state).ioctl("KVM_SET_LAPIC")
    }

    fn current(vcpu: &Vcpu) -> TestResult<u32> {
        let state = vcpu.fd().get_lapic().ioctl("KVM_GET_LAPIC")?;
        let at = reg::TMCCT as usize;
        Ok(u32::from_le_bytes([0, 1, 2, 3].map(|i| state.regs[at + i] as u8)))
    }

    /// A one-shot timer that had run out when it was saved fires once and at once; it does not start again.
    #[kvm_test(has_a_restored_timer)]
    fn expired_one_shot_timer_fires(t: &mut OneVcpu) -> TestResult {
        let vcpu = &mut t.vcpu;
        vcpu.run_until_sync(READY)?;
        restore(vcpu, VECTOR.into(), u32::MAX, 0)?;
        check_eq!("userspace reads TMCCT 0 of a restored expired timer", current(vcpu)?, 0);
        vcpu.answer(&[TAKES_ONE]);
        let [count, taken, ..] = vcpu.run_until_sync(RESTORED)?;
        check_eq!("the guest reads TMCCT 0 of a restored expired timer", count, 0);
        check_eq!("a restored expired one-shot timer fires exactly once", taken, 1);
        check_eq!("userspace reads TMCCT 0 after the expired timer fired", current(vcpu)?, 0);
        vcpu.run_until_done()
    }

    /// A masked one does not interrupt, and does not start again either.
    #[kvm_test(has_a_restored_timer)]
    fn expired_masked_timer_stays_silent(t: &mut OneVcpu) -> TestResult {
        let vcpu = &mut t.vcpu;
        vcpu.run_until_sync(READY)?;
        restore(vcpu, LVT_MASKED | u32::from(VECTOR), u32::MAX, 0)?;
        vcpu.answer(&[0]);
        let [count, _, pending, ..] = vcpu.run_until_sync(RESTORED)?;
        check_eq!("the guest reads TMCCT 0 of a restored expired masked timer", count, 0);
        check_eq!("a restored expired masked timer requests no interrupt", pending, 0);
        vcpu.run_until_done()
    }

    /// A running one goes on from where it was, a periodic one too; one that never ran does not start.
    #[kvm_test(has_a_restored_timer, params = [
        one_shot: (0, u32::MAX, u32::MAX / 2),
        periodic: (LVT_PERIODIC, u32::MAX, u32::MAX / 2),
        stopped: (0, 0, 0),
        stopped_periodic: (LVT_PERIODIC, 0, 0),
    ])]
    fn timer_goes_on_from_its_count(
        t: &mut OneVcpu,
        (mode, initial, saved): (u32, u32, u32),
    ) -> TestResult {
        let vcpu = &mut t.vcpu;
        vcpu.run_until_sync(READY)?;
        restore(vcpu, mode | LVT_MASKED | u32::from(VECTOR), initial, saved)?;
        let now = current(vcpu)?;
        check!("a restored timer counts down from its TMCCT", now <= saved, "{now:#x} {saved:#x}");
        check_eq!("a restored timer runs exactly if it ran when saved", now != 0, saved != 0);
        vcpu.answer(&[0]);
        let [count, ..] = vcpu.run_until_sync(RESTORED)?;
        check!(
            "the guest sees the restored timer go on",
            count <= now.into(),
            "{count:#x} {now:#x}"
        );
        vcpu.run_until_done()
    }
}
