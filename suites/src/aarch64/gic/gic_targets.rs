//! Where interrupts go: SPIs to the vCPU that they are routed to, SGIs to those that they are sent to, PPIs to
//! none but their own (IHI 0069 3.1, ICC_SGI1R_EL1, GICD_IROUTER; IHI 0048 GICD_SGIR, GICD_ITARGETSR).
//!
//! After each interrupt the sender sends a sentinel to all: an SGI of the lowest priority, which each vCPU
//! takes behind what came to it before.
use crate::aarch64::support::gic_bench::*;
use crate::prelude::*;

const NR_VCPUS: usize = 4;
const ALL: u32 = (1 << NR_VCPUS) - 1;
const SGI: u32 = 3;
const SENTINEL_SGI: u32 = 12;
const SPI: u32 = 60;
const PPI: u32 = 21;

/// How often each vCPU took the interrupt under test in this round.
#[shared]
static TAKEN: [AtomicU64; NR_VCPUS] = [const { AtomicU64::new(0) }; NR_VCPUS];
/// What the acknowledge returned, all of them or'ed.
#[shared]
static ACKNOWLEDGED: [AtomicU64; NR_VCPUS] = [const { AtomicU64::new(0) }; NR_VCPUS];
/// How many sentinels each vCPU took, plus one when it is ready for the first.
#[shared]
static SENTINELS: [AtomicU64; NR_VCPUS] = [const { AtomicU64::new(0) }; NR_VCPUS];
/// Says that there are no more rounds.
#[shared]
static OVER: AtomicU64 = AtomicU64::new(0);

/// Enables what this vCPU may take.
fn set_up(gic: GuestGic) {
    gic.enable();
    for intid in [SGI, PPI, SENTINEL_SGI] {
        prepare_irq(gic, intid);
    }
    gic.set_priority(SENTINEL_SGI, LOWEST_PRIORITY);
}

/// Takes one interrupt and notes it.
fn take(gic: GuestGic, vcpu: usize) {
    let acknowledged = gic.acknowledge();
    let intid = acknowledged & gic::INTID;
    if acknowledged == gic::SPURIOUS {
        return;
    }
    gic.end(acknowledged);
    if intid == SENTINEL_SGI {
        SENTINELS[vcpu].fetch_add(1, SeqCst);
    } else {
        TAKEN[vcpu].fetch_add(1, SeqCst);
        ACKNOWLEDGED[vcpu].fetch_or(acknowledged.into(), SeqCst);
    }
}

/// Takes interrupts until the test is over. WFI leaves the CPU to the other vCPUs where they share it.
#[guest]
fn listens(g: &mut Guest) {
    let gic = GuestGic::detect();
    let vcpu = g.vcpu() as usize;
    set_up(gic);
    with_handler(
        vector::IRQ,
        |_| {
            take(gic, vcpu);
            sev();
        },
        || {
            SENTINELS[vcpu].fetch_add(1, SeqCst);
            sev();
            while OVER.load(SeqCst) == 0 {
                wfi();
                irq_enable();
                irq_disable();
            }
        },
    );
}

/// Waits for what another vCPU announces by SEV. WFE lets those run that share this CPU.
fn wait_for_event(mut done: impl FnMut() -> bool) {
    while !done() {
        wfe();
    }
}

/// Waits until every vCPU took sentinel `round`.
fn wait_for_sentinels(round: u64) {
    wait_for_event(|| SENTINELS.iter().all(|taken| taken.load(SeqCst) > round));
}

/// The sender: vCPU 0, which takes interrupts too.
struct Sender {
    gic: GuestGic,
    round: u64,
}

impl Sender {
    /// Runs `body` when all vCPUs listen.
    fn run(body: impl FnOnce(&mut Self)) {
        let gic = GuestGic::detect();
        set_up(gic);
        SENTINELS[0].fetch_add(1, SeqCst);
        with_handler(
            vector::IRQ,
            |_| take(gic, 0),
            || {
                irq_enable();
                wait_for_sentinels(0);
                body(&mut Self { gic, round: 0 });
                irq_disable();
            },
        );
        OVER.store(1, SeqCst);
        gic.send_sgi(SENTINEL_SGI, ALL);
    }

    /// Sends, and tells how often each vCPU took it.
    fn counts(&mut self, send: impl FnOnce()) -> [u64; NR_VCPUS] {
        TAKEN.iter().chain(&ACKNOWLEDGED).for_each(|note| note.store(0, SeqCst));
        send();
        self.gic.send_sgi(SENTINEL_SGI, ALL);
        self.round += 1;
        wait_for_sentinels(self.round);
        TAKEN.each_ref().map(|taken| taken.load(SeqCst))
    }
}

/// One for each vCPU whose bit is set.
fn once_each(targets: u32) -> [u64; NR_VCPUS] {
    core::array::from_fn(|vcpu| u64::from(targets >> vcpu & 1))
}

