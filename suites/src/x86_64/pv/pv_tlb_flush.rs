//! KVM_VCPU_FLUSH_TLB: a guest that changes a translation need not interrupt a vCPU that was preempted.
//! It sets a flag beside the mark of preemption, and KVM flushes that vCPU's TLB before it runs again
//! (x86/cpuid.rst, KVM_FEATURE_PV_TLB_FLUSH; x86/msr.rst, MSR_KVM_STEAL_TIME).
//!
//! vCPU 1 has translation tables of its own and reads one address of theirs; vCPU 0 changes the entry
//! behind it. Each change has a number, which is also what is in the page: what vCPU 1 reads tells which
//! change it has seen.
use crate::prelude::*;
use kvm_pv::{KVM_MSR_ENABLED as ENABLE, KvmStealTime, MSR_KVM_STEAL_TIME, VcpuPreempted};

const KVM_VCPU_PREEMPTED: u8 = VcpuPreempted::PREEMPTED.bits();
const KVM_VCPU_FLUSH_TLB: u8 = VcpuPreempted::FLUSH_TLB.bits();
const FLAGGED: u8 = KVM_VCPU_PREEMPTED | KVM_VCPU_FLUSH_TLB;
const PREEMPTED_OFFSET: u64 = core::mem::offset_of!(KvmStealTime, preempted) as u64;

/// Places for vCPU 1's structure.
const PLACES: [u64; 2] = [layout::SCRATCH + 0x40, layout::SCRATCH + 0x1080];
/// What vCPU 1 reads, and the two pages that are behind it in turn.
const GVA: u64 = mmu::OWN + 0x20_0000;
const PAGES: [u64; 2] = [layout::SCRATCH + 0x1_0000, layout::SCRATCH + 0x1_1000];
const YIELD_PORT: u16 = 0x91;
const READY: u64 = 1;

/// Where vCPU 1's entry is; 0 until it is there.
#[shared]
static ENTRY: AtomicU64 = AtomicU64::new(0);
/// The last change that a flush was requested for, and the last that vCPU 1 has seen in time.
#[shared]
static REQUESTED: AtomicU64 = AtomicU64::new(0);
#[shared]
static SEEN: AtomicU64 = AtomicU64::new(0);
/// Reads of an older page than requested, and the mark of preemption seen while running.
#[shared]
static STALE: AtomicU64 = AtomicU64::new(0);
#[shared]
static MARKED: AtomicU64 = AtomicU64::new(0);
#[shared]
static STOP: AtomicU64 = AtomicU64::new(0);

/// Puts change `number` behind vCPU 1's address.
fn change(number: u64) {
    let page = PAGES[number as usize % 2];
    poke(page, number);
    poke(ENTRY.load(SeqCst), page | Pte::DEFAULT.bits());
}

/// Sets the flag if vCPU 1 is marked as preempted, as a guest does: whether it was.
fn request_flush(place: u64) -> bool {
    insn::cmpxchg8(place + PREEMPTED_OFFSET, KVM_VCPU_PREEMPTED, FLAGGED)
}

/// vCPU 1's tables and structure.
fn set_up(place: u64) {
    mmu::use_own_root();
    mmu::map(GVA, PAGES[0], mmu::Size::Small, Pte::DEFAULT);
    ENTRY.store(mmu::entry_address(GVA), SeqCst);
    wrmsr(MSR_KVM_STEAL_TIME, place | ENABLE);
}

/// Reads once and looks whether that is as new as was requested before.
fn look() {
    let requested = REQUESTED.load(SeqCst);
    let value: u64 = peek(GVA);
    if value < requested {
        STALE.fetch_add(1, SeqCst);
    }
    SEEN.store(requested, SeqCst);
}

/// vCPU 1, one read at a time. The answer is where its structure is to be from now on, or 0.
#[guest]
fn reads(g: &mut Guest) {
    set_up(PLACES[0]);
    let mut place = PLACES[0];
    loop {
        let value: u64 = peek(GVA);
        let mark: u8 = peek(place + PREEMPTED_OFFSET);
        let answer = g.sync(READY, &[value, mark.into()]);
        if answer[0] != 0 {
            place = answer[0];
            wrmsr(MSR_KVM_STEAL_TIME, place | ENABLE);
        }
    }
}

/// vCPU 0: makes the change that the host answers with, and requests a flush in the structure that the
/// host names, if any.
#[guest]
fn changes(g: &mut Guest) {
    let mut requested = false;
    loop {
        let answer = g.sync(READY, &[requested.into()]);
        change(answer[0]);
        requested = answer[1] != 0 && request_flush(answer[1]);
    }
}

