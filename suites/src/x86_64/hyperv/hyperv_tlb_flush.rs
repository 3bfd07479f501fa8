//! Hyper-V's remote TLB flush: once a flush hypercall has returned, no vCPU that it names uses an old
//! translation (TLFS, HvCallFlushVirtualAddressSpace and its siblings).
//!
//! Every vCPU has translation tables of its own, so that no other vCPU's flush can help it, and reads
//! one address again and again. The sender changes the entries behind that address, calls, and only
//! then announces a new phase: each named vCPU must read the new page from then on, and the sender
//! waits until each has read it `OBSERVATIONS` times. A vCPU that does not run ends in a timeout,
//! never in a pass.
use crate::prelude::*;
use hyperv::msr::LINUX;
use hyperv::{
    CallResult, Control, HvFlush, HvFlushEx, HvFlushFlags, HvGvaRange, HvVpSet, Hypercalls, Input,
    code, status,
};

const HYPERCALL_PAGE: u64 = layout::SCRATCH;
const INPUT_PAGE: u64 = layout::SCRATCH + 0x1000;
/// What each worker reads, one of two pages; the sender is vCPU 0.
const WORKERS: u64 = 2;
/// Where a worker reads: in its own tables, with a page on either side.
const GVA: u64 = mmu::OWN + 0x20_0000;
/// Rounds of each variant and set of vCPUs (an even number: the pages take turns), and reads after
/// each.
const ROUNDS: u64 = 4;
const OBSERVATIONS: u64 = 20;
/// Reads in one phase after which a worker lets others have its CPU.
const SPINS: u64 = 500;
const YIELD_PORT: u16 = 0x90;

/// Value of the page that a worker must read in `phase`.
const fn content(worker: u64, phase: u64) -> u64 {
    0x1000 + worker * 0x10 + phase % 2
}

/// The pages behind [`GVA`], by worker and by [`content`]'s last bit.
const fn page(worker: u64, which: u64) -> u64 {
    layout::SCRATCH + 0x1_0000 + (worker * 2 + which) * layout::PAGE_SIZE
}

/// A phase that is about to change, or the end: nothing is said about what is read.
const CHANGING: u64 = u64::MAX;
const END: u64 = u64::MAX - 1;

/// By worker: the phase that it is to see; where its entry is; reads in that phase; old values among
/// them.
#[shared]
static PHASE: [AtomicU64; 3] = [const { AtomicU64::new(CHANGING) }; 3];
#[shared]
static ENTRY: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
#[shared]
static OBSERVED: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
#[shared]
static STALE: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

#[guest]
fn reads_for_ever(g: &mut Guest) {
    let me = g.vcpu() as usize;
    mmu::use_own_root();
    for which in 0..2 {
        poke(page(me as u64, which), content(me as u64, which));
    }
    mmu::map(GVA, page(me as u64, 0), mmu::Size::Small, Pte::DEFAULT);
    ENTRY[me].store(mmu::entry_address(GVA), SeqCst);
    let (mut seen, mut spins) = (CHANGING, 0);
    loop {
        let phase = PHASE[me].load(SeqCst);
        if phase == END {
            return;
        }
        let value: u64 = peek(GVA);
        if phase != CHANGING && PHASE[me].load(SeqCst) == phase {
            if value != content(me as u64, phase) {
                STALE[me].fetch_add(1, SeqCst);
            }
            OBSERVED[me].fetch_add(1, SeqCst);
        }
        spins = if phase == seen { spins + 1 } else { 0 };
        seen = phase;
        if spins >= SPINS {
            outb(YIELD_PORT, 0);
            spins = 0;
        }
    }
}

/// How a call names the vCPUs that it is for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Named {
    /// A mask of the first 64, in the input.
    Mask,
    /// HV_FLUSH_ALL_PROCESSORS.
    AllFlag,
    /// A sparse set.
    Sparse,
    /// The set of all.
    SetAll,
    /// The set of all, with banks that mean nothing.
    SetAllWithBanks,
}

/// What a list names.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Flushed {
    Space,
    /// The page alone.
    Page,
    /// The page as the last of a range that starts two pages before.
    Range,
    /// The page as the last of several entries.
    Several,
}

/// A call, and the workers that it is for: their bits in `set`, their VP indices in `banks`.
#[derive(Clone, Copy)]
struct Call {
    named: Named,
    flushed: Flushed,
    set: usize,
    banks: [u64; 2],
}

