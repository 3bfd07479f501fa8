//! Hyper-V's reference time: the counter MSR, the reference TSC page, and what KVM_SET_CLOCK does to
//! both (Hyper-V TLFS, "Timers"; api.rst 4.29, 4.30).
use crate::prelude::*;
use hyperv::msr::{self, LINUX, ReenlightenmentControl};
use hyperv::{ENABLE, REFERENCE_TIME_HZ, read_reference_tsc};

/// Places for the page.
const PAGE: u64 = layout::SCRATCH;
const OTHER_PAGE: u64 = layout::SCRATCH + 0x1000;
/// What was in memory that KVM must not touch, and where behind the page's fields.
const PATTERN: u64 = 0x5a5a_5a5a_5a5a_5a5a;
const BEHIND: [u64; 2] = [64, 4096 - 8];
/// Reads in a row.
const READS: u64 = 50;
/// Units of 100 ns by which counter and page may differ where neither is read later than the other.
const ROUNDING: u64 = 10;
/// Values of the MSRs of re-enlightenment: enabled with a vector, and TSC accesses emulated.
const REENLIGHTEN: u64 =
    ReenlightenmentControl::new().with_vector(0xff).with_enabled(true).into_bits();
const EMULATE_TSC: u64 = ENABLE;

fn now() -> Option<u64> {
    read_reference_tsc(PAGE).map(|page| page.time_at(rdtsc_ordered()))
}

#[guest]
fn keeps_a_page(g: &mut Guest) {
    wrmsr(msr::GUEST_OS_ID, LINUX);
    wrmsr(msr::REFERENCE_TSC, PAGE | ENABLE);
    tells_the_time(g);
}

/// Tells the host of the page and the time by it, and does what the host answers.
#[guest]
fn tells_the_time(g: &mut Guest) {
    loop {
        let page = read_reference_tsc(PAGE).unwrap_or_default();
        let time = now().unwrap_or_default();
        let count = rdmsr(msr::TIME_REF_COUNT);
        let after = now().unwrap_or_default();
        let fields = [page.tsc_sequence.into(), page.tsc_scale, page.tsc_offset as u64];
        let answer = g.sync(1, &[fields[0], fields[1], fields[2], time, count, after]);
        match answer[0] {
            WRITE => wrmsr(answer[1] as u32, answer[2]),
            ERASE => (0..4).for_each(|word| poke(PAGE + 8 * word, 0_u64)),
            _ => {}
        }
    }
}

/// What the host can answer: WRMSR of the next two words; fill the page's fields with zeroes.
const WRITE: u64 = 1;
const ERASE: u64 = 2;

