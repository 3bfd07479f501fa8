//! Userspace reads and writes the state of the GIC, and moves a VM in the middle of interrupts
//! (Documentation/virt/kvm/devices/arm-vgic.rst, arm-vgic-v3.rst).
use crate::aarch64::support::gic_bench::*;
use crate::prelude::*;
use gic::{DIST, SPURIOUS};

/// Something different for each word of a bank.
fn pattern(bank: u64, intid: u32) -> u32 {
    (intid + 1).wrapping_mul(0x9e37_79b9) ^ (bank as u32).wrapping_mul(0x85eb_ca6b)
}

/// What a bank of SPIs keeps of a pattern.
const KEPT: [(&str, Bank, u32); 6] = [
    ("IGROUPR", gicd::IGROUPR, !0),
    ("ISENABLER", gicd::ISENABLER, !0),
    ("ISPENDR", gicd::ISPENDR, !0),
    ("ISACTIVER", gicd::ISACTIVER, !0),
    ("IPRIORITYR", gicd::IPRIORITYR, 0xf0f0_f0f0),
    ("ICFGR", gicd::ICFGR, 0xaaaa_aaaa),
];
const SOME_INTIDS: [u32; 2] = [32, 64];

#[guest]
fn fills_the_distributor(g: &mut Guest) {
    for (_, bank, bits) in KEPT {
        for intid in SOME_INTIDS {
            DIST.write_word(bank, intid, pattern(bank.offset, intid) & bits);
        }
    }
    g.sync(1, &[]);
}

#[guest]
fn finds_it_filled(_: &mut Guest) {
    for (name, bank, bits) in KEPT {
        for intid in SOME_INTIDS {
            let got = DIST.read_word(bank, intid) & bits;
            check_eq!(
                "the restored guest reads the same {name}",
                got,
                pattern(bank.offset, intid) & bits
            );
        }
    }
}

/// A pending edge, an active interrupt, one that preempted it and is pending again, and a high level.
const EDGE: u32 = 70;
const ACTIVE: u32 = 71;
const PREEMPTING: u32 = 72;
const LEVEL: u32 = 73;
const ACTIVE_PRIORITY: u8 = 0x80;
const PREEMPTING_PRIORITY: u8 = 0x40;

#[guest]
fn is_in_the_middle(g: &mut Guest) {
    let gic = GuestGic::detect();
    gic.enable();
    for spi in [EDGE, ACTIVE, PREEMPTING, LEVEL] {
        prepare_irq(gic, spi);
    }
    gic.set_edge(LEVEL, false);
    gic.set_priority(LEVEL, PRIORITY + 0x20);
    gic.set_priority(ACTIVE, ACTIVE_PRIORITY);
    gic.set_priority(PREEMPTING, PREEMPTING_PRIORITY);
    gic.set(gicd::ISPENDR, ACTIVE);
    check_eq!("the first interrupt is acknowledged", gic.acknowledge(), ACTIVE);
    gic.set(gicd::ISPENDR, PREEMPTING);
    check_eq!("the second interrupt preempts the first", gic.acknowledge(), PREEMPTING);
    gic.set(gicd::ISPENDR, PREEMPTING);
    gic.set(gicd::ISPENDR, EDGE);
    g.sync(1, &[]);
}

