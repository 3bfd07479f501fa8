//! Userspace saves, restores and resets the interrupt translation service and the pending LPIs
//! (Documentation/virt/kvm/devices/arm-vgic-its.rst; arm-vgic-v3.rst, KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES).
use crate::aarch64::support::gic_bench::*;
use crate::prelude::*;
use its::{Command::*, FRAME, LPI_ENABLED, gits};

const COLLECTION: u16 = 3;
/// Events with gaps between them, of two devices, and their LPIs.
const EVENTS: [(u32, u32, u32); 4] = [
    (0, 0, gic::FIRST_LPI),
    (0, 7, gic::FIRST_LPI + 9),
    (3, 2, gic::FIRST_LPI + 100),
    (3, 300, gic::FIRST_LPI + 1000),
];
/// Of these, pending when the VM is moved.
const PENDING: [usize; 2] = [1, 2];

fn trigger((device, event, _): (u32, u32, u32)) {
    Int { device, event }.send();
}

#[guest]
fn maps_events(g: &mut Guest) {
    GuestGic::detect().enable();
    its::enable();
    its::enable_lpis(0, true);
    for device in [0, 3] {
        Mapd { device, valid: true }.send();
    }
    Mapc { collection: COLLECTION, vcpu: 0, valid: true }.send();
    for (device, event, lpi) in EVENTS {
        its::configure(lpi, PRIORITY, LPI_ENABLED);
        Mapti { device, event, lpi, collection: COLLECTION }.send();
    }
    PENDING.iter().for_each(|n| trigger(EVENTS[*n]));
    g.sync(1, &[]);
}

#[guest]
fn goes_on_with_events(_: &mut Guest) {
    let gic = GuestGic::detect();
    its::resume();
    let seen = interrupts_during(gic, || {});
    let lpi = |n: usize| Taken::Irq(EVENTS[n].2);
    check!(
        "each LPI that was pending comes exactly once",
        [came(&[lpi(1), lpi(2)]), came(&[lpi(2), lpi(1)])].contains(&seen),
        "{seen:?}"
    );
    for event in EVENTS {
        let seen = interrupts_during(gic, || trigger(event));
        check_eq!("an event that was mapped still makes its LPI", seen, irq(event.2));
    }
    let unmapped = interrupts_during(gic, || trigger((0, 3, 0)));
    check_eq!("an event that was not mapped makes no LPI", unmapped, NOTHING);
    its::configure(EVENTS[0].2, PRIORITY, 0);
    Inv { device: 0, event: 0 }.send();
    let seen = interrupts_during(gic, || trigger(EVENTS[0]));
    check_eq!("the ITS takes commands behind those of before", seen, NOTHING);
}

#[guest]
fn is_reset(g: &mut Guest) {
    let gic = GuestGic::detect();
    gic.enable();
    its::enable();
    its::enable_lpis(0, true);
    let map = || {
        Mapd { device: 0, valid: true }.send();
        Mapc { collection: COLLECTION, vcpu: 0, valid: true }.send();
        let (device, event, lpi) = EVENTS[0];
        its::configure(lpi, PRIORITY, LPI_ENABLED);
        Mapti { device, event, lpi, collection: COLLECTION }.send();
    };
    map();
    check_eq!(
        "the event makes its LPI before the reset",
        interrupts_during(gic, || trigger(EVENTS[0])),
        irq(EVENTS[0].2)
    );
    g.sync(1, &[]);
    check_eq!(
        "the guest sees the ITS disabled after the reset",
        FRAME.read(gits::CTLR) & gits::CTLR_ENABLED,
        0
    );
    check!(
        "the guest sees the ITS quiescent after the reset",
        FRAME.read(gits::CTLR) & gits::CTLR_QUIESCENT != 0
    );
    its::enable();
    let seen = interrupts_during(gic, || trigger(EVENTS[0]));
    check_eq!("the reset removes the event's mapping", seen, NOTHING);
    map();
    let seen = interrupts_during(gic, || trigger(EVENTS[0]));
    check_eq!("the event can be mapped again after the reset", seen, irq(EVENTS[0].2));
}

#[guest]
fn does_nothing(_: &mut Guest) {}