impl Call {
    /// Every call to each set of workers that it can name, by all vCPUs' VP indices.
    fn all(indices: [u64; 3]) -> impl Iterator<Item = Self> {
        let named =
            [Named::Mask, Named::AllFlag, Named::Sparse, Named::SetAll, Named::SetAllWithBanks];
        let each = named.into_iter().flat_map(|named| {
            [Flushed::Space, Flushed::Page, Flushed::Range, Flushed::Several]
                .into_iter()
                .flat_map(move |flushed| [0b010, 0b100, 0b110].map(|set| (named, flushed, set)))
        });
        each.filter_map(move |(named, flushed, set)| {
            let everyone = !matches!(named, Named::Mask | Named::Sparse);
            let mut banks = [0; 2];
            for (_, index) in indices.iter().enumerate().filter(|(vcpu, _)| set >> vcpu & 1 != 0) {
                banks[*index as usize / 64] |= 1 << (index % 64);
            }
            let cannot = (named == Named::Mask && banks[1] != 0) || (everyone && set != 0b110);
            (!cannot).then_some(Self { named, flushed, set, banks })
        })
    }
}

/// The same page as the only one, or the last, of a range.
fn range(gva: u64, additional_pages: u16) -> HvGvaRange {
    HvGvaRange::new()
        .with_gva_page_number(gva / layout::PAGE_SIZE)
        .with_additional_pages(additional_pages)
}

/// What a call flushes, as its flags say it.
const FLAGS: HvFlushFlags = HvFlushFlags::ALL_VIRTUAL_ADDRESS_SPACES;

/// Input of an extended call: the set, the banks that follow it, and whatever follows these.
fn input_ex(processor_set: HvVpSet, banks: &[u64]) -> Input {
    let header = HvFlushEx { flags: FLAGS, processor_set, ..HvFlushEx::default() };
    banks.iter().fold(Input::of(&header), |input, bank| input.with(bank))
}

/// A call's input, and the control value that goes with it.
fn input(named: Named, flushed: Flushed, banks: [u64; 2]) -> (Control, Input) {
    let plain = HvFlush { flags: FLAGS, ..HvFlush::default() };
    let (input, nr_banks) = match named {
        Named::Mask => (Input::of(&HvFlush { processor_mask: banks[0], ..plain }), 0),
        Named::AllFlag => {
            (Input::of(&HvFlush { flags: FLAGS | HvFlushFlags::ALL_PROCESSORS, ..plain }), 0)
        }
        Named::Sparse => {
            let set = HvVpSet::sparse(&banks);
            let used = banks.iter().filter(|bank| **bank != 0);
            (used.fold(input_ex(set, &[]), |input, bank| input.with(bank)), set.nr_banks())
        }
        Named::SetAll => (input_ex(HvVpSet::ALL, &[]), 0),
        Named::SetAllWithBanks => {
            let set = HvVpSet { valid_bank_mask: 0b101, ..HvVpSet::ALL };
            (input_ex(set, &[0; 2]), set.nr_banks())
        }
    };
    let list: &[HvGvaRange] = match flushed {
        Flushed::Space => &[],
        Flushed::Page => &[range(GVA, 0)],
        Flushed::Range => &[range(GVA - 2 * layout::PAGE_SIZE, 2)],
        Flushed::Several => &[
            range(GVA + 16 * layout::PAGE_SIZE, 0),
            range(GVA + 32 * layout::PAGE_SIZE, 1),
            range(GVA, 0),
        ],
    };
    let ex = !matches!(named, Named::Mask | Named::AllFlag);
    let code = match (flushed == Flushed::Space, ex) {
        (true, false) => code::FLUSH_VIRTUAL_ADDRESS_SPACE,
        (true, true) => code::FLUSH_VIRTUAL_ADDRESS_SPACE_EX,
        (false, false) => code::FLUSH_VIRTUAL_ADDRESS_LIST,
        (false, true) => code::FLUSH_VIRTUAL_ADDRESS_LIST_EX,
    };
    let control =
        Control::of(code).with_variable_header_size(nr_banks).with_rep_count(list.len() as u16);
    (control, list.iter().fold(input, |input, range| input.with(&range.into_bits())))
}

fn call(calls: Hypercalls, fast: bool, control: Control, input: &Input) -> Result<u64, Trap> {
    if fast {
        return calls.fast(control, input.words());
    }
    poke(INPUT_PAGE, *input.words());
    calls.slow(control, INPUT_PAGE, 0)
}

/// What a call returns that has done all of `reps`.
fn done(reps: u16) -> Result<u64, Trap> {
    Ok(CallResult::new().with_reps_completed(reps).into_bits())
}

