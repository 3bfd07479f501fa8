//! How long changes of memslots and of the memory behind them take beside a guest that uses it, each
//! with a look at what the guest sees. Options (docs/results.md) say how much memory in how many slots.
use crate::prelude::*;

const PAGE: u64 = layout::PAGE_SIZE;
const GPA: u64 = layout::FREE;
const READY: u64 = 1;
const WRITE: u64 = 1;
const READ: u64 = 2;

const fn content(round: u64, page: u64) -> u64 {
    round << 32 | page
}

/// Writes or reads pages as it is asked. Answers with how many were wrong.
#[guest]
fn uses_memory(g: &mut Guest) {
    let mut wrong = 0;
    loop {
        let [what, gpa, pages, round, first, ..] = g.sync(READY, &[wrong]);
        wrong = 0;
        match what {
            WRITE => {
                (0..pages).for_each(|page| poke(gpa + page * PAGE, content(round, first + page)));
            }
            READ => {
                for page in 0..pages {
                    // Round 0: memory that nobody has written.
                    let want = if round == 0 { 0 } else { content(round, first + page) };
                    wrong += u64::from(peek::<u64>(gpa + page * PAGE) != want);
                }
            }
            _ => return,
        }
    }
}

#[host]
mod host {
    use super::*;
    use nix::sys::mman::MmapAdvise;
    use vm::Backing;
    use vm::perf::{BACKING, BYTES, ITERATIONS, SLOTS, TestOption, Times};

    kvm_tests! { requires(host::SMALL_SLOTS), options = PLAN }

    /// What [`Plan`] reads.
    const PLAN: [TestOption; 4] = [BYTES, SLOTS, ITERATIONS, BACKING];

    struct Plan {
        pages: u64,
        slots: u64,
        iterations: u64,
        backing: Backing,
    }

    /// Slots are numbered from here.
    const FIRST_SLOT: u32 = 1;
    /// What the host discards at a time, where it does so by parts.
    const CHUNK: u64 = 2 << 20;

    impl Plan {
        fn read(bytes: u64, slots: u64, iterations: u64) -> TestResult<Self> {
            let plan = Self {
                pages: BYTES.bytes(bytes)? / PAGE,
                slots: SLOTS.count(slots)?,
                iterations: ITERATIONS.count(iterations)?,
                backing: BACKING.choice(Backing::Anonymous, &Backing::ALL)?,
            };
            if plan.pages * PAGE > (2 << 30) || !plan.pages.is_multiple_of(plan.slots) {
                return Err(Failure::Error(
                    "the memory does not fit, or cannot be dealt out".into(),
                ));
            }
            Ok(plan)
        }

        fn slot_size(&self) -> u64 {
            self.pages / self.slots * PAGE
        }
    }

    fn ask(vcpu: &mut Vcpu, what: u64, gpa: u64, pages: u64, round: u64) -> TestResult<u64> {
        vcpu.answer(&[what, gpa, pages, round, 0]);
        vcpu.run_until_sync(READY).map(|[wrong, ..]| wrong)
    }

    /// Memory in slots, and the guest at its first sync.
    fn set_up(t: &mut OneVcpu, plan: &Plan) -> TestResult<Mapping> {
        let memory = plan.backing.map((plan.pages * PAGE) as usize)?;
        let mut setup = Times::new();
        setup
            .measure(|| {
                (0..plan.slots).try_for_each(|nr| {
                    let (offset, slot) = (nr * plan.slot_size(), FIRST_SLOT + nr as u32);
                    t.vm.set_region(slot, 0, GPA + offset, plan.slot_size(), memory.hva() + offset)
                })
            })
            .ioctl("KVM_SET_USER_MEMORY_REGION")?;
        setup.report("slot set-up");
        t.vcpu.run_until_sync(READY)?;
        Ok(memory)
    }

    fn finish(t: &mut OneVcpu) -> TestResult {
        t.vcpu.answer(&[0]);
        t.vcpu.run_until_done()
    }

    /// The guest touches fresh memory, uses it, and the host discards it: whole, or by chunks.
    fn map_use_unmap(t: &mut OneVcpu, plan: &Plan) -> TestResult {
        let memory = set_up(t, plan)?;
        let [mut map, mut rw, mut unmap, mut chunked] = [const { Times::new() }; 4];
        for round in 1..=plan.iterations {
            map.measure(|| ask(&mut t.vcpu, WRITE, GPA, plan.pages, round))?;
            let wrong = rw.measure(|| -> TestResult<u64> {
                let wrong = ask(&mut t.vcpu, READ, GPA, plan.pages, round)?;
                ask(&mut t.vcpu, WRITE, GPA, plan.pages, round)?;
                Ok(wrong)
            })?;
            check_eq!("the guest reads in every slot what it wrote", wrong, 0);
            let lost = (0..plan.pages)
                .find(|page| memory.read_u64((page * PAGE) as usize) != content(round, *page));
            check_eq!("the slots' memory holds what the guest wrote", lost, None);
            if round % 2 == 1 {
                unmap.measure(|| memory.advise(MmapAdvise::MADV_DONTNEED))?;
            } else {
                chunked.measure(|| {
                    (0..memory.len() as u64).step_by(CHUNK as usize).try_for_each(|offset| {
                        let len = CHUNK.min(memory.len() as u64 - offset);
                        memory.advise_part(offset as usize, len as usize, MmapAdvise::MADV_DONTNEED)
                    })
                })?;
            }
            let wrong = ask(&mut t.vcpu, READ, GPA, plan.pages, 0)?;
            check_eq!("the guest reads zeroes where the host discarded memory", wrong, 0);
            memory.advise(MmapAdvise::MADV_DONTNEED)?;
        }
        map.report("map");
        rw.report("read and write");
        unmap.report("unmap");
        chunked.report("unmap by chunks");
        finish(t)
    }

