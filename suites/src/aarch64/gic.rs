//! The virtual GIC, versions 2 and 3 (IHI 0048, IHI 0069; Documentation/virt/kvm/devices/arm-vgic*.rst).
//!
//! Every write to the distributor is an exit, and KVM puts what is deliverable in place before it
//! enters the guest again: an interrupt that is to come comes at once, one that has not is not coming.
use crate::prelude::*;

/// Rounds that are enough for an interrupt of this vCPU to be taken.
const PATIENCE: u64 = 1000;
const PRIORITY: u8 = 0xa0;
/// Bits of KVM_IRQ_LINE's `irq`: type 1 is an SPI (api.rst 4.25).
const IRQ_TYPE_SPI: u32 = 1 << 24;

/// What came while IRQ and FIQ were unmasked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    irqs: u64,
    fiqs: u64,
    /// INTID of the last one.
    intid: u32,
}

impl Seen {
    fn one_irq(intid: u32) -> Self {
        Self { irqs: 1, fiqs: 0, intid }
    }

    fn one_fiq(intid: u32) -> Self {
        Self { irqs: 0, fiqs: 1, intid }
    }
}

/// Unmasks interrupts around `body`, and takes and ends what comes.
fn interrupts_during(gic: GuestGic, body: impl FnOnce()) -> Seen {
    let (irqs, fiqs, last) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU32::new(0));
    let take_irq = |_: &mut TrapFrame| {
        let acknowledged = gic.acknowledge();
        if acknowledged < gic::SPURIOUS {
            irqs.fetch_add(1, SeqCst);
            last.store(acknowledged & 0x3ff, SeqCst);
            gic.end(acknowledged);
        }
    };
    let take_fiq = |_: &mut TrapFrame| {
        let acknowledged = ICC_IAR0_EL1.read();
        if acknowledged < gic::SPURIOUS.into() {
            fiqs.fetch_add(1, SeqCst);
            last.store(acknowledged as u32, SeqCst);
            ICC_EOIR0_EL1.write(acknowledged);
        }
    };
    with_handler(vector::IRQ, take_irq, || {
        with_handler(vector::FIQ, take_fiq, || {
            irq_enable();
            fiq_enable();
            body();
            spin_for(PATIENCE, || irqs.load(SeqCst) + fiqs.load(SeqCst) > 0);
            fiq_disable();
            irq_disable();
        });
    });
    Seen { irqs: irqs.load(SeqCst), fiqs: fiqs.load(SeqCst), intid: last.load(SeqCst) }
}

/// An edge-triggered, enabled SPI for this vCPU, in the group whose interrupts are IRQs.
fn prepare_spi(gic: GuestGic, intid: u32) {
    gic.set_group(intid, u32::from(gic == GuestGic::V3));
    gic.set_edge(intid, true);
    gic.set_priority(intid, PRIORITY);
    gic.route(intid, 0);
    gic.set(gicd::ISENABLER, intid);
}

#[guest]
fn takes_one_spi(g: &mut Guest) {
    let gic = GuestGic::detect();
    let spi = g.arg(0) as u32;
    gic.enable();
    prepare_spi(gic, spi);
    let trigger = || gic.set(gicd::ISPENDR, spi);
    check_eq!(
        "an SPI made pending comes once",
        interrupts_during(gic, trigger),
        Seen::one_irq(spi)
    );
    check!("it is no longer pending", !gic.get(gicd::ISPENDR, spi));
    check!("it is no longer active", !gic.get(gicd::ISACTIVER, spi));

    gic.set(gicd::ICENABLER, spi);
    check!("ICENABLER disables it", !gic.get(gicd::ISENABLER, spi));
    check_eq!("a disabled SPI does not come", interrupts_during(gic, trigger), Seen::default());
    check!("it stays pending while disabled", gic.get(gicd::ISPENDR, spi));
    let enable = || gic.set(gicd::ISENABLER, spi);
    check_eq!(
        "enabling brings the pending SPI",
        interrupts_during(gic, enable),
        Seen::one_irq(spi)
    );

    gic.set(gicd::ICENABLER, spi);
    trigger();
    gic.set(gicd::ICPENDR, spi);
    check!("ICPENDR takes the pending state away", !gic.get(gicd::ISPENDR, spi));
    check_eq!(
        "what is no longer pending does not come",
        interrupts_during(gic, enable),
        Seen::default()
    );

    gic.set(gicd::ISACTIVER, spi);
    check_eq!(
        "an active SPI does not come again",
        interrupts_during(gic, trigger),
        Seen::default()
    );
    let deactivate = || gic.set(gicd::ICACTIVER, spi);
    check_eq!("ICACTIVER lets it come", interrupts_during(gic, deactivate), Seen::one_irq(spi));
}

