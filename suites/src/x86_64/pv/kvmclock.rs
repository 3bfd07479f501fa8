//! kvmclock: the clock page and wall clock of a guest, and the host's view of them (x86/msr.rst;
//! api.rst 4.29, 4.30, 4.70).
use crate::prelude::*;
use kvm_pv::{
    KVM_MSR_ENABLED as ENABLE, MSR_KVM_SYSTEM_TIME, MSR_KVM_SYSTEM_TIME_NEW, MSR_KVM_WALL_CLOCK,
    MSR_KVM_WALL_CLOCK_NEW, PvclockFlags, PvclockVcpuTimeInfo,
};

/// Where the flags are in the page.
const FLAGS: u64 = core::mem::offset_of!(PvclockVcpuTimeInfo, flags) as u64;
/// The clock pages of vCPU 0 and 1, and the wall clock.
const PAGES: [u64; 2] = [layout::SCRATCH, layout::SCRATCH + 0x1000];
const WALL: u64 = layout::SCRATCH + 0x2000;
const OTHER_PAGE: u64 = layout::SCRATCH + 0x3000;
/// Reads in a row.
const READS: u64 = 100;
/// What was in memory that KVM must not touch.
const PATTERN: u64 = 0x5a5a_5a5a_5a5a_5a5a;

fn now(page: u64) -> u64 {
    read_clock(page).time_at(rdtsc_ordered())
}

/// Argument 0: the MSR.
#[guest]
fn reads_the_page(g: &mut Guest) {
    let (msr, page) = (g.arg(0) as u32, PAGES[0]);
    poke(page, PATTERN);
    wrmsr(msr, page);
    check_eq!("the page is left alone without the enable bit", peek::<u64>(page), PATTERN);
    check_eq!("the system-time MSR reads as written, disabled", rdmsr_safe(msr), Ok(page));
    poke(page, [0_u64; 4]);
    wrmsr(msr, page | ENABLE);
    check_eq!("the system-time MSR reads as written, enabled", rdmsr_safe(msr), Ok(page | ENABLE));
    let version: u32 = peek(page);
    check!("the page's version is even outside of updates", version & 1 == 0, "{version}");
    check!("the page's version shows that KVM has filled it", version != 0);
    let clock = read_clock(page);
    let tsc = rdtsc_ordered();
    check!("the page's multiplier is not 0", clock.tsc_to_system_mul != 0);
    check!(
        "the page's shift is one that 64 bits allow",
        (-32..=32).contains(&clock.tsc_shift),
        "{clock:?}"
    );
    check!(
        "the page's TSC is not in the future",
        clock.tsc_timestamp <= tsc,
        "{clock:?}, TSC {tsc}"
    );
    let unknown = clock.flags & !bits!(PvclockFlags::{TSC_STABLE_BIT | GUEST_STOPPED});
    check_eq!("the page's reserved flags are 0", unknown, 0);
    check_eq!(
        "the page's stopped flag is clear",
        clock.flags & PvclockFlags::GUEST_STOPPED.bits(),
        0
    );
    let mut before = now(page);
    for _ in 0..READS {
        let next = now(page);
        check!("the guest's time never goes back", next >= before, "{before} then {next}");
        before = next;
    }
    wrmsr(msr, OTHER_PAGE | ENABLE);
    check!("a page at another address is filled", peek::<u32>(OTHER_PAGE) != 0);
    check!("time goes on in the other page", now(OTHER_PAGE) >= before);
    wrmsr(msr, 0);
    poke(OTHER_PAGE, PATTERN);
    g.sync(0, &[]);
    check_eq!("a disabled page is left alone", peek::<u64>(OTHER_PAGE), PATTERN);
}

/// Gives the host the page and the time by it, again and again.
#[guest]
fn tells_the_time(g: &mut Guest) {
    let page = PAGES[g.vcpu() as usize];
    wrmsr(MSR_KVM_SYSTEM_TIME_NEW, page | ENABLE);
    loop {
        let clock = read_clock(page);
        let time = clock.time_at(rdtsc_ordered());
        let (mul, shift) = (clock.tsc_to_system_mul.into(), clock.tsc_shift as i64 as u64);
        let answer = g.sync(TIME, &[time, mul, shift, clock.flags.into(), clock.version.into()]);
        if answer[0] == CLEAR_STOPPED {
            let flags: u8 = peek(page + FLAGS);
            poke(page + FLAGS, flags & !PvclockFlags::GUEST_STOPPED.bits());
        }
    }
}
const TIME: u64 = 1;
/// Answer to [`TIME`]: clear the flag of a stopped guest.
const CLEAR_STOPPED: u64 = 1;