#[guest]
fn sends_to_each(_: &mut Guest) {
    Sender::run(|sender| {
        let gic = sender.gic;
        for vcpu in 0..NR_VCPUS as u32 {
            gic.set_edge(SPI, true);
            gic.set_group(SPI, gic.irq_group());
            gic.set_priority(SPI, PRIORITY);
            gic.set(gicd::ISENABLER, SPI);
            gic.route(SPI, vcpu);
            let counts = sender.counts(|| gic.set(gicd::ISPENDR, SPI));
            check_eq!(
                "an SPI routed to vCPU {vcpu} comes there once",
                counts,
                once_each(1 << vcpu)
            );
        }
    });
}

#[guest]
fn sends_sgis(_: &mut Guest) {
    Sender::run(|sender| {
        let gic = sender.gic;
        for targets in [0b0001, 0b0010, 0b1000, 0b0110, 0b1011, 0b1111] {
            let counts = sender.counts(|| gic.send_sgi(SGI, targets));
            check_eq!("an SGI comes once to each of {targets:#06b}", counts, once_each(targets));
            if gic == GuestGic::V2 {
                let told = ACKNOWLEDGED[targets.trailing_zeros() as usize].load(SeqCst);
                check_eq!("the acknowledge returns the sender, vCPU 0", told, u64::from(SGI));
            }
        }
        let counts = sender.counts(|| gic.send_sgi_to_others(SGI));
        check_eq!("an SGI to all others does not come to its sender", counts, once_each(ALL & !1));
        let counts = sender.counts(|| gic.send_sgi(SGI, 0));
        check_eq!("an SGI to nobody comes to nobody", counts, once_each(0));
        let counts = sender.counts(|| gic.send_sgi(SGI, 1 << 6 | 0b0100));
        check_eq!("a target that does not exist is left out", counts, once_each(0b0100));
        if gic == GuestGic::V2 {
            let counts = sender.counts(|| gic::DIST.write(gicd::SGIR, 2 << 24 | SGI));
            check_eq!("TargetListFilter 2 sends to the sender only", counts, once_each(1));
        } else {
            let elsewhere = u64::from(SGI) << 24 | 1 << 16 | 0xf;
            let counts = sender.counts(|| ICC_SGI1R_EL1.write(elsewhere));
            check_eq!("an SGI to another Aff1 comes to nobody", counts, once_each(0));
        }
    });
}

#[guest]
fn uses_ppis_of_all(_: &mut Guest) {
    Sender::run(|sender| {
        let gic = sender.gic;
        let counts = sender.counts(|| gic.set(gicd::ISPENDR, PPI));
        check_eq!("a PPI made pending here comes here only", counts, once_each(1));
        if gic == GuestGic::V3 {
            let of_vcpu_2 = gic::sgi_frame(2);
            let counts = sender.counts(|| of_vcpu_2.write_word(gicd::ISPENDR, PPI, 1 << PPI));
            check_eq!(
                "a PPI made pending in vCPU 2's frame comes there",
                counts,
                once_each(0b0100)
            );
            let counts = sender.counts(|| of_vcpu_2.write_word(gicd::ISPENDR, SGI, 1 << SGI));
            check_eq!("an SGI of a vCPU's frame comes to that vCPU", counts, once_each(0b0100));
        }
    });
}

#[guest]
fn reroutes_a_pending_spi(_: &mut Guest) {
    Sender::run(|sender| {
        let gic = sender.gic;
        gic.set_edge(SPI, true);
        gic.set_group(SPI, gic.irq_group());
        gic.set_priority(SPI, PRIORITY);
        gic.route(SPI, 1);
        let counts = sender.counts(|| gic.set(gicd::ISPENDR, SPI));
        check_eq!("a disabled SPI comes to nobody", counts, once_each(0));
        gic.route(SPI, 2);
        let counts = sender.counts(|| gic.set(gicd::ISENABLER, SPI));
        check_eq!(
            "a pending SPI that is rerouted comes at its new vCPU",
            counts,
            once_each(0b0100)
        );
    });
}

#[guest]
fn routes_to_nobody(_: &mut Guest) {
    Sender::run(|sender| {
        let gic = sender.gic;
        gic.set_edge(SPI, true);
        gic.set_group(SPI, gic.irq_group());
        gic.set_priority(SPI, PRIORITY);
        gic.set(gicd::ISENABLER, SPI);
        match gic {
            GuestGic::V2 => gic::DIST.set_byte(gicd::ITARGETSR, SPI, 0),
            GuestGic::V3 => gic::DIST.write(gicd::irouter(SPI), 1 << 8),
        }
        let counts = sender.counts(|| gic.set(gicd::ISPENDR, SPI));
        check_eq!("an SPI without a target comes to nobody", counts, once_each(0));
        check!("an SPI without a target stays pending", gic.get(gicd::ISPENDR, SPI));
        let counts = sender.counts(|| gic.route(SPI, 3));
        check_eq!("an SPI comes to the target that it is given", counts, once_each(0b1000));
    });
}

