//! The interrupt translation service: events of devices become LPIs of vCPUs (IHI 0069 5;
//! Documentation/virt/kvm/devices/arm-vgic-its.rst).
use crate::aarch64::support::gic_bench::*;
use crate::prelude::*;
use gic::iidr;
use its::{Command::*, FRAME, LPI_ENABLED, gits};

const DEVICE: u32 = 2;
const EVENT: u32 = 5;
const OTHER_EVENT: u32 = 6;
const LPI: u32 = gic::FIRST_LPI + 17;
const OTHER_LPI: u32 = gic::FIRST_LPI + 300;
const COLLECTION: u16 = 3;
const OTHER_COLLECTION: u16 = 9;

/// Switches ITS and LPIs on.
pub fn set_up() -> GuestGic {
    let gic = GuestGic::detect();
    gic.enable();
    its::enable();
    its::enable_lpis(cpu_id(), true);
    gic
}

/// Maps two events of the device to LPIs of this vCPU.
fn map_two() {
    for lpi in [LPI, OTHER_LPI] {
        its::configure(lpi, PRIORITY, LPI_ENABLED);
    }
    let vcpu = cpu_id();
    for command in [
        Mapd { device: DEVICE, valid: true },
        Mapc { collection: COLLECTION, vcpu, valid: true },
        Mapti { device: DEVICE, event: EVENT, lpi: LPI, collection: COLLECTION },
        Mapti { device: DEVICE, event: OTHER_EVENT, lpi: OTHER_LPI, collection: COLLECTION },
        Invall { collection: COLLECTION },
        Sync { vcpu },
    ] {
        command.queue();
    }
    its::ring();
}

fn trigger() {
    Int { device: DEVICE, event: EVENT }.send();
}

fn invalidate() {
    Inv { device: DEVICE, event: EVENT }.send();
}

#[guest]
fn reads_what_the_its_tells(_: &mut Guest) {
    let typer = FRAME.read(gits::TYPER);
    check!(
        "GITS_TYPER.Physical reports physical LPIs",
        typer & gits::TYPER_PHYSICAL != 0,
        "{typer:#x}"
    );
    check!(
        "GITS_TYPER reports enough bits of event ids",
        typer >> gits::TYPER_ID_BITS_SHIFT & 0x1f >= 8
    );
    check!("GITS_TYPER reports bits of device ids", typer >> gits::TYPER_DEVBITS_SHIFT & 0x1f > 0);
    check_eq!("GITS_TYPER.PTA says that redistributors go by number", typer & gits::TYPER_PTA, 0);
    check_eq!(
        "GITS_PIDR2 reports a GICv3",
        FRAME.read(gits::PIDR2) >> gic::PIDR2_ARCH_REV_SHIFT & 0xf,
        3
    );
    check_eq!(
        "GITS_IIDR names Arm as implementer",
        FRAME.read(gits::IIDR) & iidr::IMPLEMENTER,
        iidr::ARM
    );
    let control = FRAME.read(gits::CTLR);
    check_eq!("a new ITS is disabled", control & gits::CTLR_ENABLED, 0);
    check!("a new ITS is quiescent", control & gits::CTLR_QUIESCENT != 0);
    let typer32 = [0, 4].map(|half| u64::from(FRAME.read::<u32>(gits::TYPER.bytes(half))));
    check_eq!("GITS_TYPER can be read in halves", typer32[1] << 32 | typer32[0], typer);
    FRAME.write(gits::TYPER, !typer);
    check_eq!("GITS_TYPER is read-only for the guest", FRAME.read(gits::TYPER), typer);
    let iidr = FRAME.read(gits::IIDR);
    FRAME.write(gits::IIDR, !iidr);
    check_eq!("GITS_IIDR is read-only for the guest", FRAME.read(gits::IIDR), iidr);
    FRAME.write(gits::CREADR, 0x40);
    check_eq!("GITS_CREADR is read-only for the guest", FRAME.read(gits::CREADR), 0);

    let of_type = |kind: u64| {
        let basers = (0..gits::NR_BASERS).map(|n| FRAME.read(gits::baser(n)));
        basers.filter(|baser| baser >> gits::BASER_TYPE_SHIFT & 7 == kind).count()
    };
    check_eq!("one GITS_BASER is for devices", of_type(gits::BASER_TYPE_DEVICES), 1);
    check_eq!("one GITS_BASER is for collections", of_type(gits::BASER_TYPE_COLLECTIONS), 1);
    for n in 0..gits::NR_BASERS {
        let register = gits::baser(n);
        let before = FRAME.read(register);
        check_eq!("no GITS_BASER is valid at reset", before & gits::VALID, 0);
        FRAME.write(register, !gits::VALID);
        let fixed = 7 << gits::BASER_TYPE_SHIFT | 0x1f << gits::BASER_ENTRY_SIZE_SHIFT;
        let after = FRAME.read(register);
        check_eq!(
            "type and entry size of a GITS_BASER are read-only",
            after & fixed,
            before & fixed
        );
        FRAME.write(register, before);
    }
    check!(
        "GICD_TYPER reports LPIs with an ITS",
        gic::DIST.read(gicd::TYPER) & gicd::TYPER_LPIS != 0
    );
    let rdist = gic::redistributor().read(gicr::TYPER);
    check!("GICR_TYPER reports LPIs with an ITS", rdist & gicr::TYPER_PLPIS != 0, "{rdist:#x}");
}

