//! Registers of distributor, redistributors and a GICv2's CPU interface (IHI 0069 12.9 to 12.11; IHI 0048 4.3,
//! 4.4): what they tell, what they keep, and which bits and bytes there are.
use crate::aarch64::support::gic_bench::*;
use crate::prelude::*;
use gic::iidr;
use gic::{CPU, DIST};
use gicd::*;

const PATTERNS: [u32; 3] = [!0, 0xa5a5_5a5a, 0];

#[guest]
fn reads_what_the_distributor_tells(g: &mut Guest) {
    let gic = GuestGic::detect();
    let (nr_irqs, nr_vcpus) = (g.arg(0) as u32, g.arg(1) as u32);
    let typer = DIST.read(TYPER);
    check_eq!("GICD_TYPER reports as many interrupts as userspace chose", gic.nr_intids(), nr_irqs);
    if gic == GuestGic::V2 {
        check_eq!(
            "GICD_TYPER reports as many CPU interfaces as vCPUs",
            (typer >> TYPER_CPU_NUMBER_SHIFT & 7) + 1,
            nr_vcpus
        );
    } else {
        check_eq!("GICD_TYPER reports no LPIs without an ITS", typer & TYPER_LPIS, 0);
        let id_bits = (typer >> gicd::TYPER_ID_BITS_SHIFT & 0x1f) + 1;
        check!(
            "GICD_TYPER reports enough bits for its INTIDs",
            1 << id_bits >= nr_irqs,
            "{id_bits}"
        );
    }
    check_eq!("GICD_IIDR names Arm as implementer", DIST.read(IIDR) & iidr::IMPLEMENTER, iidr::ARM);
    for (name, register) in [("TYPER", TYPER), ("IIDR", IIDR)] {
        let value = DIST.read(register);
        for pattern in PATTERNS {
            DIST.write(register, pattern);
            check_eq!("the distributor's {name} is read-only", DIST.read(register), value);
        }
    }
}

#[guest]
fn does_nothing(_: &mut Guest) {}

#[guest]
fn reads_the_version(_: &mut Guest) {
    let (register, version) = match GuestGic::detect() {
        GuestGic::V2 => (ICPIDR2, 2),
        GuestGic::V3 => (PIDR2, 3),
    };
    let value = DIST.read(register);
    check_eq!("PIDR2.ArchRev is the architecture's version", value >> 4 & 0xf, version);
    DIST.write(register, !value);
    check_eq!("the distributor's PIDR2 is read-only", DIST.read(register), value);
}

#[guest]
fn sets_and_clears_bits(g: &mut Guest) {
    let gic = GuestGic::detect();
    let intid = g.arg(0) as u32;
    let frame = gic.frame(intid);
    // Nothing is enabled in the distributor, so that what becomes pending stays so.
    for (name, set, clear) in [
        ("ENABLER", ISENABLER, ICENABLER),
        ("PENDR", ISPENDR, ICPENDR),
        ("ACTIVER", ISACTIVER, ICACTIVER),
    ] {
        frame.write_word(clear, intid, !0);
        check_eq!("I{name} is zero when cleared", frame.read_word(set, intid), 0);
        for pattern in [1, 1 << 31, 0xa5a5_5a5a] {
            frame.write_word(set, intid, pattern);
            check_eq!(
                "IS{name} sets the bits that are written",
                frame.read_word(set, intid),
                pattern
            );
            check_eq!("IC{name} reads as IS{name}", frame.read_word(clear, intid), pattern);
            frame.write_word(set, intid, 0);
            check_eq!("writing zero leaves IS{name} alone", frame.read_word(set, intid), pattern);
            frame.write_word(clear, intid, 0);
            check_eq!("writing zero leaves IC{name} alone", frame.read_word(clear, intid), pattern);
            let highest = 1 << (31 - pattern.leading_zeros());
            frame.write_word(clear, intid, highest);
            check_eq!(
                "IC{name} clears the bits that are written",
                frame.read_word(set, intid),
                pattern & !highest
            );
            frame.write_word(clear, intid, !0);
        }
    }
}

