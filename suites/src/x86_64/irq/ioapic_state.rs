//! The state of the I/O APIC in the kernel (KVM_GET_IRQCHIP and KVM_SET_IRQCHIP, api.rst 4.26, 4.27),
//! taken while interrupts are on their way, and what KVM_IRQ_LINE_STATUS tells of a line.
use crate::prelude::*;
use crate::x86_64::support::ioapic_guest::{self as guest, VECTOR};
use {
    ioapic::{LEVEL, LOGICAL, MASKED, REMOTE_IRR},
    request::x86::{KVM_GET_IRQCHIP, KVM_IRQ_LINE, KVM_IRQ_LINE_STATUS, KVM_SET_IRQCHIP},
    vm::arch::IoapicState,
};

kvm_tests! { irqchip }

/// A pin and GSI behind the 16 that the PIC shares by default.
const PIN: u32 = 20;
const EDGE: u64 = VECTOR as u64;
const LEVEL_ENTRY: u64 = LEVEL | VECTOR as u64;
/// The pin of the real-time clock, whose lost interrupts are lost time.
const RTC_PIN: u32 = 8;

/// `struct kvm_irqchip` of `chip`.
fn request_of(chip: u32) -> Vec<u8> {
    let mut bytes = vec![0; size_of::<bindings::kvm_irqchip>()];
    bytes[..4].copy_from_slice(&chip.to_ne_bytes());
    bytes
}

/// Chips that are not there, and those of a VM that has none in the kernel.
#[kvm_test(no_irqchip, requires(cap::IRQCHIP, cap::SPLIT_IRQCHIP), params = [
    none: (Irqchip::None, Errno::ENXIO),
    split: (Irqchip::Split, Errno::ENXIO),
    kernel: (Irqchip::Kernel, Errno::EINVAL),
])]
fn missing_chips_are_refused(t: &mut HostOnly, (irqchip, errno): (Irqchip, Errno)) -> TestResult {
    let _ = t;
    let vm = Vm::new(irqchip)?;
    for chip in [3, 1 << 31, u32::MAX] {
        let got = vm.raw(KVM_GET_IRQCHIP, &mut request_of(chip));
        check_eq!("KVM_GET_IRQCHIP of chip {chip:#x} is refused", got, Err(errno));
        let got = vm.raw(KVM_SET_IRQCHIP, &mut request_of(chip));
        check_eq!("KVM_SET_IRQCHIP of chip {chip:#x} is refused", got, Err(errno));
    }
    for chip in 0..3 {
        let get = vm.raw(KVM_GET_IRQCHIP, &mut request_of(chip));
        let there = irqchip == Irqchip::Kernel;
        let want = if there { Ok(0) } else { Err(errno) };
        check_eq!("KVM_GET_IRQCHIP of chip {chip} succeeds where it exists", get, want);
    }
    let line = |request| {
        let mut level = [PIN.to_ne_bytes(), 1_u32.to_ne_bytes()].concat();
        vm.raw(request, &mut level)
    };
    let want = if irqchip == Irqchip::None { Err(Errno::ENXIO) } else { Ok(0) };
    check_eq!("KVM_IRQ_LINE succeeds where there are lines", line(KVM_IRQ_LINE), want);
    check_eq!(
        "KVM_IRQ_LINE_STATUS succeeds where there are lines",
        line(KVM_IRQ_LINE_STATUS),
        want
    );
    Ok(())
}

/// What the guest sets userspace reads, and the other way round.
#[kvm_test(requires(cap::IRQCHIP))]
fn guest_and_userspace_see_the_same_ioapic(t: &mut OneVm) -> TestResult {
    let own = |pin: u32, base: u64| MASKED | base | u64::from(pin) << 56 | u64::from(pin);
    let mut cpu = guest::start(&mut t.vm, 0)?;
    let fresh = t.vm.ioapic()?;
    check_eq!("a new I/O APIC is at its default base", fresh.base, ioapic::BASE);
    check_eq!("a new I/O APIC has masked every pin", fresh.entries, [MASKED; 24]);
    check_eq!("a new I/O APIC has no line up", fresh.irr, 0);
    for pin in 0..ioapic::PINS {
        guest::set(&mut cpu, pin, own(pin, LEVEL))?;
    }
    let mut state = t.vm.ioapic()?;
    check_eq!(
        "userspace reads IOREGSEL as the guest set it",
        state.select,
        ioapic::redirection(ioapic::PINS - 1)
    );
    for (pin, entry) in (0..).zip(&mut state.entries) {
        check_eq!("userspace reads every pin as the guest set it", *entry, own(pin, LEVEL));
        *entry = own(pin, LOGICAL);
    }
    (state.id, state.select) = (0xa, 0x21);
    t.vm.set_ioapic(&state)?;
    check_eq!("userspace reads back the state that it set", t.vm.ioapic()?, state);
    for pin in 0..ioapic::PINS {
        let entry = guest::entry(&mut cpu, pin)?;
        check_eq!("the guest reads every pin as userspace set it", entry, own(pin, LOGICAL));
    }
    Ok(())
}