#[guest]
fn collects_senders(_: &mut Guest) {
    let gic = GuestGic::detect();
    set_up(gic);
    let senders = |bank| gic::DIST.byte(bank, SGI);
    gic::set_sgi_senders(gicd::SPENDSGIR, SGI, 0b1010);
    check_eq!("SPENDSGIR adds senders of an SGI", senders(gicd::SPENDSGIR), 0b1010);
    check_eq!("CPENDSGIR reads the same senders", senders(gicd::CPENDSGIR), 0b1010);
    check!("ISPENDR shows an SGI with senders", gic.get(gicd::ISPENDR, SGI));
    gic::set_sgi_senders(gicd::SPENDSGIR, SGI, 0b0001);
    gic::set_sgi_senders(gicd::CPENDSGIR, SGI, 0b1000);
    check_eq!("CPENDSGIR takes senders of an SGI away", senders(gicd::SPENDSGIR), 0b0011);
    let seen = interrupts_during(gic, || {});
    let from = |sender: u32| Taken::Irq(SGI | sender << 10);
    check_eq!("one SGI of two senders comes once from each", seen, came(&[from(0), from(1)]));
    check_eq!("no sender is left after the SGI was taken", senders(gicd::SPENDSGIR), 0);
    gic::set_sgi_senders(gicd::SPENDSGIR, SGI, 0b0100);
    gic::set_sgi_senders(gicd::CPENDSGIR, SGI, 0xff);
    check!("an SGI without senders is not pending", !gic.get(gicd::ISPENDR, SGI));
    check_eq!("an SGI without senders does not come", interrupts_during(gic, || {}), NOTHING);
}

#[guest]
fn sends_itself_twice(_: &mut Guest) {
    let gic = GuestGic::detect();
    set_up(gic);
    gic.send_sgi(SGI, 1);
    gic.send_sgi(SGI, 1);
    let seen = interrupts_during(gic, || {});
    check_eq!("an SGI that is sent twice before it is taken comes once", seen, irq(SGI));
    gic.set(gicd::ICENABLER, SGI);
    let enabled = gic.get(gicd::ISENABLER, SGI);
    let seen = interrupts_during(gic, || gic.send_sgi(SGI, 1));
    check_eq!("an SGI comes where ISENABLER says that it is enabled", seen != NOTHING, enabled);
}

#[host]
mod host {
    use super::*;
    use GicVersion::{V2, V3};

    /// Runs four vCPUs.
    fn run_four(t: &mut OneVm, version: GicVersion) -> TestResult {
        Bench::with_others(t, version, &[guest_fn!(listens); NR_VCPUS - 1])?.run_all()
    }

    /// An SPI goes where it is routed, and nowhere else.
    #[kvm_test(sends_to_each, vcpus = 4, params = [gicv2: V2, gicv3: V3])]
    fn spi_to_every_vcpu(t: &mut OneVm, version: GicVersion) -> TestResult {
        run_four(t, version)
    }

    /// An SGI goes to those that it is sent to.
    #[kvm_test(sends_sgis, vcpus = 4, params = [gicv2: V2, gicv3: V3])]
    fn sgi_targets(t: &mut OneVm, version: GicVersion) -> TestResult {
        run_four(t, version)
    }

    /// Private interrupts are each vCPU's own.
    #[kvm_test(uses_ppis_of_all, vcpus = 4, params = [gicv2: V2, gicv3: V3])]
    fn private_interrupts(t: &mut OneVm, version: GicVersion) -> TestResult {
        run_four(t, version)
    }

    /// The route counts that an SPI has when it is delivered, not when it became pending.
    #[kvm_test(reroutes_a_pending_spi, vcpus = 4, params = [gicv2: V2, gicv3: V3])]
    fn rerouted_while_pending(t: &mut OneVm, version: GicVersion) -> TestResult {
        run_four(t, version)
    }

    /// An SPI that is routed to no vCPU waits for one (IHI 0048 4.3.12: a CPU that is added to the targets of a
    /// pending interrupt has it pending).
    #[kvm_test(routes_to_nobody, vcpus = 4, params = [gicv2: V2, gicv3: V3])]
    fn routed_to_nobody(t: &mut OneVm, version: GicVersion) -> TestResult {
        run_four(t, version)
    }

    /// A GICv2 keeps an SGI of each sender (IHI 0048 GICD_SPENDSGIR, GICD_CPENDSGIR).
    #[kvm_test(collects_senders)]
    fn sgis_of_several_senders(t: &mut OneVm) -> TestResult {
        Bench::with_others(t, V2, &[guest_fn!(listens); NR_VCPUS - 1])?.run()
    }

    /// SGIs of one sender are one interrupt until it is taken.
    #[kvm_test(sends_itself_twice, params = [gicv2: V2, gicv3: V3])]
    fn sgis_merge(t: &mut OneVm, version: GicVersion) -> TestResult {
        run_guest(t, version, &[])
    }
}