#[guest]
fn reads_the_page(_: &mut Guest) {
    wrmsr(msr::GUEST_OS_ID, LINUX);
    for page in [PAGE, OTHER_PAGE] {
        (0..512).for_each(|word| poke(page + 8 * word, 0_u64));
        BEHIND.iter().for_each(|offset| poke(page + offset, PATTERN));
    }
    wrmsr(msr::REFERENCE_TSC, PAGE);
    check_eq!(
        "HV_X64_MSR_REFERENCE_TSC reads as written, disabled",
        rdmsr_safe(msr::REFERENCE_TSC),
        Ok(PAGE)
    );
    check_eq!("the page is left alone without the enable bit", peek::<[u64; 4]>(PAGE), [0; 4]);
    wrmsr(msr::REFERENCE_TSC, PAGE | ENABLE);
    let kept = rdmsr_safe(msr::REFERENCE_TSC);
    check_eq!("HV_X64_MSR_REFERENCE_TSC reads as written, enabled", kept, Ok(PAGE | ENABLE));
    let Some(page) = read_reference_tsc(PAGE) else {
        guest_runtime::ucall::skip(format_args!("a master clock (host clocksource tsc)"));
    };
    check!("the page's sequence is not the old value of all ones", page.tsc_sequence != u32::MAX);
    check_eq!("the page's reserved word is 0", page.reserved1, 0);
    check!("the page's scale is not 0", page.tsc_scale != 0);
    for offset in BEHIND {
        let behind: u64 = peek(PAGE + offset);
        check_eq!("memory behind the page's fields is left alone", behind, PATTERN);
    }
    // Units of 100 ns in which the TSC counts 2^32 ticks, by the page and by the frequency MSR.
    let by_page = page.tsc_scale >> 32;
    let by_msr = (REFERENCE_TIME_HZ << 32) / rdmsr(msr::TSC_FREQUENCY);
    let off = by_page.abs_diff(by_msr);
    check!("the scale is the TSC's frequency to 0.1 %", off <= by_msr / 1000, "{by_page} {by_msr}");
    let mut before = now().unwrap_or_default();
    for _ in 0..READS {
        let count = rdmsr(msr::TIME_REF_COUNT);
        let after = now().unwrap_or_default();
        check!("the page's time never goes back", after >= before, "{before} then {after}");
        check!(
            "the counter is not behind the page",
            count.saturating_add(ROUNDING) >= before,
            "{count} {before}"
        );
        check!(
            "the counter is not ahead of the page",
            count <= after.saturating_add(ROUNDING),
            "{count} {after}"
        );
        before = after;
    }
    wrmsr(msr::REFERENCE_TSC, OTHER_PAGE | ENABLE);
    poke(PAGE, [0_u64; 4]);
    let moved = read_reference_tsc(OTHER_PAGE);
    check!("a page at another address is filled", moved.is_some());
    let there = moved.unwrap_or_default();
    check_eq!("the scale is the same at another address", there.tsc_scale, page.tsc_scale);
    check!("time goes on at another address", there.time_at(rdtsc_ordered()) >= before);
    check_eq!("the page at the old address is left alone", peek::<[u64; 4]>(PAGE), [0; 4]);
}

#[guest]
fn reads_frequencies(g: &mut Guest) {
    let (tsc, apic) = (rdmsr_safe(msr::TSC_FREQUENCY), rdmsr_safe(msr::APIC_FREQUENCY));
    g.sync(1, &[tsc.unwrap_or_default(), apic.unwrap_or_default()]);
    for read_only in [msr::TSC_FREQUENCY, msr::APIC_FREQUENCY, msr::TIME_REF_COUNT] {
        let fault = wrmsr_safe(read_only, 1).map_err(|trap| trap.vector);
        check_eq!("WRMSR of {read_only:#x}, which is read-only, is #GP", fault, Err(vector::GP));
    }
}

#[host]
mod host {
    use super::*;
    use hyperv::cpuid::Features;
    use {
        bindings::{Msrs, kvm_clock_data, kvm_msr_entry},
        std::time::{Duration, Instant},
    };

    kvm_tests! { requires(cap::HYPERV_TIME) }

    /// Nanoseconds by which clocks of one host may differ here, none of which is read at exactly the
    /// same time.
    const SLACK: u64 = 20_000_000;
    /// Jumps that no scheduling delay explains.
    const HOUR: u64 = 3_600_000_000_000;
    const CENTURY: u64 = 1 << 61;

    /// A vCPU with all of Hyper-V's features.
    fn start(t: &mut OneVm, guest: GuestFn) -> TestResult<Vcpu> {
        t.vm.offer_hyperv()?;
        t.vm.add_vcpu(0, guest)
    }

    /// What the guest told; times in nanoseconds.
    #[derive(Debug)]
    struct Told {
        sequence: u64,
        scale: u64,
        offset: i64,
        time: u64,
        count: u64,
        after: u64,
    }

