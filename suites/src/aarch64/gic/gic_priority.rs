//! Priorities: order, mask, preemption and binary point (IHI 0069 4.8; IHI 0048 3.3).
use crate::aarch64::support::gic_bench::*;
use crate::prelude::*;
use gic::{IDLE_PRIORITY, SPURIOUS};

const LOW: u32 = 40;
const MIDDLE: u32 = 41;
const HIGH: u32 = 42;
const LOW_PRIORITY: u8 = 0xc0;
const MIDDLE_PRIORITY: u8 = 0x90;
const HIGH_PRIORITY: u8 = 0x20;
/// Distance of two priorities where 5 bits are implemented, as KVM has it.
const STEP: u8 = 8;

fn prepare_three(gic: GuestGic) {
    for (spi, priority) in [(LOW, LOW_PRIORITY), (MIDDLE, MIDDLE_PRIORITY), (HIGH, HIGH_PRIORITY)] {
        prepare_irq(gic, spi);
        gic.set_priority(spi, priority);
    }
}

/// More than there are list registers.
const MANY: u32 = 20;
const FIRST: u32 = 128;

/// The interrupt of priority `rank * STEP`; INTIDs are in no order of priority.
const fn of_rank(rank: u32) -> u32 {
    FIRST + rank * 3 % MANY
}

#[guest]
fn has_many_pending(_: &mut Guest) {
    let gic = GuestGic::detect();
    gic.enable();
    let mut order = [Taken::NoSentinel; MANY as usize];
    for rank in 0..MANY {
        let spi = of_rank(rank);
        prepare_irq(gic, spi);
        gic.set_priority(spi, rank as u8 * STEP);
        order[rank as usize] = Taken::Irq(spi);
    }
    // What was entered first must not come first for that: in the list registers there is no room for all.
    let entered: [(&str, fn(u32) -> u32); 3] = [
        ("highest", |n| n),
        ("lowest", |n| MANY - 1 - n),
        ("a middle one", |n| (n * 7 + 10) % MANY),
    ];
    for (first, rank) in entered {
        (0..MANY).for_each(|n| gic.set(gicd::ISPENDR, of_rank(rank(n))));
        let seen = interrupts_during(gic, || {});
        check_eq!("entered {first} first, SPIs come by priority, each once", seen, came(&order));
    }
}

#[guest]
fn masks_priorities(_: &mut Guest) {
    let gic = GuestGic::detect();
    gic.enable();
    prepare_three(gic);
    for priority in [0, STEP, 0x80, LOWEST_PRIORITY] {
        gic.set_priority(LOW, priority);
        gic.set_priority_mask(priority);
        gic.set(gicd::ISPENDR, LOW);
        check_eq!(
            "PMR equal to an interrupt's priority holds it back",
            gic.acknowledge(),
            SPURIOUS
        );
        check!("an interrupt that PMR holds back stays pending", gic.get(gicd::ISPENDR, LOW));
        gic.set_priority_mask(priority + STEP);
        check_eq!("PMR one step lower lets the interrupt come", gic.acknowledge(), LOW);
        check_eq!(
            "RPR is the acknowledged interrupt's priority",
            gic.running_priority(),
            u32::from(priority)
        );
        gic.end(LOW);
        check_eq!("RPR is idle after the interrupt's end", gic.running_priority(), IDLE_PRIORITY);
    }
    gic.set_priority_mask(0);
    gic.set_priority(HIGH, 0);
    let seen = interrupts_before_next_entry(gic, || gic.set(gicd::ISPENDR, HIGH));
    check_eq!("a mask of 0 holds back even the highest", seen, NOTHING);
    let seen = interrupts_during(gic, || gic.set_priority_mask(0xff));
    check_eq!("the highest priority comes when unmasked", seen, irq(HIGH));
}

