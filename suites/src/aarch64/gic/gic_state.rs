//! The states of an interrupt: inactive, pending, active, active and pending, for edges and for levels;
//! and how it ends (IHI 0069 4.1, 4.5; IHI 0048 3.2).
use crate::aarch64::support::gic_bench::*;
use crate::prelude::*;
use gic::SPURIOUS;

const SPI: u32 = 112;
const OTHER_SPI: u32 = 113;
const SGI: u32 = 7;
const PPI: u32 = 22;

/// Pending and active, as the distributor tells it.
fn state(gic: GuestGic, intid: u32) -> (bool, bool) {
    (gic.get(gicd::ISPENDR, intid), gic.get(gicd::ISACTIVER, intid))
}

const INACTIVE: (bool, bool) = (false, false);
const PENDING: (bool, bool) = (true, false);
const ACTIVE: (bool, bool) = (false, true);
const ACTIVE_AND_PENDING: (bool, bool) = (true, true);

#[guest]
fn takes_one_spi(g: &mut Guest) {
    let gic = GuestGic::detect();
    let spi = g.arg(0) as u32;
    gic.enable();
    prepare_irq(gic, spi);
    let trigger = || gic.set(gicd::ISPENDR, spi);
    check_eq!("an SPI made pending comes exactly once", interrupts_during(gic, trigger), irq(spi));
    check_eq!("an SPI that came and ended is inactive", state(gic, spi), INACTIVE);

    gic.set(gicd::ICENABLER, spi);
    check!("ICENABLER disables the SPI", !gic.get(gicd::ISENABLER, spi));
    check_eq!("a disabled SPI does not come", interrupts_during(gic, trigger), NOTHING);
    check_eq!("a disabled SPI stays pending", state(gic, spi), PENDING);
    let enable = || gic.set(gicd::ISENABLER, spi);
    check_eq!("enabling brings the pending SPI", interrupts_during(gic, enable), irq(spi));

    gic.set(gicd::ICENABLER, spi);
    trigger();
    gic.set(gicd::ICPENDR, spi);
    check_eq!("ICPENDR takes the pending state away", state(gic, spi), INACTIVE);
    check_eq!("an SPI that ICPENDR cleared does not come", interrupts_during(gic, enable), NOTHING);

    gic.set(gicd::ISACTIVER, spi);
    check_eq!("ISACTIVER makes the SPI active", state(gic, spi), ACTIVE);
    check_eq!("an active SPI does not come again", interrupts_during(gic, trigger), NOTHING);
    check_eq!(
        "an active SPI made pending is active and pending",
        state(gic, spi),
        ACTIVE_AND_PENDING
    );
    let deactivate = || gic.set(gicd::ICACTIVER, spi);
    check_eq!("ICACTIVER lets the pending SPI come", interrupts_during(gic, deactivate), irq(spi));
}

#[guest]
fn walks_through_the_states_of_an_edge(_: &mut Guest) {
    let gic = GuestGic::detect();
    gic.enable();
    prepare_irq(gic, SPI);
    let trigger = || gic.set(gicd::ISPENDR, SPI);
    check_eq!("an acknowledge without a pending interrupt is 1023", gic.acknowledge(), SPURIOUS);
    check_eq!("the SPI is inactive at first", state(gic, SPI), INACTIVE);
    trigger();
    check_eq!("an edge makes the SPI pending", state(gic, SPI), PENDING);
    check_eq!("the acknowledge returns the SPI", gic.acknowledge(), SPI);
    check_eq!("the acknowledge makes the SPI active", state(gic, SPI), ACTIVE);
    trigger();
    trigger();
    check_eq!("edges while active make it active and pending", state(gic, SPI), ACTIVE_AND_PENDING);
    check_eq!("an active SPI cannot be acknowledged", gic.acknowledge(), SPURIOUS);
    gic.end(SPI);
    check_eq!("the end leaves an SPI pending whose edge came meanwhile", state(gic, SPI), PENDING);
    check_eq!("the edges while active are one interrupt", gic.acknowledge(), SPI);
    check_eq!("the second acknowledge makes the SPI active", state(gic, SPI), ACTIVE);
    gic.end(SPI);
    check_eq!("the second end makes the SPI inactive", state(gic, SPI), INACTIVE);
    check_eq!("no interrupt is left after the second end", gic.acknowledge(), SPURIOUS);

    trigger();
    check_eq!("an SPI with a new edge is acknowledged again", gic.acknowledge(), SPI);
    trigger();
    gic.set(gicd::ICPENDR, SPI);
    check_eq!("ICPENDR leaves the SPI active", state(gic, SPI), ACTIVE);
    gic.set(gicd::ICENABLER, SPI);
    gic.end(SPI);
    check_eq!("an active SPI ends although it is disabled", state(gic, SPI), INACTIVE);
}