/// vCPU 0: hammers vCPU 1's structure with requests while KVM updates it, and waits for each change to be
/// seen before it makes the next.
#[guest]
fn hammers(g: &mut Guest) {
    // Loops without news before others are to run.
    let patience = g.arg(0);
    let wait = |done: &dyn Fn() -> bool| {
        let mut spins = 0;
        wait_until(|| {
            spins += 1;
            if spins % patience == 0 {
                outb(YIELD_PORT, 0);
            }
            done() || STOP.load(SeqCst) != 0
        });
    };
    wait(&|| ENTRY.load(SeqCst) != 0);
    let mut number = 0;
    while STOP.load(SeqCst) == 0 {
        number += 1;
        change(number);
        wait(&|| request_flush(PLACES[0]));
        if STOP.load(SeqCst) == 0 {
            REQUESTED.store(number, SeqCst);
            wait(&|| SEEN.load(SeqCst) >= number);
        }
    }
    g.sync(READY, &[SEEN.load(SeqCst)]);
}

/// vCPU 1: looks, exits, and is run again.
#[guest]
fn looks_again_and_again(_: &mut Guest) {
    set_up(PLACES[0]);
    loop {
        look();
        outb(YIELD_PORT, 0);
    }
}

/// vCPU 0, on the CPU that vCPU 1 wants too: while this runs, that is preempted.
#[guest]
fn preempts(g: &mut Guest) {
    let rounds = g.arg(0);
    wait_until(|| {
        outb(YIELD_PORT, 0);
        ENTRY.load(SeqCst) != 0
    });
    let mut number = 0;
    while number < rounds && STOP.load(SeqCst) == 0 {
        if peek::<u8>(PLACES[0] + PREEMPTED_OFFSET) == KVM_VCPU_PREEMPTED {
            change(number + 1);
            if request_flush(PLACES[0]) {
                number += 1;
                REQUESTED.store(number, SeqCst);
            }
        }
        wait_until(|| {
            outb(YIELD_PORT, 0);
            SEEN.load(SeqCst) >= number || STOP.load(SeqCst) != 0
        });
    }
    STOP.store(1, SeqCst);
    g.sync(READY, &[number]);
}

/// vCPU 1: looks for ever, without an exit of its own.
#[guest]
fn never_leaves(_: &mut Guest) {
    set_up(PLACES[0]);
    while STOP.load(SeqCst) == 0 {
        look();
        // The mark is taken away before the guest runs; it comes back only when it does not.
        if peek::<u8>(PLACES[0] + PREEMPTED_OFFSET) & KVM_VCPU_PREEMPTED != 0 {
            MARKED.fetch_add(1, SeqCst);
        }
    }
}

#[host]
mod host {
    use super::*;
    use kvm_pv::{Features, leaf};
    use {
        bindings::Msrs,
        bindings::kvm_msr_entry,
        nix::sched::{CpuSet, sched_getcpu, sched_setaffinity},
        nix::unistd::Pid,
        std::time::{Duration, Instant},
    };

    kvm_tests! { requires(cap::STEAL_TIME) }

    /// A VM whose vCPU 0 changes and whose vCPU 1 reads.
    struct Pair {
        changer: Vcpu,
        reader: Vcpu,
    }

    /// Takes the feature out of CPUID, or skips where KVM has not got it.
    fn offer(vm: &mut Vm, flush: bool) -> TestResult {
        let eax = &mut vm.cpuid_leaf(leaf::FEATURES)?.eax;
        let features = Features::from_bits_retain(*eax);
        require!(features.contains(Features::STEAL_TIME), "KVM_FEATURE_STEAL_TIME");
        require!(features.contains(Features::PV_TLB_FLUSH), "KVM_FEATURE_PV_TLB_FLUSH");
        if !flush {
            *eax = (features - Features::PV_TLB_FLUSH).bits();
        }
        Ok(())
    }

    fn pair(t: &mut OneVm, flush: bool, guests: [GuestFn; 2]) -> TestResult<Pair> {
        offer(&mut t.vm, flush)?;
        let changer = t.vm.add_vcpu(0, guests[0])?;
        let reader = t.vm.add_vcpu(1, guests[1])?;
        Ok(Pair { changer, reader })
    }