/// Waits until `worker` has read `OBSERVATIONS` times in its phase.
fn observed(worker: usize) {
    let mut spins = 0;
    wait_until(|| {
        spins += 1;
        if spins % SPINS == 0 {
            outb(YIELD_PORT, 0);
        }
        OBSERVED[worker].load(SeqCst) >= OBSERVATIONS
    });
}

fn announce(worker: usize, phase: u64) {
    PHASE[worker].store(CHANGING, SeqCst);
    OBSERVED[worker].store(0, SeqCst);
    PHASE[worker].store(phase, SeqCst);
}

/// Argument 0: whether calls are fast; 1 and 2: the VP indices of the workers.
#[guest]
fn flushes(g: &mut Guest) {
    let fast = g.arg(0) != 0;
    let indices = [0, g.arg(1), g.arg(2)];
    let calls = Hypercalls::enable(HYPERCALL_PAGE, LINUX);
    let workers = 1..=WORKERS as usize;
    for worker in workers.clone() {
        wait_until(|| {
            outb(YIELD_PORT, 0);
            ENTRY[worker].load(SeqCst) != 0
        });
        announce(worker, 0);
    }
    let mut phase = 0;
    for Call { named, flushed, set, banks } in Call::all(indices) {
        let targets = || workers.clone().filter(|w| set >> w & 1 != 0);
        let (control, input) = input(named, flushed, banks);
        for _ in 0..ROUNDS {
            phase += 1;
            targets().for_each(observed);
            targets().for_each(|w| PHASE[w].store(CHANGING, SeqCst));
            for worker in targets() {
                let entry = page(worker as u64, phase % 2) | Pte::DEFAULT.bits();
                poke(ENTRY[worker].load(SeqCst), entry);
            }
            let result = call(calls, fast, control, &input);
            check_eq!(
                "{named:?} {flushed:?} succeeds for all its reps",
                result,
                done(control.rep_count())
            );
            targets().for_each(|w| announce(w, phase));
            targets().for_each(observed);
            let stale: u64 = targets().map(|w| STALE[w].swap(0, SeqCst)).sum();
            check_eq!(
                "{named:?} {flushed:?}: every vCPU of set {set:#b} reads the new page",
                stale,
                0
            );
        }
    }
    workers.clone().for_each(|w| PHASE[w].store(END, SeqCst));
    g.sync(DONE, &[phase]);
}

/// The sender has made this many rounds.
const DONE: u64 = 1;
/// A vCPU waits for what the host answers.
const READY: u64 = 2;

/// Arguments as of [`flushes`]. Makes the call whose number the host answers with.
#[guest]
fn flushes_when_told(g: &mut Guest) {
    let fast = g.arg(0) != 0;
    let indices = [0, g.arg(1), g.arg(2)];
    let calls = Hypercalls::enable(HYPERCALL_PAGE, LINUX);
    loop {
        let [number, ..] = g.sync(READY, &[]);
        let Some(Call { named, flushed, banks, .. }) = Call::all(indices).nth(number as usize)
        else {
            return;
        };
        let (control, input) = input(named, flushed, banks);
        let result = call(calls, fast, control, &input).map(|result| result as u32);
        check_eq!(
            "the flush succeeds: {named:?} {flushed:?}",
            u64::from(result.unwrap_or(!0)),
            status::SUCCESS
        );
    }
}

#[guest]
fn runs_when_told(g: &mut Guest) {
    loop {
        g.sync(READY, &[]);
    }
}

