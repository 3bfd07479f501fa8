//! The host changes a slot's memory under a guest that reads it through huge mappings: KVM's MMU
//! notifier must take every old translation away before the host's call returns.
use crate::prelude::*;

const PAGE: u64 = layout::PAGE_SIZE;
const GPA: u64 = layout::FREE;

/// Low two bits: what the memory is going through. The rest: which round, and so which content.
#[shared]
static STEP: AtomicU64 = AtomicU64::new(0);
/// The last step within which the guest has begun and ended a whole pass.
#[shared]
static SEEN: AtomicU64 = AtomicU64::new(END);
const STEPS: u64 = 4;
/// The round's content is there.
const THERE: u64 = 0;
/// It goes: reads see it, or zero.
const GOING: u64 = 1;
/// It is gone: zeroes.
const GONE: u64 = 2;
/// The next round's content comes: in the place of zeroes, or of the old content.
const COMING: u64 = 3;
const END: u64 = u64::MAX;

/// What `page` holds in `round`.
const fn content(round: u64, page: u64) -> u64 {
    0x5e5e_0000_0000_0000 | round << 20 | page
}

fn allowed(step: u64, page: u64, seen: u64) -> bool {
    let (old, new) = (content(step / STEPS, page), content(step / STEPS + 1, page));
    match step % STEPS {
        THERE => seen == old,
        GOING => seen == old || seen == 0,
        GONE => seen == 0,
        _ => seen == 0 || seen == old || seen == new,
    }
}

/// Reads all pages without pause, and judges what it saw of each by the step that it was seen in.
#[guest]
fn reads_all_pages(g: &mut Guest) {
    let pages = g.arg(0);
    let mut step = STEP.load(SeqCst);
    while step != END {
        let mut wrong = None;
        for page in 0..pages {
            let seen: u64 = peek(GPA + page * PAGE);
            if !allowed(step, page, seen) {
                wrong = Some((page, seen));
            }
        }
        let after = STEP.load(SeqCst);
        if after == step {
            let (page, seen) = wrong.unwrap_or_default();
            check!(
                "each page reads what the host has put there",
                wrong.is_none(),
                "page {page} reads {seen:#x} in step {step}"
            );
            SEEN.store(step, SeqCst);
        }
        step = after;
    }
}

const READY: u64 = 1;
const LOAD_ALL: u64 = 1;
const STORE: u64 = 2;

/// Reads all pages, giving how many are not themselves and the first of those; or stores.
#[guest]
fn obeys(g: &mut Guest) {
    let pages = g.arg(0);
    let (mut wrong, mut first) = (0, 0);
    loop {
        let [what, page, value, ..] = g.sync(READY, &[wrong, first]);
        (wrong, first) = (0, 0);
        match what {
            LOAD_ALL => {
                for page in (0..pages).rev() {
                    if peek::<u64>(GPA + page * PAGE) != content(0, page) {
                        (wrong, first) = (wrong + 1, page);
                    }
                }
            }
            STORE => poke(GPA + page * PAGE + 8, value),
            _ => return,
        }
    }
}

#[host]
mod host {
    use super::*;
    use vm::{Backing, huge_page_size};
    use {
        nix::sys::mman::{MmapAdvise, ProtFlags},
        std::time::{Duration, Instant},
    };

    kvm_tests! { requires(host::SMALL_SLOTS) }

    const SLOT: u32 = 1;
    /// `ROUNDS` rounds are over, or this much time: a slow host does fewer.
    const ROUNDS: u64 = 12;
    const LONGEST: Duration = Duration::from_millis(150);

    fn fill(memory: &Mapping, round: u64) {
        for page in 0..memory.len() as u64 / PAGE {
            memory.write((page * PAGE) as usize, &content(round, page).to_ne_bytes());
        }
    }

    /// One huge page of memory in its first round, and a slot over it.
    fn slot(vm: &Vm, backing: Backing) -> TestResult<Mapping> {
        let huge = huge_page_size();
        require!(huge.is_some(), "huge pages in the host");
        let memory = backing.map(huge.unwrap_or(0))?;
        fill(&memory, 0);
        vm.set_region(SLOT, 0, GPA, memory.len() as u64, memory.hva())
            .ioctl("KVM_SET_USER_MEMORY_REGION")?;
        Ok(memory)
    }

    /// Runs `change` beside the reader, round after round, then ends it. Tells the number of rounds.
    fn beside(
        t: &mut OneVcpu,
        memory: &Mapping,
        change: impl Fn(u64, &dyn Fn(u64) -> TestResult) -> TestResult,
    ) -> TestResult<u64> {
        t.vcpu.set_args(&[memory.len() as u64 / PAGE]);
        let OneVcpu { vcpu, vm } = t;
        let (step, seen) = (vm.shared(shared_static!(STEP)), vm.shared(shared_static!(SEEN)));
        together(|threads| {
            let _reader = threads.run(vcpu, Vcpu::run_until_done);
            let announce = |value: u64| {
                step.store(value, SeqCst);
                // What goes or comes is judged as it goes; what stands must be seen by a whole pass.
                let is_judged = !matches!(value % STEPS, THERE | GONE);
                threads.wait_until("a whole pass of the guest in one step", || {
                    is_judged || seen.load(SeqCst) == value
                })
            };
            let start = Instant::now();
            let mut rounds = 0;
            announce(THERE)?;
            while rounds < ROUNDS && (rounds == 0 || start.elapsed() < LONGEST) {
                change(rounds, &announce)?;
                rounds += 1;
            }
            step.store(END, SeqCst);
            Ok(rounds)
        })
    }