    fn mark(vm: &Vm, place: u64) -> &AtomicU8 {
        vm.ram().mapping().byte((place + PREEMPTED_OFFSET) as usize)
    }

    fn read(reader: &mut Vcpu) -> TestResult<[u64; 2]> {
        reader.answer(&[0]);
        let [value, mark, ..] = reader.run_until_sync(READY)?;
        Ok([value, mark])
    }

    impl Pair {
        /// vCPU 0 makes change `number`, and requests a flush at `place`; whether that was taken.
        fn change(&mut self, number: u64, place: u64) -> TestResult<bool> {
            self.changer.answer(&[number, place]);
            Ok(self.changer.run_until_sync(READY)?[0] != 0)
        }

        /// vCPU 1 runs and reads: the value, and its mark as it sees it.
        fn read(&mut self) -> TestResult<[u64; 2]> {
            read(&mut self.reader)
        }
    }

    /// A vCPU whose flag was set while it did not run does not see the old translation, and the flag is gone;
    /// wherever its structure is.
    #[kvm_test]
    fn flagged_vcpu_forgets_old_translations(t: &mut OneVm) -> TestResult {
        const ROUNDS: u64 = 50;
        let mut pair = pair(t, true, [guest_fn!(changes), guest_fn!(reads)])?;
        pair.changer.run_until_sync(READY)?;
        pair.reader.run_until_sync(READY)?;
        let mut number = 0;
        for (place, other) in [(PLACES[0], PLACES[1]), (PLACES[1], PLACES[0]), (PLACES[0], 0)] {
            for _ in 0..ROUNDS {
                number += 1;
                // As KVM leaves it when the vCPU is scheduled out.
                mark(&t.vm, place).store(KVM_VCPU_PREEMPTED, SeqCst);
                let requested = pair.change(number, place)?;
                check!("a flush can be requested of a preempted vCPU", requested);
                let [value, seen_mark] = pair.read()?;
                check_eq!("a flagged vCPU reads the new page when it runs again", value, number);
                check_eq!("a running vCPU has neither mark nor flag", seen_mark, 0);
                let left = mark(&t.vm, place).load(SeqCst);
                check_eq!("no flag is left after the vCPU's exit", left & KVM_VCPU_FLUSH_TLB, 0);
            }
            pair.reader.answer(&[other]);
            pair.reader.run_until_sync(READY)?;
        }
        Ok(())
    }

    /// The flag alone, without the mark, is a request too: KVM does not look at the other bit. One that was
    /// set in a structure that is no longer the vCPU's stays there.
    #[kvm_test]
    fn flag_counts_in_the_structure_in_use(t: &mut OneVm) -> TestResult {
        let mut pair = pair(t, true, [guest_fn!(changes), guest_fn!(reads)])?;
        pair.changer.run_until_sync(READY)?;
        pair.reader.run_until_sync(READY)?;
        for number in 1..=10 {
            mark(&t.vm, PLACES[0]).store(KVM_VCPU_FLUSH_TLB, SeqCst);
            mark(&t.vm, PLACES[1]).store(FLAGGED, SeqCst);
            pair.change(number, 0)?;
            let [value, seen_mark] = pair.read()?;
            check_eq!("the flag without the mark brings the new page", value, number);
            check_eq!("the flag without the mark is cleared", seen_mark, 0);
            let elsewhere = mark(&t.vm, PLACES[1]).load(SeqCst);
            check_eq!("a flag in an abandoned structure is left alone", elsewhere, FLAGGED);
        }
        Ok(())
    }

