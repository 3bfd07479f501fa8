//! How many interrupt routes a VM takes, and which (api.rst 4.52).
use crate::prelude::*;

use crate::common::support::boundary::{probe, word, words};
use request::KVM_SET_GSI_ROUTING;

kvm_tests! { requires(cap::IRQ_ROUTING) }

const IRQCHIP_PIC_MASTER: u32 = bindings::KVM_IRQCHIP_PIC_MASTER;
const IRQCHIP_IOAPIC: u32 = bindings::KVM_IRQCHIP_IOAPIC;
const IOAPIC_PINS: u32 = bindings::KVM_IOAPIC_NUM_PINS;
/// Word of `struct kvm_irqchip` that holds the I/O APIC's IRR: behind its identification, base
/// address and two registers.
const IOAPIC_IRR: usize = 6;

/// `struct kvm_irq_routing_entry`.
#[derive(Clone, Copy)]
struct Route {
    gsi: u32,
    kind: u32,
    flags: u32,
    chip: u32,
    pin: u32,
}

fn ioapic(gsi: u32, pin: u32) -> Route {
    Route { gsi, kind: bindings::KVM_IRQ_ROUTING_IRQCHIP, flags: 0, chip: IRQCHIP_IOAPIC, pin }
}

/// Sets the routing table; `nr` may claim another number of routes than there are.
fn set_routes(vm: &Vm, nr: u32, flags: u32, routes: &[Route]) -> Result<i32, Errno> {
    let mut table = vec![nr, flags];
    for r in routes {
        table.extend([r.gsi, r.kind, r.flags, 0, r.chip, r.pin, 0, 0, 0, 0, 0, 0]);
    }
    vm.raw(KVM_SET_GSI_ROUTING, &mut words(&table))
}

/// The I/O APIC pins that `gsi` reaches, as a mask.
fn pins(vm: &Vm, gsi: u32) -> TestResult<u32> {
    vm.set_irq_line(gsi, true).ioctl("KVM_IRQ_LINE")?;
    let mut chip = vec![0; size_of::<bindings::kvm_irqchip>()];
    chip[..4].copy_from_slice(&IRQCHIP_IOAPIC.to_ne_bytes());
    vm.raw(request::x86::KVM_GET_IRQCHIP, &mut chip).ioctl("KVM_GET_IRQCHIP")?;
    vm.set_irq_line(gsi, false).ioctl("KVM_IRQ_LINE")?;
    Ok(word(&chip, IOAPIC_IRR))
}

/// api.rst 4.52: a table has up to KVM_CAP_IRQ_ROUTING routes; more is EINVAL, and the old routes stay.
#[kvm_test(irqchip)]
fn gsi_routing_takes_up_to_its_limit(t: &mut OneVm) -> TestResult {
    let vm = &t.vm;
    let limit = vm.check_extension(bindings::KVM_CAP_IRQ_ROUTING) as u32;
    let (first, last) = (0, limit - 1);
    // Every table is shifted by one pin: one that was refused and still applied would show.
    let mut shift = 0;
    let set = |nr: u32| {
        shift += 1;
        let mut routes: Vec<Route> =
            (0..nr.min(limit)).map(|gsi| ioapic(gsi, (gsi + shift) % IOAPIC_PINS)).collect();
        if nr > limit {
            // A GSI may lead to both irqchips: nothing but their number is wrong with these routes.
            routes.push(Route { chip: IRQCHIP_PIC_MASTER, pin: 0, ..ioapic(0, 0) });
        }
        set_routes(vm, nr, 0, &routes)
    };
    let want = |nr| if nr > limit { Err(Errno::EINVAL) } else { Ok(0) };
    let state = || Ok([pins(vm, first)?, pins(vm, last)?]);
    probe("KVM_SET_GSI_ROUTING", limit, set, want, state)?;

    let all: Vec<Route> = (0..limit).map(|gsi| ioapic(gsi, gsi % IOAPIC_PINS)).collect();
    set_routes(vm, limit, 0, &all).ioctl("KVM_SET_GSI_ROUTING")?;
    for (place, gsi) in [("first", first), ("last", last)] {
        check_eq!(
            "the {place} route of a full table delivers",
            pins(vm, gsi)?,
            1 << (gsi % IOAPIC_PINS)
        );
    }
    set_routes(vm, 0, 0, &[]).ioctl("KVM_SET_GSI_ROUTING")?;
    check_eq!("an empty table routes nothing", pins(vm, first)?, 0);
    Ok(())
}

