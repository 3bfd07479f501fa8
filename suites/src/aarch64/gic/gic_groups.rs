//! Interrupt groups with one security state: group 0 comes as FIQ, group 1 as IRQ, and each group has an
//! enable bit of its own in the distributor and in the CPU interface (IHI 0069 4.6, GICD_CTLR,
//! GICD_IGROUPR; IHI 0048 2.3, 4.3.1). KVM emulates a GIC with one security state and guest-configurable
//! groups (GICD_IIDR.Revision 2 and later, Documentation/virt/kvm/devices/arm-vgic-v3.rst).
use crate::aarch64::support::gic_bench::*;
use crate::prelude::*;
use gicd::{CTLR_ENABLE_GRP0, CTLR_ENABLE_GRP1, CTLR_GROUPS};

const SPI: u32 = 45;
const PPI: u32 = 20;
const SGI: u32 = 5;

/// Some other group's number.
fn other(group: u32) -> u32 {
    1 - group
}

#[guest]
fn writes_the_enable_bits(_: &mut Guest) {
    let gic = GuestGic::detect();
    const BITS: [&str; 4] = ["no group", "group 0", "group 1", "both groups"];
    for from in 0..=CTLR_GROUPS {
        for to in 0..=CTLR_GROUPS {
            gic.set_groups(from);
            gic.set_groups(to);
            let (from, to_name) = (BITS[from as usize], BITS[to as usize]);
            check_eq!("{to_name} enabled after {from} reads back so", gic.groups(), to);
        }
    }
}

/// The proof that nothing came needs a sentinel in a group that is enabled.
fn seen_with(gic: GuestGic, enabled: u32, own: u32, body: impl FnOnce()) -> Seen {
    match enabled {
        0 => interrupts_before_next_entry(gic, body),
        _ if enabled & enable_bit(own) != 0 => interrupts_before(gic, own, body),
        _ => interrupts_before(gic, other(own), body),
    }
}

#[guest]
fn takes_what_is_enabled(g: &mut Guest) {
    let gic = GuestGic::detect();
    let (group, enabled) = (g.arg(0) as u32, g.arg(1) as u32);
    gic.enable_both_groups();
    prepare(gic, SPI, group);
    gic.set_groups(enabled);
    let seen = seen_with(gic, enabled, group, || gic.set(gicd::ISPENDR, SPI));
    if enabled & enable_bit(group) != 0 {
        check_eq!(
            "an SPI of an enabled group comes once, as its group does",
            seen,
            one_of(group, SPI)
        );
        check!("an SPI that came is no longer pending", !gic.get(gicd::ISPENDR, SPI));
    } else {
        check_eq!("an SPI of a disabled group does not come", seen, NOTHING);
        check!("an SPI of a disabled group stays pending", gic.get(gicd::ISPENDR, SPI));
    }
}

/// Group enables that are written one after the other, by number of the case.
fn order(number: u64, group: u32) -> [u32; 2] {
    let (own, other) = (enable_bit(group), enable_bit(other(group)));
    match number {
        0 => [own, CTLR_GROUPS],
        1 => [other, CTLR_GROUPS],
        2 => [other, own],
        _ => [CTLR_GROUPS, own],
    }
}

#[guest]
fn enables_late(g: &mut Guest) {
    let gic = GuestGic::detect();
    let (group, number) = (g.arg(0) as u32, g.arg(1));
    gic.enable_both_groups();
    prepare(gic, SPI, group);
    gic.set_groups(0);
    let seen = interrupts_before_next_entry(gic, || gic.set(gicd::ISPENDR, SPI));
    check_eq!("nothing comes while no group is enabled", seen, NOTHING);
    let mut delivered = false;
    for enabled in order(number, group) {
        let seen = seen_with(gic, enabled, group, || gic.set_groups(enabled));
        if enabled & enable_bit(group) == 0 {
            check_eq!("enabling the other group does not bring the pending SPI", seen, NOTHING);
        } else if delivered {
            check_eq!("enabling the second group brings no SPI twice", seen, NOTHING);
        } else {
            check_eq!("enabling its own group brings the pending SPI", seen, one_of(group, SPI));
            delivered = true;
        }
    }
    check!("the SPI that came is no longer pending", !gic.get(gicd::ISPENDR, SPI));
}