/// An SPI comes exactly once, and only while it is enabled and not active.
#[kvm_test(takes_one_spi, irqchip, params = [first: 32, end_of_word: 63, start_of_word: 64, last: 255])]
fn spi_single(t: &mut OneVcpu, spi: u64) -> TestResult {
    t.vcpu.set_args(&[spi]);
    t.vcpu.run_until_done()
}

#[guest]
fn orders_by_priority(_: &mut Guest) {
    let gic = GuestGic::detect();
    gic.enable();
    let (low, high) = (40, 50);
    prepare_spi(gic, low);
    prepare_spi(gic, high);
    gic.set_priority(high, 0x20);
    let order = [AtomicU32::new(0), AtomicU32::new(0)];
    let taken = AtomicU64::new(0);
    let take = |_: &mut TrapFrame| {
        let acknowledged = gic.acknowledge();
        if acknowledged < gic::SPURIOUS
            && let Some(slot) = order.get(taken.fetch_add(1, SeqCst) as usize)
        {
            slot.store(acknowledged, SeqCst);
        }
        gic.end(acknowledged);
    };
    gic.set(gicd::ISPENDR, low);
    gic.set(gicd::ISPENDR, high);
    with_handler(vector::IRQ, take, || {
        irq_enable();
        spin_for(PATIENCE, || taken.load(SeqCst) > 1);
        irq_disable();
    });
    check_eq!("both pending SPIs come", taken.load(SeqCst), 2);
    check_eq!("the one of higher priority comes first", order[0].load(SeqCst), high);
    check_eq!("the other one comes second", order[1].load(SeqCst), low);

    ICC_PMR_EL1.write(PRIORITY.into());
    let trigger = || gic.set(gicd::ISPENDR, low);
    check_eq!("PMR masks an equal priority", interrupts_during(gic, trigger), Seen::default());
    let unmask = || ICC_PMR_EL1.write(u64::from(PRIORITY) + 8);
    check_eq!("raising PMR lets it come", interrupts_during(gic, unmask), Seen::one_irq(low));
}

/// Pending interrupts come by priority, and PMR holds back those that are not above it.
#[kvm_test(orders_by_priority, irqchip, requires(cpu::GICV3))]
fn priorities(t: &mut OneVcpu) -> TestResult {
    t.vcpu.run_until_done()
}