    /// A vCPU to which CPUID does not offer the feature, where that is enforced, is not flushed for its flag;
    /// the byte is cleared all the same.
    #[kvm_test(requires(cap::ENFORCE_PV_FEATURE_CPUID))]
    fn without_the_feature_the_flag_means_nothing(_: &mut HostOnly) -> TestResult {
        const ROUNDS: u64 = 50;
        let flushes = |flush, flag| -> TestResult<u64> {
            let mut vm = Vm::new(VmConfig::new())?;
            offer(&mut vm, flush)?;
            let mut reader = vm.add_vcpu(0, guest_fn!(reads))?;
            reader
                .enable_cap(bindings::KVM_CAP_ENFORCE_PV_FEATURE_CPUID, [1, 0, 0, 0])
                .ioctl("KVM_ENABLE_CAP(KVM_CAP_ENFORCE_PV_FEATURE_CPUID)")?;
            reader.run_until_sync(READY)?;
            let counted = |reader: &Vcpu| {
                let count = reader.stat("tlb_flush");
                count.ok_or_else(|| Failure::Skip("the statistic `tlb_flush`".into()))
            };
            let before = counted(&reader)?;
            for _ in 0..ROUNDS {
                mark(&vm, PLACES[0]).store(flag, SeqCst);
                let [_, seen_mark] = read(&mut reader)?;
                check_eq!(
                    "mark and flag are cleared while it runs (feature: {flush})",
                    seen_mark,
                    0
                );
            }
            Ok(counted(&reader)? - before)
        };
        let unflagged = flushes(true, KVM_VCPU_PREEMPTED)?;
        let (offered, not_offered) = (flushes(true, FLAGGED)?, flushes(false, FLAGGED)?);
        require!(unflagged < ROUNDS / 2, "a TLB that is not flushed at every entry");
        check!("each flag is a flush with the feature", offered >= ROUNDS, "{offered} {unflagged}");
        check!(
            "a flag is no flush without the feature",
            not_offered < ROUNDS / 2,
            "{not_offered} {unflagged}"
        );
        Ok(())
    }

    /// Runs until the guest's report, and lets other threads run where the guest asks for that; tells the
    /// guest to stop once `over` says so.
    fn run_to_report(
        vcpu: &mut Vcpu,
        stop: &AtomicU64,
        over: impl Fn() -> bool,
    ) -> TestResult<u64> {
        loop {
            match vcpu.run_until_next()? {
                Next::Sync(args) => return Ok(args[1]),
                Next::Exit(exit) if matches!(exit.exit(), Exit::Io { port: YIELD_PORT, .. }) => {
                    if over() {
                        stop.store(1, SeqCst);
                    }
                    std::thread::yield_now();
                }
                other => fail!("{other:x?} instead of a report"),
            }
        }
    }

    /// The most rounds of the race; the time that it may take once there were the fewest that say anything.
    const MOST_ROUNDS: u64 = 100_000;
    const LONGEST: Duration = Duration::from_millis(1500);
    const LEAST_ROUNDS: u64 = 50;
    /// The longest time between mark and entry, in pauses of the CPU.
    const LONGEST_HOLD: u32 = 2_000;
    /// Loops of vCPU 0 without news before it lets others run.
    const PATIENCE: u64 = 200;

    /// A request that is made while KVM takes the mark away is either refused, because the mark has gone, or
    /// honoured: never lost.
    #[kvm_test(vcpus = 2, groups("race"))]
    fn request_is_never_lost_to_an_update(t: &mut OneVm) -> TestResult {
        race_with_updates(t, LONGEST)
    }

    /// The same, [`MOST_ROUNDS`] times however long it takes.
    #[kvm_test(vcpus = 2, groups("race", "nodefault"))]
    fn request_is_never_lost_in_a_hundred_thousand_updates(t: &mut OneVm) -> TestResult {
        race_with_updates(t, Duration::MAX)
    }

    fn race_with_updates(t: &mut OneVm, longest: Duration) -> TestResult {
        let Pair { mut changer, mut reader } =
            pair(t, true, [guest_fn!(hammers), guest_fn!(looks_again_and_again)])?;
        changer.set_args(&[PATIENCE]);
        let vm = &t.vm;
        let (stop, seen) = (vm.shared(shared_static!(STOP)), vm.shared(shared_static!(SEEN)));
        let (rounds, entries) = together(|threads| {
            let changer = threads.run(&mut changer, |vcpu| run_to_report(vcpu, stop, || false));
            let start = Instant::now();
            let (mut last, mut entries, mut hold) = (0, 0_u64, 0_u32);
            loop {
                entries += 1;
                let exit = reader.run_until(Exit::io_out(YIELD_PORT)).map(drop);
                let now = seen.load(SeqCst);
                let over = now >= MOST_ROUNDS
                    || (now >= LEAST_ROUNDS && start.elapsed() >= longest)
                    || changer.is_finished();
                exit?;
                if over {
                    break;
                }
                // As KVM leaves it at a preemption; what is there already may be one, and a request.
                let byte = mark(vm, PLACES[0]);
                let _ = byte.compare_exchange(0, KVM_VCPU_PREEMPTED, SeqCst, SeqCst);
                // The time to the next entry moves to where half of the requests come too late: so they
                // come just when KVM takes the mark away.
                hold = if now == last { hold + 1 + hold / 8 } else { hold - hold.div_ceil(8) };
                if hold > LONGEST_HOLD {
                    // The threads may share a CPU.
                    (hold, last) = (LONGEST_HOLD, now);
                    std::thread::yield_now();
                    continue;
                }
                (0..hold).for_each(|_| std::hint::spin_loop());
                last = now;
            }
            stop.store(1, SeqCst);
            Ok((changer.join()?, entries))
        })?;
        vm::record::metric("rounds", "requests", rounds as f64);
        vm::record::metric("updates", "entries", entries as f64);
        let stale = vm.shared(shared_static!(STALE)).load(SeqCst);
        check_eq!("no request of a preempted vCPU is lost", stale, 0);
        let fewest = if longest == Duration::MAX { MOST_ROUNDS } else { LEAST_ROUNDS };
        check!("enough rounds of the race were run", rounds >= fewest, "{rounds}");
        Ok(())
    }