#[guest]
fn switches_off_and_on(g: &mut Guest) {
    let gic = GuestGic::detect();
    let group = g.arg(0) as u32;
    gic.enable_both_groups();
    prepare(gic, SPI, group);
    // Signalled, but masked in PSTATE: the CPU interface has it already.
    gic.set(gicd::ISPENDR, SPI);
    gic.set_groups(0);
    let seen = interrupts_before_next_entry(gic, || {});
    check_eq!("a signalled SPI is taken back when its group is disabled", seen, NOTHING);
    check!("an SPI whose group is disabled stays pending", gic.get(gicd::ISPENDR, SPI));
    let seen = interrupts_before(gic, group, || gic.set_groups(CTLR_GROUPS));
    check_eq!("an SPI comes when its group is enabled again", seen, one_of(group, SPI));
}

#[guest]
fn masks_at_the_cpu_interface(g: &mut Guest) {
    let gic = GuestGic::detect();
    let group = g.arg(0) as u32;
    gic.enable_both_groups();
    prepare(gic, SPI, group);
    gic.set_cpu_groups(enable_bit(other(group)));
    // No sentinel of the other group: the CPU interface need not look past its highest pending interrupt.
    let seen = interrupts_before_next_entry(gic, || gic.set(gicd::ISPENDR, SPI));
    check_eq!("an SPI whose CPU interface group is disabled does not come", seen, NOTHING);
    check!(
        "an SPI whose CPU interface group is disabled stays pending",
        gic.get(gicd::ISPENDR, SPI)
    );
    let enable = || gic.set_cpu_groups(enable_bit(group));
    let seen = interrupts_before(gic, group, enable);
    check_eq!("enabling the CPU interface's group alone brings the SPI", seen, one_of(group, SPI));
}

#[guest]
fn writes_groups(_: &mut Guest) {
    let gic = GuestGic::detect();
    let last = gic.nr_intids() - 32;
    for (name, intid) in [("SGIs and PPIs", 0), ("the first SPIs", 32), ("the last SPIs", last)] {
        let frame = gic.frame(intid);
        for pattern in [!0, 0xa5a5_5a5a, 0x5a5a_a5a5, 0] {
            frame.write_word(gicd::IGROUPR, intid, pattern);
            let got = frame.read_word(gicd::IGROUPR, intid);
            check_eq!("IGROUPR of {name} keeps what is written", got, pattern);
        }
    }
    gic.set_group(SPI, 1);
    for neighbour in [SPI - 1, SPI + 1] {
        check_eq!("the group of one interrupt is not its neighbour's", gic.group(neighbour), 0);
    }
    check_eq!("the group of one interrupt is its own", gic.group(SPI), 1);
}

#[guest]
fn looks_for_a_secure_side(_: &mut Guest) {
    let gic = GuestGic::detect();
    let typer = gic::DIST.read(gicd::TYPER);
    check_eq!("GICD_TYPER reports one security state", typer & gicd::TYPER_SECURITY_EXTN, 0);
    if gic == GuestGic::V3 {
        for value in [0, gicd::CTLR_DS, !0] {
            gic::DIST.write(gicd::CTLR, value & !gicd::CTLR_GROUPS);
            let control = gic::DIST.read(gicd::CTLR);
            check!("GICD_CTLR.DS is always set", control & gicd::CTLR_DS != 0, "{control:#x}");
            check!("GICD_CTLR.ARE is always set", control & gicd::CTLR_ARE != 0, "{control:#x}");
        }
        gic::DIST.write_word(gicd::IGRPMODR, SPI, !0);
        check_eq!(
            "IGRPMODR is RAZ/WI without a secure side",
            gic::DIST.read_word(gicd::IGRPMODR, SPI),
            0
        );
    }
}

#[guest]
fn changes_the_group_of_a_pending_spi(g: &mut Guest) {
    let gic = GuestGic::detect();
    let from = g.arg(0) as u32;
    gic.enable_both_groups();
    prepare(gic, SPI, from);
    gic.set(gicd::ISPENDR, SPI);
    let seen = interrupts_before(gic, GROUP1, || gic.set_group(SPI, other(from)));
    check!(
        "a pending SPI whose group changes comes once, as one or the other",
        [irq(SPI), fiq(SPI)].contains(&seen),
        "{seen:?}"
    );
    let seen = interrupts_before(gic, GROUP1, || gic.set(gicd::ISPENDR, SPI));
    check_eq!("the next SPI comes as the new group does", seen, one_of(other(from), SPI));
}

