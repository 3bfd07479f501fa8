//! Steal time: the structure that KVM keeps for a vCPU of the time that it was kept waiting (x86/msr.rst,
//! MSR_KVM_STEAL_TIME).
use crate::prelude::*;
use core::mem::offset_of;
use kvm_pv::{Features, KVM_MSR_ENABLED as ENABLE, KvmStealTime, MSR_KVM_STEAL_TIME};

const STEAL: u64 = offset_of!(KvmStealTime, steal) as u64;
const VERSION: u64 = offset_of!(KvmStealTime, version) as u64;
const FLAGS: u64 = offset_of!(KvmStealTime, flags) as u64;
const PREEMPTED: u64 = offset_of!(KvmStealTime, preempted) as u64;
const SIZE: u64 = size_of::<KvmStealTime>() as u64;
/// Behind `preempted` up to the structure's size and alignment.
const PADDING: core::ops::Range<u64> = PREEMPTED + 8..SIZE;
/// Places for the structure: not at the start of a page, and at the end of one.
const PLACE: u64 = layout::SCRATCH + 0x40;
const OTHER: u64 = layout::SCRATCH + 0x2000 - SIZE;
const PATTERN: u64 = 0x5a5a_5a5a_5a5a_5a5a;
/// What the guest reports.
const READY: u64 = 1;

fn require_feature() {
    if !pv_features().contains(Features::STEAL_TIME) {
        guest_runtime::ucall::skip(format_args!("KVM_FEATURE_STEAL_TIME"));
    }
}

fn erase(place: u64) {
    (0..SIZE / 8).for_each(|word| poke(place + 8 * word, 0_u64));
}

/// Reads after which a structure that KVM seems to be writing is given up: it writes before the guest
/// runs, and not while it does.
const READS: u32 = 10_000;

/// The structure, read by the protocol of its version: version and steal.
fn read(place: u64) -> (u32, u64) {
    for _ in 0..READS {
        let before: u32 = peek(place + VERSION);
        let steal: u64 = peek(place + STEAL);
        if before & 1 == 0 && peek::<u32>(place + VERSION) == before {
            return (before, steal);
        }
        relax();
    }
    panic!("the structure's version is odd for ever");
}

#[guest]
fn enables(g: &mut Guest) {
    require_feature();
    let (before, behind) = (PLACE - 8, PLACE + SIZE);
    for place in [before, behind] {
        poke(place, PATTERN);
    }
    erase(PLACE);
    PADDING.step_by(8).for_each(|offset| poke(PLACE + offset, PATTERN));
    check_eq!("MSR_KVM_STEAL_TIME is 0 at reset", rdmsr_safe(MSR_KVM_STEAL_TIME), Ok(0));
    for bit in 1..6 {
        let got = wrmsr_safe(MSR_KVM_STEAL_TIME, PLACE | 1 << bit | ENABLE);
        let fault = got.map_err(|trap| (trap.vector, trap.error));
        check_eq!("reserved bit {bit} is #GP(0)", fault, Err((vector::GP, 0)));
    }
    check_eq!("a refused write leaves MSR_KVM_STEAL_TIME unchanged", rdmsr(MSR_KVM_STEAL_TIME), 0);
    wrmsr(MSR_KVM_STEAL_TIME, PLACE);
    g.sync(READY, &[]);
    check_eq!("MSR_KVM_STEAL_TIME reads as written, disabled", rdmsr(MSR_KVM_STEAL_TIME), PLACE);
    check_eq!("the structure is left alone while disabled", read(PLACE), (0, 0));
    // What a first update finds may be odd, and time may be there already, such as after migration.
    const EARLIER: u64 = 1 << 50;
    poke(PLACE + VERSION, 7_u32);
    poke(PLACE + STEAL, EARLIER);
    poke(PLACE + PREEMPTED, 1_u8);
    wrmsr(MSR_KVM_STEAL_TIME, PLACE | ENABLE);
    g.sync(READY, &[]);
    check_eq!(
        "MSR_KVM_STEAL_TIME reads as written, enabled",
        rdmsr(MSR_KVM_STEAL_TIME),
        PLACE | ENABLE
    );
    let (version, steal) = read(PLACE);
    check!("the structure's version is even", version & 1 == 0, "{version}");
    check!("the structure's version grows from what was there", version > 7, "{version}");
    check!("steal time is added to what was there", steal >= EARLIER, "{steal:#x}");
    let year = 1 << 55;
    check!("the added steal time is less than a year", steal - EARLIER < year, "{steal:#x}");
    check_eq!("the structure's flags are 0", peek::<u32>(PLACE + FLAGS), 0);
    check_eq!("a running vCPU is not preempted", peek::<u8>(PLACE + PREEMPTED), 0);
    for offset in PADDING.step_by(8) {
        check_eq!("the structure's padding is left alone", peek::<u64>(PLACE + offset), PATTERN);
    }
    for place in [before, behind] {
        check_eq!("memory around the structure is left alone", peek::<u64>(place), PATTERN);
    }
    g.sync(READY, &[]);
    let (next, more) = read(PLACE);
    check!("the version does not go back", next >= version, "{version} then {next}");
    check!("steal time does not go back", more >= steal, "{steal} then {more}");
    check!(
        "another steal time has another version",
        more == steal || next != version,
        "{version} {next}"
    );
    wrmsr(MSR_KVM_STEAL_TIME, PLACE);
    erase(PLACE);
    g.sync(READY, &[]);
    check_eq!("the structure is left alone when disabled again", read(PLACE), (0, 0));
}

