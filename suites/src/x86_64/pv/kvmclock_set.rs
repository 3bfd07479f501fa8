//! The VM's clock as userspace takes and sets it: KVM_GET_CLOCK and KVM_SET_CLOCK with their flags (api.rst
//! 4.29, 4.30), KVM_KVMCLOCK_CTRL (4.70) and the wall clock behind them. The clock page: `kvmclock`.
use crate::prelude::*;
use kvm_pv::{KVM_MSR_ENABLED as ENABLE, MSR_KVM_SYSTEM_TIME_NEW, MSR_KVM_WALL_CLOCK_NEW};

/// The clock pages of vCPU 0 and 1, and the wall clock.
const PAGES: [u64; 2] = [layout::SCRATCH, layout::SCRATCH + 0x1000];
const WALL: u64 = layout::SCRATCH + 0x2000;
const TOLD: u64 = 1;
/// What the host half may answer: go on; set the wall clock anew; switch the clock page off.
const GO_ON: u64 = 0;
const SET_WALL: u64 = 1;
const SWITCH_OFF: u64 = 2;

/// Tells its clock page and the wall clock, again and again.
#[guest]
fn tells(g: &mut Guest) {
    let page = PAGES[g.vcpu() as usize];
    wrmsr(MSR_KVM_SYSTEM_TIME_NEW, page | ENABLE);
    loop {
        let clock = read_clock(page);
        let [_, seconds, nanoseconds] = peek::<[u32; 3]>(WALL).map(u64::from);
        let (mul, shift) = (clock.tsc_to_system_mul.into(), clock.tsc_shift as i64 as u64);
        let wall = seconds * 1_000_000_000 + nanoseconds;
        let flags = clock.flags.into();
        let page_now = [clock.tsc_timestamp, clock.system_time, mul, shift, flags, wall];
        match g.sync(TOLD, &page_now)[0] {
            SET_WALL => wrmsr(MSR_KVM_WALL_CLOCK_NEW, WALL),
            SWITCH_OFF => wrmsr(MSR_KVM_SYSTEM_TIME_NEW, 0),
            _ => {}
        }
    }
}

#[host]
mod host {
    use super::*;
    use kvm_pv::{PvclockFlags, PvclockVcpuTimeInfo};
    use {
        bindings::{
            KVM_CLOCK_HOST_TSC, KVM_CLOCK_REALTIME, KVM_CLOCK_TSC_STABLE, KVM_VCPU_TSC_CTRL,
            KVM_VCPU_TSC_OFFSET, kvm_clock_data, kvm_device_attr,
        },
        std::time::{Duration, SystemTime, UNIX_EPOCH},
    };

    /// Nanoseconds by which clocks of one host may differ here, that are not read at the same time.
    const SLACK: u64 = 20_000_000;
    /// Rounding of two conversions from TSC to nanoseconds.
    const ROUNDING: u64 = 1_000;
    /// A jump that no scheduling delay explains: 1000 s.
    const JUMP: u64 = 1_000_000_000_000;
    const HOUR: u64 = 3_600_000_000_000;
    /// All three flags that there are.
    const FLAGS: u32 = KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC;

    /// The clock page that a vCPU told, and its wall clock.
    fn told(vcpu: &mut Vcpu, answer: u64) -> TestResult<(PvclockVcpuTimeInfo, u64)> {
        vcpu.answer(&[answer]);
        let [tsc_timestamp, system_time, mul, shift, flags, wall, ..] =
            vcpu.run_until_sync(TOLD)?;
        let page = PvclockVcpuTimeInfo {
            tsc_timestamp,
            system_time,
            tsc_to_system_mul: mul as u32,
            tsc_shift: shift as i8,
            flags: flags as u8,
            ..PvclockVcpuTimeInfo::default()
        };
        Ok((page, wall))
    }

    fn get(vm: &Vm) -> TestResult<kvm_clock_data> {
        vm.fd().get_clock().ioctl("KVM_GET_CLOCK")
    }