    fn ask(vcpu: &mut Vcpu) -> TestResult<Told> {
        let [sequence, scale, offset, time, count, after, ..] = vcpu.run_until_sync(1)?;
        vcpu.answer(&[0]);
        let ns = |units: u64| units.saturating_mul(100);
        let (time, count, after) = (ns(time), ns(count), ns(after));
        Ok(Told { sequence, scale, offset: offset as i64, time, count, after })
    }

    /// As [`ask`], for a page that must be valid.
    fn ask_valid(vcpu: &mut Vcpu) -> TestResult<Told> {
        let told = ask(vcpu)?;
        require!(told.sequence != 0, "a master clock (host clocksource tsc)");
        Ok(told)
    }

    fn set_clock(vm: &Vm, clock: u64) -> TestResult {
        let data = kvm_clock_data { clock, ..Default::default() };
        vm.fd().set_clock(&data).ioctl("KVM_SET_CLOCK")
    }

    /// What KVM_SET_MSRS returns: how many it took.
    fn set_msr(vcpu: &Vcpu, index: u32, data: u64) -> TestResult<usize> {
        let entry = kvm_msr_entry { index, data, ..Default::default() };
        let msrs = Msrs::from_entries(&[entry]).map_err(|e| Failure::Error(format!("{e:?}")))?;
        vcpu.fd().set_msrs(&msrs).ioctl("KVM_SET_MSRS")
    }

    fn get_msr(vcpu: &Vcpu, index: u32) -> TestResult<u64> {
        let entry = kvm_msr_entry { index, ..Default::default() };
        let mut msrs =
            Msrs::from_entries(&[entry]).map_err(|e| Failure::Error(format!("{e:?}")))?;
        vcpu.fd().get_msrs(&mut msrs).ioctl("KVM_GET_MSRS")?;
        Ok(msrs.as_slice()[0].data)
    }

    /// The page is as the specification says, and is the same time as the counter.
    #[kvm_test(reads_the_page)]
    fn page_is_valid_and_agrees_with_the_counter(t: &mut OneVm) -> TestResult {
        start(t, guest_fn!(reads_the_page))?.run_until_done()
    }

    /// The frequency MSRs tell the guest's TSC and APIC bus; the guest cannot set them, userspace's
    /// attempts are ignored.
    #[kvm_test(reads_frequencies, requires(cap::GET_TSC_KHZ))]
    fn frequencies_are_the_vcpus(t: &mut OneVm) -> TestResult {
        let mut vcpu = start(t, guest_fn!(reads_frequencies))?;
        let khz = vcpu.fd().get_tsc_khz().ioctl("KVM_GET_TSC_KHZ")?;
        for read_only in [msr::TSC_FREQUENCY, msr::TIME_REF_COUNT] {
            let taken = set_msr(&vcpu, read_only, 1)?;
            check_eq!("userspace's write of {read_only:#x} is accepted, and ignored", taken, 1);
        }
        let [tsc, apic, ..] = vcpu.run_until_sync(1)?;
        check_eq!("HV_X64_MSR_TSC_FREQUENCY is KVM_GET_TSC_KHZ in Hz", tsc, u64::from(khz) * 1000);
        check_eq!("HV_X64_MSR_APIC_FREQUENCY is 1 GHz", apic, 1_000_000_000);
        vcpu.run_until_done()
    }

    /// Counter and page pass as fast as the host's time.
    #[kvm_test(keeps_a_page)]
    fn time_passes_as_on_the_host(t: &mut OneVm) -> TestResult {
        let mut vcpu = start(t, guest_fn!(keeps_a_page))?;
        let outer = Instant::now();
        let first = ask_valid(&mut vcpu)?;
        let inner = Instant::now();
        std::thread::sleep(Duration::from_millis(20));
        let least = inner.elapsed().as_nanos() as f64 * 0.99;
        let second = ask_valid(&mut vcpu)?;
        let most = outer.elapsed().as_nanos() as f64 * 1.01;
        let passed = second.time.saturating_sub(first.time) as f64;
        check!(
            "the page's time is not slower than the host's",
            passed >= least,
            "{passed} {least}"
        );
        check!("the page's time is not faster than the host's", passed <= most, "{passed} {most}");
        let passed = second.count.saturating_sub(first.count) as f64;
        check!(
            "the counter is not slower than the host's time",
            passed >= least,
            "{passed} {least}"
        );
        check!("the counter is not faster than the host's time", passed <= most, "{passed} {most}");
        Ok(())
    }

