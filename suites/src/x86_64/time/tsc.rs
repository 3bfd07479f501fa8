//! The guest's time-stamp counter: as guests write it and IA32_TSC_ADJUST, and as userspace sets its value,
//! offset and frequency (SDM vol. 3, "Time-Stamp Counter"; api.rst 4.55, 4.56; devices/vcpu.rst,
//! KVM_VCPU_TSC_CTRL).
use crate::prelude::*;
use msr::{IA32_TIME_STAMP_COUNTER, IA32_TSC_ADJUST};

/// Far more than passes between two instructions, whatever the scheduler does: about 100 days.
const FAR: u64 = 1 << 54;
/// What passes at most: minutes.
const NEAR: u64 = 1 << 42;

/// Whether the counter moved by `by`, give or take the time that passed.
fn moved(before: u64, after: u64, by: u64) -> bool {
    after.wrapping_sub(before).wrapping_sub(by) < NEAR
}

#[guest]
fn adjusts(_: &mut Guest) {
    check_eq!("IA32_TSC_ADJUST is 0 at reset", rdmsr_safe(IA32_TSC_ADJUST), Ok(0));
    let mut last = 0_u64;
    for adjust in [FAR, 3 * FAR, FAR, 0, FAR.wrapping_neg(), 1, 0] {
        let before = rdtsc_ordered();
        check_eq!(
            "IA32_TSC_ADJUST accepts a write of {adjust:#x}",
            wrmsr_safe(IA32_TSC_ADJUST, adjust),
            Ok(())
        );
        let after = rdtsc_ordered();
        check_eq!("IA32_TSC_ADJUST reads as written", rdmsr(IA32_TSC_ADJUST), adjust);
        let by = adjust.wrapping_sub(last);
        check!("the TSC moves by the difference to {adjust:#x}", moved(before, after, by));
        last = adjust;
    }
    for value in [FAR, 5 * FAR, NEAR] {
        let (before, adjust) = (rdtsc_ordered(), rdmsr(IA32_TSC_ADJUST));
        check_eq!(
            "IA32_TSC accepts a write of {value:#x}",
            wrmsr_safe(IA32_TIME_STAMP_COUNTER, value),
            Ok(())
        );
        check!("the TSC goes on from the guest's {value:#x}", moved(value, rdtsc_ordered(), 0));
        let by = rdmsr(IA32_TSC_ADJUST).wrapping_sub(adjust);
        let want = value.wrapping_sub(before);
        // What passed before the write made the change smaller.
        check!("IA32_TSC_ADJUST has the change to {value:#x}", want.wrapping_sub(by) < NEAR);
    }
    check!("RDMSR of IA32_TSC is RDTSC", moved(rdtsc_ordered(), rdmsr(IA32_TIME_STAMP_COUNTER), 0));
}

/// Tells the host the TSC and IA32_TSC_ADJUST, again and again; writes the TSC if the host answers so.
#[guest]
fn tells(g: &mut Guest) {
    loop {
        let adjust = rdmsr_safe(IA32_TSC_ADJUST).unwrap_or_default();
        let answer = g.sync(1, &[rdtsc_ordered(), adjust]);
        if answer[0] == SET {
            wrmsr(IA32_TIME_STAMP_COUNTER, answer[1]);
        }
    }
}
/// Answer to [`tells`]: write the next word to the TSC.
const SET: u64 = u64::MAX;