#[guest]
fn takes_private_interrupts(g: &mut Guest) {
    let gic = GuestGic::detect();
    let group = g.arg(0) as u32;
    gic.enable_both_groups();
    prepare(gic, PPI, group);
    prepare(gic, SGI, group);
    // The line of a PPI is level-sensitive: what was written to ISPENDR is gone once it is taken.
    let seen = interrupts_before(gic, group, || gic.set(gicd::ISPENDR, PPI));
    check_eq!("a PPI comes once, as its group does", seen, one_of(group, PPI));
    let seen = interrupts_before(gic, group, || match (gic, group) {
        (GuestGic::V3, GROUP0) => gic.send_group0_sgi(SGI, 1),
        _ => gic.send_sgi(SGI, 1),
    });
    check_eq!("an SGI comes once, as its group does", seen, one_of(group, SGI));
    if gic == GuestGic::V3 && group == GROUP1 {
        let seen = interrupts_before(gic, group, || gic.send_group0_sgi(SGI, 1));
        check_eq!("ICC_SGI0R_EL1 sends no SGI that is of group 1", seen, NOTHING);
    }
}

#[guest]
fn takes_both_kinds(_: &mut Guest) {
    let gic = GuestGic::detect();
    gic.enable_both_groups();
    let (low, high) = (SPI, SPI + 1);
    for (first, second) in [(GROUP0, GROUP1), (GROUP1, GROUP0)] {
        prepare(gic, low, second);
        prepare(gic, high, first);
        gic.set_priority(high, PRIORITY - 0x40);
        gic.set(gicd::ISPENDR, low);
        gic.set(gicd::ISPENDR, high);
        let seen = interrupts_before(gic, GROUP1, || {});
        let taken = |group, intid| if group == 0 { Taken::Fiq(intid) } else { Taken::Irq(intid) };
        check_eq!(
            "two pending SPIs of group {first} and then group {second} come by priority",
            seen,
            came(&[taken(first, high), taken(second, low)])
        );
    }
}

#[host]
mod host {
    use super::*;
    use GicVersion::{V2, V3};

    /// EnableGrp0 and EnableGrp1 of GICD_CTLR keep what is written, each for itself.
    #[kvm_test(writes_the_enable_bits, params = [gicv2: V2, gicv3: V3])]
    fn group_enable_bits_are_independent(t: &mut OneVm, version: GicVersion) -> TestResult {
        run_guest(t, version, &[])
    }

