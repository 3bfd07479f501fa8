//! Events, collections and pending LPIs that move from one vCPU to another (IHI 0069 5.3: MOVI, MOVALL, MAPC).
//!
//! vCPU 0 gives the commands and vCPU 1 takes LPIs; a sentinel, an SGI of the lowest priority, shows that no
//! more of them come.
use crate::aarch64::gic::gic_its::set_up;
use crate::aarch64::support::gic_bench::*;
use crate::prelude::*;
use its::{Command::*, LPI_ENABLED};

const DEVICE: u32 = 2;
const COLLECTION: u16 = 3;
const OTHER_COLLECTION: u16 = 9;

/// LPIs that are moved at once.
const MANY: u32 = 256;
/// LPIs that vCPU 1 took, each and in all.
#[shared]
static TAKEN: [AtomicU8; MANY as usize] = [const { AtomicU8::new(0) }; MANY as usize];
#[shared]
static TOTAL: AtomicU64 = AtomicU64::new(0);
/// Sentinels that vCPU 1 took, and one more when it is ready.
#[shared]
static SENTINELS: AtomicU64 = AtomicU64::new(0);
#[shared]
static OVER: AtomicU64 = AtomicU64::new(0);
const SENTINEL_SGI: u32 = 12;
const FIRST: u32 = gic::FIRST_LPI + 100;

#[guest]
fn takes_what_is_moved(_: &mut Guest) {
    let gic = GuestGic::detect();
    gic.enable();
    its::enable_lpis(1, true);
    prepare_irq(gic, SENTINEL_SGI);
    gic.set_priority(SENTINEL_SGI, LOWEST_PRIORITY);
    let take = |_: &mut TrapFrame| {
        let acknowledged = gic.acknowledge();
        gic.end(acknowledged);
        if acknowledged == SENTINEL_SGI {
            SENTINELS.fetch_add(1, SeqCst);
        } else if let Some(taken) = TAKEN.get(acknowledged.wrapping_sub(FIRST) as usize) {
            taken.fetch_add(1, SeqCst);
            TOTAL.fetch_add(1, SeqCst);
        }
        sev();
    };
    with_handler(vector::IRQ, take, || {
        SENTINELS.fetch_add(1, SeqCst);
        sev();
        while OVER.load(SeqCst) == 0 {
            wfi();
            irq_enable();
            irq_disable();
        }
    });
}

/// Runs `body` on vCPU 0 with two mapped collections, one for each vCPU, when vCPU 1 listens.
fn with_two_vcpus(body: impl FnOnce(GuestGic)) {
    let gic = set_up();
    Mapd { device: DEVICE, valid: true }.send();
    Mapc { collection: COLLECTION, vcpu: 0, valid: true }.send();
    Mapc { collection: OTHER_COLLECTION, vcpu: 1, valid: true }.send();
    while SENTINELS.load(SeqCst) == 0 {
        wfe();
    }
    body(gic);
    OVER.store(1, SeqCst);
    gic.send_sgi(SENTINEL_SGI, 1 << 1);
}

/// What vCPU 1 has taken when it takes a sentinel that is sent now.
fn taken_by_the_other(gic: GuestGic) -> u64 {
    let before = SENTINELS.load(SeqCst);
    gic.send_sgi(SENTINEL_SGI, 1 << 1);
    while SENTINELS.load(SeqCst) == before {
        wfe();
    }
    TOTAL.load(SeqCst)
}

/// Maps event `n` to an LPI of `collection`, enabled or not.
fn map(n: u32, collection: u16, enabled: u8) {
    its::configure(FIRST + n, PRIORITY, enabled);
    Mapti { device: DEVICE, event: n, lpi: FIRST + n, collection }.send();
}