    /// From the moment that madvise(MADV_DONTNEED) returns, the guest reads zeroes, and what the host
    /// writes from then on.
    #[kvm_test(reads_all_pages, vcpus = 2, params = [small: Backing::Anonymous, thp: Backing::Thp])]
    fn discarded_memory_is_gone_at_once(t: &mut OneVcpu, backing: Backing) -> TestResult {
        let memory = slot(&t.vm, backing)?;
        let rounds = beside(t, &memory, |round, announce| {
            announce(round * STEPS + GOING)?;
            memory.advise(MmapAdvise::MADV_DONTNEED)?;
            announce(round * STEPS + GONE)?;
            announce(round * STEPS + COMING)?;
            fill(&memory, round + 1);
            announce((round + 1) * STEPS + THERE)
        })?;
        check!("memory was discarded under the guest", rounds > 0);
        Ok(())
    }

    /// From the moment that mremap returns, the guest reads the pages that were moved under its slot.
    #[kvm_test(reads_all_pages, vcpus = 2, params = [small: Backing::Anonymous, thp: Backing::Thp])]
    fn moved_pages_show_at_once(t: &mut OneVcpu, backing: Backing) -> TestResult {
        let memory = slot(&t.vm, backing)?;
        let rounds = beside(t, &memory, |round, announce| {
            let next = backing.map(memory.len())?;
            fill(&next, round + 1);
            announce(round * STEPS + COMING)?;
            next.move_onto(&memory, 0)?;
            announce((round + 1) * STEPS + THERE)
        })?;
        check!("pages were moved under the guest", rounds > 0);
        Ok(())
    }

    fn ask(vcpu: &mut Vcpu, request: &[u64]) -> TestResult<(u64, u64)> {
        vcpu.answer(request);
        let [wrong, first, ..] = vcpu.run_until_sync(READY)?;
        Ok((wrong, first))
    }

    /// One page taken out of a huge page reads as zero; its neighbours stay themselves.
    #[kvm_test(obeys)]
    fn one_page_is_taken_out_of_a_huge_page(t: &mut OneVcpu) -> TestResult {
        let memory = slot(&t.vm, Backing::Thp)?;
        let pages = memory.len() as u64 / PAGE;
        t.vcpu.set_args(&[pages]);
        t.vcpu.run_until_sync(READY)?;
        check_eq!("each page has its own content at first", ask(&mut t.vcpu, &[LOAD_ALL])?, (0, 0));
        for page in [0, pages / 2, pages - 1] {
            memory.advise_part((page * PAGE) as usize, PAGE as usize, MmapAdvise::MADV_DONTNEED)?;
            let seen = ask(&mut t.vcpu, &[LOAD_ALL])?;
            check_eq!("page {page} taken out: no other page changes", seen, (1, page));
            memory.write((page * PAGE) as usize, &content(0, page).to_ne_bytes());
            let seen = ask(&mut t.vcpu, &[LOAD_ALL])?;
            check_eq!("page {page} written again: each page has its own content", seen, (0, 0));
        }
        t.vcpu.answer(&[0]);
        t.vcpu.run_until_done()
    }

    /// mprotect(PROT_READ) of one page: the guest's writes to it, and to no other, are EFAULT until the
    /// host allows them again; reads go on.
    #[kvm_test(obeys, params = [small: Backing::Anonymous, thp: Backing::Thp])]
    fn write_protected_page_refuses_writes(t: &mut OneVcpu, backing: Backing) -> TestResult {
        const VALUE: u64 = 0x7777_1234;
        let memory = slot(&t.vm, backing)?;
        let pages = memory.len() as u64 / PAGE;
        let second = |page: u64| memory.read_u64((page * PAGE + 8) as usize);
        t.vcpu.set_args(&[pages]);
        t.vcpu.run_until_sync(READY)?;
        // The guest has written everywhere: whatever maps the slot is writable.
        for page in 0..pages {
            ask(&mut t.vcpu, &[STORE, page, 0])?;
        }
        for page in [0, pages / 2, pages - 1] {
            let protect = |prot| memory.protect((page * PAGE) as usize, PAGE as usize, prot);
            protect(ProtFlags::PROT_READ)?;
            let seen = ask(&mut t.vcpu, &[LOAD_ALL])?;
            check_eq!("page {page} write-protected: it can still be read", seen, (0, 0));
            let neighbour = if page == 0 { 1 } else { page - 1 };
            ask(&mut t.vcpu, &[STORE, neighbour, VALUE + page])?;
            check_eq!(
                "page {page} write-protected: its neighbour is written",
                second(neighbour),
                VALUE + page
            );
            t.vcpu.answer(&[STORE, page, VALUE]);
            let refused = match t.vcpu.run_until_next()? {
                Next::Exit(stop) => matches!(
                    stop.exit(),
                    Exit::RunFailed { errno: 14 } | Exit::MemoryFault { errno: 14, .. }
                ),
                _ => false,
            };
            check!("page {page} write-protected: a write to it is EFAULT", refused);
            check_eq!("page {page} write-protected: it keeps its content", second(page), 0);
            protect(ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
            t.vcpu.run_until_sync(READY)?;
            check_eq!("page {page} writable again: the write is done", second(page), VALUE);
            ask(&mut t.vcpu, &[STORE, page, 0])?;
        }
        t.vcpu.answer(&[0]);
        t.vcpu.run_until_done()
    }
}
