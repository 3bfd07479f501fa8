//! Memslots that are moved, deleted and replaced while several vCPUs read them, through one translation
//! root, through one of each vCPU's own, and through several roots of one vCPU: once the ioctl has
//! returned no vCPU reads through an old translation (api.rst 4.35).
//!
//! The host announces what is to be read from then on, and waits until each vCPU has read it
//! `OBSERVATIONS` times: a vCPU that does not run ends in a timeout, never in a pass.
use crate::prelude::*;

const READERS: usize = 3;
/// Where the slot may be, and where the vCPUs see these places.
const PLACES: [u64; 2] = [layout::FREE, layout::FREE + 0x40_0000];
const OWN: [u64; 2] = [mmu::OWN, mmu::OWN + 0x40_0000];
const OBSERVATIONS: u64 = 6;
/// Reads of one announcement after which a vCPU lets others have its CPU.
const SPINS: u64 = 40;
const YIELD_PORT: u16 = 0x92;

/// By vCPU: what is announced, as a number that is new each time (upper half) and the 16 bits to be
/// read at each place; reads since; wrong ones among them, and the last of these.
#[shared]
static ANNOUNCED: [AtomicU64; READERS] = [const { AtomicU64::new(CHANGING) }; READERS];
#[shared]
static OBSERVED: [AtomicU64; READERS] = [const { AtomicU64::new(0) }; READERS];
#[shared]
static WRONG: [AtomicU64; READERS] = [const { AtomicU64::new(0) }; READERS];
#[shared]
static LAST_WRONG: [AtomicU64; READERS] = [const { AtomicU64::new(0) }; READERS];
/// Instead of an announcement: what is read is about to change; the end.
const CHANGING: u64 = u64::MAX;
const END: u64 = u64::MAX - 1;

/// Through which roots a vCPU reads.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Roots {
    /// All through the one that they start with.
    Shared,
    /// Each through its own.
    Own,
    /// Each through two of its own in turn.
    Several,
}

/// Argument 0: the [`Roots`], as a number.
#[guest]
fn reads_both_places(g: &mut Guest) {
    let me = g.vcpu() as usize;
    let mut roots = [mmu::root(); 2];
    let mut addresses = PLACES;
    if g.arg(0) != Roots::Shared as u64 {
        addresses = OWN;
        for root in &mut roots {
            mmu::use_own_root();
            *root = mmu::root();
            for (gva, gpa) in OWN.into_iter().zip(PLACES) {
                mmu::map(gva, gpa, mmu::Size::Small, Pte::DEFAULT);
            }
        }
    }
    let several = g.arg(0) == Roots::Several as u64;
    let (mut seen, mut spins) = (CHANGING, 0);
    loop {
        let announced = ANNOUNCED[me].load(SeqCst);
        if announced == END {
            return;
        }
        if several {
            roots.swap(0, 1);
            mmu::use_root(roots[0]);
        }
        let values = addresses.map(peek::<u16>).map(u64::from);
        let read = values[0] << 16 | values[1];
        if announced != CHANGING && ANNOUNCED[me].load(SeqCst) == announced {
            if read != announced & 0xffff_ffff {
                LAST_WRONG[me].store(read, SeqCst);
                WRONG[me].fetch_add(1, SeqCst);
            }
            OBSERVED[me].fetch_add(1, SeqCst);
        }
        spins = if announced == seen { spins + 1 } else { 0 };
        seen = announced;
        if spins >= SPINS {
            outb(YIELD_PORT, 0);
            spins = 0;
        }
    }
}

#[host]
mod host {
    use super::*;
    use std::thread;

    const PAGE: u64 = layout::PAGE_SIZE;
    const SLOT: u32 = 1;
    /// What userspace gives for MMIO reads.
    const MMIO: u64 = 0xffff;
    const CONTENTS: [u64; 2] = [0x1111, 0x2222];

    /// Where the slot is, and over which memory.
    type Slot = Option<(usize, usize)>;