#[guest]
fn writes_its_registers_while_enabled(_: &mut Guest) {
    FRAME.write(gits::CTLR, gits::CTLR_ENABLED);
    check_eq!(
        "the ITS cannot be enabled without tables",
        FRAME.read(gits::CTLR) & gits::CTLR_ENABLED,
        0
    );
    its::enable();
    check_eq!("the ITS can be enabled with tables", FRAME.read(gits::CTLR) & gits::CTLR_ENABLED, 1);
    let before = [gits::CBASER, gits::baser(0), gits::baser(1)].map(|r| FRAME.read(r));
    for register in [gits::CBASER, gits::baser(0), gits::baser(1)] {
        FRAME.write(register, 0);
    }
    let after = [gits::CBASER, gits::baser(0), gits::baser(1)].map(|r| FRAME.read(r));
    check_eq!("CBASER and BASERn keep their values while enabled", after, before);
    Sync { vcpu: 0 }.send();
    check!("an enabled ITS takes a command", FRAME.read(gits::CREADR) != 0);
    FRAME.write(gits::CTLR, 0);
    check_eq!("an enabled ITS can be disabled", FRAME.read(gits::CTLR) & gits::CTLR_ENABLED, 0);
    check!("a disabled ITS is quiescent", FRAME.read(gits::CTLR) & gits::CTLR_QUIESCENT != 0);
    its::enable();
    check_eq!("writing CBASER resets CREADR", FRAME.read(gits::CREADR), 0);
}

#[guest]
fn takes_lpis(_: &mut Guest) {
    let gic = set_up();
    map_two();
    check_eq!("INT makes its LPI come exactly once", interrupts_during(gic, trigger), irq(LPI));
    let both = || {
        Int { device: DEVICE, event: OTHER_EVENT }.queue();
        Int { device: DEVICE, event: EVENT }.queue();
        its::ring();
    };
    its::configure(OTHER_LPI, PRIORITY - 0x20, LPI_ENABLED);
    Inv { device: DEVICE, event: OTHER_EVENT }.send();
    irq_disable();
    both();
    check_eq!(
        "LPIs come by the priorities of the configuration table",
        interrupts_during(gic, || {}),
        came(&[Taken::Irq(OTHER_LPI), Taken::Irq(LPI)])
    );
    for _ in 0..2 {
        trigger();
    }
    check_eq!("two INTs of a pending LPI are one LPI", interrupts_during(gic, || {}), irq(LPI));

    gic.set_groups(0);
    gic.set_groups(gicd::CTLR_GROUPS);
    check_eq!("an LPI is in group 1", interrupts_before(gic, GROUP1, trigger), irq(LPI));
    let no_event = || Int { device: DEVICE, event: EVENT + 2 }.send();
    check_eq!("an event without a mapping makes no LPI", interrupts_during(gic, no_event), NOTHING);
    let no_device = || Int { device: DEVICE + 1, event: EVENT }.send();
    check_eq!("a device without a table makes no LPI", interrupts_during(gic, no_device), NOTHING);
}

#[guest]
fn changes_the_configuration(_: &mut Guest) {
    let gic = set_up();
    map_two();
    its::configure(LPI, PRIORITY, 0);
    invalidate();
    check_eq!("an LPI that is disabled does not come", interrupts_during(gic, trigger), NOTHING);
    its::configure(LPI, PRIORITY, LPI_ENABLED);
    let seen = interrupts_during(gic, invalidate);
    check_eq!("INV brings an LPI that is pending and now enabled", seen, irq(LPI));
    check_eq!("an enabled LPI comes at once", interrupts_during(gic, trigger), irq(LPI));

    its::configure(LPI, PRIORITY, 0);
    its::configure(OTHER_LPI, PRIORITY, 0);
    Invall { collection: COLLECTION }.send();
    let seen = interrupts_during(gic, || {
        trigger();
        Int { device: DEVICE, event: OTHER_EVENT }.send();
    });
    check_eq!("INVALL applies that a collection's LPIs are disabled", seen, NOTHING);
    its::configure(LPI, PRIORITY - 0x20, LPI_ENABLED);
    its::configure(OTHER_LPI, PRIORITY, LPI_ENABLED);
    let seen = interrupts_during(gic, || Invall { collection: COLLECTION }.send());
    check_eq!(
        "INVALL brings all LPIs that are now enabled",
        seen,
        came(&[Taken::Irq(LPI), Taken::Irq(OTHER_LPI)])
    );
}