#[guest]
fn moves_its_structure(g: &mut Guest) {
    require_feature();
    erase(PLACE);
    erase(OTHER);
    wrmsr(MSR_KVM_STEAL_TIME, PLACE | ENABLE);
    g.sync(READY, &[]);
    check!("the structure's first place is filled", read(PLACE).0 != 0);
    wrmsr(MSR_KVM_STEAL_TIME, OTHER | ENABLE);
    g.sync(READY, &[]);
    check!("the structure's second place is filled", read(OTHER).0 != 0);
    erase(PLACE);
    g.sync(READY, &[]);
    check_eq!("the first place is left alone after the move", read(PLACE), (0, 0));
    let version = read(OTHER).0;
    // Where there is no memory KVM has nothing to write.
    check_eq!(
        "a place without memory is accepted",
        wrmsr_safe(MSR_KVM_STEAL_TIME, NOWHERE | ENABLE),
        Ok(())
    );
    g.sync(READY, &[]);
    check_eq!("the second place is left alone after the move", read(OTHER).0, version);
    wrmsr(MSR_KVM_STEAL_TIME, PLACE | ENABLE);
    g.sync(READY, &[]);
    check!("a place with memory is filled after one without", read(PLACE).0 != 0);
}

/// No RAM.
const NOWHERE: u64 = layout::FREE + 0x1000_0000;

/// Argument 0: where the structure is; 1: whether to enable it. Reports version and steal time.
#[guest]
fn reports(g: &mut Guest) {
    require_feature();
    let place = g.arg(0);
    if g.arg(1) != 0 {
        wrmsr(MSR_KVM_STEAL_TIME, place | ENABLE);
    }
    loop {
        let (version, steal) = read(place);
        g.sync(READY, &[version.into(), steal, peek::<u8>(place + PREEMPTED).into()]);
    }
}