#[host]
mod host {
    use super::*;
    use crate::aarch64::support::gic_saved::*;
    use GicVersion::V3;
    use vm::bindings::{
        KVM_DEV_ARM_ITS_CTRL_RESET, KVM_DEV_ARM_ITS_RESTORE_TABLES, KVM_DEV_ARM_ITS_SAVE_TABLES,
        KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_GRP_ITS_REGS,
        KVM_VGIC_ITS_ADDR_TYPE,
    };

    /// An ITS whose tables, registers and pending LPIs are moved to another VM goes on there.
    #[kvm_test(maps_events)]
    fn its_is_moved(t: &mut OneVm) -> TestResult {
        let mut bench = Bench::with(t, V3, &[], few_interrupts)?;
        let its = Its::create(&t.vm)?;
        its.init()?;
        bench.vcpu().run_until_sync(1)?;
        let tables = ItsState::of(&its)?;
        bench.gic.save_pending_tables()?;
        for (n, (_, _, lpi)) in EVENTS.into_iter().enumerate() {
            let (byte, bit) = its::pending_bit(0, lpi);
            let pending = t.vm.ram().mapping().byte(byte as usize).load(SeqCst) & bit != 0;
            check_eq!(
                "the pending table has the bits of pending LPIs",
                pending,
                PENDING.contains(&n)
            );
        }
        let saved = state_of(&bench)?;

        let mut vm = Vm::new(VmConfig::new())?;
        let mut memory = vec![0; (its::TABLES.end - its::TABLES.start) as usize];
        t.vm.ram().mapping().read(its::TABLES.start as usize, &mut memory);
        vm.ram().mapping().write(its::TABLES.start as usize, &memory);
        let mut other =
            Bench::of(&mut vm, V3, guest_fn!(goes_on_with_events), &[], few_interrupts)?;
        let moved = Its::create(&vm)?;
        moved.init()?;
        saved.restore(&other.gic, ControlIs::First)?;
        tables.restore(&moved)?;
        check_eq!("the ITS reads back as it was restored", ItsState::of(&moved)?, tables);
        other.run()
    }

    /// KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES writes the bits of LPIs, and leaves the first KiB of a table alone.
    #[kvm_test(maps_events)]
    fn pending_tables_are_saved(t: &mut OneVm) -> TestResult {
        const MARK: u8 = 0xa5;
        let mut bench = Bench::new(t, V3)?;
        let its = Its::create(&t.vm)?;
        its.init()?;
        bench.vcpu().run_until_sync(1)?;
        let ram = t.vm.ram().mapping();
        let byte = |offset: u64| ram.byte((its::PENDING_TABLES + offset) as usize);
        for offset in 0..1024 {
            byte(offset).store(MARK, SeqCst);
        }
        // Not pending, so that its bit must go.
        let (stale, bit) = its::pending_bit(0, EVENTS[0].2);
        ram.byte(stale as usize).store(bit, SeqCst);
        bench.gic.save_pending_tables()?;
        check!(
            "the pending table's first KiB stays as it was",
            (0..1024).all(|at| byte(at).load(SeqCst) == MARK)
        );
        for (n, (_, _, lpi)) in EVENTS.into_iter().enumerate() {
            let (at, bit) = its::pending_bit(0, lpi);
            let pending = ram.byte(at as usize).load(SeqCst) & bit != 0;
            check_eq!("exactly the bits of pending LPIs are set", pending, PENDING.contains(&n));
        }
        Ok(())
    }

    /// KVM_DEV_ARM_ITS_CTRL_RESET: disabled, quiescent, no tables (arm-vgic-its.rst "ITS Reset State").
    #[kvm_test(is_reset)]
    fn reset_forgets_everything(t: &mut OneVm) -> TestResult {
        let mut bench = Bench::new(t, V3)?;
        let its = Its::create(&t.vm)?;
        its.init()?;
        bench.vcpu().run_until_sync(1)?;
        let iidr = its.register(gits::IIDR);
        its.control(KVM_DEV_ARM_ITS_CTRL_RESET).ioctl("KVM_DEV_ARM_ITS_CTRL_RESET")?;
        for (name, register) in
            [("CBASER", gits::CBASER), ("CREADR", gits::CREADR), ("CWRITER", gits::CWRITER)]
        {
            check_eq!("GITS_{name} is zero after the reset", its.register(register), Ok(0));
        }
        for n in 0..gits::NR_BASERS {
            let baser = its.register(gits::baser(n)).map(|baser| baser & gits::VALID);
            check_eq!("no GITS_BASER is valid after the reset", baser, Ok(0));
        }
        check_eq!(
            "GITS_CTLR is disabled and quiescent after the reset",
            its.register(gits::CTLR),
            Ok(gits::CTLR_QUIESCENT.into())
        );
        check_eq!("GITS_IIDR stays after the reset", its.register(gits::IIDR), iidr);
        bench.run()
    }

