//! How long dirty logging takes, and that it loses nothing meanwhile: populate, enable, then rounds of
//! dirtying, reading and clearing the log, then disable. Options (docs/results.md) say how many vCPUs,
//! how much memory of which kind, and how it is written.
use crate::prelude::*;

const PAGE: u64 = layout::PAGE_SIZE;
const READY: u64 = 1;
/// The round in which the memory is populated; logged rounds follow.
const POPULATE: u64 = 1;
const STOP: u64 = 0;

/// A small generator: the order of pages must cost little next to the accesses.
fn next_random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Each round, touches its pages: a written page holds the round's number.
#[guest]
fn dirties(g: &mut Guest) {
    let [gpa, pages, percent, random] = [0, 1, 2, 3].map(|i| g.arg(i));
    let mut state = g.arg(4) | 1;
    loop {
        let [round, ..] = g.sync(READY, &[]);
        if round == STOP {
            return;
        }
        for nr in 0..pages {
            let page =
                if random != 0 && round != POPULATE { next_random(&mut state) % pages } else { nr };
            let at = gpa + page * PAGE;
            if percent == 100 || round == POPULATE || next_random(&mut state) % 100 < percent {
                poke(at, round);
            } else {
                peek::<u64>(at);
            }
        }
    }
}

#[host]
mod host {
    use super::*;
    use std::{
        collections::HashSet,
        sync::Barrier as HostBarrier,
        thread,
        time::{Duration, Instant},
    };
    use vm::bindings::*;
    use vm::perf::{BACKING, BYTES, ITERATIONS, OVERLAP, SLOTS, TestOption, Times, VCPUS};
    use vm::{Backing, DirtyBitmap, DirtyGfn, DirtyRing};

    kvm_tests! {
        requires(host::SMALL_SLOTS), options = PLAN,
        sees(
            moved: "reads the dirty log, which a new VM does not have",
            shuffled: "reads the dirty log, which a new memslot does not have",
            logged: "reads the dirty log",
        ),
    }

    /// How the log is kept and cleared.
    #[derive(Clone, Copy, PartialEq)]
    enum Log {
        /// KVM_GET_DIRTY_LOG clears what it reads.
        Bitmap,
        /// KVM_CLEAR_DIRTY_LOG clears (KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE).
        Manual,
        /// As `Manual`, and every page is in the log from the start.
        InitiallySet,
        /// A ring of entries for each vCPU.
        Ring,
    }

    const WRITE_PERCENT: TestOption =
        TestOption::new("write_percent", "share of the accesses that write");
    const RANDOM: TestOption = TestOption::new("random", "yes: pages in random order");
    const SEED: TestOption = TestOption::new("seed", "start of the random numbers");
    const RUN_WHILE_DISABLING: TestOption = TestOption::new(
        "run_while_disabling",
        "yes: vCPUs run while dirty logging is switched off",
    );
    const RING_ENTRIES: TestOption = TestOption::new("ring_entries", "entries of a dirty ring");

    /// What [`Plan`] reads.
    const PLAN: [TestOption; 11] = [
        VCPUS,
        BYTES,
        ITERATIONS,
        WRITE_PERCENT,
        RANDOM,
        OVERLAP,
        BACKING,
        SLOTS,
        SEED,
        RUN_WHILE_DISABLING,
        RING_ENTRIES,
    ];

    struct Plan {
        vcpus: u64,
        pages: u64,
        iterations: u64,
        percent: u64,
        random: bool,
        overlap: bool,
        backing: Backing,
        slots: u64,
        seed: u64,
        run_while_disabling: bool,
        ring_bytes: u64,
    }

    impl Plan {
        fn read(bytes: u64, iterations: u64) -> TestResult<Self> {
            let plan = Self {
                vcpus: VCPUS.count(2)?,
                pages: BYTES.bytes(bytes)? / PAGE,
                iterations: ITERATIONS.count(iterations)?,
                percent: WRITE_PERCENT.percent(100)?,
                random: RANDOM.flag(false)?,
                overlap: OVERLAP.flag(false)?,
                backing: BACKING.choice(Backing::Anonymous, &Backing::ALL)?,
                slots: SLOTS.count(1)?,
                seed: SEED.number(1)?,
                run_while_disabling: RUN_WHILE_DISABLING.flag(false)?,
                ring_bytes: RING_ENTRIES.count(1 << 16)? * 16,
            };
            let room = (3 << 30) - layout::FREE;
            if plan.all_pages() * PAGE > room || plan.vcpus > layout::MAX_VCPUS {
                return Err(Failure::Error(
                    "more vCPUs or memory than guests of this suite have".into(),
                ));
            }
            if !plan.all_pages().is_multiple_of(plan.slots) {
                return Err(Failure::Error("the pages cannot be dealt out to the slots".into()));
            }
            Ok(plan)
        }

