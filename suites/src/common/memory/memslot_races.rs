//! Memslots that come, go and move while a vCPU reads them.
//!
//! The guest reads without pause; the host changes the slot under it. Both follow one step counter, so
//! that the guest knows for every read what it may see: while a step lasts, one thing; across a step,
//! the old or the new.
use crate::prelude::*;

/// Low two bits: what the slot is doing. The rest: which round, and so which content.
#[shared]
static STEP: AtomicU64 = AtomicU64::new(0);
/// The last step within which the guest has begun and ended a read.
#[shared]
static SEEN: AtomicU64 = AtomicU64::new(END);
/// Writes that the guest has done.
#[shared]
static WRITES: AtomicU64 = AtomicU64::new(0);

const PRESENT: u64 = 0;
const GOING: u64 = 1;
const ABSENT: u64 = 2;
const STEPS: u64 = 4;
/// A step that tells the guest to end.
const END: u64 = u64::MAX;

const PAGE: u64 = layout::PAGE_SIZE;
const HERE: u64 = layout::FREE;
const THERE: u64 = HERE + 512 * PAGE;
/// What the host gives for MMIO reads: no round has it as its content.
const MMIO: u64 = 0x5555_aaaa_1234_8765;

/// What memory holds in the round of `step`.
fn content(step: u64) -> u64 {
    0x0123_4567_0000_0000 + step / STEPS
}

#[guest]
fn reads_a_slot_that_comes_and_goes(_: &mut Guest) {
    let mut step = STEP.load(SeqCst);
    // Whether a read falls into a change is chance: these are looked at in the end.
    let (mut wrong_while_going, mut wrong_while_coming) = (None, None);
    while step != END {
        let seen: u64 = peek(HERE);
        let after = STEP.load(SeqCst);
        if after == step {
            match step % STEPS {
                PRESENT => {
                    check_eq!("while the slot is there, reads see its memory", seen, content(step));
                }
                ABSENT => {
                    check_eq!("while the slot is not there, reads are MMIO", seen, MMIO);
                }
                GOING if seen != content(step) && seen != MMIO => {
                    wrong_while_going.get_or_insert((seen, step));
                }
                GOING => {}
                _ if seen != content(step + 1) && seen != MMIO => {
                    wrong_while_coming.get_or_insert((seen, step));
                }
                _ => {}
            }
            SEEN.store(step, SeqCst);
        }
        step = after;
    }
    check_eq!("while the slot goes, reads see its memory or MMIO", wrong_while_going, None);
    check_eq!("while the slot comes, reads see the new memory or MMIO", wrong_while_coming, None);
}

#[guest]
fn reads_two_places_of_one_slot(_: &mut Guest) {
    let mut step = STEP.load(SeqCst);
    while step != END {
        let seen: [u64; 2] = [peek(HERE), peek(THERE)];
        let after = STEP.load(SeqCst);
        let [here, there] = seen.map(|value| value == content(0));
        check!(
            "a read sees the slot's memory or MMIO, nothing else",
            seen.iter().all(|value| *value == MMIO || *value == content(0)),
            "{seen:x?}"
        );
        if after == step {
            match step % STEPS {
                PRESENT => {
                    check!(
                        "a slot that has not moved is only in its old place",
                        here && !there,
                        "{seen:x?}"
                    )
                }
                ABSENT => {
                    check!(
                        "a slot that has moved is only in its new place",
                        !here && there,
                        "{seen:x?}"
                    )
                }
                _ => true,
            };
            SEEN.store(step, SeqCst);
        }
        step = after;
    }
}

#[guest]
fn writes_a_slot_that_comes_and_goes(_: &mut Guest) {
    let mut value: u64 = 0;
    while STEP.load(SeqCst) != END {
        value += 1;
        poke(HERE, value);
        WRITES.fetch_add(1, SeqCst);
    }
}

#[host]
mod host {
    use super::*;
    use std::time::{Duration, Instant};

    kvm_tests! { requires(host::SMALL_SLOTS) }

    /// `rounds` rounds are over, or this much time: a slow host does fewer.
    const ROUNDS: u64 = 300;
    const LONGEST: Duration = Duration::from_millis(400);
    const SLOT: u32 = 1;

    /// Runs the vCPU to the end of its guest function, giving [`MMIO`] for every MMIO read.
    fn run_with_mmio(vcpu: &mut Vcpu) -> TestResult<u64> {
        let mut exits = 0;
        while let Some(mut stop) = vcpu.run_until_exit()? {
            match stop.exit() {
                Exit::Mmio { gpa, len: 8, is_write: false } if gpa == HERE || gpa == THERE => {
                    stop.set_data(&MMIO.to_ne_bytes());
                    exits += 1;
                }
                other => fail!("{other:x?} instead of an MMIO read"),
            }
        }
        Ok(exits)
    }

    /// Sets the step and waits until the guest has read within it.
    fn step_and_wait(vm: &Vm, step: u64, threads: &Together<'_, '_>) -> TestResult {
        let seen = vm.shared(shared_static!(SEEN));
        vm.shared(shared_static!(STEP)).store(step, SeqCst);
        threads.wait_until("a read within one step", || seen.load(SeqCst) == step)
    }

    /// Runs `change` beside the vCPU, then ends the guest; tells the vCPU's MMIO exits.
    fn beside(
        t: &mut OneVcpu,
        change: impl FnOnce(&Vm, &Together<'_, '_>) -> TestResult,
    ) -> TestResult<u64> {
        let OneVcpu { vcpu, vm } = t;
        together(|threads| {
            let runner = threads.run(vcpu, run_with_mmio);
            change(vm, threads)?;
            vm.shared(shared_static!(STEP)).store(END, SeqCst);
            runner.join()
        })
    }