    /// Without a page the counter is KVM_GET_CLOCK.
    #[kvm_test(tells_the_time, requires(cap::ADJUST_CLOCK))]
    fn counter_alone_follows_the_clock(t: &mut OneVm) -> TestResult {
        let mut vcpu = start(t, guest_fn!(tells_the_time))?;
        for base in [HOUR, 2 * HOUR, CENTURY, 0] {
            let start = Instant::now();
            set_clock(&t.vm, base)?;
            let told = ask(&mut vcpu)?;
            let most = base + start.elapsed().as_nanos() as u64 + SLACK;
            check_eq!("no page is filled unless the guest enables it", told.sequence, 0);
            let count = told.count;
            check!(
                "the counter is not before the {base} ns set",
                count.saturating_add(100) >= base,
                "{count}"
            );
            check!("the counter is soon after the {base} ns set", count <= most, "{count} {most}");
        }
        Ok(())
    }

    /// KVM_SET_CLOCK moves the page's time to what was set, however small, large or far back: never
    /// anywhere else.
    #[kvm_test(keeps_a_page, requires(cap::ADJUST_CLOCK))]
    fn set_clock_moves_the_pages_time(t: &mut OneVm) -> TestResult {
        let mut vcpu = start(t, guest_fn!(keeps_a_page))?;
        let mut told = ask_valid(&mut vcpu)?;
        for (step, base) in [0, 1, 1_000, HOUR, CENTURY, HOUR, 0, 0, 99].into_iter().enumerate() {
            let start = Instant::now();
            set_clock(&t.vm, base)?;
            let next = ask(&mut vcpu)?;
            let most = base + start.elapsed().as_nanos() as u64 + SLACK;
            check!("the page stays valid (step {step}: {base} ns)", next.sequence != 0);
            check!(
                "the sequence changes with KVM_SET_CLOCK (step {step})",
                next.sequence != told.sequence
            );
            check_eq!("the scale stays with KVM_SET_CLOCK (step {step})", next.scale, told.scale);
            let Told { time, count, after, .. } = next;
            check!(
                "time is not before step {step}'s {base} ns",
                time.saturating_add(100) >= base,
                "{time}"
            );
            check!("time is soon after step {step}'s {base} ns", time <= most, "{time} {most}");
            check!(
                "the counter is not behind the page (step {step})",
                count.saturating_add(1000) >= time,
                "{next:?}"
            );
            check!(
                "the counter is not ahead of the page (step {step})",
                count <= after.saturating_add(1000),
                "{next:?}"
            );
            told = next;
        }
        Ok(())
    }

    /// Many updates in a row: each time the clock was set a moment before, which is where a difference
    /// between two readings of the host's clock could make it negative.
    #[kvm_test(keeps_a_page, requires(cap::ADJUST_CLOCK))]
    fn clock_of_zero_is_never_negative(t: &mut OneVm) -> TestResult {
        const ROUNDS: u64 = 100;
        let mut vcpu = start(t, guest_fn!(keeps_a_page))?;
        ask_valid(&mut vcpu)?;
        for round in 0..ROUNDS {
            let start = Instant::now();
            set_clock(&t.vm, 0)?;
            let told = ask(&mut vcpu)?;
            let most = start.elapsed().as_nanos() as u64 + SLACK;
            check!("the page's time starts at 0", told.time <= most, "{told:?} round {round}");
            check!("the counter starts at 0", told.count <= most, "{told:?} round {round}");
        }
        Ok(())
    }