        fn all_pages(&self) -> u64 {
            if self.overlap { self.pages } else { self.pages * self.vcpus }
        }

        fn slot_pages(&self) -> u64 {
            self.all_pages() / self.slots
        }

        /// Whether only written pages may be logged: otherwise a page that is read may be mapped writable,
        /// and count as dirty.
        fn is_exact(&self) -> bool {
            self.percent == 100 || matches!(self.backing, Backing::Anonymous)
        }
    }

    /// Slots are numbered from here.
    const FIRST_SLOT: u32 = 1;

    struct Bench {
        plan: Plan,
        log: Log,
        vm: Vm,
        vcpus: Vec<Vcpu>,
        rings: Vec<DirtyRing>,
        bitmaps: Vec<DirtyBitmap>,
        memory: Mapping,
    }

    impl Bench {
        fn new(vm: Vm, plan: Plan, log: Log) -> TestResult<Self> {
            match log {
                Log::Bitmap => {}
                Log::Manual | Log::InitiallySet => {
                    let mut options = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
                    if log == Log::InitiallySet {
                        options |= KVM_DIRTY_LOG_INITIALLY_SET;
                    }
                    let cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2;
                    require!(
                        vm.check_extension(cap) as u32 & options == options,
                        "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 with option {options:#x}"
                    );
                    vm.enable_cap(cap, [options.into(), 0, 0, 0]).ioctl("KVM_ENABLE_CAP")?;
                }
                Log::Ring => {
                    let caps = [KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL];
                    let Some(cap) = caps.into_iter().find(|cap| vm.check_extension(*cap) > 0)
                    else {
                        skip!("KVM_CAP_DIRTY_LOG_RING");
                    };
                    let bytes = plan.ring_bytes.min(vm.check_extension(cap) as u64);
                    vm.enable_cap(cap, [bytes, 0, 0, 0]).ioctl("KVM_ENABLE_CAP")?;
                }
            }
            let memory = plan.backing.map((plan.all_pages() * PAGE) as usize)?;
            let slots = FIRST_SLOT..FIRST_SLOT + plan.slots as u32;
            let bitmaps = slots.map(|slot| DirtyBitmap::new(slot, plan.slot_pages())).collect();
            let mut bench = Self { plan, log, vm, vcpus: vec![], rings: vec![], bitmaps, memory };
            bench.set_slots(0)?;
            for index in 0..bench.plan.vcpus {
                let plan = &bench.plan;
                let mut vcpu = bench.vm.add_vcpu(index as u32, guest_fn!(dirties))?;
                let first = if plan.overlap { 0 } else { index * plan.pages };
                let gpa = layout::FREE + first * PAGE;
                vcpu.set_args(&[
                    gpa,
                    plan.pages,
                    plan.percent,
                    plan.random.into(),
                    plan.seed + index,
                ]);
                vcpu.run_until_sync(READY)?;
                if log == Log::Ring {
                    let bytes = plan.ring_bytes;
                    bench.rings.push(DirtyRing::map(&vcpu, bytes).ioctl("mmap of the dirty ring")?);
                }
                bench.vcpus.push(vcpu);
            }
            Ok(bench)
        }

        fn slots(&self) -> impl Iterator<Item = u32> + use<> {
            FIRST_SLOT..FIRST_SLOT + self.plan.slots as u32
        }

        fn set_slots(&self, flags: u32) -> TestResult {
            let size = self.plan.slot_pages() * PAGE;
            self.slots().try_for_each(|slot| {
                let offset = u64::from(slot - FIRST_SLOT) * size;
                let (gpa, hva) = (layout::FREE + offset, self.memory.hva() + offset);
                self.vm.set_region(slot, flags, gpa, size, hva).ioctl("KVM_SET_USER_MEMORY_REGION")
            })
        }