#[guest]
fn moves_an_event(_: &mut Guest) {
    with_two_vcpus(|gic| {
        map(0, COLLECTION, LPI_ENABLED);
        map(1, COLLECTION, 0);
        let int = |event| Int { device: DEVICE, event }.send();
        let movi = |event, collection| Movi { device: DEVICE, event, collection }.send();
        check_eq!(
            "an event comes to its first vCPU",
            interrupts_during(gic, || int(0)),
            irq(FIRST)
        );
        movi(0, OTHER_COLLECTION);
        check_eq!(
            "an event that MOVI moved no longer comes here",
            interrupts_during(gic, || int(0)),
            NOTHING
        );
        check_eq!(
            "an event that MOVI moved comes to the other vCPU once",
            taken_by_the_other(gic),
            1
        );

        // Pending here, and held back by its configuration.
        int(1);
        movi(1, OTHER_COLLECTION);
        its::configure(FIRST + 1, PRIORITY, LPI_ENABLED);
        let enable = || Inv { device: DEVICE, event: 1 }.send();
        check_eq!(
            "a pending LPI that MOVI moved no longer comes here",
            interrupts_during(gic, enable),
            NOTHING
        );
        check_eq!(
            "a pending LPI that MOVI moved comes to the other vCPU once",
            taken_by_the_other(gic),
            2
        );
        movi(0, COLLECTION);
        check_eq!("MOVI works in both directions", interrupts_during(gic, || int(0)), irq(FIRST));
        check_eq!("no LPI is left at the other vCPU", taken_by_the_other(gic), 2);
    });
}

#[guest]
fn moves_everything(_: &mut Guest) {
    with_two_vcpus(|gic| {
        // Both vCPUs may take them; this one has interrupts masked.
        for n in 0..MANY {
            its::configure(FIRST + n, PRIORITY, LPI_ENABLED);
            Mapti { device: DEVICE, event: n, lpi: FIRST + n, collection: COLLECTION }.queue();
            Int { device: DEVICE, event: n }.queue();
            if n % 32 == 31 {
                its::ring();
            }
        }
        Movall { from: 0, to: 1 }.send();
        let seen = interrupts_during(gic, || {});
        check_eq!("LPIs that MOVALL moved do not come here", seen, NOTHING);
        while TOTAL.load(SeqCst) < MANY.into() {
            wfe();
        }
        check_eq!(
            "all LPIs that MOVALL moved come to the other vCPU",
            taken_by_the_other(gic),
            u64::from(MANY)
        );
        let once = TAKEN.iter().filter(|taken| taken.load(SeqCst) == 1).count();
        check_eq!("each LPI that MOVALL moved comes exactly once", once, MANY as usize);
    });
}

#[guest]
fn moves_a_collection(_: &mut Guest) {
    with_two_vcpus(|gic| {
        map(0, COLLECTION, LPI_ENABLED);
        map(1, COLLECTION, 0);
        let int = |event| Int { device: DEVICE, event }.send();
        int(1);
        Mapc { collection: COLLECTION, vcpu: 1, valid: true }.send();
        let seen = interrupts_during(gic, || int(0));
        check_eq!("an event of a collection that moved no longer comes here", seen, NOTHING);
        check_eq!(
            "an event comes to the vCPU that its collection moved to",
            taken_by_the_other(gic),
            1
        );
        its::configure(FIRST + 1, PRIORITY, LPI_ENABLED);
        Inv { device: DEVICE, event: 1 }.send();
        Movall { from: 0, to: 1 }.send();
        check_eq!("MOVALL brings what was pending to the new vCPU", taken_by_the_other(gic), 2);
    });
}

#[host]
mod host {
    use super::*;
    use crate::aarch64::gic::gic_its::with_its;

    fn run_two_with_its(t: &mut OneVm) -> TestResult {
        let (bench, _its) = with_its(t, &[guest_fn!(takes_what_is_moved)])?;
        bench.run_all()
    }

    /// MOVI moves an event, with its pending state, to another collection.
    #[kvm_test(moves_an_event, vcpus = 2)]
    fn event_moves(t: &mut OneVm) -> TestResult {
        run_two_with_its(t)
    }

    /// MOVALL moves all pending LPIs of a vCPU to another one.
    #[kvm_test(moves_everything, vcpus = 2)]
    fn pending_lpis_move(t: &mut OneVm) -> TestResult {
        run_two_with_its(t)
    }

    /// MAPC gives a collection to another vCPU.
    #[kvm_test(moves_a_collection, vcpus = 2)]
    fn collection_moves(t: &mut OneVm) -> TestResult {
        run_two_with_its(t)
    }
}