#[guest]
fn goes_on_in_the_middle(g: &mut Guest) {
    let gic = GuestGic::detect();
    let state = |spi| (gic.get(gicd::ISPENDR, spi), gic.get(gicd::ISACTIVER, spi));
    check_eq!("the active interrupt is active after the move", state(ACTIVE), (false, true));
    check_eq!(
        "the preempting interrupt is active and pending after the move",
        state(PREEMPTING),
        (true, true)
    );
    check_eq!("the edge is pending after the move", state(EDGE), (true, false));
    check_eq!("the level is pending after the move", state(LEVEL), (true, false));
    let running = |priority: u8| (gic.running_priority(), u32::from(priority));
    let (got, want) = running(PREEMPTING_PRIORITY);
    check_eq!("the preempting priority is running", got, want);
    check_eq!("no interrupt comes before the preempting one's end", gic.acknowledge(), SPURIOUS);
    gic.end(PREEMPTING);
    check_eq!("the preempting interrupt comes again after its end", gic.acknowledge(), PREEMPTING);
    gic.end(PREEMPTING);
    let (got, want) = running(ACTIVE_PRIORITY);
    check_eq!("the active interrupt's priority runs after the preempting one's end", got, want);
    check_eq!("lower priorities wait for the active interrupt's end", gic.acknowledge(), SPURIOUS);
    gic.end(ACTIVE);
    check_eq!(
        "no priority is running after the last end",
        gic.running_priority(),
        gic::IDLE_PRIORITY
    );
    check_eq!("the pending edge comes after the move", gic.acknowledge(), EDGE);
    gic.end(EDGE);
    check_eq!("the edge is inactive after its end", state(EDGE), (false, false));
    check_eq!("the pending level comes after the move", gic.acknowledge(), LEVEL);
    gic.end(LEVEL);
    let again = spin_for(1000, || gic.acknowledge() == LEVEL);
    check!("the level comes again while it is high", again);
    g.sync(2, &[]);
    gic.end(LEVEL);
    check_eq!("a level that fell is inactive after its end", state(LEVEL), (false, false));
    check_eq!("no interrupt is left after the last end", gic.acknowledge(), SPURIOUS);
}

/// System registers of the CPU interface, with a value that is not what they begin with.
const SYSREGS: [(SysReg, u64, u64); 5] = [
    (ICC_PMR_EL1, 0x50, 0xff),
    (ICC_BPR0_EL1, 5, 7),
    (ICC_BPR1_EL1, 6, 7),
    (ICC_IGRPEN0_EL1, 1, 1),
    (ICC_IGRPEN1_EL1, 1, 1),
];

#[guest]
fn exchanges_the_cpu_interface(g: &mut Guest) {
    g.sync(1, &[]);
    for (register, value, mask) in SYSREGS {
        let name = register.name;
        check_eq!("the guest reads {name} as userspace set it", register.read() & mask, value);
    }
    check_eq!(
        "the guest reads EOImode as userspace set it",
        ICC_CTLR_EL1.read() & gic::icc_ctlr::EOI_MODE,
        gic::icc_ctlr::EOI_MODE
    );
    ICC_PMR_EL1.write(0xa0);
    ICC_BPR0_EL1.write(4);
    ICC_BPR1_EL1.write(7);
    ICC_IGRPEN0_EL1.write(0);
    ICC_IGRPEN1_EL1.write(0);
    ICC_CTLR_EL1.write(0);
    g.sync(2, &[]);
}

#[guest]
fn exchanges_the_mapped_cpu_interface(g: &mut Guest) {
    g.sync(1, &[]);
    check_eq!("the guest reads PMR as userspace set it", gic::CPU.read(gicc::PMR), 0x50);
    check_eq!("the guest reads BPR as userspace set it", gic::CPU.read(gicc::BPR), 5);
    check_eq!("the guest reads CTLR as userspace set it", gic::CPU.read(gicc::CTLR) & 3, 2);
    gic::CPU.write(gicc::PMR, 0xa0);
    gic::CPU.write(gicc::BPR, 4);
    gic::CPU.write(gicc::CTLR, 1);
    g.sync(2, &[]);
}

#[guest]
fn looks_at_the_latch(g: &mut Guest) {
    let gic = GuestGic::detect();
    gic.set_edge(LEVEL, false);
    let mut pending_after = |stage| {
        g.sync(stage, &[]);
        gic.get(gicd::ISPENDR, LEVEL)
    };
    check!("the guest sees the line's level as pending", pending_after(1));
    check!("the guest sees the latch when the level falls", pending_after(2));
    check!("the guest sees neither latch nor level when cleared", !pending_after(3));
    check!("the guest sees the level that userspace restored", pending_after(4));
}

#[guest]
fn does_nothing(_: &mut Guest) {}

#[shared]
static RUNNING: AtomicU64 = AtomicU64::new(0);

#[guest]
fn runs_until_told(_: &mut Guest) {
    RUNNING.store(1, SeqCst);
    wait_until(|| RUNNING.load(SeqCst) == 2);
}