#[guest]
fn writes_priorities(g: &mut Guest) {
    let gic = GuestGic::detect();
    let intid = g.arg(0) as u32;
    let frame = gic.frame(intid);
    let read = || frame.read_word(IPRIORITYR, intid);
    frame.write_word(IPRIORITYR, intid, !0);
    let bits = read();
    check_eq!("all bytes of IPRIORITYR have the same bits", bits, (bits & 0xff) * 0x0101_0101);
    check!("a priority has at least its 4 upper bits", bits & 0xf0 == 0xf0, "{bits:#x}");
    frame.write_word(IPRIORITYR, intid, 0);
    check_eq!("all priorities can be cleared", read(), 0);
    frame.write_word(IPRIORITYR, intid, 0xff7f_bf3f);
    check_eq!("IPRIORITYR keeps a pattern", read(), 0xff7f_bf3f & bits);
    frame.set_byte(IPRIORITYR, intid + 2, 0);
    check_eq!("a byte write changes one byte of IPRIORITYR", read(), 0xff00_bf3f & bits);
    for byte in 0..4 {
        let want = read() >> (8 * byte) & 0xff;
        check_eq!(
            "a byte read returns one byte of IPRIORITYR",
            u32::from(frame.byte(IPRIORITYR, intid + byte)),
            want
        );
    }
}

#[guest]
fn configures_triggers(_: &mut Guest) {
    let gic = GuestGic::detect();
    const EDGES: u32 = 0xaaaa_aaaa;
    for intid in [32, 48, gic.nr_intids() - 16] {
        for pattern in [!0, 0x8222_0a88, 0] {
            DIST.write_word(ICFGR, intid, pattern);
            // The lower bit of a field is RES0, or told the model of a GICv1.
            let got = DIST.read_word(ICFGR, intid) & EDGES;
            check_eq!("ICFGR of SPIs keeps what is written", got, pattern & EDGES);
        }
    }
    let sgis = gic.frame(0);
    for pattern in PATTERNS {
        sgis.write_word(ICFGR, 0, pattern);
        check_eq!("ICFGR of SGIs stays edge-triggered", sgis.read_word(ICFGR, 0) & EDGES, EDGES);
    }
}

#[guest]
fn looks_beyond_the_last(_: &mut Guest) {
    let gic = GuestGic::detect();
    let beyond = gic.nr_intids();
    for (name, bank) in [
        ("IGROUPR", IGROUPR),
        ("ISENABLER", ISENABLER),
        ("ISPENDR", ISPENDR),
        ("ISACTIVER", ISACTIVER),
        ("IPRIORITYR", IPRIORITYR),
        ("ICFGR", ICFGR),
    ] {
        for intid in [beyond, 992] {
            DIST.write_word(bank, intid, !0);
            let got = DIST.read_word(bank, intid);
            check_eq!("{name} beyond the last interrupt is RAZ/WI", got, 0);
        }
    }
    match gic {
        GuestGic::V2 => {
            DIST.write_word(ITARGETSR, beyond, !0);
            check_eq!(
                "ITARGETSR beyond the last interrupt is RAZ/WI",
                DIST.read_word(ITARGETSR, beyond),
                0
            );
        }
        GuestGic::V3 => {
            DIST.write(irouter(beyond), !0);
            check_eq!("IROUTER beyond the last interrupt is RAZ/WI", DIST.read(irouter(beyond)), 0);
        }
    }
}

#[guest]
fn writes_targets(g: &mut Guest) {
    let present = (1 << g.arg(0)) - 1;
    let everywhere = present * 0x0101_0101;
    for intid in [32, 252] {
        let read = || DIST.read_word(ITARGETSR, intid);
        DIST.write_word(ITARGETSR, intid, !0);
        check_eq!("bits of absent CPUs in ITARGETSR are zero", read(), everywhere);
        DIST.write_word(ITARGETSR, intid, 0x0103_020f);
        check_eq!("ITARGETSR keeps a pattern", read(), 0x0103_020f & everywhere);
        DIST.set_byte(ITARGETSR, intid + 1, 1);
        check_eq!("a byte write changes one byte of ITARGETSR", read(), 0x0103_010f & everywhere);
        check_eq!(
            "a byte read returns one byte of ITARGETSR",
            u32::from(DIST.byte(ITARGETSR, intid + 2)),
            3 & present
        );
    }
    let own = 0x0101_0101 << g.vcpu();
    for intid in [0, 28] {
        check_eq!(
            "ITARGETSR of private interrupts names this CPU",
            DIST.read_word(ITARGETSR, intid),
            own
        );
        DIST.write_word(ITARGETSR, intid, 0);
        check_eq!(
            "ITARGETSR of private interrupts is read-only",
            DIST.read_word(ITARGETSR, intid),
            own
        );
    }
}