/// Argument 0: wall clock MSR; argument 1: system time MSR.
#[guest]
fn tells_the_wall_clock(g: &mut Guest) {
    poke(WALL, [0_u32; 4]);
    wrmsr(g.arg(1) as u32, PAGES[0] | ENABLE);
    wrmsr(g.arg(0) as u32, WALL);
    let [version, seconds, nanoseconds, behind] = peek::<[u32; 4]>(WALL);
    check!("the version of the wall clock is even", version & 1 == 0, "{version}");
    check!("the version of the wall clock shows that it was filled", version != 0);
    check!(
        "the wall clock's nanoseconds are below a second",
        nanoseconds < 1_000_000_000,
        "{nanoseconds}"
    );
    check_eq!("memory behind the wall clock is left alone", behind, 0);
    check_eq!("the wall clock MSR reads as written", rdmsr_safe(g.arg(0) as u32), Ok(WALL));
    g.sync(TIME, &[seconds.into(), nanoseconds.into(), now(PAGES[0])]);
}

#[guest]
fn moves_between_the_msrs(g: &mut Guest) {
    let page = PAGES[0];
    for msr in [
        MSR_KVM_SYSTEM_TIME_NEW,
        MSR_KVM_SYSTEM_TIME,
        MSR_KVM_SYSTEM_TIME_NEW,
        MSR_KVM_SYSTEM_TIME,
        MSR_KVM_SYSTEM_TIME_NEW,
    ] {
        wrmsr(msr, page | ENABLE);
        let clock = read_clock(page);
        g.sync(msr.into(), &[(clock.flags & PvclockFlags::TSC_STABLE_BIT.bits()).into()]);
    }
}

/// The last time that either vCPU saw.
#[shared]
static LATEST: AtomicU64 = AtomicU64::new(0);
#[shared]
static TURN: AtomicU64 = AtomicU64::new(0);

#[guest]
fn compares_clocks(g: &mut Guest) {
    let me = u64::from(g.vcpu());
    let page = PAGES[me as usize];
    wrmsr(MSR_KVM_SYSTEM_TIME_NEW, page | ENABLE);
    g.sync(TIME, &[(peek::<u8>(page + FLAGS) & PvclockFlags::TSC_STABLE_BIT.bits()).into()]);
    for round in 0..READS {
        wait_until(|| TURN.load(SeqCst) == 2 * round + me);
        let (seen, time) = (LATEST.load(SeqCst), now(page));
        check!("time does not go back from vCPU to vCPU", time >= seen, "{seen} then {time}");
        LATEST.store(time, SeqCst);
        TURN.fetch_add(1, SeqCst);
    }
}

#[host]
mod host {
    use super::*;
    use {
        bindings::{KVM_CLOCK_REALTIME, KVM_CLOCK_TSC_STABLE, kvm_clock_data},
        std::time::{Duration, Instant, SystemTime, UNIX_EPOCH},
    };

    /// The page is as x86/msr.rst says, by the old MSR and by the new.
    #[kvm_test(reads_the_page, moved, requires(cap::CLOCKSOURCE), params = [old: MSR_KVM_SYSTEM_TIME, new: MSR_KVM_SYSTEM_TIME_NEW])]
    fn page_is_valid_and_monotonic(t: &mut OneVcpu, msr: u32) -> TestResult {
        t.vcpu.set_args(&[msr.into()]);
        t.vcpu.run_until_sync(0)?;
        // Makes KVM update every clock page that is on.
        let clock = t.vm.fd().get_clock().ioctl("KVM_GET_CLOCK")?;
        set_clock(&t.vm, clock.clock).ioctl("KVM_SET_CLOCK")?;
        t.vcpu.run_until_done()
    }

    /// Nanoseconds by which clocks of one host may differ here, none of which is read at exactly the
    /// same time.
    const SLACK: u64 = 20_000_000;
    /// A jump that no scheduling delay explains: 1000 s.
    const JUMP: u64 = 1_000_000_000_000;

    /// What the guest told at [`TIME`].
    struct Told {
        time: u64,
        ns_per_tick: f64,
        flags: u8,
        version: u64,
    }

    fn ask(t: &mut OneVcpu) -> TestResult<Told> {
        let args = t.vcpu.run_until_sync(TIME)?;
        t.vcpu.answer(&[0]);
        let ns_per_tick = args[1] as f64 * f64::exp2(args[2] as i64 as f64 - 32.0);
        Ok(Told { time: args[0], ns_per_tick, flags: args[3] as u8, version: args[4] })
    }