/// How far an interrupt has come, and which part of the state is set first.
#[derive(Clone, Copy)]
struct Flight {
    in_service: bool,
    ioapic_first: bool,
}

/// A level interrupt goes on in another VM where the first one's state was taken: what was requested
/// is taken there, what was in service is ended there, and the line, still up, interrupts again.
#[kvm_test(requires(cap::IRQCHIP), params = [
    requested: Flight { in_service: false, ioapic_first: true },
    requested_lapic_first: Flight { in_service: false, ioapic_first: false },
    in_service: Flight { in_service: true, ioapic_first: true },
    in_service_lapic_first: Flight { in_service: true, ioapic_first: false },
])]
fn level_goes_on_in_another_vm(t: &mut OneVm, flight: Flight) -> TestResult {
    let mut cpu = guest::start(&mut t.vm, 0)?;
    guest::set(&mut cpu, PIN, LEVEL_ENTRY)?;
    t.vm.set_irq_line(PIN, true).ioctl("KVM_IRQ_LINE")?;
    if flight.in_service {
        check_eq!(
            "the first VM's guest takes the interrupt",
            guest::take(&t.vm, &mut cpu)?.vector,
            1
        );
    }
    let state = t.vm.ioapic()?;
    check_eq!("the state has the line's level", state.irr, 1 << PIN);
    let entry = state.entries[PIN as usize];
    check_eq!("the state has the pin's Remote IRR", entry, LEVEL_ENTRY | REMOTE_IRR);
    let lapic = cpu.fd().get_lapic().ioctl("KVM_GET_LAPIC")?;

    let mut vm = Vm::new(Irqchip::Kernel)?;
    let mut cpu = guest::start(&mut vm, 0)?;
    if flight.ioapic_first {
        vm.set_ioapic(&state)?;
    }
    cpu.fd().set_lapic(&lapic).ioctl("KVM_SET_LAPIC")?;
    if !flight.ioapic_first {
        vm.set_ioapic(&state)?;
    }
    check_eq!("the other VM's guest reads the same entry", guest::entry(&mut cpu, PIN)?, entry);
    let taken = guest::take(&vm, &mut cpu)?.vector;
    check_eq!(
        "the other VM's guest takes what was requested only",
        taken,
        u64::from(!flight.in_service)
    );
    guest::eoi(&mut cpu)?;
    check_eq!("the line interrupts again in the other VM", guest::take(&vm, &mut cpu)?.vector, 1);
    vm.set_irq_line(PIN, false).ioctl("KVM_IRQ_LINE")?;
    guest::eoi(&mut cpu)?;
    check_eq!(
        "the last EOI clears Remote IRR in the other VM",
        guest::entry(&mut cpu, PIN)?,
        LEVEL_ENTRY
    );
    check_eq!("no interrupt follows the last EOI", guest::take(&vm, &mut cpu)?.vector, 0);
    Ok(())
}

/// An edge that was delivered is not delivered again by setting the state that was taken behind it.
#[kvm_test(requires(cap::IRQCHIP))]
fn delivered_edge_is_not_restored(t: &mut OneVm) -> TestResult {
    let mut cpu = guest::start(&mut t.vm, 0)?;
    guest::set(&mut cpu, PIN, EDGE)?;
    t.vm.set_irq_line(PIN, true).ioctl("KVM_IRQ_LINE")?;
    check_eq!(
        "the edge is taken before the state is read",
        guest::take(&t.vm, &mut cpu)?.vector,
        1
    );
    guest::eoi(&mut cpu)?;
    let state = t.vm.ioapic()?;
    check_eq!("the state has no edge that was delivered", state.irr, 0);
    t.vm.set_ioapic(&state)?;
    check_eq!("setting the state again interrupts nobody", guest::take(&t.vm, &mut cpu)?.vector, 0);
    Ok(())
}

/// What the state has in IRR is delivered as it is set, unless the pin is masked or waits for an EOI.
#[kvm_test(requires(cap::IRQCHIP), params = [
    edge: (EDGE, 1),
    level: (LEVEL_ENTRY, 1),
    masked_edge: (MASKED | EDGE, 0),
    masked_level: (MASKED | LEVEL_ENTRY, 0),
    level_waiting_for_eoi: (LEVEL_ENTRY | REMOTE_IRR, 0),
])]
fn requests_in_the_state_are_delivered(t: &mut OneVm, (entry, want): (u64, u64)) -> TestResult {
    let mut cpu = guest::start(&mut t.vm, 0)?;
    let mut state = IoapicState { irr: 1 << PIN, ..t.vm.ioapic()? };
    state.entries[PIN as usize] = entry;
    t.vm.set_ioapic(&state)?;
    let taken = guest::take(&t.vm, &mut cpu)?.vector;
    check_eq!("a request in the state is delivered as documented", taken, want);
    let irr = t.vm.ioapic()?.irr >> PIN & 1 != 0;
    // An edge is done with; a level, and what waits, stays.
    check_eq!("IRR keeps a request that was not delivered", irr, entry != EDGE);
    Ok(())
}