#[guest]
fn writes_routes(_: &mut Guest) {
    let gic = GuestGic::detect();
    for intid in [32, 33, gic.nr_intids() - 1] {
        let register = irouter(intid);
        for affinity in [0x00ff_ffff, 0x0001_0203, 0] {
            DIST.write(register, affinity);
            check_eq!("IROUTER keeps an affinity", DIST.read(register), affinity);
        }
        DIST.write::<u32>(register.bytes(0), 0x0003_0201);
        check_eq!("IROUTER's lower half can be written alone", DIST.read(register), 0x0003_0201);
        DIST.write::<u32>(register.bytes(4), 0);
        check_eq!("IROUTER's upper half leaves the lower one", DIST.read(register), 0x0003_0201);
        check_eq!(
            "IROUTER's lower half can be read alone",
            DIST.read::<u32>(register.bytes(0)),
            0x0003_0201
        );
        DIST.write(register, IROUTER_ANY);
        let kept = DIST.read(register) & IROUTER_ANY != 0;
        let told = DIST.read(TYPER) & TYPER_NO_1N == 0;
        check_eq!("IROUTER.Interrupt_Routing_Mode exists where TYPER.No1N is 0", kept, told);
    }
}

#[guest]
fn walks_the_redistributors(g: &mut Guest) {
    let nr_vcpus = g.arg(0);
    for vcpu in 0..nr_vcpus {
        let frame = gic::redistributor_of(vcpu);
        let typer = frame.read(gicr::TYPER);
        check_eq!(
            "GICR_TYPER reports the vCPU's affinity",
            typer >> gicr::TYPER_AFFINITY_SHIFT,
            vcpu
        );
        check_eq!(
            "GICR_TYPER reports the vCPU's processor number",
            typer >> gicr::TYPER_PROCESSOR_SHIFT & 0xffff,
            vcpu
        );
        check_eq!(
            "GICR_TYPER.Last is set in the last redistributor only",
            typer & gicr::TYPER_LAST != 0,
            vcpu + 1 == nr_vcpus
        );
        check_eq!("GICR_TYPER reports no LPIs without an ITS", typer & gicr::TYPER_PLPIS, 0);
        let halves = [0, 4].map(|half| frame.read::<u32>(gicr::TYPER.bytes(half)));
        check_eq!(
            "GICR_TYPER can be read in halves",
            u64::from(halves[1]) << 32 | u64::from(halves[0]),
            typer
        );
        frame.write(gicr::TYPER, !typer);
        check_eq!("GICR_TYPER is read-only for the guest", frame.read(gicr::TYPER), typer);
        check_eq!("GICR_PIDR2 reports a GICv3", frame.read(gicr::PIDR2) >> 4 & 0xf, 3);
        check_eq!(
            "GICR_IIDR names Arm as implementer",
            frame.read(gicr::IIDR) & iidr::IMPLEMENTER,
            iidr::ARM
        );
        frame.write(gicr::WAKER, 0);
        check_eq!(
            "a redistributor whose ProcessorSleep is cleared is awake",
            frame.read(gicr::WAKER) & (gicr::WAKER_PROCESSOR_SLEEP | gicr::WAKER_CHILDREN_ASLEEP),
            0
        );
    }
}

