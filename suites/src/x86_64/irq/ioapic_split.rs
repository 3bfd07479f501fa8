//! The split irqchip: EOIs of level-triggered interrupts are told to the I/O APIC in userspace
//! (KVM_CAP_SPLIT_IRQCHIP, api.rst 7.5; KVM_EXIT_IOAPIC_EOI, api.rst 5).
use crate::prelude::*;
use crate::x86_64::support::ioapic_guest::{self as guest, OTHER_VECTOR, VECTOR};

kvm_tests! { split_irqchip, requires(cap::SPLIT_IRQCHIP) }

/// Message data: level-triggered, asserted (SDM vol. 3, "Message Data Register Format").
const LEVEL: u32 = apic::ICR_LEVEL | apic::ICR_ASSERT;
/// GSIs of pins: the harness reserves 24 of them.
const PIN: u32 = 20;
const LAST_PIN: u32 = ioapic::PINS - 1;
/// The first GSI that is no pin of the I/O APIC.
const NO_PIN: u32 = ioapic::PINS;

/// A route to the vCPU with APIC ID `id`.
fn route(id: u8, data: u32) -> Route {
    Route::Msi { address: apic::XAPIC_BASE | u64::from(id) << 12, data }
}

/// The interrupt of a GSI is taken by its vCPU.
fn trigger(vm: &Vm, cpu: &mut Vcpu, gsi: u32) -> TestResult<guest::Taken> {
    vm.set_irq_line(gsi, true).ioctl("KVM_IRQ_LINE(1)")?;
    vm.set_irq_line(gsi, false).ioctl("KVM_IRQ_LINE(0)")?;
    guest::take(vm, cpu)
}

/// The guest ends the interrupt in service: the vector that userspace is told of, if any.
fn end(cpu: &mut Vcpu) -> TestResult<Option<u8>> {
    let told = match guest::eoi_until_next(cpu)? {
        Next::Exit(stop) => match stop.exit() {
            Exit::IoapicEoi { vector } => Some(vector),
            other => fail!("{other:x?} at the EOI"),
        },
        Next::Sync(_) => return Ok(None),
        Next::Done => fail!("the guest has returned at the EOI"),
    };
    guest::until_ready(cpu)?;
    Ok(told)
}

/// The EOI of a pin's level-triggered message exits once, with its vector; that of an edge-triggered
/// one, or of a GSI that is no pin, does not.
#[kvm_test(params = [
    pin: (PIN, LEVEL, true),
    last_pin: (LAST_PIN, LEVEL, true),
    first_pin: (0, LEVEL, true),
    edge: (PIN, 0, false),
    no_pin: (NO_PIN, LEVEL, false),
])]
fn eoi_of_a_level_exits(t: &mut OneVm, (gsi, mode, exits): (u32, u32, bool)) -> TestResult {
    let mut cpu = guest::start(&mut t.vm, 0)?;
    t.vm.set_gsi_routing(&[(gsi, route(0, mode | u32::from(VECTOR)))])
        .ioctl("KVM_SET_GSI_ROUTING")?;
    let want = exits.then_some(VECTOR);
    for _ in 0..2 {
        check_eq!("the pin's message is taken", trigger(&t.vm, &mut cpu, gsi)?.vector, 1);
        check_eq!("the EOI of a level, and of nothing else, exits", end(&mut cpu)?, want);
        check_eq!("an EOI without an interrupt in service does not exit", end(&mut cpu)?, None);
    }
    Ok(())
}

/// Of two routes, and of two vCPUs, the EOI that is told is the one that was made.
#[kvm_test]
fn eoi_is_told_by_its_vcpu_with_its_vector(t: &mut OneVm) -> TestResult {
    let mut first = guest::start(&mut t.vm, 0)?;
    let mut second = guest::start(&mut t.vm, 1)?;
    let level = |vector: u8| LEVEL | u32::from(vector);
    t.vm.set_gsi_routing(&[
        (PIN, route(0, level(VECTOR))),
        (LAST_PIN, route(1, level(OTHER_VECTOR))),
        (NO_PIN, route(1, VECTOR.into())),
    ])
    .ioctl("KVM_SET_GSI_ROUTING")?;
    check_eq!(
        "vCPU 0 takes its level-triggered interrupt",
        trigger(&t.vm, &mut first, PIN)?.vector,
        1
    );
    check_eq!(
        "vCPU 1 takes its level-triggered interrupt",
        trigger(&t.vm, &mut second, LAST_PIN)?.other,
        1
    );
    check_eq!("vCPU 1's EOI exits with its own vector", end(&mut second)?, Some(OTHER_VECTOR));
    check_eq!("vCPU 0's EOI exits with its own vector", end(&mut first)?, Some(VECTOR));
    // The level of this vector leads to vCPU 0 alone.
    check_eq!(
        "vCPU 1 takes its edge-triggered interrupt",
        trigger(&t.vm, &mut second, NO_PIN)?.vector,
        1
    );
    check_eq!("vCPU 1's EOI of another vCPU's vector does not exit", end(&mut second)?, None);
    Ok(())
}

/// The EOIs that are told follow the routes.
#[kvm_test]
fn eois_follow_the_routes(t: &mut OneVm) -> TestResult {
    let mut cpu = guest::start(&mut t.vm, 0)?;
    let vector = u32::from(VECTOR);
    for (what, data, want) in [
        ("an edge", vector, None),
        ("made a level", LEVEL | vector, Some(VECTOR)),
        ("with another vector", LEVEL | u32::from(OTHER_VECTOR), Some(OTHER_VECTOR)),
        ("made an edge again", vector, None),
    ] {
        t.vm.set_gsi_routing(&[(PIN, route(0, data))]).ioctl("KVM_SET_GSI_ROUTING")?;
        trigger(&t.vm, &mut cpu, PIN)?;
        check_eq!("the EOI that exits follows the route: {what}", end(&mut cpu)?, want);
    }
    Ok(())
}

/// An EOI is told although the route leads to another vCPU by then: without it the userspace I/O APIC
/// would wait for ever.
#[kvm_test]
fn eoi_is_told_after_the_route_was_moved(t: &mut OneVm) -> TestResult {
    let mut first = guest::start(&mut t.vm, 0)?;
    let mut second = guest::start(&mut t.vm, 1)?;
    let level = LEVEL | u32::from(VECTOR);
    let lead_to = |id| t.vm.set_gsi_routing(&[(PIN, route(id, level))]);
    lead_to(1).ioctl("KVM_SET_GSI_ROUTING")?;
    check_eq!(
        "vCPU 1 takes the level-triggered interrupt",
        trigger(&t.vm, &mut second, PIN)?.vector,
        1
    );
    lead_to(0).ioctl("KVM_SET_GSI_ROUTING(moved)")?;
    check_eq!("vCPU 1's EOI exits after the route was moved", end(&mut second)?, Some(VECTOR));
    check_eq!("vCPU 0 takes the next interrupt", trigger(&t.vm, &mut first, PIN)?.vector, 1);
    check_eq!("vCPU 0's EOI exits with its vector", end(&mut first)?, Some(VECTOR));
    check_eq!(
        "vCPU 1 takes no interrupt after the move",
        guest::take(&t.vm, &mut second)?.vector,
        0
    );
    Ok(())
}