/// Argument 0: whether calls are fast.
#[guest]
fn makes_invalid_calls(g: &mut Guest) {
    let fast = g.arg(0) != 0;
    let calls = Hypercalls::enable(HYPERCALL_PAGE, LINUX);
    const INVALID: Result<u64, Trap> = Ok(status::INVALID_HYPERCALL_INPUT);
    let try_with = |named, flushed, change: fn(Control) -> Control| {
        let (control, input) = input(named, flushed, [1, 0]);
        call(calls, fast, change(control), &input)
    };
    let wrong_header = |c: Control| c.with_variable_header_size(c.variable_header_size() ^ 1);
    let larger_header = |c: Control| c.with_variable_header_size(c.variable_header_size() + 2);
    for named in [Named::Mask, Named::Sparse] {
        let space = |change| try_with(named, Flushed::Space, change);
        let list = |change| try_with(named, Flushed::Page, change);
        check_eq!(
            "{named:?}: a flush of all addresses succeeds",
            space(|c| c),
            Ok(status::SUCCESS)
        );
        check_eq!(
            "{named:?}: a flush of all addresses has no reps",
            space(|c| c.with_rep_count(1)),
            INVALID
        );
        check_eq!(
            "{named:?}: a flush of all addresses has no start",
            space(|c| c.with_rep_start_index(1)),
            INVALID
        );
        check_eq!("{named:?}: a list of one entry succeeds", list(|c| c), done(1));
        check_eq!("{named:?}: an empty list is refused", list(|c| c.with_rep_count(0)), INVALID);
        check_eq!(
            "{named:?}: a list with another start is refused",
            list(|c| c.with_rep_start_index(1)),
            INVALID
        );
        check_eq!("{named:?}: a wrong header size is refused", space(wrong_header), INVALID);
        check_eq!(
            "{named:?}: a wrong header size of a list is refused",
            list(wrong_header),
            INVALID
        );
        check_eq!(
            "{named:?}: a larger header size of a list is refused",
            space(larger_header),
            INVALID
        );
        for bit in Control::RESERVED {
            let (control, input) = input(named, Flushed::Space, [1, 0]);
            let got = call(calls, fast, control.with_bit(bit), &input);
            check_eq!("{named:?}: reserved bit {bit} is refused", got, INVALID);
        }
    }
    let (control, empty) = input(Named::Sparse, Flushed::Space, [0, 0]);
    check_eq!(
        "a flush of an empty set succeeds",
        call(calls, fast, control, &empty),
        Ok(status::SUCCESS)
    );
    let far = HvVpSet { format: HvVpSet::SPARSE_4K, valid_bank_mask: 1 << 63 };
    let control = control.with_variable_header_size(far.nr_banks());
    let far = call(calls, fast, control, &input_ex(far, &[]));
    check_eq!("a flush of an impossible bank succeeds", far, Ok(status::SUCCESS));
    if fast {
        // 12 halves of XMM registers, one of which is the mask.
        let list = |reps: u16| {
            let (control, input) = input(Named::AllFlag, Flushed::Page, [0; 2]);
            call(calls, true, control.with_rep_count(reps), &input)
        };
        check_eq!("a flush of 11 entries fits in registers", list(11), done(11));
        check_eq!("a flush of 12 entries does not fit in registers", list(12), INVALID);
    } else {
        let (control, _) = input(Named::Mask, Flushed::Space, [1, 0]);
        check_eq!(
            "a flush with input outside memory is refused",
            calls.slow(control, layout::FREE, 0),
            INVALID
        );
        let (control, _) = input(Named::Sparse, Flushed::Space, [1, 0]);
        let ex = calls.slow(control, layout::FREE, 0);
        check_eq!("a flush with a set outside memory is refused", ex, INVALID);
    }
}

#[host]
mod host {
    use super::*;
    use bindings::{Msrs, kvm_msr_entry};
    use hyperv::cpuid::Features;

    kvm_tests! { requires(cap::HYPERV_TLBFLUSH) }

    /// How input is given, and the workers' VP indices.
    #[derive(Clone, Copy)]
    struct Shape {
        fast: bool,
        indices: [u64; 2],
    }

    /// VP indices as KVM gives them, and such that two banks of a sparse set are needed.
    const ONE_BANK: [u64; 2] = [1, 2];
    const TWO_BANKS: [u64; 2] = [2, 65];

    fn require_fast(vm: &mut Vm, fast: bool) -> TestResult {
        let features = vm.hyperv_features()?;
        let xmm = features.contains(Features::XMM_REGISTERS_FOR_FAST_HYPERCALL_AVAILABLE);
        require!(!fast || xmm, "HV_X64_HYPERCALL_XMM_INPUT_AVAILABLE");
        Ok(())
    }

    /// Runs to the end, or to [`DONE`], and lets other threads run where the guest asks for that.
    fn run(vcpu: &mut Vcpu) -> TestResult<u64> {
        loop {
            match vcpu.run_until_next()? {
                Next::Done => return Ok(0),
                Next::Sync(args) => return Ok(args[1]),
                Next::Exit(stop) => match stop.exit() {
                    Exit::Io { port: YIELD_PORT, .. } => std::thread::yield_now(),
                    other => fail!("{other:x?} instead of an end"),
                },
            }
        }
    }