#[guest]
fn writes_a_neighbours_private_interrupts(_: &mut Guest) {
    const INTID: u32 = 21;
    let (own, neighbour) = (gic::sgi_frame(0), gic::sgi_frame(1));
    for frame in [own, neighbour] {
        frame.write_word(ICENABLER, INTID, 1 << INTID);
        frame.set_byte(IPRIORITYR, INTID, 0);
    }
    for (name, bank, value) in
        [("IGROUPR", IGROUPR, 0), ("ISENABLER", ISENABLER, 1), ("ISPENDR", ISPENDR, 1)]
    {
        let before = own.field(bank, INTID);
        neighbour.set_field(bank, INTID, value);
        check_eq!("{name} of a neighbour accepts a write", neighbour.field(bank, INTID), value);
        check_eq!(
            "{name} of this vCPU is not changed by its neighbour's",
            own.field(bank, INTID),
            before
        );
    }
    neighbour.set_byte(IPRIORITYR, INTID, 0x40);
    check_eq!("IPRIORITYR of a neighbour accepts a write", neighbour.byte(IPRIORITYR, INTID), 0x40);
    check_eq!(
        "IPRIORITYR of this vCPU is not changed by its neighbour's",
        own.byte(IPRIORITYR, INTID),
        0
    );
    for (name, bank) in [
        ("IGROUPR", IGROUPR),
        ("ISENABLER", ISENABLER),
        ("ISPENDR", ISPENDR),
        ("ISACTIVER", ISACTIVER),
        ("IPRIORITYR", IPRIORITYR),
        ("ICFGR", ICFGR),
    ] {
        DIST.write_word(bank, 0, !0);
        check_eq!(
            "{name} of private interrupts is RAZ/WI in the distributor",
            DIST.read_word(bank, 0),
            0
        );
    }
    DIST.write(SGIR, gicd::SGIR_SELF | 1);
    check!("SGIR sends nothing with affinity routing", own.field(ISPENDR, 1) == 0);
}

#[guest]
fn reads_the_cpu_interface(_: &mut Guest) {
    let iidr = CPU.read(gicc::IIDR);
    check_eq!("GICC_IIDR reports a GICv2", iidr >> iidr::ARCH_VERSION_SHIFT & 0xf, 2);
    CPU.write(gicc::IIDR, !iidr);
    check_eq!("GICC_IIDR is read-only for the guest", CPU.read(gicc::IIDR), iidr);
    CPU.write(gicc::PMR, 0xff);
    let bits = CPU.read(gicc::PMR);
    check!("GICC_PMR has at least its 4 upper bits", bits & 0xf0 == 0xf0, "{bits:#x}");
    for pattern in [0x50, 0xa0, 0] {
        CPU.write(gicc::PMR, pattern);
        check_eq!("GICC_PMR keeps what is written", CPU.read(gicc::PMR), pattern & bits);
    }
    CPU.write(gicc::BPR, 5);
    check_eq!("GICC_BPR keeps what is written", CPU.read(gicc::BPR), 5);
    for enabled in [0, 1, 2, 3] {
        CPU.write(gicc::CTLR, enabled);
        check_eq!("GICC_CTLR keeps the group enables", CPU.read(gicc::CTLR) & 3, enabled);
    }
    check_eq!("GICC_IAR is 1023 when nothing is pending", CPU.read(gicc::IAR), gic::SPURIOUS);
    check_eq!(
        "GICC_RPR is idle when nothing is active",
        GuestGic::V2.running_priority(),
        gic::IDLE_PRIORITY
    );
}

#[host]
mod host {
    use super::*;
    use GicVersion::{V2, V3};