/// api.rst 4.52: a table with one bad route is refused as a whole, with EINVAL.
#[kvm_test(irqchip)]
fn one_bad_route_refuses_the_table(t: &mut OneVm) -> TestResult {
    const GSI: u32 = 40;
    const PIN: u32 = 3;
    const OTHER_PIN: u32 = 7;
    let vm = &t.vm;
    let limit = vm.check_extension(bindings::KVM_CAP_IRQ_ROUTING) as u32;
    let good = ioapic(GSI + 1, 0);
    let pic = |pin| Route { chip: IRQCHIP_PIC_MASTER, pin, ..good };
    let bad = [
        ("GSI KVM_CAP_IRQ_ROUTING", Route { gsi: limit, ..good }),
        ("GSI 2^31", Route { gsi: 1 << 31, ..good }),
        ("GSI 2^32 - 1", Route { gsi: u32::MAX, ..good }),
        ("type 0", Route { kind: 0, ..good }),
        ("type 2^32 - 1", Route { kind: u32::MAX, ..good }),
        ("flag 0 of an irqchip route", Route { flags: 1, ..good }),
        ("flag 31 of an irqchip route", Route { flags: 1 << 31, ..good }),
        ("irqchip 3", Route { chip: 3, ..good }),
        ("irqchip 2^32 - 1", Route { chip: u32::MAX, ..good }),
        ("pin 24 of the I/O APIC", ioapic(GSI + 1, IOAPIC_PINS)),
        ("pin 2^32 - 1 of the I/O APIC", ioapic(GSI + 1, u32::MAX)),
        ("pin 8 of the PIC", pic(defs::x86::pic::PINS)),
        ("pin 2^32 - 1 of the PIC", pic(u32::MAX)),
        ("the same GSI and irqchip twice", ioapic(GSI, OTHER_PIN)),
    ];
    set_routes(vm, 1, 0, &[ioapic(GSI, PIN)]).ioctl("KVM_SET_GSI_ROUTING")?;
    for (what, route) in bad {
        let got = set_routes(vm, 2, 0, &[ioapic(GSI, OTHER_PIN), route]);
        check_eq!("a table with {what} is EINVAL", got, Err(Errno::EINVAL));
        check_eq!("a table with {what}, refused, leaves the routes", pins(vm, GSI)?, 1 << PIN);
    }
    for flag in [0, 31] {
        let got = set_routes(vm, 1, 1 << flag, &[ioapic(GSI, OTHER_PIN)]);
        check_eq!("flag {flag} of the table is EINVAL", got, Err(Errno::EINVAL));
        check_eq!("flag {flag} of the table, refused, leaves the routes", pins(vm, GSI)?, 1 << PIN);
    }
    let got = set_routes(vm, 2, 0, &[ioapic(GSI, OTHER_PIN)]);
    check_eq!("a table cut short is EFAULT", got, Err(Errno::EFAULT));
    check_eq!("a table cut short leaves the routes", pins(vm, GSI)?, 1 << PIN);
    Ok(())
}

/// api.rst 4.52: without an in-kernel interrupt controller, x86 has nothing to route to.
#[kvm_test]
fn gsi_routing_needs_an_irqchip(t: &mut OneVm) -> TestResult {
    let got = set_routes(&t.vm, 1, 0, &[ioapic(0, 0)]);
    check_eq!("a route without an irqchip is EINVAL", got, Err(Errno::EINVAL));
    let got = set_routes(&t.vm, 0, 0, &[]);
    check_eq!("an empty table without an irqchip is EINVAL", got, Err(Errno::EINVAL));
    Ok(())
}