#[guest]
fn reads_the_distributor(_: &mut Guest) {
    let gic = GuestGic::detect();
    for (register, value) in [gicd::TYPER, gicd::IIDR].map(|r| (r, gic.read_dist(r))) {
        for pattern in [!0, 0xa5a5_5a5a, 0] {
            gic.write_dist(register, pattern);
            check_eq!("TYPER and IIDR are read-only", gic.read_dist(register), value);
        }
    }
    let nr_intids = 32 * ((gic.read_dist(gicd::TYPER) & 0x1f) + 1);
    check_eq!("TYPER tells 256 interrupts", nr_intids, 256);

    let last_word = gicd::IPRIORITYR + u64::from(nr_intids) - 4;
    gic.write_dist(last_word, !0);
    let implemented = gic.read_dist(last_word);
    check_eq!(
        "all bytes of IPRIORITYR have the same bits",
        implemented,
        (implemented & 0xff) * 0x0101_0101
    );
    check!(
        "a priority has at least its 4 upper bits",
        implemented & 0xf0 == 0xf0,
        "{implemented:#x}"
    );
    gic.write_dist(last_word, 0xff7f_bf3f);
    check_eq!("IPRIORITYR keeps a pattern", gic.read_dist(last_word), 0xff7f_bf3f & implemented);
    gic.set_priority(nr_intids - 2, 0);
    check_eq!(
        "a byte write of IPRIORITYR changes that byte only",
        gic.read_dist(last_word),
        0xff00_bf3f & implemented
    );
    check_eq!(
        "a byte read of IPRIORITYR gives that byte",
        u32::from(gic.priority(nr_intids - 1)),
        implemented & 0xff
    );
    for (bank, bits) in
        [(gicd::ISENABLER, 1), (gicd::ISPENDR, 1), (gicd::IPRIORITYR, 8), (gicd::ICFGR, 2)]
    {
        let beyond = bank + u64::from(nr_intids * bits / 8);
        gic.write_dist(beyond, !0);
        check_eq!("registers of interrupts beyond the last are RAZ/WI", gic.read_dist(beyond), 0);
    }
    let spi = 70;
    gic.set_edge(spi, true);
    check_eq!("ICFGR makes an SPI edge-triggered", gic.read_dist(gicd::ICFGR + 16) >> 12 & 2, 2);
    gic.set_edge(spi, false);
    check_eq!("ICFGR makes an SPI level-sensitive", gic.read_dist(gicd::ICFGR + 16) >> 12 & 2, 0);
}

/// The distributor's registers read back what the architecture says.
#[kvm_test(reads_the_distributor, irqchip)]
fn distributor_registers(t: &mut OneVcpu) -> TestResult {
    t.vcpu.run_until_done()
}

#[guest]
fn reads_the_version(g: &mut Guest) {
    let register = g.arg(0);
    let value = mmio_read::<u32>(layout::aarch64::GICD + register);
    check_eq!("PIDR2 tells the architecture's version", u64::from(value >> 4 & 0xf), g.arg(1));
    mmio_write::<u32>(layout::aarch64::GICD + register, !value);
    check_eq!("PIDR2 is read-only", mmio_read::<u32>(layout::aarch64::GICD + register), value);
}

#[host]
fn version_is_told(t: &mut OneVm, version: GicVersion, args: [u64; 2]) -> TestResult {
    let guest = t.guest.ok_or_else(|| Failure::Error("no guest function".into()))?;
    let gic = Gic::create(&t.vm, version)?;
    let mut vcpu = t.vm.add_vcpu(0, guest)?;
    gic.init()?;
    vcpu.set_args(&args);
    vcpu.run_until_done()
}

/// ICPIDR2.ArchRev of a GICv2 is 2, in all configurations (IHI 0048 4.3.22).
#[kvm_test(reads_the_version, requires(cpu::GICV2))]
fn gicv2_tells_its_version(t: &mut OneVm) -> TestResult {
    version_is_told(t, GicVersion::V2, [gicd::ICPIDR2, 2])
}

/// GICD_PIDR2.ArchRev of a GICv3 is 3 (IHI 0069 12.9.33).
#[kvm_test(reads_the_version, requires(cpu::GICV3))]
fn gicv3_tells_its_version(t: &mut OneVm) -> TestResult {
    version_is_told(t, GicVersion::V3, [gicd::PIDR2, 3])
}