    /// Changes in a row: each creates, moves, deletes, or does two of these at once.
    const STEPS: [Slot; 10] = [
        Some((0, 0)),
        Some((1, 0)),
        Some((0, 0)),
        None,
        Some((0, 1)),
        Some((0, 0)),
        Some((1, 1)),
        Some((0, 1)),
        Some((1, 0)),
        None,
    ];

    /// Runs a reader to its end, and is its MMIO.
    fn run(vcpu: &mut Vcpu) -> TestResult {
        while let Some(mut stop) = vcpu.run_until_exit()? {
            match stop.exit() {
                Exit::Io { port: YIELD_PORT, .. } => thread::yield_now(),
                Exit::Mmio { is_write: false, len: 2, .. } => {
                    stop.set_data(&(MMIO as u16).to_ne_bytes());
                }
                other => fail!("{other:x?} in a reader"),
            }
        }
        Ok(())
    }

    /// Makes the slot what `now` says.
    fn change(vm: &Vm, memories: &[Mapping; 2], before: Slot, now: Slot) -> TestResult {
        let set = |place: usize, memory: usize, size| {
            vm.set_region(SLOT, 0, PLACES[place], size, memories[memory].hva())
                .ioctl("KVM_SET_USER_MEMORY_REGION")
        };
        // A slot can be moved; other memory needs a new one.
        if let Some((place, memory)) = before
            && now.is_none_or(|(_, other)| other != memory)
        {
            set(place, memory, 0)?;
        }
        now.map_or(Ok(()), |(place, memory)| set(place, memory, PAGE))
    }

    /// Each change shows on every vCPU, whichever root it uses.
    #[kvm_test(reads_both_places, vcpus = 3, params = [
    shared: Roots::Shared, own: Roots::Own, several: Roots::Several,
])]
    fn memslot_changes_show_through_every_root(t: &mut OneVcpu, roots: Roots) -> TestResult {
        let memories = [Mapping::anonymous(PAGE as usize)?, Mapping::anonymous(PAGE as usize)?];
        for (memory, content) in memories.iter().zip(CONTENTS) {
            memory.write(0, &content.to_ne_bytes());
        }
        let mut others = Vec::new();
        for vcpu in 1..READERS as u32 {
            others.push(t.vm.add_vcpu(vcpu, guest_fn!(reads_both_places))?);
        }
        let (vm, first) = (&t.vm, &mut t.vcpu);
        let readers: Vec<&mut Vcpu> = std::iter::once(first).chain(&mut others).collect();
        let announced = vm.shared(shared_static!(ANNOUNCED));
        let observed = vm.shared(shared_static!(OBSERVED));
        let wrong = vm.shared(shared_static!(WRONG));
        let last_wrong = vm.shared(shared_static!(LAST_WRONG));
        let tell = |value: u64| announced.iter().for_each(|a| a.store(value, SeqCst));
        together(|threads| {
            for vcpu in readers {
                vcpu.set_args(&[roots as u64]);
                let _ = threads.run(vcpu, run);
            }
            let (mut number, mut before) = (0, None);
            for step in STEPS.iter() {
                number += 1;
                tell(CHANGING);
                change(vm, &memories, before, *step)?;
                let mut values = [MMIO; 2];
                if let Some((place, memory)) = *step {
                    values[place] = CONTENTS[memory];
                }
                observed.iter().for_each(|o| o.store(0, SeqCst));
                tell(number << 32 | values[0] << 16 | values[1]);
                threads.wait_until("every vCPU reads after a change", || {
                    observed.iter().all(|o| o.load(SeqCst) >= OBSERVATIONS)
                })?;
                for (vcpu, count) in wrong.iter().enumerate() {
                    let read = last_wrong[vcpu].load(SeqCst);
                    check_eq!(
                        "vCPU {vcpu} reads what the slot is after {before:?} -> {step:?}",
                        (count.swap(0, SeqCst), read),
                        (0, 0)
                    );
                    last_wrong[vcpu].store(0, SeqCst);
                }
                before = *step;
            }
            tell(END);
            Ok(())
        })
    }
}