    /// An interrupt is forwarded where its own group is enabled, whatever the other one is.
    #[kvm_test(takes_what_is_enabled, params = [
    gicv2_group0_with_none: (V2, GROUP0, 0),
    gicv2_group0_with_group0: (V2, GROUP0, CTLR_ENABLE_GRP0),
    gicv2_group0_with_group1: (V2, GROUP0, CTLR_ENABLE_GRP1),
    gicv2_group0_with_both: (V2, GROUP0, CTLR_GROUPS),
    gicv2_group1_with_none: (V2, GROUP1, 0),
    gicv2_group1_with_group0: (V2, GROUP1, CTLR_ENABLE_GRP0),
    gicv2_group1_with_group1: (V2, GROUP1, CTLR_ENABLE_GRP1),
    gicv2_group1_with_both: (V2, GROUP1, CTLR_GROUPS),
    gicv3_group0_with_none: (V3, GROUP0, 0),
    gicv3_group0_with_group0: (V3, GROUP0, CTLR_ENABLE_GRP0),
    gicv3_group0_with_group1: (V3, GROUP0, CTLR_ENABLE_GRP1),
    gicv3_group0_with_both: (V3, GROUP0, CTLR_GROUPS),
    gicv3_group1_with_none: (V3, GROUP1, 0),
    gicv3_group1_with_group0: (V3, GROUP1, CTLR_ENABLE_GRP0),
    gicv3_group1_with_group1: (V3, GROUP1, CTLR_ENABLE_GRP1),
    gicv3_group1_with_both: (V3, GROUP1, CTLR_GROUPS),
])]
    fn delivery(t: &mut OneVm, (version, group, enabled): (GicVersion, u32, u32)) -> TestResult {
        run_guest(t, version, &[group.into(), enabled.into()])
    }

    /// An interrupt that became pending while its group was disabled comes when the group is enabled.
    #[kvm_test(enables_late, params = [
    gicv2_group0_own_then_both: (V2, GROUP0, 0),
    gicv2_group0_other_then_both: (V2, GROUP0, 1),
    gicv2_group0_other_then_own: (V2, GROUP0, 2),
    gicv2_group0_both_then_own: (V2, GROUP0, 3),
    gicv2_group1_own_then_both: (V2, GROUP1, 0),
    gicv2_group1_other_then_both: (V2, GROUP1, 1),
    gicv2_group1_other_then_own: (V2, GROUP1, 2),
    gicv2_group1_both_then_own: (V2, GROUP1, 3),
    gicv3_group0_own_then_both: (V3, GROUP0, 0),
    gicv3_group0_other_then_both: (V3, GROUP0, 1),
    gicv3_group0_other_then_own: (V3, GROUP0, 2),
    gicv3_group0_both_then_own: (V3, GROUP0, 3),
    gicv3_group1_own_then_both: (V3, GROUP1, 0),
    gicv3_group1_other_then_both: (V3, GROUP1, 1),
    gicv3_group1_other_then_own: (V3, GROUP1, 2),
    gicv3_group1_both_then_own: (V3, GROUP1, 3),
])]
    fn pending_before_enabling(
        t: &mut OneVm,
        (version, group, order): (GicVersion, u32, u64),
    ) -> TestResult {
        run_guest(t, version, &[group.into(), order])
    }

    /// Disabling a group holds back what is pending, and enabling it again lets it come.
    #[kvm_test(switches_off_and_on, params = [
    gicv2_group0: (V2, GROUP0), gicv2_group1: (V2, GROUP1),
    gicv3_group0: (V3, GROUP0), gicv3_group1: (V3, GROUP1),
])]
    fn switched_off_and_on(t: &mut OneVm, (version, group): (GicVersion, u32)) -> TestResult {
        run_guest(t, version, &[group.into()])
    }

    /// The CPU interface has an enable for each group too: ICC_IGRPEN0_EL1 and ICC_IGRPEN1_EL1, and bits 0
    /// and 1 of GICC_CTLR.
    #[kvm_test(masks_at_the_cpu_interface, params = [
    gicv2_group0: (V2, GROUP0), gicv2_group1: (V2, GROUP1),
    gicv3_group0: (V3, GROUP0), gicv3_group1: (V3, GROUP1),
])]
    fn cpu_interface_group_enables(
        t: &mut OneVm,
        (version, group): (GicVersion, u32),
    ) -> TestResult {
        run_guest(t, version, &[group.into()])
    }

    /// Every interrupt's group can be chosen: IGROUPR is read-write where there is one security state.
    #[kvm_test(writes_groups, params = [gicv2: V2, gicv3: V3])]
    fn interrupt_groups_are_writable(t: &mut OneVm, version: GicVersion) -> TestResult {
        run_guest(t, version, &[])
    }

    /// KVM's GIC has one security state, and says so.
    #[kvm_test(looks_for_a_secure_side, params = [gicv2: V2, gicv3: V3])]
    fn one_security_state(t: &mut OneVm, version: GicVersion) -> TestResult {
        run_guest(t, version, &[])
    }

    /// An interrupt whose group changes while it is pending is neither lost nor taken twice (IHI 0069,
    /// GICD_IGROUPR).
    #[kvm_test(changes_the_group_of_a_pending_spi, params = [
    gicv2_to_group1: (V2, GROUP0), gicv2_to_group0: (V2, GROUP1),
    gicv3_to_group1: (V3, GROUP0), gicv3_to_group0: (V3, GROUP1),
])]
    fn group_changes_while_pending(
        t: &mut OneVm,
        (version, from): (GicVersion, u32),
    ) -> TestResult {
        run_guest(t, version, &[from.into()])
    }

    /// PPIs and SGIs have groups as SPIs do.
    #[kvm_test(takes_private_interrupts, params = [
    gicv2_group0: (V2, GROUP0), gicv2_group1: (V2, GROUP1),
    gicv3_group0: (V3, GROUP0), gicv3_group1: (V3, GROUP1),
])]
    fn private_interrupts_have_groups(
        t: &mut OneVm,
        (version, group): (GicVersion, u32),
    ) -> TestResult {
        run_guest(t, version, &[group.into()])
    }

    /// Both groups share one order of priorities.
    #[kvm_test(takes_both_kinds, params = [gicv2: V2, gicv3: V3])]
    fn priorities_across_groups(t: &mut OneVm, version: GicVersion) -> TestResult {
        run_guest(t, version, &[])
    }
}