    fn set(vm: &Vm, data: kvm_clock_data) -> Result<(), Errno> {
        vm.fd().set_clock(&data).errno()
    }

    fn real_time() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
    }

    fn require_flags(vm: &Vm) -> TestResult {
        let known = vm.check_extension(bindings::KVM_CAP_ADJUST_CLOCK) as u32;
        require!(known & FLAGS == FLAGS, "KVM_CLOCK_REALTIME and KVM_CLOCK_HOST_TSC");
        Ok(())
    }

    /// A clock whose flags are all there: that of a VM whose master clock is on.
    fn require_master_clock(vm: &Vm) -> TestResult<kvm_clock_data> {
        require_flags(vm)?;
        let clock = get(vm)?;
        require!(clock.flags == FLAGS, "a master clock (host clocksource tsc, TSCs in step)");
        Ok(clock)
    }

    /// Real time and host TSC of KVM_GET_CLOCK are of the instant of the call, and they and the clock
    /// advance together.
    #[kvm_test(tells, requires(cap::CLOCKSOURCE, cap::ADJUST_CLOCK, cap::GET_TSC_KHZ))]
    fn clock_comes_with_real_time_and_tsc(t: &mut OneVcpu) -> TestResult {
        told(&mut t.vcpu, GO_ON)?;
        require_master_clock(&t.vm)?;
        let mut clocks = [kvm_clock_data::default(); 2];
        for clock in &mut clocks {
            std::thread::sleep(Duration::from_millis(20));
            let (real_before, tsc_before) = (real_time(), rdtsc());
            *clock = require_master_clock(&t.vm)?;
            let (tsc_after, real_after) = (rdtsc(), real_time());
            let kvm_clock_data { realtime, host_tsc, .. } = *clock;
            let during = (real_before..=real_after).contains(&realtime);
            check!(
                "the reported real time is that of the call",
                during,
                "{real_before} {realtime} {real_after}"
            );
            let during = (tsc_before..=tsc_after).contains(&host_tsc);
            check!(
                "the reported host TSC is that of the call",
                during,
                "{tsc_before} {host_tsc} {tsc_after}"
            );
        }
        let [first, second] = clocks;
        let khz = u64::from(t.vcpu.fd().get_tsc_khz().ioctl("KVM_GET_TSC_KHZ")?);
        let passed = second.clock - first.clock;
        let by_tsc = (second.host_tsc - first.host_tsc) * 1_000_000 / khz;
        let off = passed.abs_diff(by_tsc);
        check!(
            "the clock advances as the host's TSC does",
            off <= passed / 1000,
            "{passed} {by_tsc} ns"
        );
        let real = second.realtime - first.realtime;
        let off = passed.abs_diff(real);
        check!("the clock advances as real time does", off <= passed / 100, "{passed} {real} ns");
        Ok(())
    }

    const KVM_GET_DEVICE_ATTR: u64 = request::iow::<kvm_device_attr>(0xe2);

    /// What the guest's TSC is ahead of the host's.
    fn tsc_offset(vcpu: &Vcpu) -> TestResult<u64> {
        let buffer = GuardedBuffer::new(&[0; 8]);
        let mut attr = [0; size_of::<kvm_device_attr>()];
        attr[4..8].copy_from_slice(&KVM_VCPU_TSC_CTRL.to_ne_bytes());
        attr[8..16].copy_from_slice(&u64::from(KVM_VCPU_TSC_OFFSET).to_ne_bytes());
        attr[16..24].copy_from_slice(&buffer.address().to_ne_bytes());
        require!(vcpu.raw(KVM_GET_DEVICE_ATTR, &mut attr).is_ok(), "KVM_VCPU_TSC_OFFSET");
        let mut offset = [0; 8];
        offset.copy_from_slice(buffer.bytes());
        Ok(u64::from_ne_bytes(offset))
    }

    /// With KVM_CLOCK_TSC_STABLE the clock is exactly what every vCPU's page gives at that TSC.
    #[kvm_test(tells, requires(cap::CLOCKSOURCE, cap::ADJUST_CLOCK))]
    fn stable_clock_is_what_every_vcpu_sees(t: &mut OneVcpu) -> TestResult {
        let mut second = t.vm.add_vcpu(1, guest_fn!(tells))?;
        for base in [None, Some(JUMP), Some(1_000)] {
            if let Some(clock) = base {
                let data = kvm_clock_data { clock, ..Default::default() };
                check_eq!("KVM_SET_CLOCK accepts a clock", set(&t.vm, data), Ok(()));
            }
            let pages = [told(&mut t.vcpu, GO_ON)?.0, told(&mut second, GO_ON)?.0];
            let clock = require_master_clock(&t.vm)?;
            for (vcpu, page) in [&t.vcpu, &second].into_iter().zip(pages) {
                let at = clock.host_tsc.wrapping_add(tsc_offset(vcpu)?);
                let off = page.time_at(at).abs_diff(clock.clock);
                check!("the clock is the page's time at its TSC", off <= ROUNDING, "{off} ns off");
            }
        }
        Ok(())
    }

    /// KVM_CLOCK_REALTIME adds the real time that has passed, and takes nothing away where that time is
    /// still to come; without the flag real time does not count, and the other flags never do.
    #[kvm_test(requires(cap::ADJUST_CLOCK), params = [
    an_hour_ago: (KVM_CLOCK_REALTIME, -1, HOUR),
    an_hour_ago_all_flags: (FLAGS, -1, HOUR),
    now: (KVM_CLOCK_REALTIME, 0, 0),
    in_an_hour: (KVM_CLOCK_REALTIME, 1, 0),
    no_flag: (0, -1, 0),
    other_flags: (KVM_CLOCK_TSC_STABLE | KVM_CLOCK_HOST_TSC, -1, 0),
])]
    fn real_time_moves_the_clock(
        t: &mut OneVm,
        (flags, hours, want): (u32, i64, u64),
    ) -> TestResult {
        require_flags(&t.vm)?;
        let start = real_time();
        let realtime = start.wrapping_add_signed(hours * HOUR as i64);
        let data = kvm_clock_data { clock: JUMP, flags, realtime, ..Default::default() };
        check_eq!("KVM_SET_CLOCK accepts a clock with real time", set(&t.vm, data), Ok(()));
        let got = get(&t.vm)?.clock;
        let passed = real_time() - start;
        check!("the clock is not before what was set", got >= JUMP + want, "{got}");
        check!(
            "the clock is soon after what was set",
            got <= JUMP + want + passed + SLACK,
            "{got}"
        );
        Ok(())
    }

    /// Every flag but the three is EINVAL, alone and beside them, and a refused clock is not taken.
    #[kvm_test(requires(cap::ADJUST_CLOCK))]
    fn every_unknown_flag_is_refused(t: &mut OneVm) -> TestResult {
        require_flags(&t.vm)?;
        let far = kvm_clock_data { clock: JUMP, ..Default::default() };
        for bit in (0..32).filter(|bit| FLAGS >> bit & 1 == 0) {
            for flags in [1 << bit, 1 << bit | KVM_CLOCK_TSC_STABLE] {
                let refused = set(&t.vm, kvm_clock_data { flags, ..far });
                check!(
                    "an unknown flag of KVM_SET_CLOCK is EINVAL",
                    refused == Err(Errno::EINVAL),
                    "{flags:#x}"
                );
            }
        }
        let clock = get(&t.vm)?.clock;
        check!("a refused KVM_SET_CLOCK leaves the clock", clock < JUMP, "{clock}");
        Ok(())
    }

    /// What one VM's KVM_GET_CLOCK gave, set in another one later, makes both clocks the same.
    #[kvm_test(tells, requires(cap::CLOCKSOURCE, cap::ADJUST_CLOCK))]
    fn clock_goes_on_in_another_vm(t: &mut OneVcpu) -> TestResult {
        told(&mut t.vcpu, GO_ON)?;
        let far = kvm_clock_data { clock: JUMP, ..Default::default() };
        check_eq!("KVM_SET_CLOCK accepts the first VM's clock", set(&t.vm, far), Ok(()));
        told(&mut t.vcpu, GO_ON)?;
        let taken = require_master_clock(&t.vm)?;
        std::thread::sleep(Duration::from_millis(20));
        let mut other = Vm::new(VmConfig::new())?;
        let mut vcpu = other.add_vcpu(0, guest_fn!(tells))?;
        told(&mut vcpu, GO_ON)?;
        check_eq!("KVM_SET_CLOCK accepts another VM's clock", set(&other, taken), Ok(()));
        told(&mut vcpu, GO_ON)?;
        let before = get(&t.vm)?.clock;
        let there = get(&other)?.clock;
        let after = get(&t.vm)?.clock;
        // Real time is slewed against the TSC by 500 ppm at most.
        let slewed = (after - taken.clock) / 1000 + 100 * ROUNDING;
        check!("the other VM's clock is not behind", there + slewed >= before, "{there} {before}");
        check!("the other VM's clock is not ahead", there <= after + slewed, "{there} {after}");
        Ok(())
    }

    /// The wall clock is the real time at which the VM's clock was 0, as it is set now.
    #[kvm_test(tells, requires(cap::CLOCKSOURCE, cap::ADJUST_CLOCK))]
    fn wall_clock_follows_the_clock(t: &mut OneVcpu) -> TestResult {
        told(&mut t.vcpu, GO_ON)?;
        for clock in [JUMP, 1_000, 3 * JUMP] {
            let start = real_time();
            let data = kvm_clock_data { clock, ..Default::default() };
            set(&t.vm, data).ioctl("KVM_SET_CLOCK")?;
            let (_, wall) = told(&mut t.vcpu, SET_WALL)?;
            let passed = real_time() - start;
            let off = (start - clock).abs_diff(wall);
            check!(
                "wall clock plus clock {clock} is the real time",
                off <= passed + SLACK,
                "{off} ns"
            );
        }
        Ok(())
    }

    /// KVM_KVMCLOCK_CTRL is of one vCPU, and EINVAL once its guest has switched the page off.
    #[kvm_test(tells, requires(cap::CLOCKSOURCE, cap::KVMCLOCK_CTRL), sees(moved: "asks by KVM_KVMCLOCK_CTRL, which userspace does again after a move"))]
    fn stopped_vcpu_alone_is_told(t: &mut OneVcpu) -> TestResult {
        let mut second = t.vm.add_vcpu(1, guest_fn!(tells))?;
        let ctrl = |vcpu: &Vcpu| vcpu.fd().kvmclock_ctrl().errno();
        let stopped =
            |page: PvclockVcpuTimeInfo| page.flags & PvclockFlags::GUEST_STOPPED.bits() != 0;
        told(&mut t.vcpu, GO_ON)?;
        check_eq!(
            "KVM_KVMCLOCK_CTRL without a page on its vCPU is EINVAL",
            ctrl(&second),
            Err(Errno::EINVAL)
        );
        told(&mut second, GO_ON)?;
        check_eq!("KVM_KVMCLOCK_CTRL with a page on its vCPU succeeds", ctrl(&second), Ok(()));
        check!("the other vCPU's stopped flag stays clear", !stopped(told(&mut t.vcpu, GO_ON)?.0));
        check!("the stopped flag of the vCPU is set", stopped(told(&mut second, GO_ON)?.0));
        told(&mut t.vcpu, SWITCH_OFF)?;
        check_eq!(
            "KVM_KVMCLOCK_CTRL with the page switched off is EINVAL",
            ctrl(&t.vcpu),
            Err(Errno::EINVAL)
        );
        check_eq!("the other vCPU's page is still on", ctrl(&second), Ok(()));
        Ok(())
    }
}