#[guest]
fn switches_groups(_: &mut Guest) {
    let gic = GuestGic::detect();
    let groups = gicd::CTLR_ENABLE_GRP0 | gicd::CTLR_ENABLE_GRP1;
    let control =
        |enabled: u32| gic.write_dist(gicd::CTLR, enabled | gicd::CTLR_ARE | gicd::CTLR_DS);
    gic.enable();
    ICC_IGRPEN0_EL1.write(1);
    check!("there is one security state", gic.read_dist(gicd::CTLR) & gicd::CTLR_DS != 0);
    control(0);
    check_eq!("both groups can be disabled", gic.read_dist(gicd::CTLR) & groups, 0);
    control(gicd::CTLR_ENABLE_GRP1);
    check_eq!(
        "group 1 can be enabled alone",
        gic.read_dist(gicd::CTLR) & groups,
        gicd::CTLR_ENABLE_GRP1
    );
    control(gicd::CTLR_ENABLE_GRP0);
    check_eq!(
        "group 0 can be enabled alone",
        gic.read_dist(gicd::CTLR) & groups,
        gicd::CTLR_ENABLE_GRP0
    );
    control(groups);
    check_eq!("both groups can be enabled", gic.read_dist(gicd::CTLR) & groups, groups);

    let spi = 45;
    prepare_spi(gic, spi);
    for group in [0, 1] {
        let (own, other) = if group == 0 {
            (gicd::CTLR_ENABLE_GRP0, gicd::CTLR_ENABLE_GRP1)
        } else {
            (gicd::CTLR_ENABLE_GRP1, gicd::CTLR_ENABLE_GRP0)
        };
        let wanted = if group == 0 { Seen::one_fiq(spi) } else { Seen::one_irq(spi) };
        gic.set_group(spi, group);
        check_eq!("IGROUPR reads back group {group}", gic.group(spi), group);
        let trial = |enabled: u32| {
            control(enabled);
            let seen = interrupts_during(gic, || gic.set(gicd::ISPENDR, spi));
            gic.set(gicd::ICPENDR, spi);
            seen
        };
        check_eq!("an SPI of group {group} comes with both groups enabled", trial(groups), wanted);
        check_eq!("an SPI of group {group} comes with its own group enabled", trial(own), wanted);
        check_eq!(
            "an SPI of group {group} does not come with the other one enabled",
            trial(other),
            Seen::default()
        );
        check_eq!(
            "an SPI of group {group} does not come with none enabled",
            trial(0),
            Seen::default()
        );
        control(0);
        gic.set(gicd::ISPENDR, spi);
        let seen = interrupts_during(gic, || control(groups));
        check_eq!("enabling group {group} brings its pending SPI", seen, wanted);
        gic.set(gicd::ICPENDR, spi);
    }
}

/// GICD_CTLR has one enable bit for each group, and each holds back its own group only (IHI 0069
/// 12.9.4, single security state). Group 0 comes as FIQ, group 1 as IRQ (4.6).
#[kvm_test(switches_groups, irqchip, requires(cpu::GICV3))]
fn group_enables(t: &mut OneVcpu) -> TestResult {
    t.vcpu.run_until_done()
}

#[shared]
static READY: AtomicU64 = AtomicU64::new(0);
#[shared]
static TAKEN: AtomicU64 = AtomicU64::new(0);
#[shared]
static ELSEWHERE: AtomicU64 = AtomicU64::new(0);

/// INTIDs of this test: an SPI, and an SGI.
const FAR_SPI: u32 = 60;
const SGI: u32 = 5;

#[guest]
fn sends_away(_: &mut Guest) {
    let gic = GuestGic::detect();
    gic.enable();
    prepare_spi(gic, FAR_SPI);
    gic.route(FAR_SPI, 1);
    gic.set(gicd::ISENABLER, SGI);
    wait_until(|| READY.load(SeqCst) == 1);
    let seen = interrupts_during(gic, || gic.set(gicd::ISPENDR, FAR_SPI));
    wait_until(|| TAKEN.load(SeqCst) == 1);
    check_eq!("an SPI for the other vCPU does not come here", seen, Seen::default());
    let seen = interrupts_during(gic, || match gic {
        GuestGic::V2 => gic.write_dist(gicd::SGIR, 1 << 17 | SGI),
        GuestGic::V3 => ICC_SGI1R_EL1.write(u64::from(SGI) << 24 | 1 << 1),
    });
    wait_until(|| TAKEN.load(SeqCst) == 2);
    check_eq!("an SGI for the other vCPU does not come here", seen, Seen::default());
    let seen = interrupts_during(gic, || match gic {
        GuestGic::V2 => gic.write_dist(gicd::SGIR, 2 << 24 | SGI),
        GuestGic::V3 => ICC_SGI1R_EL1.write(u64::from(SGI) << 24 | 1 << 0),
    });
    check_eq!("an SGI for this vCPU comes here once", seen, Seen::one_irq(SGI));
    let seen = interrupts_during(gic, || match gic {
        GuestGic::V2 => gic.write_dist(gicd::SGIR, 1 << 24 | SGI),
        GuestGic::V3 => ICC_SGI1R_EL1.write(u64::from(SGI) << 24 | 1 << 40),
    });
    wait_until(|| TAKEN.load(SeqCst) == 3);
    check_eq!("an SGI for all others does not come here", seen, Seen::default());
    READY.store(2, SeqCst);
}