#[guest]
fn nests_acknowledges(_: &mut Guest) {
    let gic = GuestGic::detect();
    gic.enable();
    prepare_three(gic);
    let trigger = |spi| gic.set(gicd::ISPENDR, spi);
    trigger(MIDDLE);
    check_eq!("a first interrupt is acknowledged", gic.acknowledge(), MIDDLE);
    trigger(LOW);
    check_eq!("a lower priority does not preempt", gic.acknowledge(), SPURIOUS);
    trigger(HIGH);
    check_eq!("a higher priority preempts a lower one", gic.acknowledge(), HIGH);
    check_eq!(
        "RPR is the higher priority after preemption",
        gic.running_priority(),
        u32::from(HIGH_PRIORITY)
    );
    gic.end(HIGH);
    check_eq!(
        "RPR returns to the preempted priority at the end",
        gic.running_priority(),
        u32::from(MIDDLE_PRIORITY)
    );
    check_eq!(
        "a lower priority waits until all higher ones have ended",
        gic.acknowledge(),
        SPURIOUS
    );
    gic.end(MIDDLE);
    check_eq!("the lower priority comes after the higher ones", gic.acknowledge(), LOW);
    trigger(MIDDLE);
    check_eq!("the lower priority is preempted when it is active", gic.acknowledge(), MIDDLE);
    gic.set_priority(HIGH, MIDDLE_PRIORITY);
    trigger(HIGH);
    check_eq!("an equal priority does not preempt", gic.acknowledge(), SPURIOUS);
    gic.end(MIDDLE);
    check_eq!("an equal priority comes after the end", gic.acknowledge(), HIGH);
    gic.end(HIGH);
    gic.end(LOW);
    check_eq!("RPR is idle when all have ended", gic.running_priority(), IDLE_PRIORITY);
    for spi in [LOW, MIDDLE, HIGH] {
        check!("no interrupt is active when all have ended", !gic.get(gicd::ISACTIVER, spi));
    }
}

#[guest]
fn preempts_a_handler(_: &mut Guest) {
    let gic = GuestGic::detect();
    gic.enable();
    prepare_three(gic);
    // What is entered and left, in order: the INTID, and 1000 more at its end.
    let log = [const { AtomicU32::new(0) }; 8];
    let used = AtomicU64::new(0);
    let note = |what: u32| {
        if let Some(slot) = log.get(used.fetch_add(1, SeqCst) as usize) {
            slot.store(what, SeqCst);
        }
    };
    let nested = |_: &mut TrapFrame| {
        let acknowledged = gic.acknowledge();
        if acknowledged >= SPURIOUS {
            return;
        }
        note(acknowledged);
        if acknowledged == MIDDLE {
            gic.set(gicd::ISPENDR, LOW);
            gic.set(gicd::ISPENDR, HIGH);
            irq_enable();
            let _ = spin_for(100_000, || log[2].load(SeqCst) != 0);
            irq_disable();
        }
        note(acknowledged + 1000);
        gic.end(acknowledged);
    };
    with_handler(vector::IRQ, nested, || {
        irq_enable();
        gic.set(gicd::ISPENDR, MIDDLE);
        let _ = spin_for(100_000, || log[5].load(SeqCst) != 0);
        irq_disable();
    });
    let order = [0, 1, 2, 3, 4, 5].map(|n: usize| log[n].load(SeqCst));
    check_eq!(
        "a handler is interrupted by a higher priority and not by a lower one",
        order,
        [MIDDLE, HIGH, HIGH + 1000, MIDDLE + 1000, LOW, LOW + 1000]
    );
}

/// Leaves one bit of the priority for preemption: bit 7.
fn set_widest_binary_point(gic: GuestGic) {
    match gic {
        // A GICv2's IRQs are of group 0 here: the group priority is bits 7 to BPR + 1.
        GuestGic::V2 => gic::CPU.write(gicc::BPR, 6),
        // Of group 1: bits 7 to BPR.
        GuestGic::V3 => ICC_BPR1_EL1.write(7),
    }
}