/// What the guest asks the host for by a sync: the level of the line.
mod line {
    pub const LOW: u64 = 1;
    pub const HIGH: u64 = 2;
}

#[guest]
fn walks_through_the_states_of_a_level(g: &mut Guest) {
    let gic = GuestGic::detect();
    gic.enable();
    prepare_irq(gic, SPI);
    gic.set_edge(SPI, false);
    let mut set_line = |level| {
        g.sync(level, &[]);
    };
    check_eq!("a low level is not pending", state(gic, SPI), INACTIVE);
    set_line(line::HIGH);
    check_eq!("a high level is pending", state(gic, SPI), PENDING);
    set_line(line::LOW);
    check_eq!("an SPI is not pending after its level fell", state(gic, SPI), INACTIVE);
    check_eq!("a level that fell does not come", gic.acknowledge(), SPURIOUS);

    set_line(line::HIGH);
    gic.set(gicd::ICPENDR, SPI);
    check_eq!("ICPENDR does not silence a high level", state(gic, SPI), PENDING);
    check_eq!("a high level is acknowledged", gic.acknowledge(), SPI);
    check_eq!(
        "a level is active, and pending while it is high",
        state(gic, SPI),
        ACTIVE_AND_PENDING
    );
    check_eq!("an active level cannot be acknowledged", gic.acknowledge(), SPURIOUS);
    gic.end(SPI);
    let again = spin_for(1000, || gic.acknowledge() == SPI);
    check!("a level that is still high comes again after its end", again);
    set_line(line::LOW);
    check_eq!("an active level is not pending after it fell", state(gic, SPI), ACTIVE);
    gic.end(SPI);
    check_eq!("a level that fell is inactive after its end", state(gic, SPI), INACTIVE);
    check_eq!("a level that fell while active does not come again", gic.acknowledge(), SPURIOUS);
}

#[guest]
fn latches_a_level(g: &mut Guest) {
    let gic = GuestGic::detect();
    gic.enable();
    prepare_irq(gic, SPI);
    gic.set_edge(SPI, false);
    let mut set_line = |level| {
        g.sync(level, &[]);
    };
    gic.set(gicd::ISPENDR, SPI);
    check_eq!("ISPENDR makes the SPI pending at a low level", state(gic, SPI), PENDING);
    gic.set(gicd::ICPENDR, SPI);
    check_eq!("ICPENDR takes the pending latch back", state(gic, SPI), INACTIVE);

    gic.set(gicd::ISPENDR, SPI);
    set_line(line::HIGH);
    set_line(line::LOW);
    check_eq!("the latch that ISPENDR set outlives the level", state(gic, SPI), PENDING);
    check_eq!("an SPI that ISPENDR latched is acknowledged", gic.acknowledge(), SPI);
    check_eq!("activation clears the latch that ISPENDR set", state(gic, SPI), ACTIVE);
    gic.end(SPI);
    check_eq!("an SPI that ISPENDR latched ends inactive", state(gic, SPI), INACTIVE);
    check_eq!("an SPI that ISPENDR latched comes only once", gic.acknowledge(), SPURIOUS);

    gic.set(gicd::ISPENDR, SPI);
    check_eq!("ISPENDR latches the SPI a second time", gic.acknowledge(), SPI);
    gic.set(gicd::ISPENDR, SPI);
    check_eq!(
        "ISPENDR while active makes the SPI active and pending",
        state(gic, SPI),
        ACTIVE_AND_PENDING
    );
    gic.end(SPI);
    check_eq!("the latch that ISPENDR set while active outlives the end", state(gic, SPI), PENDING);
    let again = spin_for(1000, || gic.acknowledge() == SPI);
    check!("the SPI latched while active is acknowledged again", again);
    gic.end(SPI);
}