#[guest]
fn invalidates_at_the_redistributor(_: &mut Guest) {
    let gic = set_up();
    map_two();
    let frame = gic::redistributor();
    its::configure(LPI, PRIORITY, 0);
    frame.write(gicr::INVLPIR, LPI.into());
    check_eq!("SYNCR is idle after INVLPIR", frame.read(gicr::SYNCR) & 1, 0);
    check_eq!("INVLPIR applies that an LPI is disabled", interrupts_during(gic, trigger), NOTHING);
    its::configure(LPI, PRIORITY, LPI_ENABLED);
    let seen = interrupts_during(gic, || frame.write(gicr::INVLPIR, LPI.into()));
    check_eq!("INVLPIR applies that an LPI is enabled", seen, irq(LPI));
    its::configure(LPI, PRIORITY, 0);
    frame.write(gicr::INVALLR, 0);
    check_eq!("INVALLR applies that an LPI is disabled", interrupts_during(gic, trigger), NOTHING);
    its::configure(LPI, PRIORITY, LPI_ENABLED);
    let seen = interrupts_during(gic, || frame.write(gicr::INVALLR, 0));
    check_eq!("INVALLR applies that an LPI is enabled", seen, irq(LPI));
}

#[guest]
fn takes_mappings_away(_: &mut Guest) {
    let gic = set_up();
    map_two();
    irq_disable();
    trigger();
    Clear { device: DEVICE, event: EVENT }.send();
    check_eq!("CLEAR takes the pending state away", interrupts_during(gic, || {}), NOTHING);
    check_eq!("CLEAR leaves the event's mapping", interrupts_during(gic, trigger), irq(LPI));

    trigger();
    Discard { device: DEVICE, event: EVENT }.send();
    check_eq!("DISCARD takes the pending state away", interrupts_during(gic, || {}), NOTHING);
    check_eq!("DISCARD takes the mapping away", interrupts_during(gic, trigger), NOTHING);
    let other = || Int { device: DEVICE, event: OTHER_EVENT }.send();
    check_eq!(
        "DISCARD leaves the mapping of another event",
        interrupts_during(gic, other),
        irq(OTHER_LPI)
    );
    Mapti { device: DEVICE, event: EVENT, lpi: LPI, collection: COLLECTION }.send();
    check_eq!("a discarded event can be mapped again", interrupts_during(gic, trigger), irq(LPI));

    Mapd { device: DEVICE, valid: false }.send();
    let both = || {
        trigger();
        Int { device: DEVICE, event: OTHER_EVENT }.send();
    };
    check_eq!("MAPD without V takes all mappings away", interrupts_during(gic, both), NOTHING);
}

#[guest]
fn unmaps_a_collection(_: &mut Guest) {
    let gic = set_up();
    map_two();
    let map = |valid| Mapc { collection: COLLECTION, vcpu: 0, valid }.send();
    map(false);
    check_eq!(
        "an event of an unmapped collection makes no LPI",
        interrupts_during(gic, trigger),
        NOTHING
    );
    check_eq!(
        "the ITS takes commands after an unmapped event",
        FRAME.read(gits::CREADR),
        FRAME.read(gits::CWRITER)
    );
    map(true);
    Mapti { device: DEVICE, event: EVENT + 3, lpi: LPI + 3, collection: COLLECTION }.send();
    its::configure(LPI + 3, PRIORITY, LPI_ENABLED);
    Invall { collection: COLLECTION }.send();
    let new = || Int { device: DEVICE, event: EVENT + 3 }.send();
    check_eq!(
        "a collection that is mapped again takes events",
        interrupts_during(gic, new),
        irq(LPI + 3)
    );
    Mapti { device: DEVICE, event: EVENT + 4, lpi: LPI + 4, collection: OTHER_COLLECTION }.send();
    let unmapped = || Int { device: DEVICE, event: EVENT + 4 }.send();
    check_eq!(
        "a collection that was never mapped takes no event",
        interrupts_during(gic, unmapped),
        NOTHING
    );
}