#[host]
mod host {
    use super::*;
    use {
        bindings::{Msrs, kvm_msr_entry},
        nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity},
        nix::unistd::Pid,
        std::time::{Duration, Instant},
    };

    kvm_tests! { requires(cap::STEAL_TIME) }

    /// MSR and structure are as x86/msr.rst says.
    #[kvm_test(enables)]
    fn structure_is_valid(t: &mut OneVcpu) -> TestResult {
        for _ in 0..4 {
            t.vcpu.run_until_sync(READY)?;
        }
        t.vcpu.run_until_done()
    }

    /// The structure is where the guest said last, wherever that is.
    #[kvm_test(moves_its_structure)]
    fn structure_follows_the_msr(t: &mut OneVcpu) -> TestResult {
        for _ in 0..5 {
            t.vcpu.run_until_sync(READY)?;
        }
        t.vcpu.run_until_done()
    }

    const SLOT: u32 = 1;

    /// The memory behind the structure can change under it: KVM writes what is there now.
    #[kvm_test(reports)]
    fn structure_follows_its_memslot(t: &mut OneVcpu) -> TestResult {
        const PAGE: u64 = layout::PAGE_SIZE;
        const AT: u64 = 0x80;
        let place = layout::FREE + AT;
        let memories = [Mapping::anonymous(PAGE as usize)?, Mapping::anonymous(PAGE as usize)?];
        let version = |memory: &Mapping| memory.read_u64((AT + VERSION) as usize) as u32;
        let set = |size, memory: &Mapping| {
            t.vm.set_region(SLOT, 0, layout::FREE, size, memory.hva())
                .ioctl("KVM_SET_USER_MEMORY_REGION")
        };
        set(PAGE, &memories[0])?;
        t.vcpu.set_args(&[place, 1]);
        t.vcpu.run_until_sync(READY)?;
        t.vcpu.run_until_sync(READY)?;
        check!("the structure is in the slot's memory", version(&memories[0]) != 0);
        for round in 1..=4 {
            let (old, new) = (&memories[(round + 1) % 2], &memories[round % 2]);
            set(0, old)?;
            set(PAGE, new)?;
            old.fill(0);
            new.fill(0);
            t.vcpu.run_until_sync(READY)?;
            check!(
                "the structure is in the new memory at the next run",
                version(new) != 0,
                "round {round}"
            );
            check_eq!("the old memory is left alone", version(old), 0);
        }
        Ok(())
    }

    /// What userspace sets, as after migration, is in force from the first instruction; each vCPU has a
    /// structure of its own.
    #[kvm_test(reports)]
    fn userspace_enables_it_for_each_vcpu(t: &mut OneVcpu) -> TestResult {
        let mut second = t.vm.add_vcpu(1, guest_fn!(reports))?;
        let places = [PLACE, OTHER];
        let version = |vm: &Vm, place: u64| {
            let mut bytes = [0; 4];
            vm.ram().read(place + VERSION, &mut bytes).expect("the structure is in RAM");
            u32::from_ne_bytes(bytes)
        };
        for (vcpu, place) in [&mut t.vcpu, &mut second].into_iter().zip(places) {
            let data = place | ENABLE;
            let entry = kvm_msr_entry { index: MSR_KVM_STEAL_TIME, data, ..Default::default() };
            let msrs =
                Msrs::from_entries(&[entry]).map_err(|e| Failure::Error(format!("{e:?}")))?;
            let taken = vcpu.fd().set_msrs(&msrs).ioctl("KVM_SET_MSRS")?;
            require!(taken == 1, "KVM_FEATURE_STEAL_TIME");
            vcpu.set_args(&[place, 0]);
        }
        check_eq!("no structure is written before its vCPU runs", version(&t.vm, PLACE), 0);
        let [first, ..] = t.vcpu.run_until_sync(READY)?;
        check!(
            "the first vCPU's structure is filled at its first instruction",
            first != 0 && first & 1 == 0
        );
        check_eq!(
            "the second vCPU's structure is not filled before it runs",
            version(&t.vm, OTHER),
            0
        );
        let [other, ..] = second.run_until_sync(READY)?;
        check!(
            "the second vCPU's structure is filled at its first instruction",
            other != 0 && other & 1 == 0
        );
        let stays = version(&t.vm, PLACE);
        second.run_until_sync(READY)?;
        check_eq!(
            "a run of the second vCPU leaves the first's structure",
            version(&t.vm, PLACE),
            stays
        );
        Ok(())
    }

    /// Nanoseconds that this thread was ready to run and did not (Documentation/scheduler/sched-stats.rst).
    fn run_delay() -> TestResult<u64> {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        match text.split_whitespace().nth(1).and_then(|field| field.parse().ok()) {
            Some(delay) => Ok(delay),
            None => skip!("/proc/thread-self/schedstat"),
        }
    }

    /// Keeps this thread, and those that it starts, on the CPU that it is on.
    fn stay_here() -> TestResult<CpuSet> {
        let error = |e| Failure::Error(format!("affinity: {e}"));
        let before = sched_getaffinity(Pid::from_raw(0)).map_err(error)?;
        let mut here = CpuSet::new();
        here.set(sched_getcpu().map_err(error)?).map_err(error)?;
        sched_setaffinity(Pid::from_raw(0), &here).map_err(error)?;
        Ok(before)
    }

    /// Shares this thread's CPU with another for a while: until it had to wait for [`WAITED`] more.
    fn wait_for_the_cpu() -> TestResult<bool> {
        let before = run_delay()?;
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(SeqCst) {
                    std::hint::spin_loop();
                }
            });
            let end = Instant::now() + Duration::from_secs(3);
            let waited = loop {
                let enough = run_delay()? >= before + WAITED;
                if enough || Instant::now() > end {
                    break enough;
                }
            };
            stop.store(true, SeqCst);
            Ok(waited)
        })
    }
    const WAITED: u64 = 1_000_000;

    /// Steal time is what the host's scheduler says that the vCPU's thread had to wait, neither less nor
    /// more; time asleep is not in it.
    #[kvm_test(reports)]
    fn steal_time_is_the_threads_run_delay(t: &mut OneVcpu) -> TestResult {
        stay_here()?;
        t.vcpu.set_args(&[PLACE, 1]);
        // Steal time, and the thread's delay just before and just after the guest read it.
        let mut sample = || -> TestResult<[u64; 4]> {
            let before = run_delay()?;
            let [version, steal, ..] = t.vcpu.run_until_sync(READY)?;
            Ok([before, steal, run_delay()?, version])
        };
        sample()?;
        for round in 0..4 {
            let first = sample()?;
            let busy = round % 2 == 0;
            if busy {
                let waited = wait_for_the_cpu()?;
                check!("the vCPU's thread had to wait for its CPU", waited);
            } else {
                std::thread::sleep(Duration::from_millis(5));
            }
            let second = sample()?;
            let stolen = second[1].wrapping_sub(first[1]);
            let (least, most) = (second[0].saturating_sub(first[2]), second[2] - first[0]);
            check!(
                "all of the thread's wait is stolen time",
                stolen >= least,
                "{stolen}, at least {least}"
            );
            check!(
                "nothing but the thread's wait is stolen time",
                stolen <= most,
                "{stolen}, at most {most}"
            );
            if busy {
                check!("the version changes with the stolen time", second[3] != first[3]);
            }
        }
        Ok(())
    }
}