#[host]
mod host {
    use super::*;
    use crate::aarch64::support::gic_saved::*;
    use GicVersion::{V2, V3};
    use vm::bindings::{
        KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, KVM_DEV_ARM_VGIC_GRP_DIST_REGS,
        KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, KVM_DEV_ARM_VGIC_GRP_REDIST_REGS,
    };

    /// What is read from one GIC and written to another reads the same there, by userspace and by the guest.
    #[kvm_test(fills_the_distributor, params = [gicv2: V2, gicv3: V3])]
    fn registers_come_back(t: &mut OneVm, version: GicVersion) -> TestResult {
        let mut bench = Bench::with(t, version, &[], few_interrupts)?;
        bench.vcpu().run_until_sync(1)?;
        let saved = state_of(&bench)?;
        for (name, bank, bits) in KEPT {
            for intid in SOME_INTIDS {
                let got = bench.gic.dist(bank.word(intid)).ioctl(name)? & bits;
                check_eq!(
                    "userspace reads the guest's {name}",
                    got,
                    pattern(bank.offset, intid) & bits
                );
            }
        }
        let (_vm, mut other) =
            restored(&saved, version, ControlIs::First, guest_fn!(finds_it_filled))?;
        let again = state_of(&other)?;
        for (name, ..) in KEPT {
            check_eq!(
                "userspace reads back the restored {name}",
                again.words(name),
                saved.words(name)
            );
        }
        let differences = saved.differences(&again);
        check!("all other state reads back as restored", differences.is_empty(), "{differences:?}");
        other.run()
    }
    /// Bits of KVM_IRQ_LINE's `irq`: an SPI (api.rst 4.25).
    const SPI_LINE: u32 = bindings::KVM_ARM_IRQ_TYPE_SPI << bindings::KVM_ARM_IRQ_TYPE_SHIFT;