    /// A guest that has TSC accesses emulated relies on a constant page: KVM_SET_CLOCK leaves it alone
    /// until the guest turns emulation off (TLFS, "Reenlightenment").
    #[kvm_test(keeps_a_page, requires(cap::ADJUST_CLOCK), sees(moved: "takes the page for constant, which a restored MSR makes KVM write again"))]
    fn reenlightenment_freezes_the_page(t: &mut OneVm) -> TestResult {
        t.vm.offer_hyperv()?;
        let controls = t.vm.hyperv_features()?.contains(Features::ACCESS_REENLIGHTENMENT_CONTROLS);
        require!(controls, "HV_ACCESS_REENLIGHTENMENT");
        let mut vcpu = t.vm.add_vcpu(0, guest_fn!(keeps_a_page))?;
        let before = ask_valid(&mut vcpu)?;
        vcpu.answer(&[WRITE, msr::REENLIGHTENMENT_CONTROL.into(), REENLIGHTEN]);
        let first = ask_valid(&mut vcpu)?;
        check_eq!(
            "the reenlightenment vector alone changes nothing",
            first.sequence,
            before.sequence
        );
        set_clock(&t.vm, HOUR)?;
        let updated = ask_valid(&mut vcpu)?;
        check!(
            "KVM_SET_CLOCK changes the page unless TSC accesses are emulated",
            updated.offset != first.offset
        );
        vcpu.answer(&[WRITE, msr::TSC_EMULATION_CONTROL.into(), EMULATE_TSC]);
        ask_valid(&mut vcpu)?;
        for base in [0, CENTURY] {
            set_clock(&t.vm, base)?;
            let told = ask(&mut vcpu)?;
            check_eq!("the sequence is frozen (clock {base})", told.sequence, updated.sequence);
            check_eq!("the scale is frozen (clock {base})", told.scale, updated.scale);
            check_eq!("the offset is frozen (clock {base})", told.offset, updated.offset);
        }
        vcpu.answer(&[WRITE, msr::TSC_EMULATION_CONTROL.into(), 0]);
        ask_valid(&mut vcpu)?;
        set_clock(&t.vm, 2 * HOUR)?;
        let thawed = ask_valid(&mut vcpu)?;
        check!(
            "KVM_SET_CLOCK changes the page again after emulation is off",
            thawed.offset != updated.offset
        );
        Ok(())
    }

    /// Once the guest has disabled the page KVM_SET_CLOCK leaves its memory alone, and the counter goes by
    /// the clock.
    #[kvm_test(keeps_a_page, requires(cap::ADJUST_CLOCK))]
    fn disabled_page_stays_untouched(t: &mut OneVm) -> TestResult {
        let mut vcpu = start(t, guest_fn!(keeps_a_page))?;
        ask_valid(&mut vcpu)?;
        vcpu.answer(&[WRITE, msr::REFERENCE_TSC.into(), PAGE]);
        let kept = ask(&mut vcpu)?;
        check!("disabling leaves the page as it is", kept.sequence != 0);
        vcpu.answer(&[ERASE]);
        ask(&mut vcpu)?;
        for base in [HOUR, 0] {
            let start = Instant::now();
            set_clock(&t.vm, base)?;
            let told = ask(&mut vcpu)?;
            let most = base + start.elapsed().as_nanos() as u64 + SLACK;
            check_eq!("a disabled page's sequence stays 0 (clock {base})", told.sequence, 0);
            let mut fields = [0; 32];
            t.vm.ram().read(PAGE, &mut fields).expect("the page is RAM");
            check_eq!("a disabled page's fields stay 0 (clock {base})", fields, [0; 32]);
            check!(
                "the counter is not before clock {base}",
                told.count.saturating_add(100) >= base,
                "{told:?}"
            );
            check!("the counter is soon after clock {base}", told.count <= most, "{told:?}");
        }
        vcpu.answer(&[WRITE, msr::REFERENCE_TSC.into(), PAGE | ENABLE]);
        let back = ask(&mut vcpu)?;
        check!("a page that is enabled again is filled again", back.sequence != 0);
        Ok(())
    }