    /// Moves the last slot away and back while the guest uses memory: the slot's own (`active`), or that of
    /// the slots before it.
    fn move_slot(t: &mut OneVcpu, plan: &Plan, active: bool) -> TestResult {
        const MMIO: u64 = 0x5a5a_5a5a_5a5a_5a5a;
        let memory = set_up(t, plan)?;
        ask(&mut t.vcpu, WRITE, GPA, plan.pages, 1)?;
        let (size, slot) = (plan.slot_size(), FIRST_SLOT + plan.slots as u32 - 1);
        let offset = plan.pages * PAGE - size;
        let home = GPA + offset;
        let away = (GPA + plan.pages * PAGE + size).next_multiple_of(CHUNK);
        let (used, first) = if active { (home, offset / PAGE) } else { (GPA, 0) };
        let pages = if active { size / PAGE } else { offset / PAGE };
        let mut times = Times::new();
        let hva = memory.hva() + offset;
        let place = |vm: &Vm, gpa| vm.set_region(slot, 0, gpa, size, hva);
        let OneVcpu { vcpu, vm } = t;
        let moved = together(|threads| {
            let mover = threads.spawn(|| {
                for _ in 0..plan.iterations {
                    times
                        .measure(|| place(vm, away).and_then(|()| place(vm, home)))
                        .ioctl("KVM_SET_USER_MEMORY_REGION(move)")?;
                }
                Ok(())
            });
            let mut passes = 0;
            while !mover.is_finished() || passes == 0 {
                // Writes what is there already: reads after the moves must find it.
                let what = if active { WRITE } else { READ };
                vcpu.answer(&[what, used, pages, 1, first]);
                loop {
                    match vcpu.run_until_next()? {
                        Next::Exit(mut stop) => match stop.exit() {
                            Exit::Mmio { is_write, .. } if active => {
                                if !is_write {
                                    stop.set_data(&MMIO.to_ne_bytes());
                                }
                            }
                            other => fail!("{other:x?} while a slot moves"),
                        },
                        Next::Sync([_, wrong, ..]) => {
                            check_eq!("the guest reads its memory while a slot moves", wrong, 0);
                            break;
                        }
                        Next::Done => fail!("the guest is done"),
                    }
                }
                passes += 1;
            }
            mover.join()?;
            Ok(passes)
        })?;
        check!("the guest ran while the slot moved", moved > 0);
        let wrong = ask(&mut t.vcpu, READ, GPA, plan.pages, 1)?;
        check_eq!("each page is readable where it was moved to", wrong, 0);
        times.report("move away and back");
        finish(t)
    }

    /// Memory in many slots comes on first use, holds what is written, and is gone when userspace has
    /// discarded it.
    #[kvm_test(uses_memory, params = [one_slot: 1, many_slots: 64])]
    fn memory_is_mapped_used_and_discarded(t: &mut OneVcpu, slots: u64) -> TestResult {
        map_use_unmap(t, &Plan::read(1 << 20, slots, 2)?)
    }

    /// A slot moves away and back under a guest that uses it: afterwards everything is where it was.
    #[kvm_test(uses_memory, vcpus = 2)]
    fn slot_in_use_moves_and_comes_back(t: &mut OneVcpu) -> TestResult {
        move_slot(t, &Plan::read(1 << 20, 4, 20)?, true)
    }

    /// A slot that the guest does not use moves: the guest notices nothing, not one MMIO exit.
    #[kvm_test(uses_memory, vcpus = 2)]
    fn slot_not_in_use_moves_unnoticed(t: &mut OneVcpu) -> TestResult {
        move_slot(t, &Plan::read(1 << 20, 4, 20)?, false)
    }

    /// The same, measured: by default 64 MiB in 256 slots.
    #[kvm_test(uses_memory, vcpus = 2, exclusive, groups("perf"))]
    fn measured_map_and_unmap(t: &mut OneVcpu) -> TestResult {
        map_use_unmap(t, &Plan::read(64 << 20, 256, 6)?)
    }

    /// Moves, measured: by default 4 MiB in 16 slots.
    #[kvm_test(uses_memory, vcpus = 2, exclusive, groups("perf"), params = [active: true, inactive: false])]
    fn measured_move(t: &mut OneVcpu, active: bool) -> TestResult {
        move_slot(t, &Plan::read(4 << 20, 16, 200)?, active)
    }
}