    /// GICD_TYPER and GICD_IIDR describe the GIC, and are read-only.
    #[kvm_test(reads_what_the_distributor_tells, params = [
    gicv2_smallest: (V2, 64, 1), gicv2_two_vcpus: (V2, 256, 2), gicv2_largest: (V2, 992, 1),
    gicv3_smallest: (V3, 64, 1), gicv3_two_vcpus: (V3, 256, 2), gicv3_largest: (V3, 992, 1),
])]
    fn distributor_describes_itself(
        t: &mut OneVm,
        (version, nr_irqs, nr_vcpus): (GicVersion, u32, usize),
    ) -> TestResult {
        let others = vec![guest_fn!(does_nothing); nr_vcpus - 1];
        let mut bench = Bench::with(t, version, &others, |gic| {
            gic.set_nr_irqs(nr_irqs).ioctl("KVM_DEV_ARM_VGIC_GRP_NR_IRQS")
        })?;
        bench.set_args(&[nr_irqs.into(), nr_vcpus as u64]);
        bench.run()
    }

    /// ICPIDR2.ArchRev of a GICv2 is 2 (IHI 0048 4.3.22), GICD_PIDR2.ArchRev of a GICv3 is 3 (IHI 0069
    /// GICD_PIDR2), in all configurations.
    #[kvm_test(reads_the_version, params = [gicv2: V2, gicv3: V3])]
    fn version_is_told(t: &mut OneVm, version: GicVersion) -> TestResult {
        run_guest(t, version, &[])
    }

    /// The banks of one bit each have a register that sets and one that clears, and both read the same.
    #[kvm_test(sets_and_clears_bits, params = [
    gicv2_first_word: (V2, 32), gicv2_last_word: (V2, 224),
    gicv3_first_word: (V3, 32), gicv3_last_word: (V3, 224),
])]
    fn set_and_clear_registers(t: &mut OneVm, (version, intid): (GicVersion, u64)) -> TestResult {
        run_guest(t, version, &[intid])
    }

    /// IPRIORITYR has at least 4 bits for each interrupt, and takes bytes.
    #[kvm_test(writes_priorities, params = [
    gicv2_private: (V2, 16), gicv2_first: (V2, 32), gicv2_last: (V2, 252),
    gicv3_private: (V3, 16), gicv3_first: (V3, 32), gicv3_last: (V3, 252),
])]
    fn priority_registers(t: &mut OneVm, (version, intid): (GicVersion, u64)) -> TestResult {
        run_guest(t, version, &[intid])
    }

    /// ICFGR makes SPIs edge-triggered or level-sensitive; SGIs are always edge-triggered.
    #[kvm_test(configures_triggers, params = [gicv2: V2, gicv3: V3])]
    fn trigger_registers(t: &mut OneVm, version: GicVersion) -> TestResult {
        run_guest(t, version, &[])
    }

    /// Registers of interrupts that the GIC does not have are RAZ/WI.
    #[kvm_test(looks_beyond_the_last, params = [gicv2: V2, gicv3: V3])]
    fn absent_interrupts(t: &mut OneVm, version: GicVersion) -> TestResult {
        run_guest(t, version, &[])
    }

    /// ITARGETSR of a GICv2 has a bit for each CPU that there is; that of private interrupts tells a CPU's own
    /// number.
    #[kvm_test(writes_targets, vcpus = 2)]
    fn target_registers(t: &mut OneVm) -> TestResult {
        let mut bench = Bench::with_others(t, V2, &[guest_fn!(writes_targets)])?;
        bench.set_args(&[2]);
        // One after the other: both write the same SPIs.
        bench.vcpus.iter_mut().try_for_each(|vcpu| vcpu.run_until_done())
    }

    /// IROUTER of a GICv3 keeps the affinity of a vCPU for each SPI, in accesses of 32 and 64 bits.
    #[kvm_test(writes_routes)]
    fn route_registers(t: &mut OneVm) -> TestResult {
        run_guest(t, V3, &[])
    }

    /// Each vCPU has a redistributor, found by its affinity; the last one says that it is.
    #[kvm_test(walks_the_redistributors, vcpus = 3, params = [one: 1, three: 3])]
    fn redistributors(t: &mut OneVm, nr_vcpus: usize) -> TestResult {
        let others = vec![guest_fn!(does_nothing); nr_vcpus - 1];
        let mut bench = Bench::with_others(t, V3, &others)?;
        bench.set_args(&[nr_vcpus as u64]);
        bench.run()
    }

    /// With affinity routing private interrupts are in the redistributors, and every vCPU can reach all of
    /// them.
    #[kvm_test(writes_a_neighbours_private_interrupts, vcpus = 2)]
    fn private_registers_of_others(t: &mut OneVm) -> TestResult {
        Bench::with_others(t, V3, &[guest_fn!(does_nothing)])?.run()
    }

    /// The CPU interface of a GICv2 in guest-physical memory.
    #[kvm_test(reads_the_cpu_interface)]
    fn cpu_interface_registers(t: &mut OneVm) -> TestResult {
        run_guest(t, V2, &[])
    }
}