#[host]
mod host {
    use super::*;
    use {
        bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, Msrs, kvm_device_attr, kvm_msr_entry},
        std::time::{Duration, Instant},
    };

    /// What a guest adds to IA32_TSC_ADJUST moves its TSC, and what it writes to its TSC shows there.
    #[kvm_test(adjusts, requires(cpu::TSC_ADJUST))]
    fn guest_writes_move_tsc_and_adjust_together(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    fn ask(vcpu: &mut Vcpu) -> TestResult<[u64; 2]> {
        let [tsc, adjust, ..] = vcpu.run_until_sync(1)?;
        vcpu.answer(&[0]);
        Ok([tsc, adjust])
    }

    fn set_msr(vcpu: &Vcpu, index: u32, data: u64) -> TestResult {
        let entry = kvm_msr_entry { index, data, ..Default::default() };
        let msrs = Msrs::from_entries(&[entry]).map_err(|e| Failure::Error(format!("{e:?}")))?;
        let taken = vcpu.fd().set_msrs(&msrs).ioctl("KVM_SET_MSRS")?;
        check_eq!("userspace can write MSR {index:#x}", taken, 1);
        Ok(())
    }

    /// Each vCPU has a TSC of its own: what one writes moves no other's.
    #[kvm_test(tells)]
    fn vcpus_write_their_own_tsc(t: &mut OneVcpu) -> TestResult {
        let mut second = t.vm.add_vcpu(1, guest_fn!(tells))?;
        let before = ask(&mut second)?[0];
        ask(&mut t.vcpu)?;
        t.vcpu.answer(&[SET, before.wrapping_add(FAR)]);
        let first = ask(&mut t.vcpu)?[0];
        check!(
            "the TSC of the vCPU that wrote moves",
            moved(before, first, FAR),
            "{before:#x} {first:#x}"
        );
        let after = ask(&mut second)?[0];
        check!(
            "the other vCPU's TSC does not move",
            moved(before, after, 0),
            "{before:#x} {after:#x}"
        );
        Ok(())
    }

    /// Userspace's IA32_TSC is where the guest's TSC goes on; the same value for each vCPU within a moment keeps
    /// them in step. Userspace's IA32_TSC_ADJUST is restored state and moves nothing.
    #[kvm_test(tells, requires(cpu::TSC_ADJUST))]
    fn userspace_sets_tsc_and_adjust_apart(t: &mut OneVcpu) -> TestResult {
        let mut second = t.vm.add_vcpu(1, guest_fn!(tells))?;
        for value in [FAR, 7 * FAR, NEAR] {
            set_msr(&t.vcpu, IA32_TIME_STAMP_COUNTER, value)?;
            set_msr(&second, IA32_TIME_STAMP_COUNTER, value)?;
            let first = ask(&mut t.vcpu)?[0];
            check!(
                "the first vCPU's TSC goes on from {value:#x}",
                moved(value, first, 0),
                "{first:#x}"
            );
            let other = ask(&mut second)?[0];
            check!(
                "the second vCPU's TSC goes on from {value:#x}",
                moved(first, other, 0),
                "{other:#x}"
            );
            let again = ask(&mut t.vcpu)?[0];
            check!(
                "neither vCPU's TSC is behind the other ({value:#x})",
                moved(other, again, 0),
                "{again:#x}"
            );
        }
        let before = ask(&mut t.vcpu)?[0];
        set_msr(&t.vcpu, IA32_TSC_ADJUST, FAR)?;
        let [after, adjust] = ask(&mut t.vcpu)?;
        check_eq!("the guest reads userspace's IA32_TSC_ADJUST", adjust, FAR);
        check!(
            "userspace's IA32_TSC_ADJUST leaves the guest's TSC",
            moved(before, after, 0),
            "{before:#x} {after:#x}"
        );
        Ok(())
    }

    fn offset_attribute(address: u64) -> kvm_device_attr {
        let (group, attr) = (KVM_VCPU_TSC_CTRL, u64::from(KVM_VCPU_TSC_OFFSET));
        kvm_device_attr { flags: 0, group, attr, addr: address }
    }

    const KVM_SET_DEVICE_ATTR: u64 = request::iow::<kvm_device_attr>(0xe1);
    const KVM_GET_DEVICE_ATTR: u64 = request::iow::<kvm_device_attr>(0xe2);
    const KVM_HAS_DEVICE_ATTR: u64 = request::iow::<kvm_device_attr>(0xe3);

    fn attribute(vcpu: &Vcpu, request: u64, attr: kvm_device_attr) -> Result<i32, Errno> {
        let mut bytes = [0; size_of::<kvm_device_attr>()];
        bytes[0..4].copy_from_slice(&attr.flags.to_ne_bytes());
        bytes[4..8].copy_from_slice(&attr.group.to_ne_bytes());
        bytes[8..16].copy_from_slice(&attr.attr.to_ne_bytes());
        bytes[16..24].copy_from_slice(&attr.addr.to_ne_bytes());
        vcpu.raw(request, &mut bytes)
    }

    /// KVM_VCPU_TSC_OFFSET is what the guest's TSC is ahead of the host's: setting it moves the TSC.
    #[kvm_test(tells)]
    fn offset_attribute_moves_the_tsc(t: &mut OneVcpu) -> TestResult {
        let has = attribute(&t.vcpu, KVM_HAS_DEVICE_ATTR, offset_attribute(0));
        require!(has.is_ok(), "KVM_VCPU_TSC_OFFSET");
        let vcpu = &mut t.vcpu;
        let get = |vcpu: &Vcpu| -> TestResult<u64> {
            let buffer = GuardedBuffer::new(&[0; 8]);
            attribute(vcpu, KVM_GET_DEVICE_ATTR, offset_attribute(buffer.address()))
                .ioctl("KVM_GET_DEVICE_ATTR")?;
            Ok(u64::from_ne_bytes(buffer.bytes().try_into().unwrap_or_default()))
        };
        let set = |vcpu: &Vcpu, offset: u64| {
            let buffer = GuardedBuffer::new(&offset.to_ne_bytes());
            attribute(vcpu, KVM_SET_DEVICE_ATTR, offset_attribute(buffer.address()))
        };
        let first = get(vcpu)?;
        let mut before = ask(vcpu)?[0];
        let mut last = first;
        for step in [FAR, FAR.wrapping_neg(), 1, 0] {
            let offset = first.wrapping_add(step);
            check_eq!(
                "KVM_VCPU_TSC_OFFSET accepts an offset ({step:#x})",
                set(vcpu, offset),
                Ok(0)
            );
            check_eq!("KVM_VCPU_TSC_OFFSET reads as set ({step:#x})", get(vcpu)?, offset);
            let after = ask(vcpu)?[0];
            let by = offset.wrapping_sub(last);
            check!(
                "the TSC moves by the change of its offset ({step:#x})",
                moved(before, after, by),
                "{before:#x} {after:#x}"
            );
            (before, last) = (after, offset);
        }
        vcpu.answer(&[SET, 3 * FAR]);
        let now = ask(vcpu)?[0];
        check!(
            "the guest's TSC goes on from what the guest wrote",
            moved(3 * FAR, now, 0),
            "{now:#x}"
        );
        let changed = get(vcpu)?.wrapping_sub(last);
        // What passed before the guest's write made its change smaller.
        let most = (3 * FAR).wrapping_sub(before);
        check!(
            "the offset reflects the guest's write",
            most.wrapping_sub(changed) < NEAR,
            "{changed:#x}"
        );
        Ok(())
    }

    /// Attributes that do not exist are ENXIO; memory that is not there is EFAULT.
    #[kvm_test(tells)]
    fn unknown_attributes_are_refused(t: &mut OneVcpu) -> TestResult {
        let known = offset_attribute(0);
        require!(attribute(&t.vcpu, KVM_HAS_DEVICE_ATTR, known).is_ok(), "KVM_VCPU_TSC_OFFSET");
        for (what, attr) in [
            ("attribute", kvm_device_attr { attr: 1, ..known }),
            ("attribute beyond 32 bits", kvm_device_attr { attr: 1 << 32, ..known }),
            ("group", kvm_device_attr { group: 1, ..known }),
        ] {
            for (name, request) in [
                ("KVM_HAS_DEVICE_ATTR", KVM_HAS_DEVICE_ATTR),
                ("KVM_GET_DEVICE_ATTR", KVM_GET_DEVICE_ATTR),
                ("KVM_SET_DEVICE_ATTR", KVM_SET_DEVICE_ATTR),
            ] {
                let got = attribute(&t.vcpu, request, attr);
                check_eq!("{name} of an unknown {what} is ENXIO", got, Err(Errno::ENXIO));
            }
        }
        for request in [KVM_GET_DEVICE_ATTR, KVM_SET_DEVICE_ATTR] {
            let got = attribute(&t.vcpu, request, known);
            check_eq!(
                "an attribute at unmapped memory is EFAULT ({request:#x})",
                got,
                Err(Errno::EFAULT)
            );
        }
        Ok(())
    }

    /// KVM_SET_TSC_KHZ takes what KVM_GET_TSC_KHZ gives, and 0 for the host's; where the hardware scales, more
    /// than it can is EINVAL and changes nothing.
    #[kvm_test(requires(cap::GET_TSC_KHZ))]
    fn frequency_is_set_and_read(t: &mut OneVm) -> TestResult {
        let vcpu = t.vm.create_vcpu(0)?;
        let khz = || vcpu.fd().get_tsc_khz().ioctl("KVM_GET_TSC_KHZ");
        let set = |khz| vcpu.fd().set_tsc_khz(khz).errno();
        let first = khz()?;
        check!("KVM_GET_TSC_KHZ reports a frequency", first > 0);
        check_eq!("KVM_SET_TSC_KHZ accepts the current frequency", set(first), Ok(()));
        check_eq!("the current frequency set again stays", khz()?, first);
        if t.vm.check_extension(bindings::KVM_CAP_TSC_CONTROL) > 0 {
            check_eq!("a frequency beyond any TSC is EINVAL", set(u32::MAX), Err(Errno::EINVAL));
            check_eq!("a refused frequency leaves the current one", khz()?, first);
        }
        check_eq!("KVM_SET_TSC_KHZ accepts the value 0", set(0), Ok(()));
        check_eq!("0 means the host's frequency", khz()?, first);
        Ok(())
    }

    /// With hardware that scales, the guest's TSC counts as fast as userspace says.
    #[kvm_test(tells, requires(cap::TSC_CONTROL, cap::GET_TSC_KHZ), params = [half: 2, third: 3])]
    fn scaled_tsc_counts_at_its_frequency(t: &mut OneVcpu, divisor: u32) -> TestResult {
        let host = t.vcpu.fd().get_tsc_khz().ioctl("KVM_GET_TSC_KHZ")?;
        let khz = host / divisor;
        t.vcpu.fd().set_tsc_khz(khz).ioctl("KVM_SET_TSC_KHZ")?;
        let got = t.vcpu.fd().get_tsc_khz().ioctl("KVM_GET_TSC_KHZ")?;
        check_eq!("KVM_GET_TSC_KHZ returns what was set", got, khz);
        let outer = Instant::now();
        let first = ask(&mut t.vcpu)?[0];
        let inner = Instant::now();
        std::thread::sleep(Duration::from_millis(20));
        let least = inner.elapsed().as_nanos() as f64 * 0.99;
        let second = ask(&mut t.vcpu)?[0];
        let most = outer.elapsed().as_nanos() as f64 * 1.01;
        let passed = second.wrapping_sub(first) as f64 * 1e6 / f64::from(khz);
        check!("the scaled TSC counts no slower than set", passed >= least, "{passed} {least}");
        check!("the scaled TSC counts no faster than set", passed <= most, "{passed} {most}");
        Ok(())
    }
}