#[guest]
fn is_wired_to_an_edge(g: &mut Guest) {
    let gic = GuestGic::detect();
    gic.enable();
    prepare_irq(gic, SPI);
    let mut set_line = |level| {
        g.sync(level, &[]);
    };
    let seen = interrupts_during(gic, || set_line(line::HIGH));
    check_eq!("a rising edge comes exactly once", seen, irq(SPI));
    let seen = interrupts_during(gic, || set_line(line::LOW));
    check_eq!("a falling edge does not come", seen, NOTHING);
    let seen = interrupts_during(gic, || set_line(line::HIGH));
    check_eq!("the next rising edge comes again", seen, irq(SPI));
    set_line(line::LOW);
    gic.set(gicd::ICENABLER, SPI);
    set_line(line::HIGH);
    set_line(line::LOW);
    check_eq!("an edge is remembered while the SPI is disabled", state(gic, SPI), PENDING);
    let seen = interrupts_during(gic, || gic.set(gicd::ISENABLER, SPI));
    check_eq!("an edge from while the SPI was disabled comes when enabled", seen, irq(SPI));
}

#[guest]
fn ends_in_one_step(_: &mut Guest) {
    let gic = GuestGic::detect();
    gic.enable();
    prepare_irq(gic, SPI);
    prepare_irq(gic, OTHER_SPI);
    gic.set(gicd::ISPENDR, SPI);
    check_eq!("the first SPI is acknowledged with EOImode 0", gic.acknowledge(), SPI);
    check_eq!(
        "the first SPI's priority is the running one",
        gic.running_priority(),
        u32::from(PRIORITY)
    );
    gic.set(gicd::ISPENDR, OTHER_SPI);
    check_eq!("an SPI of the same priority waits for the end", gic.acknowledge(), SPURIOUS);
    gic.end(SPI);
    check_eq!("the end drops the running priority", gic.running_priority(), gic::IDLE_PRIORITY);
    check_eq!("the end deactivates the SPI", state(gic, SPI), INACTIVE);
    check_eq!("the SPI that waited comes after the end", gic.acknowledge(), OTHER_SPI);
    gic.end(OTHER_SPI);
}

#[guest]
fn ends_in_two_steps(_: &mut Guest) {
    let gic = GuestGic::detect();
    gic.enable();
    gic.split_end();
    prepare_irq(gic, SPI);
    prepare_irq(gic, OTHER_SPI);
    gic.set(gicd::ISPENDR, SPI);
    check_eq!("the first SPI is acknowledged with EOImode 1", gic.acknowledge(), SPI);
    gic.end(SPI);
    check_eq!("EOIR drops the running priority", gic.running_priority(), gic::IDLE_PRIORITY);
    check_eq!("EOIR leaves the SPI active", state(gic, SPI), ACTIVE);
    gic.set(gicd::ISPENDR, SPI);
    check_eq!("an SPI that is active does not come again", gic.acknowledge(), SPURIOUS);
    gic.set(gicd::ISPENDR, OTHER_SPI);
    check_eq!("a second SPI of the same priority comes after EOIR", gic.acknowledge(), OTHER_SPI);
    gic.end(OTHER_SPI);
    check_eq!(
        "both SPIs are active before DIR",
        (state(gic, SPI).1, state(gic, OTHER_SPI).1),
        (true, true)
    );
    gic.deactivate(SPI);
    check_eq!("DIR deactivates the first SPI", state(gic, SPI), PENDING);
    check_eq!("DIR leaves the second SPI active", state(gic, OTHER_SPI), ACTIVE);
    let again = spin_for(1000, || gic.acknowledge() == SPI);
    check!("an SPI that became pending while active comes after DIR", again);
    gic.end(SPI);
    gic.deactivate(OTHER_SPI);
    gic.deactivate(SPI);
    check_eq!(
        "DIR deactivates SPIs in any order",
        (state(gic, SPI), state(gic, OTHER_SPI)),
        (INACTIVE, INACTIVE)
    );
}

#[guest]
fn sets_private_interrupts_pending(_: &mut Guest) {
    let gic = GuestGic::detect();
    gic.enable();
    prepare_irq(gic, PPI);
    prepare_irq(gic, SGI);
    let seen = interrupts_during(gic, || gic.set(gicd::ISPENDR, PPI));
    check_eq!("a PPI made pending comes exactly once", seen, irq(PPI));
    gic.set(gicd::ICENABLER, PPI);
    let seen = interrupts_during(gic, || gic.set(gicd::ISPENDR, PPI));
    check_eq!("a disabled PPI does not come", seen, NOTHING);
    check_eq!("a disabled PPI stays pending", state(gic, PPI), PENDING);
    gic.set(gicd::ICPENDR, PPI);
    check_eq!("ICPENDR takes the PPI's pending state back", state(gic, PPI), INACTIVE);
    let seen = interrupts_during(gic, || gic.set(gicd::ISPENDR, SGI));
    match gic {
        GuestGic::V2 => {
            check_eq!("bits of SGIs in ISPENDR are read-only in a GICv2", seen, NOTHING)
        }
        GuestGic::V3 => check_eq!("an SGI made pending comes exactly once", seen, irq(SGI)),
    };
}