    fn set_clock(vm: &Vm, clock: u64) -> Result<(), Errno> {
        set_clock_with(vm, kvm_clock_data { clock, ..Default::default() })
    }

    fn set_clock_with(vm: &Vm, data: kvm_clock_data) -> Result<(), Errno> {
        vm.fd().set_clock(&data).errno()
    }

    fn real_time() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
    }

    /// Multiplier and shift turn the guest's TSC into nanoseconds: they agree with KVM_GET_TSC_KHZ.
    #[kvm_test(tells_the_time, requires(cap::CLOCKSOURCE, cap::GET_TSC_KHZ))]
    fn multiplier_agrees_with_the_tsc_frequency(t: &mut OneVcpu) -> TestResult {
        let khz = f64::from(t.vcpu.fd().get_tsc_khz().ioctl("KVM_GET_TSC_KHZ")?);
        let told = ask(t)?;
        let by_page = 1e6 / told.ns_per_tick;
        let off = (by_page / khz - 1.0).abs();
        check!(
            "the page's frequency is KVM_GET_TSC_KHZ to 0.1 %",
            off < 1e-3,
            "{by_page} {khz} kHz"
        );
        Ok(())
    }

    /// Guest time passes as fast as the host's.
    #[kvm_test(tells_the_time, requires(cap::CLOCKSOURCE))]
    fn time_passes_as_on_the_host(t: &mut OneVcpu) -> TestResult {
        let outer = Instant::now();
        let first = ask(t)?;
        let inner = Instant::now();
        std::thread::sleep(Duration::from_millis(20));
        let least = inner.elapsed().as_nanos() as f64;
        let second = ask(t)?;
        let most = outer.elapsed().as_nanos() as f64;
        let passed = second.time.saturating_sub(first.time) as f64;
        check!(
            "guest time is not slower than the host's",
            passed >= least * 0.99,
            "{passed} {least}"
        );
        check!(
            "guest time is not faster than the host's",
            passed <= most * 1.01,
            "{passed} {most}"
        );
        Ok(())
    }

    /// KVM_GET_CLOCK is the time that the guest reads, and never goes back (api.rst 4.29).
    #[kvm_test(tells_the_time, requires(cap::CLOCKSOURCE, cap::ADJUST_CLOCK))]
    fn get_clock_is_the_guests_time(t: &mut OneVcpu) -> TestResult {
        ask(t)?;
        let before = t.vm.fd().get_clock().ioctl("KVM_GET_CLOCK")?.clock;
        let told = ask(t)?;
        let after = t.vm.fd().get_clock().ioctl("KVM_GET_CLOCK")?.clock;
        check!("KVM_GET_CLOCK does not go back", after >= before, "{before} then {after}");
        check!(
            "the guest's time is not behind KVM_GET_CLOCK",
            told.time + SLACK >= before,
            "{} {before}",
            told.time
        );
        check!(
            "the guest's time is not ahead of KVM_GET_CLOCK",
            told.time <= after + SLACK,
            "{} {after}",
            told.time
        );
        Ok(())
    }

    /// What KVM_SET_CLOCK sets, KVM_GET_CLOCK gives, plus the time in between (api.rst 4.30); the guest
    /// sees it too, without a jump of its TSC.
    #[kvm_test(tells_the_time, requires(cap::CLOCKSOURCE, cap::ADJUST_CLOCK))]
    fn set_clock_moves_the_guests_time(t: &mut OneVcpu) -> TestResult {
        let mut told = ask(t)?;
        for base in [JUMP, 5 * JUMP, 1_000] {
            let start = Instant::now();
            let set = set_clock(&t.vm, base);
            check_eq!("KVM_SET_CLOCK accepts a clock of {base} ns", set, Ok(()));
            let got = t.vm.fd().get_clock().ioctl("KVM_GET_CLOCK")?.clock;
            let most = base + start.elapsed().as_nanos() as u64 + SLACK;
            check!("KVM_GET_CLOCK is not before the {base} ns set", got >= base, "{got}");
            check!(
                "KVM_GET_CLOCK is soon after the {base} ns set",
                got <= most,
                "{got}, at most {most}"
            );
            let next = ask(t)?;
            let most = base + start.elapsed().as_nanos() as u64 + SLACK;
            check!(
                "the guest's time is not before the {base} ns set",
                next.time >= base,
                "{}",
                next.time
            );
            check!(
                "the guest's time is soon after the {base} ns set",
                next.time <= most,
                "{}",
                next.time
            );
            check!("the page's version changes with the clock", next.version != told.version);
            check_eq!(
                "the page's frequency stays with a new clock",
                next.ns_per_tick,
                told.ns_per_tick
            );
            told = next;
        }
        Ok(())
    }

    /// Flags that KVM does not know are refused; those that KVM_GET_CLOCK gives are taken back (api.rst
    /// 4.29, 4.30).
    #[kvm_test(requires(cap::ADJUST_CLOCK))]
    fn set_clock_refuses_unknown_flags(t: &mut OneVm) -> TestResult {
        let known = t.vm.check_extension(bindings::KVM_CAP_ADJUST_CLOCK) as u32;
        let clock = t.vm.fd().get_clock().ioctl("KVM_GET_CLOCK")?;
        for bit in [8, 16, 31] {
            let refused = set_clock_with(&t.vm, kvm_clock_data { flags: 1 << bit, ..clock });
            check_eq!("unknown flag bit {bit} is EINVAL", refused, Err(Errno::EINVAL));
        }
        // The capability's value was a plain 1 before it told the flags.
        let told = clock.flags & !known & !KVM_CLOCK_TSC_STABLE;
        check_eq!("KVM_GET_CLOCK has no flag that the capability does not report", told, 0);
        check_eq!("reserved words of KVM_GET_CLOCK are 0", clock.pad0, 0);
        let plain = kvm_clock_data { clock: clock.clock, ..Default::default() };
        check_eq!("a clock without flags is accepted", set_clock_with(&t.vm, plain), Ok(()));
        if known & KVM_CLOCK_REALTIME != 0 {
            let back = kvm_clock_data { flags: clock.flags & !KVM_CLOCK_REALTIME, ..clock };
            check_eq!(
                "the clock that KVM_GET_CLOCK gave is accepted",
                set_clock_with(&t.vm, back),
                Ok(())
            );
        }
        Ok(())
    }

    /// With KVM_CLOCK_REALTIME the clock goes on from what it was at that real time (api.rst 4.30).
    #[kvm_test(requires(cap::ADJUST_CLOCK))]
    fn real_time_since_the_snapshot_is_added(t: &mut OneVm) -> TestResult {
        let known = t.vm.check_extension(bindings::KVM_CAP_ADJUST_CLOCK) as u32;
        require!(known & KVM_CLOCK_REALTIME != 0, "KVM_CLOCK_REALTIME");
        const AGO: u64 = 3_600_000_000_000;
        let start = Instant::now();
        let realtime = real_time() - AGO;
        let hour_ago = kvm_clock_data {
            clock: JUMP,
            flags: KVM_CLOCK_REALTIME,
            realtime,
            ..Default::default()
        };
        check_eq!(
            "a clock with its real time is accepted",
            set_clock_with(&t.vm, hour_ago),
            Ok(())
        );
        let got = t.vm.fd().get_clock().ioctl("KVM_GET_CLOCK")?;
        let passed = start.elapsed().as_nanos() as u64;
        check!(
            "a real time an hour ago adds an hour",
            got.clock + SLACK >= JUMP + AGO,
            "{}",
            got.clock
        );
        check!(
            "a real time an hour ago adds no more than an hour",
            got.clock <= JUMP + AGO + passed + SLACK,
            "{}",
            got.clock
        );
        Ok(())
    }

    /// Wall clock plus system time is the host's real time (x86/msr.rst).
    #[kvm_test(tells_the_wall_clock, requires(cap::CLOCKSOURCE), params = [
    old: [MSR_KVM_WALL_CLOCK, MSR_KVM_SYSTEM_TIME],
    new: [MSR_KVM_WALL_CLOCK_NEW, MSR_KVM_SYSTEM_TIME_NEW],
])]
    fn wall_clock_is_the_hosts_at_boot(t: &mut OneVcpu, msrs: [u32; 2]) -> TestResult {
        t.vcpu.set_args(&msrs.map(u64::from));
        let before = real_time();
        let [seconds, nanoseconds, time, ..] = t.vcpu.run_until_sync(TIME)?;
        let after = real_time();
        let guest = seconds * 1_000_000_000 + nanoseconds + time;
        check!(
            "the guest's wall time is not behind the host's",
            guest + SLACK >= before,
            "{guest} {before}"
        );
        check!(
            "the guest's wall time is not ahead of the host's",
            guest <= after + SLACK,
            "{guest} {after}"
        );
        t.vcpu.run_until_done()
    }

    /// The old MSR's guests do not know the stable-TSC flag, so vCPU 0 turns the master clock off by
    /// using it, and on again by going back to the new one: every change of the MSR is an update.
    #[kvm_test(moves_between_the_msrs, requires(cap::CLOCKSOURCE, cap::ADJUST_CLOCK))]
    fn changing_the_msr_updates_the_master_clock(t: &mut OneVcpu) -> TestResult {
        let stable = |t: &mut OneVcpu, msr: u32| -> TestResult<(bool, bool)> {
            let page = t.vcpu.run_until_sync(msr.into())?[0] != 0;
            let clock = t.vm.fd().get_clock().ioctl("KVM_GET_CLOCK")?;
            Ok((page, clock.flags & KVM_CLOCK_TSC_STABLE != 0))
        };
        let (page, _) = stable(t, MSR_KVM_SYSTEM_TIME_NEW)?;
        require!(page, "a master clock (host clocksource tsc, TSCs in step)");
        for _ in 0..2 {
            let (page, clock) = stable(t, MSR_KVM_SYSTEM_TIME)?;
            check!("the old MSR's page has no stable flag", !page);
            check!("KVM_GET_CLOCK has no stable flag with the old MSR", !clock);
            let (page, clock) = stable(t, MSR_KVM_SYSTEM_TIME_NEW)?;
            check!("the page's stable flag is back with the new MSR", page);
            check!("KVM_GET_CLOCK's stable flag is back with the new MSR", clock);
        }
        t.vcpu.run_until_done()
    }

    /// KVM_KVMCLOCK_CTRL tells the guest that it was stopped, until the guest clears the flag; without a
    /// clock page it is EINVAL (api.rst 4.70).
    #[kvm_test(tells_the_time, requires(cap::CLOCKSOURCE, cap::KVMCLOCK_CTRL, cap::ADJUST_CLOCK), sees(moved: "asks by KVM_KVMCLOCK_CTRL, which userspace does again after a move"))]
    fn stopped_guest_is_told(t: &mut OneVcpu) -> TestResult {
        let ctrl = |t: &OneVcpu| t.vcpu.fd().kvmclock_ctrl().errno();
        check_eq!("KVM_KVMCLOCK_CTRL without a clock page is EINVAL", ctrl(t), Err(Errno::EINVAL));
        let stopped = |told: &Told| told.flags & PvclockFlags::GUEST_STOPPED.bits() != 0;
        check!("the refused request sets no flag", !stopped(&ask(t)?));
        check_eq!("KVM_KVMCLOCK_CTRL with a clock page succeeds", ctrl(t), Ok(()));
        check!("the page's stopped flag is set by KVM_KVMCLOCK_CTRL", stopped(&ask(t)?));
        set_clock(&t.vm, JUMP).ioctl("KVM_SET_CLOCK")?;
        check!("updates of the page keep the stopped flag", stopped(&ask(t)?));
        t.vcpu.answer(&[CLEAR_STOPPED]);
        check!("the guest can clear the stopped flag", !stopped(&ask(t)?));
        set_clock(&t.vm, 2 * JUMP).ioctl("KVM_SET_CLOCK")?;
        check!("updates of the page do not set the stopped flag again", !stopped(&ask(t)?));
        Ok(())
    }

    /// With the stable-TSC flag, time is monotonic across vCPUs (x86/msr.rst).
    #[kvm_test(compares_clocks, requires(cap::CLOCKSOURCE, host::TWO_CPUS), vcpus = 2)]
    fn stable_time_is_monotonic_across_vcpus(t: &mut OneVcpu) -> TestResult {
        let mut second = t.vm.add_vcpu(1, guest_fn!(compares_clocks))?;
        let first_stable = t.vcpu.run_until_sync(TIME)?[0] != 0;
        let second_stable = second.run_until_sync(TIME)?[0] != 0;
        check_eq!("all vCPUs have the same stable-TSC flag", second_stable, first_stable);
        require!(
            first_stable && second_stable,
            "a master clock (host clocksource tsc, TSCs in step)"
        );
        run_together([&mut t.vcpu, &mut second], Vcpu::run_until_done)?;
        let turns = t.vm.shared(shared_static!(TURN)).load(SeqCst);
        check_eq!("both vCPUs have read the time in turn", turns, 2 * READS);
        Ok(())
    }
}