#[guest]
fn groups_priorities(_: &mut Guest) {
    let gic = GuestGic::detect();
    gic.enable();
    prepare_three(gic);
    set_widest_binary_point(gic);
    gic.set(gicd::ISPENDR, LOW);
    check_eq!("the lower priority is acknowledged first", gic.acknowledge(), LOW);
    gic.set(gicd::ISPENDR, MIDDLE);
    check_eq!("a higher priority of the same group priority waits", gic.acknowledge(), SPURIOUS);
    gic.set(gicd::ISPENDR, HIGH);
    check_eq!("a higher group priority preempts", gic.acknowledge(), HIGH);
    gic.end(HIGH);
    gic.end(LOW);
    check_eq!("the interrupt that waited comes after the end", gic.acknowledge(), MIDDLE);
    gic.end(MIDDLE);
    gic.set(gicd::ISPENDR, LOW);
    gic.set(gicd::ISPENDR, MIDDLE);
    let seen = interrupts_during(gic, || {});
    check_eq!(
        "pending interrupts of one group priority come by subpriority",
        seen,
        came(&[Taken::Irq(MIDDLE), Taken::Irq(LOW)])
    );
}

/// The highest pending interrupt that this vCPU could acknowledge.
fn highest_pending(gic: GuestGic) -> u32 {
    match gic {
        GuestGic::V2 => gic::CPU.read(gicc::HPPIR),
        GuestGic::V3 => ICC_HPPIR1_EL1.read() as u32,
    }
}

#[guest]
fn looks_at_the_highest_pending(_: &mut Guest) {
    let gic = GuestGic::detect();
    gic.enable();
    prepare_three(gic);
    check_eq!("HPPIR is 1023 when nothing is pending", highest_pending(gic), SPURIOUS);
    gic.set(gicd::ISPENDR, LOW);
    check_eq!("HPPIR reports the pending interrupt", highest_pending(gic), LOW);
    gic.set(gicd::ISPENDR, HIGH);
    check_eq!("HPPIR reports the highest of two pending interrupts", highest_pending(gic), HIGH);
    check_eq!("reading HPPIR leaves the interrupt pending", highest_pending(gic), HIGH);
    check!("reading HPPIR does not activate the interrupt", !gic.get(gicd::ISACTIVER, HIGH));
    check_eq!("the acknowledge returns what HPPIR reported", gic.acknowledge(), HIGH);
    gic.end(HIGH);
    gic.set(gicd::ICPENDR, LOW);
    check_eq!(
        "HPPIR is 1023 when the pending interrupts are cleared",
        highest_pending(gic),
        SPURIOUS
    );
}

#[host]
mod host {
    use super::*;
    use GicVersion::{V2, V3};

    /// Pending interrupts come by priority, also where there are more than the hardware can hold.
    #[kvm_test(has_many_pending, params = [gicv2: V2, gicv3: V3])]
    fn order_of_many(t: &mut OneVm, version: GicVersion) -> TestResult {
        run_guest(t, version, &[])
    }

    /// PMR holds back what is not above it.
    #[kvm_test(masks_priorities, params = [gicv2: V2, gicv3: V3])]
    fn priority_mask(t: &mut OneVm, version: GicVersion) -> TestResult {
        run_guest(t, version, &[])
    }

    /// An active interrupt is preempted by those of higher priority only.
    #[kvm_test(nests_acknowledges, params = [gicv2: V2, gicv3: V3])]
    fn preemption(t: &mut OneVm, version: GicVersion) -> TestResult {
        run_guest(t, version, &[])
    }

    /// A handler that unmasks interrupts is interrupted by higher priorities.
    #[kvm_test(preempts_a_handler, params = [gicv2: V2, gicv3: V3])]
    fn nested_handlers(t: &mut OneVm, version: GicVersion) -> TestResult {
        run_guest(t, version, &[])
    }

    /// The binary point says which bits of a priority preempt.
    #[kvm_test(groups_priorities, params = [gicv2: V2, gicv3: V3])]
    fn binary_point(t: &mut OneVm, version: GicVersion) -> TestResult {
        run_guest(t, version, &[])
    }

    /// HPPIR tells what an acknowledge would, and changes nothing.
    #[kvm_test(looks_at_the_highest_pending, params = [gicv2: V2, gicv3: V3])]
    fn highest_pending_register(t: &mut OneVm, version: GicVersion) -> TestResult {
        run_guest(t, version, &[])
    }
}