    /// A slot that is deleted under a running vCPU turns its reads into MMIO exits, and from the moment
    /// that the ioctl returns no read sees its memory; added over other memory, from that moment on every
    /// read sees the new one.
    #[kvm_test(reads_a_slot_that_comes_and_goes, vcpus = 2)]
    fn slot_is_deleted_and_added_under_a_reader(t: &mut OneVcpu) -> TestResult {
        let memories = [Mapping::anonymous(PAGE as usize)?, Mapping::anonymous(PAGE as usize)?];
        let set = |vm: &Vm, round: u64, size: u64| {
            let memory = &memories[round as usize % 2];
            memory.write(0, &content(round * STEPS).to_ne_bytes());
            vm.set_region(SLOT, 0, HERE, size, memory.hva()).ioctl("KVM_SET_USER_MEMORY_REGION")
        };
        set(&t.vm, 0, PAGE)?;
        let mut rounds = 0;
        let exits = beside(t, |vm, threads| {
            let start = Instant::now();
            let step = vm.shared(shared_static!(STEP));
            while rounds < ROUNDS && start.elapsed() < LONGEST {
                let present = rounds * STEPS;
                step_and_wait(vm, present, threads)?;
                step.store(present + GOING, SeqCst);
                set(vm, rounds, 0)?;
                step_and_wait(vm, present + ABSENT, threads)?;
                step.store(present + ABSENT + 1, SeqCst);
                rounds += 1;
                set(vm, rounds, PAGE)?;
            }
            Ok(())
        })?;
        log!("{rounds} rounds, {exits} MMIO exits");
        check!("every round had an MMIO exit", exits >= rounds, "{exits} in {rounds} rounds");
        check!("the slot was deleted and added at least once", rounds > 0);
        Ok(())
    }

    /// A slot that moves under a running vCPU is at its old place or at its new one; from the moment that
    /// the ioctl returns, at its new one only.
    #[kvm_test(reads_two_places_of_one_slot, vcpus = 2)]
    fn slot_is_moved_under_a_reader(t: &mut OneVcpu) -> TestResult {
        let memory = Mapping::anonymous(PAGE as usize)?;
        memory.write(0, &content(0).to_ne_bytes());
        let put = |vm: &Vm, gpa| {
            vm.set_region(SLOT, 0, gpa, PAGE, memory.hva()).ioctl("KVM_SET_USER_MEMORY_REGION")
        };
        put(&t.vm, HERE)?;
        let mut rounds = 0;
        beside(t, |vm, threads| {
            let start = Instant::now();
            let step = vm.shared(shared_static!(STEP));
            while rounds < ROUNDS && start.elapsed() < LONGEST {
                // The content stays: only the low bits of the step are told to the guest.
                step_and_wait(vm, PRESENT, threads)?;
                step.store(GOING, SeqCst);
                put(vm, THERE)?;
                step_and_wait(vm, ABSENT, threads)?;
                step.store(ABSENT + 1, SeqCst);
                put(vm, HERE)?;
                rounds += 1;
            }
            Ok(())
        })?;
        log!("{rounds} rounds");
        check!("the slot was moved at least once", rounds > 0);
        Ok(())
    }

    /// Every write of a running vCPU goes either to the slot's memory or to an MMIO exit: none is lost, none
    /// comes twice, and after the slot is gone none reaches its memory.
    #[kvm_test(writes_a_slot_that_comes_and_goes, vcpus = 2)]
    fn no_write_is_lost_when_a_slot_goes(t: &mut OneVcpu) -> TestResult {
        let memory = Mapping::anonymous(PAGE as usize)?;
        let put = |vm: &Vm, size| {
            vm.set_region(SLOT, 0, HERE, size, memory.hva()).ioctl("KVM_SET_USER_MEMORY_REGION")
        };
        let OneVcpu { vcpu, vm } = t;
        let vm = &*vm;
        put(vm, PAGE)?;
        let mut rounds = 0;
        let last_mmio = together(|threads| {
            let runner = threads.run(vcpu, |vcpu| {
                let mut last = 0;
                while let Some(mut stop) = vcpu.run_until_exit()? {
                    let Exit::Mmio { gpa: HERE, len: 8, is_write: true } = stop.exit() else {
                        fail!("{:x?} instead of an MMIO write", stop.exit());
                    };
                    let value = u64::from_ne_bytes(stop.data().try_into().unwrap_or_default());
                    check!(
                        "MMIO writes come in order, none twice",
                        value > last,
                        "{value} after {last}"
                    );
                    last = value;
                }
                Ok(last)
            });
            // The first of two may have begun before the call.
            let two_writes = || {
                let writes = vm.shared(shared_static!(WRITES));
                let before = writes.load(SeqCst);
                threads.wait_until("another write", || writes.load(SeqCst) >= before + 2)
            };
            let start = Instant::now();
            while rounds < ROUNDS && start.elapsed() < LONGEST {
                put(vm, 0)?;
                let left = memory.read_u64(0);
                two_writes()?;
                check_eq!(
                    "no write reaches the memory of a deleted slot",
                    memory.read_u64(0),
                    left
                );
                put(vm, PAGE)?;
                two_writes()?;
                let now = memory.read_u64(0);
                check!(
                    "writes reach the memory of a slot that is back",
                    now > left,
                    "{now} after {left}"
                );
                rounds += 1;
            }
            vm.shared(shared_static!(STEP)).store(END, SeqCst);
            runner.join()
        })?;
        let writes = vm.shared(shared_static!(WRITES)).load(SeqCst);
        check_eq!(
            "the last write went to memory or to MMIO",
            memory.read_u64(0).max(last_mmio),
            writes
        );
        check!("the slot was deleted and added at least once", rounds > 0);
        Ok(())
    }
}
