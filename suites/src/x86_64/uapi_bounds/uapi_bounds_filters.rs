//! How large the MSR filter and the PMU event filter may be (api.rst 4.97, 4.120).
use crate::prelude::*;
use msr::IA32_SYSENTER_CS;

const READY: u64 = 1;

#[guest]
fn reads_on_request(g: &mut Guest) {
    let mut readable = 0;
    while g.sync(READY, &[readable])[0] != 0 {
        readable = rdmsr_safe(IA32_SYSENTER_CS).is_ok().into();
    }
}

#[host]
mod host {
    use super::*;
    use crate::common::support::boundary::{probe, probe_end, words};
    use request::x86::{KVM_SET_PMU_EVENT_FILTER, KVM_X86_SET_MSR_FILTER};

    /// Most MSRs in one range.
    const LIMIT: u32 = 8 * bindings::KVM_MSR_FILTER_MAX_BITMAP_SIZE;
    const READ: u32 = bindings::KVM_MSR_FILTER_READ;
    const DENY: u8 = 0;
    const ALLOW: u8 = 0xff;

    /// Whether the guest can read IA32_SYSENTER_CS.
    fn readable(vcpu: &mut Vcpu) -> TestResult<bool> {
        vcpu.answer(&[1]);
        Ok(vcpu.run_until_sync(READY)?[0] == 1)
    }

    /// `struct kvm_msr_filter_range`.
    #[derive(Clone, Copy)]
    struct Range {
        flags: u32,
        nmsrs: u32,
        base: u32,
        bitmap: u64,
    }

    const EMPTY: Range = Range { flags: 0, nmsrs: 0, base: 0, bitmap: 0 };

    /// Sets a filter of two ranges; the other fourteen stay empty.
    fn set_filter(vm: &Vm, flags: u32, ranges: [Range; 2]) -> Result<i32, Errno> {
        let mut filter = vec![flags, 0];
        for r in ranges {
            filter.extend([r.flags, r.nmsrs, r.base, 0, r.bitmap as u32, (r.bitmap >> 32) as u32]);
        }
        let mut bytes = words(&filter);
        bytes.resize(size_of::<bindings::kvm_msr_filter>(), 0);
        vm.raw(KVM_X86_SET_MSR_FILTER, &mut bytes)
    }

    /// Bits for the largest range and one word more.
    fn bitmap() -> GuardedBuffer {
        GuardedBuffer::new(&[ALLOW; bindings::KVM_MSR_FILTER_MAX_BITMAP_SIZE as usize + 8])
    }

    /// A range that allows or denies to read IA32_SYSENTER_CS.
    fn sysenter(bits: &GuardedBuffer) -> Range {
        Range { flags: READ, nmsrs: 1, base: IA32_SYSENTER_CS, bitmap: bits.address() }
    }

    /// api.rst 4.97: a range's bitmap has up to KVM_MSR_FILTER_MAX_BITMAP_SIZE bytes; a larger one is
    /// EINVAL and the old filter stays. A range of no MSRs is empty.
    #[kvm_test(reads_on_request, requires(cap::X86_MSR_FILTER), sees(moved: "sets filters by the bare ioctl, which no VM remembers"))]
    fn msr_filter_range_takes_up_to_its_limit(t: &mut OneVcpu) -> TestResult {
        let OneVcpu { vm, vcpu } = t;
        vcpu.run_until_sync(READY)?;
        let bits = bitmap();
        let (deny, allow) = (GuardedBuffer::new(&[DENY; 8]), GuardedBuffer::new(&[ALLOW; 8]));
        // Denies and allows in turn: a filter that was refused and still applied would show.
        let mut denies = false;
        let set = |nmsrs| {
            denies = !denies;
            let range = Range { flags: READ, nmsrs, base: msr::UNKNOWN, bitmap: bits.address() };
            set_filter(vm, 0, [sysenter(if denies { &deny } else { &allow }), range])
        };
        let want = |nmsrs| if nmsrs > LIMIT { Err(Errno::EINVAL) } else { Ok(0) };
        probe("MSRs in a range", LIMIT, set, want, || readable(vcpu))?;

        set_filter(vm, 0, [sysenter(&deny), EMPTY]).ioctl("KVM_X86_SET_MSR_FILTER")?;
        check_eq!("the guest is denied the filtered MSR", readable(vcpu)?, false);
        set_filter(vm, 0, [sysenter(&allow), EMPTY]).ioctl("KVM_X86_SET_MSR_FILTER")?;
        check_eq!("the guest is allowed the filtered MSR", readable(vcpu)?, true);
        Ok(())
    }