    /// Attributes of the ITS that cannot be are refused, each with its own errno.
    #[kvm_test(does_nothing)]
    fn its_accesses_are_refused(t: &mut OneVm) -> TestResult {
        const BAD_ADDRESS: u64 = 1 << 63;
        const ADDR: u32 = KVM_DEV_ARM_VGIC_GRP_ADDR;
        const REGS: u32 = KVM_DEV_ARM_VGIC_GRP_ITS_REGS;
        let bench = Bench::new(t, V3)?;
        let its = Its::without_address(&t.vm)?;
        let device = its.device();
        let kind = u64::from(KVM_VGIC_ITS_ADDR_TYPE);
        let set = |address: u64| device.set(ADDR, kind, address);
        check_eq!(
            "a register without an address is ENXIO",
            its.register(gits::CTLR),
            Err(Errno::ENXIO)
        );
        check_eq!(
            "a misaligned address is EINVAL",
            set(layout::aarch64::ITS + 0x1000),
            Err(Errno::EINVAL)
        );
        check_eq!(
            "an address beyond guest-physical memory is E2BIG",
            set(1 << 47),
            Err(Errno::E2BIG)
        );
        check_eq!(
            "an address at a bad pointer is EFAULT",
            device.set_at(ADDR, kind, BAD_ADDRESS),
            Err(Errno::EFAULT)
        );
        check_eq!(
            "another kind of address is ENODEV",
            device.set(ADDR, 2, layout::aarch64::ITS),
            Err(Errno::ENODEV)
        );
        check_eq!("an aligned address is accepted", set(layout::aarch64::ITS), Ok(()));
        check_eq!(
            "a second address is EEXIST",
            set(layout::aarch64::ITS + (1 << 20)),
            Err(Errno::EEXIST)
        );
        its.init()?;
        check_eq!("the attributes have GITS_CTLR", device.has(REGS, gits::CTLR.offset()), Ok(()));
        check_eq!(
            "the attributes have no register at 0x40",
            device.has(REGS, 0x40),
            Err(Errno::ENXIO)
        );
        check_eq!(
            "reading a register at 0x40 is ENXIO",
            device.get::<u64>(REGS, 0x40),
            Err(Errno::ENXIO)
        );
        check_eq!(
            "a misaligned register is EINVAL",
            device.get::<u64>(REGS, gits::CBASER.offset() + 4),
            Err(Errno::EINVAL)
        );
        check_eq!(
            "a register at a bad pointer is EFAULT",
            device.set_at(REGS, gits::CBASER.offset(), BAD_ADDRESS),
            Err(Errno::EFAULT)
        );
        for (name, attr) in [
            ("RESET", KVM_DEV_ARM_ITS_CTRL_RESET),
            ("SAVE_TABLES", KVM_DEV_ARM_ITS_SAVE_TABLES),
            ("RESTORE_TABLES", KVM_DEV_ARM_ITS_RESTORE_TABLES),
        ] {
            check_eq!(
                "the ITS has the control {name}",
                device.has(KVM_DEV_ARM_VGIC_GRP_CTRL, attr.into()),
                Ok(())
            );
        }
        check_eq!(
            "an unknown control of the ITS is ENXIO",
            device.has(KVM_DEV_ARM_VGIC_GRP_CTRL, 99),
            Err(Errno::ENXIO)
        );
        let iidr = its.register(gits::IIDR).ioctl("GITS_IIDR")?;
        check_eq!(
            "another table layout in GITS_IIDR is EINVAL",
            its.set_register(gits::IIDR, iidr | u64::from(gic::iidr::REVISION)),
            Err(Errno::EINVAL)
        );
        drop(bench);
        Ok(())
    }
}