#[guest]
fn fills_the_queue(_: &mut Guest) {
    let gic = set_up();
    map_two();
    let room = its::QUEUE_BYTES / 32 - 1;
    for _ in 0..3 {
        for _ in 0..room - 1 {
            Sync { vcpu: 0 }.queue();
        }
        Int { device: DEVICE, event: EVENT }.queue();
        irq_disable();
        its::ring();
        check_eq!(
            "the last command of a full queue is taken",
            interrupts_during(gic, || {}),
            irq(LPI)
        );
    }
    check_eq!("CREADR has reached CWRITER", FRAME.read(gits::CREADR), FRAME.read(gits::CWRITER));
}

#[guest]
fn enables_lpis_late(_: &mut Guest) {
    let gic = GuestGic::detect();
    gic.enable();
    its::enable();
    let (byte, bit) = its::pending_bit(0, OTHER_LPI);
    poke(byte, bit);
    // The configuration table is known to the ITS from PROPBASER on.
    gic::redistributor().write(gicr::PROPBASER, its::CONFIG_TABLE | (its::INTID_BITS - 1));
    map_two();
    check_eq!("no LPI comes while EnableLPIs is clear", interrupts_during(gic, trigger), NOTHING);
    let seen = interrupts_during(gic, || its::enable_lpis(0, false));
    check_eq!("EnableLPIs brings what the pending table holds", seen, irq(OTHER_LPI));
    check_eq!("a new LPI comes after EnableLPIs is set", interrupts_during(gic, trigger), irq(LPI));
}

#[guest]
fn takes_messages(g: &mut Guest) {
    let gic = set_up();
    map_two();
    for stage in 1..=2 {
        let seen = interrupts_during(gic, || {
            g.sync(stage, &[]);
        });
        check_eq!("a message of a device makes the LPI of its event", seen, irq(LPI));
    }
    let seen = interrupts_during(gic, || {
        g.sync(3, &[]);
    });
    check_eq!("a message of another device or event makes no LPI", seen, NOTHING);
    its::configure(LPI, PRIORITY, 0);
    invalidate();
    let seen = interrupts_during(gic, || {
        g.sync(4, &[]);
    });
    check_eq!("a message for a disabled LPI makes no LPI", seen, NOTHING);
    FRAME.write(gits::CTLR, 0);
    g.sync(5, &[]);
}

#[guest]
fn takes_one_message(g: &mut Guest) {
    let gic = set_up();
    map_two();
    let seen = interrupts_during(gic, || {
        g.sync(1, &[]);
    });
    check_eq!("a message with its device's id comes", seen, irq(LPI));
    let seen = interrupts_during(gic, || {
        g.sync(2, &[]);
    });
    check_eq!("a message without its device's id does not come", seen, NOTHING);
}

#[host]
pub use host::*;

#[host]
mod host {
    use super::*;
    use GicVersion::V3;
    use vm::bindings::{KVM_MSI_VALID_DEVID, kvm_msi};

    /// A VM with a GICv3 and an ITS.
    pub fn with_its(t: &mut OneVm, others: &[GuestFn]) -> TestResult<(Bench, Its)> {
        let bench = Bench::with_others(t, V3, others)?;
        let its = Its::create(&t.vm)?;
        its.init()?;
        Ok((bench, its))
    }

    fn run_with_its(t: &mut OneVm) -> TestResult {
        let (mut bench, _its) = with_its(t, &[])?;
        bench.run()
    }

    /// GITS_TYPER, GITS_IIDR and GITS_BASERn describe the ITS.
    #[kvm_test(reads_what_the_its_tells)]
    fn its_describes_itself(t: &mut OneVm) -> TestResult {
        run_with_its(t)
    }

    /// The tables of an enabled ITS stay where they are.
    #[kvm_test(writes_its_registers_while_enabled)]
    fn tables_are_fixed_while_enabled(t: &mut OneVm) -> TestResult {
        run_with_its(t)
    }

    /// INT makes the LPI that the event is mapped to pending.
    #[kvm_test(takes_lpis)]
    fn events_become_lpis(t: &mut OneVm) -> TestResult {
        run_with_its(t)
    }

    /// INV and INVALL make the configuration table count.
    #[kvm_test(changes_the_configuration)]
    fn invalidation(t: &mut OneVm) -> TestResult {
        run_with_its(t)
    }