    /// A disabled page tells no time, whatever it was and however it was kept: with TSC accesses emulated too the
    /// counter goes by the clock.
    #[kvm_test(keeps_a_page, requires(cap::ADJUST_CLOCK))]
    fn counter_leaves_a_disabled_page(t: &mut OneVm) -> TestResult {
        t.vm.offer_hyperv()?;
        let controls = t.vm.hyperv_features()?.contains(Features::ACCESS_REENLIGHTENMENT_CONTROLS);
        require!(controls, "HV_ACCESS_REENLIGHTENMENT");
        let mut vcpu = t.vm.add_vcpu(0, guest_fn!(keeps_a_page))?;
        ask_valid(&mut vcpu)?;
        for (msr, value) in [
            (msr::REENLIGHTENMENT_CONTROL, REENLIGHTEN),
            (msr::TSC_EMULATION_CONTROL, EMULATE_TSC),
            (msr::REFERENCE_TSC, PAGE),
        ] {
            vcpu.answer(&[WRITE, msr.into(), value]);
            ask(&mut vcpu)?;
        }
        for base in [CENTURY, HOUR, 0] {
            let start = Instant::now();
            set_clock(&t.vm, base)?;
            let Told { count, .. } = ask(&mut vcpu)?;
            let most = base + start.elapsed().as_nanos() as u64 + SLACK;
            check!(
                "the counter is not before clock {base}",
                count.saturating_add(100) >= base,
                "{count}"
            );
            check!("the counter is soon after clock {base}", count <= most, "{count} {most}");
        }
        Ok(())
    }

    /// A page that userspace enables, as after migration, is filled before the guest runs.
    #[kvm_test(tells_the_time, requires(cap::ADJUST_CLOCK))]
    fn page_enabled_by_userspace_is_filled(t: &mut OneVm) -> TestResult {
        let mut vcpu = start(t, guest_fn!(tells_the_time))?;
        check_eq!(
            "userspace can write HV_X64_MSR_REFERENCE_TSC",
            set_msr(&vcpu, msr::REFERENCE_TSC, PAGE | ENABLE)?,
            1
        );
        let told = ask_valid(&mut vcpu)?;
        let Told { time, count, after, .. } = told;
        check!(
            "the counter is not behind the page",
            count.saturating_add(1000) >= time,
            "{told:?}"
        );
        check!(
            "the counter is not ahead of the page",
            count <= after.saturating_add(1000),
            "{told:?}"
        );
        Ok(())
    }

    /// The page is the partition's: every vCPU has it, and time goes on from one to the next.
    #[kvm_test(keeps_a_page)]
    fn page_is_every_vcpus(t: &mut OneVm) -> TestResult {
        let mut first = start(t, guest_fn!(keeps_a_page))?;
        let mut second = t.vm.add_vcpu(1, guest_fn!(tells_the_time))?;
        let mut last = ask_valid(&mut first)?;
        let kept = get_msr(&second, msr::REFERENCE_TSC)?;
        check_eq!("another vCPU reads the same HV_X64_MSR_REFERENCE_TSC", kept, PAGE | ENABLE);
        for _ in 0..4 {
            for vcpu in [&mut second, &mut first] {
                let told = ask_valid(vcpu)?;
                check!(
                    "the page's time goes on across vCPUs",
                    told.time.saturating_add(1000) >= last.time,
                    "{last:?} {told:?}"
                );
                check!(
                    "the counter goes on across vCPUs",
                    told.count.saturating_add(1000) >= last.count,
                    "{last:?} {told:?}"
                );
                last = told;
            }
        }
        Ok(())
    }
}