    /// Keeps this thread on one CPU.
    fn stay_on(cpu: usize) -> TestResult {
        let error = |e| Failure::Error(format!("affinity: {e}"));
        let mut set = CpuSet::new();
        set.set(cpu).map_err(error)?;
        sched_setaffinity(Pid::from_raw(0), &set).map_err(error)
    }

    /// The natural case: two vCPUs want one CPU. One that is scheduled out in guest mode is marked as
    /// preempted until it runs again, and a flush that is requested meanwhile is done by then.
    #[kvm_test]
    fn preempted_vcpu_is_marked_and_flushed(t: &mut OneVm) -> TestResult {
        const ROUNDS: u64 = 15;
        /// Time after which a vCPU that was never marked never will be.
        const HOPELESS: Duration = Duration::from_millis(250);
        let Pair { mut changer, mut reader } =
            pair(t, true, [guest_fn!(preempts), guest_fn!(never_leaves)])?;
        changer.set_args(&[ROUNDS]);
        let cpu = sched_getcpu().map_err(|e| Failure::Error(format!("sched_getcpu: {e}")))?;
        let (stop, seen) = (t.vm.shared(shared_static!(STOP)), t.vm.shared(shared_static!(SEEN)));
        let hope = vm::Patience::new(HOPELESS);
        let rounds = together(|threads| {
            let _reader =
                threads.run(&mut reader, |vcpu| stay_on(cpu).and_then(|()| vcpu.run_until_done()));
            stay_on(cpu)?;
            let hopeless = || hope.is_over() && seen.load(SeqCst) == 0;
            let rounds = run_to_report(&mut changer, stop, hopeless)?;
            stop.store(1, SeqCst);
            Ok(rounds)
        })?;
        check_eq!("a vCPU that lost its CPU is marked as preempted", rounds, ROUNDS);
        let stale = t.vm.shared(shared_static!(STALE)).load(SeqCst);
        check_eq!("a flushed vCPU never sees an old page again", stale, 0);
        let marked = t.vm.shared(shared_static!(MARKED)).load(SeqCst);
        check_eq!("a vCPU that runs is not marked as preempted", marked, 0);
        Ok(())
    }

    /// Userspace gives the MSR back after a look at it: nothing is lost by that.
    #[kvm_test]
    fn msr_written_back_keeps_the_request(t: &mut OneVm) -> TestResult {
        let mut pair = pair(t, true, [guest_fn!(changes), guest_fn!(reads)])?;
        pair.changer.run_until_sync(READY)?;
        pair.reader.run_until_sync(READY)?;
        for number in 1..=10 {
            mark(&t.vm, PLACES[0]).store(KVM_VCPU_PREEMPTED, SeqCst);
            check!("a flush can be requested of a preempted vCPU", pair.change(number, PLACES[0])?);
            let entry = kvm_msr_entry { index: MSR_KVM_STEAL_TIME, ..Default::default() };
            let mut msrs =
                Msrs::from_entries(&[entry]).map_err(|e| Failure::Error(format!("{e:?}")))?;
            pair.reader.fd().get_msrs(&mut msrs).ioctl("KVM_GET_MSRS")?;
            check_eq!(
                "userspace can read MSR_KVM_STEAL_TIME",
                msrs.as_slice()[0].data,
                PLACES[0] | ENABLE
            );
            pair.reader.fd().set_msrs(&msrs).ioctl("KVM_SET_MSRS")?;
            let [value, seen_mark] = pair.read()?;
            check_eq!("the request survives a write of the MSR", value, number);
            check_eq!("the honoured request's flag is cleared", seen_mark, 0);
        }
        Ok(())
    }
}