#[host]
mod host {
    use super::*;
    use GicVersion::{V2, V3};

    /// Bits of KVM_IRQ_LINE's `irq`: an SPI (api.rst 4.25).
    const SPI_LINE: u32 = bindings::KVM_ARM_IRQ_TYPE_SPI << bindings::KVM_ARM_IRQ_TYPE_SHIFT;

    /// An SPI comes exactly once, and only while it is enabled and not active.
    #[kvm_test(takes_one_spi, params = [
    gicv2_first: (V2, 32), gicv2_end_of_word: (V2, 63), gicv2_start_of_word: (V2, 64), gicv2_last: (V2, 255),
    gicv3_first: (V3, 32), gicv3_end_of_word: (V3, 63), gicv3_start_of_word: (V3, 64), gicv3_last: (V3, 255),
])]
    fn spi_single(t: &mut OneVm, (version, spi): (GicVersion, u64)) -> TestResult {
        run_guest(t, version, &[spi])
    }

    /// An edge-triggered interrupt remembers one edge while it is active.
    #[kvm_test(walks_through_the_states_of_an_edge, params = [gicv2: V2, gicv3: V3])]
    fn edge_states(t: &mut OneVm, version: GicVersion) -> TestResult {
        run_guest(t, version, &[])
    }

    /// Runs the guest and drives the line of the SPI as it asks.
    fn drive(t: &mut OneVm, version: GicVersion) -> TestResult {
        let mut bench = Bench::new(t, version)?;
        loop {
            let level = match bench.vcpu().run_until_next()? {
                Next::Sync([line::LOW, ..]) => false,
                Next::Sync([line::HIGH, ..]) => true,
                Next::Done => return Ok(()),
                other => fail!("{other:?} instead of a level"),
            };
            t.vm.fd().set_irq_line(SPI_LINE | SPI, level).ioctl("KVM_IRQ_LINE")?;
        }
    }

    /// A level-sensitive interrupt is pending while its line is high.
    #[kvm_test(walks_through_the_states_of_a_level, params = [gicv2: V2, gicv3: V3])]
    fn level_states(t: &mut OneVm, version: GicVersion) -> TestResult {
        drive(t, version)
    }

    /// ISPENDR of a level-sensitive interrupt sets a latch beside the line, which activation and ICPENDR clear
    /// (IHI 0069 GICD_ISPENDR, arm-vgic-v3.rst "Accesses to the GICD_ISPENDR register region").
    #[kvm_test(latches_a_level, params = [gicv2: V2, gicv3: V3])]
    fn pending_latch_of_a_level(t: &mut OneVm, version: GicVersion) -> TestResult {
        drive(t, version)
    }

    /// `KVM_IRQ_LINE` drives the line of an edge-triggered SPI (api.rst 4.25).
    #[kvm_test(is_wired_to_an_edge, params = [gicv2: V2, gicv3: V3])]
    fn irq_line_edges(t: &mut OneVm, version: GicVersion) -> TestResult {
        drive(t, version)
    }

    /// With EOImode 0 the end of an interrupt drops its priority and deactivates it.
    #[kvm_test(ends_in_one_step, params = [gicv2: V2, gicv3: V3])]
    fn eoi_mode_0(t: &mut OneVm, version: GicVersion) -> TestResult {
        run_guest(t, version, &[])
    }

    /// With EOImode 1 EOIR drops the priority only, and DIR deactivates.
    #[kvm_test(ends_in_two_steps, params = [gicv2: V2, gicv3: V3])]
    fn eoi_mode_1(t: &mut OneVm, version: GicVersion) -> TestResult {
        run_guest(t, version, &[])
    }

    /// PPIs and SGIs have the states of SPIs; a GICv2 lets SGIs be made pending by their own registers only.
    #[kvm_test(sets_private_interrupts_pending, params = [gicv2: V2, gicv3: V3])]
    fn private_states(t: &mut OneVm, version: GicVersion) -> TestResult {
        run_guest(t, version, &[])
    }
}