        /// One round of all vCPUs at once, and its time; `beside` runs meanwhile, until the vCPUs are done.
        fn round(
            &mut self,
            round: u64,
            beside: impl FnOnce(&Vm, &mut [DirtyRing], &dyn Fn() -> bool) -> TestResult,
        ) -> TestResult<Duration> {
            let start_line = HostBarrier::new(self.vcpus.len() + 1);
            let start_line = &start_line;
            together(|threads| {
                let run = |vcpu: &mut Vcpu| {
                    vcpu.answer(&[round]);
                    start_line.wait();
                    let start = Instant::now();
                    loop {
                        match vcpu.run_until_next()? {
                            Next::Sync([READY, ..]) => return Ok(start.elapsed()),
                            // The collector makes room.
                            Next::Exit(stop) if stop.exit() == Exit::DirtyRingFull => {
                                thread::yield_now();
                            }
                            Next::Exit(stop) => {
                                fail!("{:x?} instead of the round's end", stop.exit())
                            }
                            other => fail!("{other:?} instead of the round's end"),
                        }
                    }
                };
                let vcpus = self.vcpus.iter_mut();
                let vcpus: Vec<_> = vcpus.map(|vcpu| threads.run(vcpu, run)).collect();
                start_line.wait();
                beside(&self.vm, &mut self.rings, &|| threads.is_running())?;
                let times = vcpus.into_iter().map(Thread::join);
                times.reduce(|a, b| Ok(a?.max(b?))).unwrap_or(Ok(Duration::ZERO))
            })
        }

        /// The pages that hold the round's number: those that the guest wrote in it.
        fn written(&self, round: u64) -> HashSet<u64> {
            let pages = 0..self.plan.all_pages();
            pages.filter(|page| self.memory.read_u64((page * PAGE) as usize) == round).collect()
        }

        fn page_of(&self, entry: &DirtyGfn) -> u64 {
            u64::from(entry.slot - FIRST_SLOT) * self.plan.slot_pages() + entry.offset
        }

        /// Reads the bitmaps, and clears them if that is userspace's part.
        fn read_bitmaps(&mut self, get: &mut Times, clear: &mut Times) -> TestResult<HashSet<u64>> {
            let (vm, bitmaps) = (&self.vm, &mut self.bitmaps);
            get.measure(|| bitmaps.iter_mut().try_for_each(|bitmap| bitmap.get(vm)))
                .ioctl("KVM_GET_DIRTY_LOG")?;
            if matches!(self.log, Log::Manual | Log::InitiallySet) {
                clear
                    .measure(|| bitmaps.iter().try_for_each(|bitmap| bitmap.clear(vm)))
                    .ioctl("KVM_CLEAR_DIRTY_LOG")?;
            }
            let slot_pages = self.plan.slot_pages();
            let pages = bitmaps.iter().zip(0..).flat_map(|(log, slot)| {
                log.pages().into_iter().map(move |page| slot * slot_pages + page)
            });
            Ok(pages.collect())
        }

        fn run(&mut self) -> TestResult {
            let (mut populate, mut enable, mut disable) =
                (Times::new(), Times::new(), Times::new());
            let [mut dirty, mut get, mut clear] = [const { Times::new() }; 3];
            populate.add(self.round(POPULATE, |_, _, _| Ok(()))?);
            check_eq!(
                "every page is populated",
                self.written(POPULATE).len() as u64,
                self.plan.all_pages()
            );
            enable.measure(|| self.set_slots(KVM_MEM_LOG_DIRTY_PAGES))?;
            if self.log == Log::InitiallySet {
                let logged = self.read_bitmaps(&mut get, &mut clear)?;
                let all = self.plan.all_pages();
                check_eq!("a new log has every page in it", logged.len() as u64, all);
            }
            let rounds = POPULATE + 1..=POPULATE + self.plan.iterations;
            for round in rounds.clone() {
                let logged = if self.log == Log::Ring {
                    let mut entries = Vec::new();
                    let [mut collected, mut reset] = [const { Times::new() }; 2];
                    let time = self.round(round, |vm, rings, running| {
                        let mut collect = || {
                            let new = |ring: &mut DirtyRing| ring.collect(usize::MAX);
                            collected.measure(|| entries.extend(rings.iter_mut().flat_map(new)));
                            reset
                                .measure(|| vm.reset_dirty_rings())
                                .ioctl("KVM_RESET_DIRTY_RINGS")
                                .map(drop)
                        };
                        while running() {
                            collect()?;
                            thread::yield_now();
                        }
                        collect()
                    })?;
                    get.add(collected.total());
                    clear.add(reset.total());
                    dirty.add(time);
                    entries.iter().map(|entry| self.page_of(entry)).collect()
                } else {
                    dirty.add(self.round(round, |_, _, _| Ok(()))?);
                    self.read_bitmaps(&mut get, &mut clear)?
                };
                let written = self.written(round);
                check!(
                    "pages are written in each round",
                    !written.is_empty() || self.plan.percent == 0
                );
                let lost: Vec<_> = written.difference(&logged).take(4).collect();
                check!(
                    "the log misses no written page",
                    lost.is_empty(),
                    "round {round}: pages {lost:?}"
                );
                if self.plan.is_exact() {
                    let extra: Vec<_> = logged.difference(&written).take(4).collect();
                    check!(
                        "the log has no page that was not written",
                        extra.is_empty(),
                        "round {round}: {extra:?}"
                    );
                }
            }
            let last = *rounds.end() + 1;
            if self.plan.run_while_disabling {
                let (slots, size) = (self.slots(), self.plan.slot_pages() * PAGE);
                let hva = self.memory.hva();
                self.round(last, |vm, _, _| {
                    disable
                        .measure(|| {
                            slots.into_iter().try_for_each(|slot| {
                                let offset = u64::from(slot - FIRST_SLOT) * size;
                                vm.set_region(slot, 0, layout::FREE + offset, size, hva + offset)
                            })
                        })
                        .ioctl("KVM_SET_USER_MEMORY_REGION")
                })?;
            } else {
                disable.measure(|| self.set_slots(0))?;
                self.round(last, |_, _, _| Ok(()))?;
            }
            let written = self.written(last).len() as u64;
            check!(
                "the guest writes on without logging",
                self.plan.random || self.plan.percent < 100 || written == self.plan.all_pages()
            );
            for vcpu in &mut self.vcpus {
                vcpu.answer(&[STOP]);
                vcpu.run_until_done()?;
            }
            populate.report("populate memory");
            enable.report("enable dirty logging");
            dirty.report("dirty memory");
            dirty.report_rate("pages dirtied", "pages/s", self.plan.pages * self.plan.vcpus);
            get.report(if self.log == Log::Ring { "collect dirty rings" } else { "get dirty log" });
            clear.report(if self.log == Log::Ring {
                "reset dirty rings"
            } else {
                "clear dirty log"
            });
            disable.report("disable dirty logging");
            Ok(())
        }
    }