    /// vCPUs 1 and up, with these VP indices.
    fn add_workers(vm: &mut Vm, indices: [u64; 2], guest: GuestFn) -> TestResult<Vec<Vcpu>> {
        let mut workers = Vec::new();
        for (vcpu, data) in (1..).zip(indices) {
            let worker = vm.add_vcpu(vcpu, guest)?;
            let index = kvm_msr_entry { index: hyperv::msr::VP_INDEX, data, ..Default::default() };
            let msrs =
                Msrs::from_entries(&[index]).map_err(|e| Failure::Error(format!("{e:?}")))?;
            let set = worker.fd().set_msrs(&msrs).ioctl("KVM_SET_MSRS")?;
            check_eq!("userspace can write the VP index", set, 1);
            workers.push(worker);
        }
        Ok(workers)
    }

    /// Every variant of the flush hypercalls, to each set of vCPUs, with input in memory and in registers.
    #[kvm_test(vcpus = 3, params = [
    slow: Shape { fast: false, indices: ONE_BANK },
    slow_two_banks: Shape { fast: false, indices: TWO_BANKS },
    fast: Shape { fast: true, indices: ONE_BANK },
    fast_two_banks: Shape { fast: true, indices: TWO_BANKS },
])]
    fn flushed_vcpus_forget_old_translations(t: &mut OneVm, shape: Shape) -> TestResult {
        t.vm.offer_hyperv()?;
        require_fast(&mut t.vm, shape.fast)?;
        let mut sender = t.vm.add_vcpu(0, guest_fn!(flushes))?;
        sender.set_args(&[shape.fast.into(), shape.indices[0], shape.indices[1]]);
        let mut workers = add_workers(&mut t.vm, shape.indices, guest_fn!(reads_for_ever))?;
        let rounds = together(|threads| {
            for worker in &mut workers {
                let _ = threads.run(worker, run);
            }
            run(&mut sender)
        })?;
        vm::record::metric("rounds", "flushes", rounds as f64);
        check!("every variant ran at least 20 rounds", rounds >= 20 * ROUNDS, "{rounds}");
        Ok(())
    }

    /// Each vCPU that a call names flushes before it runs again: KVM's count of its flushes rises. A vCPU that
    /// flushes for other reasons too may hide what [`flushed_vcpus_forget_old_translations`] looks for.
    #[kvm_test(requires(cap::BINARY_STATS_FD), vcpus = 3, params = [
    slow: Shape { fast: false, indices: ONE_BANK },
    slow_two_banks: Shape { fast: false, indices: TWO_BANKS },
    fast: Shape { fast: true, indices: ONE_BANK },
    fast_two_banks: Shape { fast: true, indices: TWO_BANKS },
])]
    fn flushed_vcpus_count_a_flush(t: &mut OneVm, shape: Shape) -> TestResult {
        t.vm.offer_hyperv()?;
        require_fast(&mut t.vm, shape.fast)?;
        let mut sender = t.vm.add_vcpu(0, guest_fn!(flushes_when_told))?;
        sender.set_args(&[shape.fast.into(), shape.indices[0], shape.indices[1]]);
        let mut workers = add_workers(&mut t.vm, shape.indices, guest_fn!(runs_when_told))?;
        sender.run_until_sync(READY)?;
        for worker in &mut workers {
            worker.run_until_sync(READY)?;
        }
        let count = |worker: &Vcpu| {
            let count = worker.stat("tlb_flush");
            count.ok_or_else(|| Failure::Skip("the statistic `tlb_flush`".into()))
        };
        let indices = [0, shape.indices[0], shape.indices[1]];
        for (number, Call { named, flushed, set, .. }) in (0..).zip(Call::all(indices)) {
            let before = workers.iter().map(count).collect::<Result<Vec<_>, _>>()?;
            sender.answer(&[number]);
            sender.run_until_sync(READY)?;
            for (vcpu, (worker, before)) in (1..).zip(workers.iter_mut().zip(before)) {
                worker.answer(&[0]);
                worker.run_until_sync(READY)?;
                let rise = count(worker)?.saturating_sub(before);
                let named_too = set >> vcpu & 1 != 0;
                check!(
                    "{named:?} {flushed:?}: vCPU {vcpu} of set {set:#b} flushes",
                    rise > 0 || !named_too
                );
            }
        }
        Ok(())
    }

    /// Input that the specification does not allow is refused, and nothing else.
    #[kvm_test(params = [slow: false, fast: true])]
    fn malformed_flushes_are_refused(t: &mut OneVm, fast: bool) -> TestResult {
        t.vm.offer_hyperv()?;
        require_fast(&mut t.vm, fast)?;
        let mut vcpu = t.vm.add_vcpu(0, guest_fn!(makes_invalid_calls))?;
        vcpu.set_args(&[fast.into()]);
        vcpu.run_until_done()
    }
}