    /// A VM that is moved while interrupts are pending, active and both goes on as if nothing had happened.
    #[kvm_test(is_in_the_middle, params = [
    gicv2_control_first: (V2, ControlIs::First), gicv2_control_last: (V2, ControlIs::Last),
    gicv3_control_first: (V3, ControlIs::First), gicv3_control_last: (V3, ControlIs::Last),
])]
    fn moved_mid_flight(t: &mut OneVm, (version, order): (GicVersion, ControlIs)) -> TestResult {
        let set_level =
            |vm: &Vm, level| vm.fd().set_irq_line(SPI_LINE | LEVEL, level).ioctl("KVM_IRQ_LINE");
        let mut bench = Bench::with(t, version, &[], few_interrupts)?;
        bench.vcpu().run_until_sync(1)?;
        set_level(&t.vm, true)?;
        let saved = state_of(&bench)?;
        let (vm, mut other) = restored(&saved, version, order, guest_fn!(goes_on_in_the_middle))?;
        if version == V2 {
            // There is no LEVEL_INFO: who drives the lines does so again.
            set_level(&vm, true)?;
        }
        other.vcpu().run_until_sync(2)?;
        set_level(&vm, false)?;
        other.run()
    }

    /// KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS reads and writes the CPU interface of a GICv3.
    #[kvm_test(exchanges_the_cpu_interface)]
    fn cpu_interface_sysregs(t: &mut OneVm) -> TestResult {
        let mut bench = Bench::new(t, V3)?;
        bench.vcpu().run_until_sync(1)?;
        for (register, value, _) in SYSREGS {
            bench.gic.set_cpu_sysreg(0, &register, value).ioctl(register.name)?;
            let name = register.name;
            check_eq!(
                "CPU register {name} reads back as written",
                bench.gic.cpu_sysreg(0, &register),
                Ok(value)
            );
        }
        let gic = &bench.gic;
        let control = gic.cpu_sysreg(0, &ICC_CTLR_EL1).ioctl("ICC_CTLR_EL1")?;
        gic.set_cpu_sysreg(0, &ICC_CTLR_EL1, control | gic::icc_ctlr::EOI_MODE)
            .ioctl("ICC_CTLR_EL1")?;
        const PRI_BITS: u64 = gic::icc_ctlr::PRI_BITS.mask();
        check_eq!(
            "more bits of priority than the host has are EINVAL",
            gic.set_cpu_sysreg(0, &ICC_CTLR_EL1, control | PRI_BITS),
            Err(Errno::EINVAL)
        );
        check_eq!(
            "ICC_SRE_EL1 without SRE is EINVAL",
            gic.set_cpu_sysreg(0, &ICC_SRE_EL1, 0),
            Err(Errno::EINVAL)
        );
        check_eq!(
            "ICC_SRE_EL1.SRE is always set",
            gic.cpu_sysreg(0, &ICC_SRE_EL1).map(|sre| sre & 1),
            Ok(1)
        );
        check_eq!(
            "a register of another unit is ENXIO",
            gic.cpu_sysreg(0, &MPIDR_EL1),
            Err(Errno::ENXIO)
        );
        check_eq!(
            "a vCPU that does not exist is EINVAL",
            gic.cpu_sysreg(9, &ICC_PMR_EL1),
            Err(Errno::EINVAL)
        );
        bench.vcpu().run_until_sync(2)?;
        for (register, value) in [
            (ICC_PMR_EL1, 0xa0),
            (ICC_BPR0_EL1, 4),
            (ICC_BPR1_EL1, 7),
            (ICC_IGRPEN0_EL1, 0),
            (ICC_IGRPEN1_EL1, 0),
        ] {
            let name = register.name;
            check_eq!(
                "userspace reads {name} as the guest left it",
                bench.gic.cpu_sysreg(0, &register),
                Ok(value)
            );
        }
        let eoi_mode = bench.gic.cpu_sysreg(0, &ICC_CTLR_EL1).map(|c| c & gic::icc_ctlr::EOI_MODE);
        check_eq!("userspace reads EOImode as the guest left it", eoi_mode, Ok(0));
        bench.run()
    }

    /// KVM_DEV_ARM_VGIC_GRP_CPU_REGS reads and writes the CPU interface of a GICv2; PMR is the 5 upper bits of
    /// the priority.
    #[kvm_test(exchanges_the_mapped_cpu_interface)]
    fn cpu_interface_registers(t: &mut OneVm) -> TestResult {
        let mut bench = Bench::new(t, V2)?;
        bench.vcpu().run_until_sync(1)?;
        let set = [(gicc::PMR, 0x50 >> 3), (gicc::BPR, 5), (gicc::CTLR, 2)];
        for (register, value) in set {
            bench
                .gic
                .set_cpu_register(0, register, value)
                .ioctl("KVM_DEV_ARM_VGIC_GRP_CPU_REGS")?;
            let at = register.offset();
            check_eq!(
                "the CPU register at {at:#x} reads back as written",
                bench.gic.cpu_register(0, register),
                Ok(value)
            );
        }
        check_eq!(
            "a vCPU that does not exist is EINVAL",
            bench.gic.cpu_register(9, gicc::PMR),
            Err(Errno::EINVAL)
        );
        bench.vcpu().run_until_sync(2)?;
        for (register, value) in [(gicc::PMR, 0xa0 >> 3), (gicc::BPR, 4), (gicc::CTLR, 1)] {
            let at = register.offset();
            check_eq!(
                "userspace reads {at:#x} as the guest left it",
                bench.gic.cpu_register(0, register),
                Ok(value)
            );
        }
        bench.run()
    }

    /// For userspace ISPENDR is the latch alone, and the level of the line is KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO.
    #[kvm_test(looks_at_the_latch)]
    fn latch_and_level_are_apart(t: &mut OneVm) -> TestResult {
        let set_level =
            |vm: &Vm, level| vm.fd().set_irq_line(SPI_LINE | LEVEL, level).ioctl("KVM_IRQ_LINE");
        const WORD: u32 = LEVEL / 32 * 32;
        const BIT: u32 = 1 << (LEVEL % 32);
        let ispendr = gicd::ISPENDR.word(LEVEL);
        let icpendr = gicd::ICPENDR.word(LEVEL);
        let mut bench = Bench::new(t, V3)?;
        bench.vcpu().run_until_sync(1)?;
        set_level(&t.vm, true)?;
        check_eq!("ISPENDR does not show the line's level", bench.gic.dist(ispendr), Ok(0));
        check_eq!("LEVEL_INFO shows the line's level", bench.gic.line_levels(0, WORD), Ok(BIT));
        bench.vcpu().run_until_sync(2)?;
        bench.gic.set_dist(ispendr, BIT).ioctl("ISPENDR")?;
        set_level(&t.vm, false)?;
        check_eq!("ISPENDR shows the pending latch", bench.gic.dist(ispendr), Ok(BIT));
        check_eq!("LEVEL_INFO shows that the line fell", bench.gic.line_levels(0, WORD), Ok(0));
        check_eq!("ICPENDR reads as zero for userspace", bench.gic.dist(icpendr), Ok(0));
        bench.gic.set_dist(icpendr, BIT).ioctl("ICPENDR")?;
        check_eq!("ICPENDR ignores writes of userspace", bench.gic.dist(ispendr), Ok(BIT));
        bench.vcpu().run_until_sync(3)?;
        bench.gic.set_dist(ispendr, 0).ioctl("ISPENDR")?;
        check_eq!("a zero in ISPENDR clears the latch", bench.gic.dist(ispendr), Ok(0));
        bench.vcpu().run_until_sync(4)?;
        bench.gic.set_line_levels(0, WORD, BIT).ioctl("LEVEL_INFO")?;
        check_eq!("LEVEL_INFO reads back as written", bench.gic.line_levels(0, WORD), Ok(BIT));
        check_eq!(
            "LEVEL_INFO of SGIs ignores writes",
            bench.gic.set_line_levels(0, 0, 0xffff),
            Ok(())
        );
        check_eq!(
            "LEVEL_INFO of SGIs reads as zero",
            bench.gic.line_levels(0, 0).map(|l| l & 0xffff),
            Ok(0)
        );
        check_eq!(
            "an INTID that is no multiple of 32 is EINVAL",
            bench.gic.line_levels(0, WORD + 1),
            Err(Errno::EINVAL)
        );
        bench.run()
    }

    /// GICD_IIDR names the implementation: what KVM told can be written back, anything else cannot.
    #[kvm_test(does_nothing, params = [gicv2: V2, gicv3: V3])]
    fn implementation_is_confirmed(t: &mut OneVm, version: GicVersion) -> TestResult {
        let bench = Bench::new(t, version)?;
        let gic = &bench.gic;
        let iidr = gic.dist(gicd::IIDR.offset()).ioctl("GICD_IIDR")?;
        check!(
            "the implementation's revision has configurable groups",
            iidr >> gic::iidr::REVISION_SHIFT & 0xf >= 2,
            "{iidr:#x}"
        );
        check_eq!("KVM's own IIDR is accepted", gic.set_dist(gicd::IIDR.offset(), iidr), Ok(()));
        for (what, other) in [
            ("implementer", iidr ^ 1),
            ("product", iidr ^ 1 << gic::iidr::PRODUCT_ID_SHIFT),
            ("revision", iidr | gic::iidr::REVISION),
        ] {
            let result = gic.set_dist(gicd::IIDR.offset(), other);
            check_eq!("IIDR with another {what} is EINVAL", result, Err(Errno::EINVAL));
        }
        check_eq!("a refused IIDR leaves the old one", gic.dist(gicd::IIDR.offset()), Ok(iidr));
        Ok(())
    }

    /// Unless userspace has written GICD_IIDR, its writes to GICD_IGROUPR of a GICv2 are ignored (arm-vgic.rst).
    #[kvm_test(does_nothing)]
    fn gicv2_groups_need_the_revision(t: &mut OneVm) -> TestResult {
        let bench = Bench::new(t, V2)?;
        let gic = &bench.gic;
        let igroupr = gicd::IGROUPR.word(64);
        gic.set_dist(igroupr, !0).ioctl("GICD_IGROUPR")?;
        check_eq!("IGROUPR ignores writes before IIDR", gic.dist(igroupr), Ok(0));
        let iidr = gic.dist(gicd::IIDR.offset()).ioctl("GICD_IIDR")?;
        gic.set_dist(gicd::IIDR.offset(), iidr).ioctl("GICD_IIDR")?;
        gic.set_dist(igroupr, 0xa5a5_5a5a).ioctl("GICD_IGROUPR")?;
        check_eq!("IGROUPR accepts writes after IIDR", gic.dist(igroupr), Ok(0xa5a5_5a5a));
        Ok(())
    }

    /// Accesses that cannot be are refused, each with its own errno.
    #[kvm_test(does_nothing)]
    fn register_accesses_are_refused(t: &mut OneVm) -> TestResult {
        const NO_REGISTER: u64 = 0x5000;
        const BAD_ADDRESS: u64 = 1 << 63;
        let gic = Gic::create(&t.vm, V3)?;
        let _vcpu = t.add_vcpu(0)?;
        check_eq!(
            "a register before initialization is EBUSY",
            gic.dist(gicd::CTLR.offset()),
            Err(Errno::EBUSY)
        );
        gic.init()?;
        let device = gic.device();
        for (name, group) in [
            ("DIST_REGS", KVM_DEV_ARM_VGIC_GRP_DIST_REGS),
            ("REDIST_REGS", KVM_DEV_ARM_VGIC_GRP_REDIST_REGS),
        ] {
            check_eq!("the group {name} has the register CTLR", device.has(group, 0), Ok(()));
            check_eq!(
                "the group {name} has no register at 0x5000",
                device.has(group, NO_REGISTER),
                Err(Errno::ENXIO)
            );
            check_eq!(
                "the group {name} has no misaligned register",
                device.has(group, 2),
                Err(Errno::ENXIO)
            );
            check_eq!(
                "{name} from a bad address is EFAULT",
                device.set_at(group, gicd::CTLR.offset(), BAD_ADDRESS),
                Err(Errno::EFAULT)
            );
        }
        check_eq!(
            "the redistributor of no vCPU is EINVAL",
            gic.private(1, gicr::CTLR.offset()),
            Err(Errno::EINVAL)
        );
        check_eq!(
            "CPU_SYSREGS has the register ICC_PMR_EL1",
            device.has(KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, ICC_PMR_EL1.one_reg() & 0xffff),
            Ok(())
        );
        check_eq!(
            "CPU_SYSREGS has no register MPIDR_EL1",
            device.has(KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, MPIDR_EL1.one_reg() & 0xffff),
            Err(Errno::ENXIO)
        );
        const OTHER_INFO: u64 = 1 << 10;
        check_eq!(
            "LEVEL_INFO of another kind is ENXIO",
            device.has(KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, OTHER_INFO | 32),
            Err(Errno::ENXIO)
        );
        check_eq!(
            "reading LEVEL_INFO of another kind is EINVAL",
            device.get::<u32>(KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, OTHER_INFO | 32),
            Err(Errno::EINVAL)
        );
        check_eq!("an unknown attribute group is ENXIO", device.has(99, 0), Err(Errno::ENXIO));
        check_eq!(
            "reading an unknown attribute group is ENXIO",
            device.get::<u32>(99, 0),
            Err(Errno::ENXIO)
        );
        Ok(())
    }

    /// The registers cannot be had while a vCPU runs.
    #[kvm_test(runs_until_told, params = [gicv2: V2, gicv3: V3])]
    fn running_vcpus_are_busy(t: &mut OneVm, version: GicVersion) -> TestResult {
        let Bench { gic, mut vcpus } = Bench::new(t, version)?;
        let running = t.vm.shared(shared_static!(RUNNING));
        together(|threads| {
            for vcpu in &mut vcpus {
                let _ = threads.run(vcpu, Vcpu::run_until_done);
            }
            check!(
                "the vCPU runs while its registers are read",
                eventually(|| running.load(SeqCst) == 1)
            );
            check_eq!(
                "reading a register is EBUSY while a vCPU runs",
                gic.dist(gicd::CTLR.offset()),
                Err(Errno::EBUSY)
            );
            check_eq!(
                "writing a register is EBUSY while a vCPU runs",
                gic.set_dist(gicd::CTLR.offset(), 0),
                Err(Errno::EBUSY)
            );
            running.store(2, SeqCst);
            Ok(())
        })?;
        check!("a stopped vCPU's registers can be read", gic.dist(gicd::CTLR.offset()).is_ok());
        Ok(())
    }
}