    fn bench(t: &mut HostOnly, log: Log, bytes: u64, iterations: u64) -> TestResult {
        let plan = Plan::read(bytes, iterations)?;
        Bench::new(Vm::new(&t.setup.config)?, plan, log)?.run()
    }

    /// Whatever the log's form: a page that a vCPU wrote in a round is in that round's log, and no other is
    /// (api.rst 4.8, 4.117, 8.29).
    #[kvm_test(vcpus = 2, params = [
    bitmap: Log::Bitmap,
    manual_protect: Log::Manual,
    initially_set: Log::InitiallySet,
    ring: Log::Ring,
])]
    fn no_written_page_is_lost(t: &mut HostOnly, log: Log) -> TestResult {
        bench(t, log, 512 << 10, 2)
    }

    /// The same with memory in slots, in random order, reading too, and from every vCPU to the same pages.
    #[kvm_test(vcpus = 2, params = [
    slots: Shape { slots: 8, ..SMALL },
    random: Shape { random: true, ..SMALL },
    reads_too: Shape { percent: 50, ..SMALL },
    overlap: Shape { overlap: true, ..SMALL },
    shmem: Shape { backing: Backing::Shmem, ..SMALL },
    thp: Shape { backing: Backing::Thp, pages: 512, ..SMALL },
    hugetlb: Shape { backing: Backing::Hugetlb, pages: 512, ..SMALL },
    run_while_disabling: Shape { run_while_disabling: true, ..SMALL },
])]
    fn no_written_page_is_lost_with(t: &mut HostOnly, shape: Shape) -> TestResult {
        let plan = Plan {
            pages: shape.pages,
            percent: shape.percent,
            random: shape.random,
            overlap: shape.overlap,
            backing: shape.backing,
            slots: shape.slots,
            run_while_disabling: shape.run_while_disabling,
            ..Plan::read(shape.pages * PAGE, 2)?
        };
        Bench::new(Vm::new(&t.setup.config)?, plan, Log::Bitmap)?.run()
    }

    #[derive(Clone, Copy)]
    struct Shape {
        pages: u64,
        percent: u64,
        random: bool,
        overlap: bool,
        backing: Backing,
        slots: u64,
        run_while_disabling: bool,
    }

    const SMALL: Shape = Shape {
        pages: 64,
        percent: 100,
        random: false,
        overlap: false,
        backing: Backing::Anonymous,
        slots: 1,
        run_while_disabling: false,
    };

    /// The same, measured: by default 2 vCPUs with 64 MiB each, written whole in each of 5 rounds.
    #[kvm_test(vcpus = 2, exclusive, groups("perf"), params = [
    bitmap: Log::Bitmap,
    manual_protect: Log::Manual,
    initially_set: Log::InitiallySet,
    ring: Log::Ring,
])]
    fn measured(t: &mut HostOnly, log: Log) -> TestResult {
        bench(t, log, 64 << 20, 5)
    }
}