    /// Where GICR_CTLR.IR says so, the redistributor invalidates by GICR_INVLPIR and GICR_INVALLR.
    #[kvm_test(invalidates_at_the_redistributor)]
    fn invalidation_by_redistributor(t: &mut OneVm) -> TestResult {
        let (mut bench, _its) = with_its(t, &[])?;
        let control = bench.gic.private(0, gicr::CTLR.offset()).ioctl("GICR_CTLR")?;
        require!(control & gicr::CTLR_IR != 0, "GICR_CTLR.IR");
        bench.run()
    }

    /// CLEAR, DISCARD and MAPD take away what they say.
    #[kvm_test(takes_mappings_away)]
    fn mappings_are_taken_away(t: &mut OneVm) -> TestResult {
        run_with_its(t)
    }

    /// Events of a collection that no vCPU has do no harm.
    #[kvm_test(unmaps_a_collection)]
    fn unmapped_collection(t: &mut OneVm) -> TestResult {
        run_with_its(t)
    }

    /// The command queue wraps, and can be full.
    #[kvm_test(fills_the_queue)]
    fn command_queue_wraps(t: &mut OneVm) -> TestResult {
        run_with_its(t)
    }

    /// The redistributor reads the pending table when EnableLPIs is set (IHI 0069 GICR_CTLR).
    #[kvm_test(enables_lpis_late)]
    fn pending_table_counts_when_lpis_are_enabled(t: &mut OneVm) -> TestResult {
        run_with_its(t)
    }

    /// `KVM_SIGNAL_MSI`: the message `data` of device `devid`.
    fn signal_msi(vm: &Vm, flags: u32, devid: u32, data: u32) -> Result<i32, Errno> {
        let address = layout::aarch64::ITS + gits::TRANSLATER.offset();
        let msi = kvm_msi {
            address_lo: address as u32,
            address_hi: (address >> 32) as u32,
            data,
            flags,
            devid,
            ..Default::default()
        };
        vm.fd().signal_msi(msi).errno()
    }

    /// `KVM_SIGNAL_MSI` with a device id: above 0 for what was delivered, 0 for what the guest has blocked
    /// (api.rst 4.70).
    #[kvm_test(takes_messages)]
    fn messages_from_userspace(t: &mut OneVm) -> TestResult {
        let (mut bench, _its) = with_its(t, &[])?;
        // The second one finds the translation that the first one left in a cache.
        for stage in 1..=2 {
            bench.vcpu().run_until_sync(stage)?;
            let result = signal_msi(&t.vm, KVM_MSI_VALID_DEVID, DEVICE, EVENT);
            check!(
                "a message that is delivered returns more than 0",
                result.is_ok_and(|n| n > 0),
                "{result:?}"
            );
        }
        bench.vcpu().run_until_sync(3)?;
        let result = signal_msi(&t.vm, KVM_MSI_VALID_DEVID, DEVICE, EVENT + 2);
        check_eq!("a message of an unmapped event returns 0", result, Ok(0));
        let result = signal_msi(&t.vm, KVM_MSI_VALID_DEVID, DEVICE + 1, EVENT);
        check_eq!("a message of an unmapped device returns 0", result, Ok(0));
        let result = signal_msi(&t.vm, 0, DEVICE, OTHER_EVENT);
        check_eq!("a message without KVM_MSI_VALID_DEVID is EINVAL", result, Err(Errno::EINVAL));
        bench.vcpu().run_until_sync(4)?;
        let result = signal_msi(&t.vm, KVM_MSI_VALID_DEVID, DEVICE, EVENT);
        check!("a message for a disabled LPI is no error", result.is_ok(), "{result:?}");
        bench.vcpu().run_until_sync(5)?;
        let result = signal_msi(&t.vm, KVM_MSI_VALID_DEVID, DEVICE, EVENT);
        check!("a disabled ITS delivers nothing", !result.is_ok_and(|n| n > 0), "{result:?}");
        bench.run()
    }

    /// The device id is required, whether or not KVM remembers the translation (api.rst 4.70,
    /// KVM_CAP_MSI_DEVID).
    #[kvm_test(takes_one_message)]
    fn messages_need_their_device_id(t: &mut OneVm) -> TestResult {
        let (mut bench, _its) = with_its(t, &[])?;
        bench.vcpu().run_until_sync(1)?;
        signal_msi(&t.vm, KVM_MSI_VALID_DEVID, DEVICE, EVENT).ioctl("KVM_SIGNAL_MSI")?;
        bench.vcpu().run_until_sync(2)?;
        let result = signal_msi(&t.vm, 0, DEVICE, EVENT);
        check_eq!("a message without KVM_MSI_VALID_DEVID is EINVAL", result, Err(Errno::EINVAL));
        bench.run()
    }
}