#[guest]
fn receives(_: &mut Guest) {
    let gic = GuestGic::detect();
    gic.enable();
    gic.set_priority(SGI, PRIORITY);
    gic.set_group(SGI, u32::from(gic == GuestGic::V3));
    gic.set(gicd::ISENABLER, SGI);
    let expected = [FAR_SPI, SGI, SGI];
    let take = |_: &mut TrapFrame| {
        let acknowledged = gic.acknowledge();
        gic.end(acknowledged);
        if acknowledged != gic::SPURIOUS {
            let intid = acknowledged & 0x3ff;
            let turn = TAKEN.load(SeqCst) as usize;
            if expected.get(turn) != Some(&intid) {
                ELSEWHERE.fetch_add(1, SeqCst);
            }
            TAKEN.fetch_add(1, SeqCst);
        }
    };
    with_handler(vector::IRQ, take, || {
        irq_enable();
        READY.store(1, SeqCst);
        wait_until(|| READY.load(SeqCst) == 2);
        irq_disable();
    });
    check_eq!("the other vCPU takes each interrupt once", TAKEN.load(SeqCst), 3);
    check_eq!("each with its own INTID", ELSEWHERE.load(SeqCst), 0);
}

/// An SPI goes where it is routed, and an SGI where it is sent, once and nowhere else.
#[kvm_test(sends_away, irqchip, vcpus = 2)]
fn interrupts_reach_their_vcpu_only(t: &mut OneVcpu) -> TestResult {
    let mut other = t.vm.add_vcpu(1, guest_fn!(receives))?;
    std::thread::scope(|scope| {
        let other = scope.spawn(move || other.run_until_done());
        t.vcpu.run_until_done()?;
        other.join().unwrap_or_else(|_| fail!("the second vCPU's thread panicked"))
    })
}

#[guest]
fn is_wired(g: &mut Guest) {
    let gic = GuestGic::detect();
    gic.enable();
    let spi = 80;
    prepare_spi(gic, spi);
    let mut line_changes = |stage| {
        g.sync(stage, &[]);
    };
    let seen = interrupts_during(gic, || line_changes(1));
    check_eq!("a rising edge comes once", seen, Seen::one_irq(spi));
    let seen = interrupts_during(gic, || line_changes(2));
    check_eq!("a falling edge is none", seen, Seen::default());
    let seen = interrupts_during(gic, || line_changes(3));
    check_eq!("the next rising edge comes again", seen, Seen::one_irq(spi));
    gic.set_edge(spi, false);
    line_changes(4);
    check!("a low level is not pending", !gic.get(gicd::ISPENDR, spi));
    line_changes(5);
    check!("a high level is pending", gic.get(gicd::ISPENDR, spi));
    for _ in 0..2 {
        // Polled: a handler that leaves the line high would be called for ever.
        let comes = spin_for(PATIENCE, || gic.acknowledge() == spi);
        check!("a high level comes, and again after its end", comes);
        gic.end(spi);
    }
    line_changes(6);
    check!("the level is no longer pending once it is low", !gic.get(gicd::ISPENDR, spi));
    check_eq!("a low level does not come", interrupts_during(gic, || {}), Seen::default());
}

/// `KVM_IRQ_LINE` drives an SPI's line (api.rst 4.25).
#[kvm_test(is_wired, irqchip)]
fn irq_line_drives_an_spi(t: &mut OneVcpu) -> TestResult {
    for (stage, level) in [(1, true), (2, false), (3, true), (4, false), (5, true), (6, false)] {
        t.vcpu.run_until_sync(stage)?;
        t.vm.fd().set_irq_line(IRQ_TYPE_SPI | 80, level).ioctl("KVM_IRQ_LINE")?;
    }
    t.vcpu.run_until_done()
}