/// KVM_IRQ_LINE_STATUS: how many vCPUs a change of the line interrupted; 0 where an earlier interrupt
/// is pending still, less where it was ignored (kvm_set_irq() in KVM).
fn status(vm: &Vm, gsi: u32, level: u32) -> TestResult<i32> {
    let mut bytes = [gsi.to_ne_bytes(), level.to_ne_bytes()].concat();
    vm.raw(KVM_IRQ_LINE_STATUS, &mut bytes).ioctl("KVM_IRQ_LINE_STATUS")?;
    Ok(i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// The status tells delivered, coalesced and ignored apart.
#[kvm_test(requires(cap::IRQ_INJECT_STATUS))]
fn line_status_tells_what_became_of_it(t: &mut OneVm) -> TestResult {
    let mut cpu = guest::start(&mut t.vm, 0)?;
    let _second = guest::start(&mut t.vm, 1)?;
    let vm = &t.vm;
    for (name, destination, want) in [
        ("one vCPU", 1 << 56, 1),
        ("two vCPUs", LOGICAL | 0b11 << 56, 2),
        ("all vCPUs", 0xff << 56, 2),
    ] {
        guest::set(&mut cpu, PIN, EDGE | destination)?;
        check_eq!(
            "an edge to {name} reports how many vCPUs it interrupts",
            status(vm, PIN, 1)?,
            want
        );
        check_eq!("a second edge to {name} is reported as coalesced", status(vm, PIN, 1)?, 0);
        status(vm, PIN, 0)?;
    }
    guest::set(&mut cpu, PIN, MASKED | EDGE)?;
    let ignored = status(vm, PIN, 1)?;
    check!("an edge at a masked pin is reported as ignored", ignored < 0, "{ignored}");
    status(vm, PIN, 0)?;
    guest::set(&mut cpu, PIN, EDGE | 5 << 56)?;
    let nobody = status(vm, PIN, 1)?;
    check!("an edge to no vCPU reports none", nobody <= 0, "{nobody}");
    status(vm, PIN, 0)?;
    guest::set(&mut cpu, PIN, LEVEL_ENTRY)?;
    check_eq!("a level reports one interrupted vCPU", status(vm, PIN, 1)?, 1);
    let waits = status(vm, PIN, 1)?;
    check!("a level that waits for its EOI reports none", waits <= 0, "{waits}");
    status(vm, PIN, 0)?;
    for gsi in [ioapic::PINS, 4095, u32::MAX] {
        let ignored = status(vm, gsi, 1)?;
        check!(
            "GSI {gsi:#x}, which has no route, is reported as ignored",
            ignored < 0,
            "{ignored}"
        );
    }
    Ok(())
}

/// The clock's interrupt is coalesced until the guest has ended the last one, so that userspace can
/// send it again; taking and setting the state forgets nothing of it.
#[kvm_test(requires(cap::IRQ_INJECT_STATUS, cap::IRQ_ROUTING))]
fn clock_interrupt_is_coalesced_until_its_eoi(t: &mut OneVm) -> TestResult {
    let mut cpu = guest::start(&mut t.vm, 0)?;
    // By default the GSI leads to the PIC too.
    let pin = Route::Pin { irqchip: bindings::KVM_IRQCHIP_IOAPIC, pin: RTC_PIN };
    t.vm.set_gsi_routing(&[(RTC_PIN, pin)]).ioctl("KVM_SET_GSI_ROUTING")?;
    guest::set(&mut cpu, RTC_PIN, EDGE)?;
    let tick = |vm: &Vm| -> TestResult<i32> {
        let became = status(vm, RTC_PIN, 1)?;
        status(vm, RTC_PIN, 0)?;
        Ok(became)
    };
    check_eq!("the first tick is reported as delivered", tick(&t.vm)?, 1);
    check_eq!("a tick before the first is taken is coalesced", tick(&t.vm)?, 0);
    check_eq!("coalesced ticks are one interrupt", guest::take(&t.vm, &mut cpu)?.vector, 1);
    check_eq!("a tick before the EOI is coalesced", tick(&t.vm)?, 0);
    let lapic = cpu.fd().get_lapic().ioctl("KVM_GET_LAPIC")?;
    t.vm.set_ioapic(&t.vm.ioapic()?)?;
    check_eq!("a tick is coalesced after the I/O APIC's state was set again", tick(&t.vm)?, 0);
    cpu.fd().set_lapic(&lapic).ioctl("KVM_SET_LAPIC")?;
    check_eq!("a tick is coalesced after both states were set again", tick(&t.vm)?, 0);
    guest::eoi(&mut cpu)?;
    check_eq!(
        "no coalesced tick is delivered behind the EOI",
        guest::take(&t.vm, &mut cpu)?.vector,
        0
    );
    check_eq!("a tick behind the EOI is reported as delivered", tick(&t.vm)?, 1);
    check_eq!("a tick behind the EOI is taken", guest::take(&t.vm, &mut cpu)?.vector, 1);
    Ok(())
}