    /// api.rst 4.97: unknown flags, ranges without a direction, and "deny everything" without a range are
    /// EINVAL; a bitmap that cannot be read is EFAULT. The old filter stays.
    #[kvm_test(reads_on_request, requires(cap::X86_MSR_FILTER), sees(moved: "sets filters by the bare ioctl, which no VM remembers"))]
    fn bad_msr_filter_is_refused(t: &mut OneVcpu) -> TestResult {
        const WRITE: u32 = bindings::KVM_MSR_FILTER_WRITE;
        const DEFAULT_DENY: u32 = bindings::KVM_MSR_FILTER_DEFAULT_DENY;
        let OneVcpu { vm, vcpu } = t;
        vcpu.run_until_sync(READY)?;
        let bits = bitmap();
        let deny = GuardedBuffer::new(&[DENY; 8]);
        let range =
            Range { flags: READ | WRITE, nmsrs: 1, base: msr::UNKNOWN, bitmap: bits.address() };
        let nowhere = bits.address() + bits.bytes().len() as u64;
        let bad = [
            ("flag bit 1", 1 << 1, range, Errno::EINVAL),
            ("flag bit 31", 1 << 31, range, Errno::EINVAL),
            ("a range without a direction", 0, Range { flags: 0, ..range }, Errno::EINVAL),
            ("range flag bit 2", 0, Range { flags: READ | 1 << 2, ..range }, Errno::EINVAL),
            ("range flag bit 31", 0, Range { flags: READ | 1 << 31, ..range }, Errno::EINVAL),
            ("DEFAULT_DENY without a range", DEFAULT_DENY, EMPTY, Errno::EINVAL),
            ("a bitmap that cannot be read", 0, Range { bitmap: nowhere, ..range }, Errno::EFAULT),
        ];
        set_filter(vm, 0, [sysenter(&deny), EMPTY]).ioctl("KVM_X86_SET_MSR_FILTER")?;
        for (what, flags, range, errno) in bad {
            let got = set_filter(vm, flags, [range, EMPTY]);
            check_eq!("a filter with {what} is refused with {errno:?}", got, Err(errno));
            check!("a filter with {what}, refused, leaves the old filter", !readable(vcpu)?);
            set_filter(vm, 0, [sysenter(&deny), EMPTY]).ioctl("KVM_X86_SET_MSR_FILTER")?;
        }
        for (what, flags) in [("READ", READ), ("WRITE", WRITE), ("READ and WRITE", READ | WRITE)] {
            let got = set_filter(vm, 0, [Range { flags, ..range }, EMPTY]);
            check_eq!("a range of direction {what} is accepted", got, Ok(0));
        }
        set_filter(vm, 0, [sysenter(&deny), EMPTY]).ioctl("KVM_X86_SET_MSR_FILTER")?;
        check_eq!("a filter without ranges is accepted", set_filter(vm, 0, [EMPTY; 2]), Ok(0));
        check!("a filter without ranges filters nothing", readable(vcpu)?);
        Ok(())
    }

    /// Events of a PMU filter (`KVM_PMU_EVENT_FILTER_MAX_EVENTS`).
    const MAX_EVENTS: u32 = 300;
    const PMU_ALLOW: u32 = 0;
    const PMU_DENY: u32 = 1;

    /// Sets a filter that claims `nevents` events; one beyond the limit are really there.
    fn set_events(vm: &Vm, action: u32, nevents: u32, flags: u32) -> Result<i32, Errno> {
        let mut filter = vec![action, nevents, 0, flags, 0, 0, 0, 0];
        for event in 0..nevents.min(MAX_EVENTS + 1) {
            filter.extend([event & 0xff, 0]);
        }
        vm.raw(KVM_SET_PMU_EVENT_FILTER, &mut words(&filter))
    }

    /// api.rst 4.120: a PMU event filter has up to KVM_PMU_EVENT_FILTER_MAX_EVENTS events; more is E2BIG,
    /// and unknown actions and flags are EINVAL.
    #[kvm_test(requires(cap::PMU_EVENT_FILTER))]
    fn pmu_event_filter_takes_up_to_its_limit(t: &mut OneVm) -> TestResult {
        let vm = &t.vm;
        let want = |nevents| if nevents > MAX_EVENTS { Err(Errno::E2BIG) } else { Ok(0) };
        for (action, value) in [("allow", PMU_ALLOW), ("deny", PMU_DENY)] {
            let what = format!("KVM_SET_PMU_EVENT_FILTER, {action}");
            probe_end(&what, MAX_EVENTS, |nevents| set_events(vm, value, nevents, 0), want);
        }
        for (what, action) in [("2", 2), ("2^31", 1 << 31), ("2^32 - 1", u32::MAX)] {
            check_eq!(
                "action {what} of a filter is EINVAL",
                set_events(vm, action, 1, 0),
                Err(Errno::EINVAL)
            );
        }
        for flag in [1, 31] {
            let got = set_events(vm, PMU_ALLOW, 1, 1 << flag);
            check_eq!("flag bit {flag} of a filter is EINVAL", got, Err(Errno::EINVAL));
        }
        let mut cut = words(&[PMU_ALLOW, 2, 0, 0, 0, 0, 0, 0, 1, 0]);
        let got = vm.raw(KVM_SET_PMU_EVENT_FILTER, &mut cut);
        check_eq!("a filter cut short is EFAULT", got, Err(Errno::EFAULT));
        Ok(())
    }
}
