//! Whom the I/O APIC in the kernel interrupts: destinations and delivery modes of redirection entries
//! (82093AA data sheet; SDM vol. 3, "Determining IPI Destination").
use crate::prelude::*;
use crate::x86_64::support::ioapic_guest::{self as guest, VECTOR};
use apic::{DFR_CLUSTER, DFR_FLAT};
use {
    bindings::{KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE},
    ioapic::{INIT, LEVEL, LOGICAL, LOWEST_PRIORITY, MASKED, NMI, REMOTE_IRR},
};

kvm_tests! { irqchip, requires(cap::IRQCHIP) }

const PIN: u32 = 20;
const FIXED: u64 = VECTOR as u64;
/// A destination of an entry.
const fn to(destination: u8) -> u64 {
    (destination as u64) << ioapic::DESTINATION_SHIFT
}

/// Two vCPUs with APIC IDs 0 and 1 and these logical IDs, ready to be asked.
fn start(t: &mut OneVm, format: u32, logical_ids: [u8; 2]) -> TestResult<[Vcpu; 2]> {
    let [first, second] = logical_ids;
    Ok([
        guest::start_as(&mut t.vm, 0, format, first)?,
        guest::start_as(&mut t.vm, 1, format, second)?,
    ])
}

/// Which vCPUs one pulse of the line interrupts.
fn pulse(t: &OneVm, cpus: &[Vcpu; 2]) -> TestResult<[bool; 2]> {
    for level in [true, false] {
        t.vm.set_irq_line(PIN, level).ioctl("KVM_IRQ_LINE")?;
    }
    Ok([cpus[0].drop_pending(VECTOR)?, cpus[1].drop_pending(VECTOR)?])
}

/// A physical destination is an APIC ID, 0xff is everyone; a flat logical one is a mask.
#[kvm_test]
fn destination_selects_the_vcpus(t: &mut OneVm) -> TestResult {
    let mut cpus = start(t, DFR_FLAT, [1 << 0, 1 << 1])?;
    for (name, entry, want) in [
        ("APIC ID 0", to(0), [true, false]),
        ("APIC ID 1", to(1), [false, true]),
        ("an APIC ID that nobody has", to(5), [false, false]),
        ("all APIC IDs", to(0xff), [true, true]),
        ("the first logical ID", LOGICAL | to(0b001), [true, false]),
        ("the second logical ID", LOGICAL | to(0b010), [false, true]),
        ("both logical IDs", LOGICAL | to(0b011), [true, true]),
        ("a logical ID that nobody has", LOGICAL | to(0b100), [false, false]),
        ("all logical IDs", LOGICAL | to(0xff), [true, true]),
    ] {
        guest::set(&mut cpus[0], PIN, FIXED | entry)?;
        check_eq!("{name} interrupts exactly the vCPUs that it names", pulse(t, &cpus)?, want);
    }
    Ok(())
}

/// In the cluster model a logical destination is a cluster and a mask of its members.
#[kvm_test]
fn clusters_are_told_apart(t: &mut OneVm) -> TestResult {
    let mut cpus = start(t, DFR_CLUSTER, [0x11, 0x22])?;
    for (name, destination, want) in [
        ("the first member of cluster 1", 0x11, [true, false]),
        ("the second member of cluster 1", 0x12, [false, false]),
        ("all of cluster 1", 0x1f, [true, false]),
        ("the first member of cluster 2", 0x21, [false, false]),
        ("the second member of cluster 2", 0x22, [false, true]),
        ("two members of cluster 2", 0x23, [false, true]),
        ("all of cluster 3", 0x3f, [false, false]),
        ("everyone", 0xff, [true, true]),
    ] {
        guest::set(&mut cpus[0], PIN, FIXED | LOGICAL | to(destination))?;
        check_eq!("{name} interrupts exactly the vCPUs that it names", pulse(t, &cpus)?, want);
    }
    Ok(())
}

/// Lowest priority: of all CPUs in the destination, one is interrupted.
#[kvm_test]
fn lowest_priority_interrupts_one_vcpu(t: &mut OneVm) -> TestResult {
    let mut cpus = start(t, DFR_FLAT, [1 << 0, 1 << 1])?;
    guest::set(&mut cpus[0], PIN, LOWEST_PRIORITY | LOGICAL | to(0b11) | FIXED)?;
    for _ in 0..4 {
        let got = pulse(t, &cpus)?.map(u32::from);
        check_eq!("lowest priority interrupts one of two vCPUs", got[0] + got[1], 1);
    }
    for (logical, want) in [(0b01, [true, false]), (0b10, [false, true])] {
        guest::set(&mut cpus[0], PIN, LOWEST_PRIORITY | LOGICAL | to(logical) | FIXED)?;
        check_eq!("lowest priority interrupts the only vCPU of {logical}", pulse(t, &cpus)?, want);
    }
    Ok(())
}

/// NMI: the vector is ignored, the mask is not.
#[kvm_test(requires(cap::VCPU_EVENTS))]
fn nmi_reaches_its_vcpu(t: &mut OneVm) -> TestResult {
    let mut cpus = start(t, DFR_FLAT, [1 << 0, 1 << 1])?;
    let pending = |cpus: &[Vcpu; 2]| -> TestResult<[u8; 2]> {
        let pending = |cpu: &Vcpu| cpu.fd().get_vcpu_events().ioctl("KVM_GET_VCPU_EVENTS");
        Ok([pending(&cpus[0])?.nmi.pending, pending(&cpus[1])?.nmi.pending])
    };
    guest::set(&mut cpus[0], PIN, MASKED | NMI | to(1) | FIXED)?;
    check_eq!("a masked NMI requests no vector", pulse(t, &cpus)?, [false, false]);
    check_eq!("a masked NMI reaches no vCPU", pending(&cpus)?, [0, 0]);
    guest::set(&mut cpus[0], PIN, NMI | to(1) | FIXED)?;
    check_eq!("an NMI requests no vector", pulse(t, &cpus)?, [false, false]);
    check_eq!("an NMI is pending at its destination", pending(&cpus)?, [0, 1]);
    let [first, second] = &mut cpus;
    check_eq!("the other vCPU takes no NMI", guest::take(&t.vm, first)?.nmi, 0);
    check_eq!("the destination takes the NMI exactly once", guest::take(&t.vm, second)?.nmi, 1);
    check_eq!("no NMI is pending after it was taken", pending(&cpus)?, [0, 0]);
    Ok(())
}

/// INIT: its vCPU is reset and waits for a SIPI.
#[kvm_test(requires(cap::MP_STATE))]
fn init_resets_its_vcpu(t: &mut OneVm) -> TestResult {
    let mut cpus = start(t, DFR_FLAT, [1 << 0, 1 << 1])?;
    guest::set(&mut cpus[0], PIN, INIT | to(1) | FIXED)?;
    let state = |cpu: &Vcpu| cpu.fd().get_mp_state().map(|s| s.mp_state).ioctl("KVM_GET_MP_STATE");
    check_eq!("the vCPU is runnable before the INIT", state(&cpus[1])?, KVM_MP_STATE_RUNNABLE);
    check_eq!("an INIT requests no vector", pulse(t, &cpus)?, [false, false]);
    check_eq!(
        "the vCPU waits for a SIPI after the INIT",
        state(&cpus[1])?,
        KVM_MP_STATE_INIT_RECEIVED
    );
    let rip = cpus[1].fd().get_regs().ioctl("KVM_GET_REGS")?.rip;
    check_eq!("the vCPU is at the reset vector after the INIT", rip, 0xfff0);
    check_eq!("the other vCPU stays runnable", state(&cpus[0])?, KVM_MP_STATE_RUNNABLE);
    check_eq!("the other vCPU still takes interrupts", guest::take(&t.vm, &mut cpus[0])?.vector, 0);
    Ok(())
}

/// An interrupt ends where it was taken, although its pin leads to another vCPU meanwhile.
#[kvm_test]
fn eoi_counts_after_the_pin_was_moved(t: &mut OneVm) -> TestResult {
    let mut cpus = start(t, DFR_FLAT, [1 << 0, 1 << 1])?;
    let [first, second] = &mut cpus;
    let remote_irr = |cpu: &mut Vcpu| Ok(guest::entry(cpu, PIN)? & REMOTE_IRR != 0);
    guest::set(second, PIN, LEVEL | FIXED | to(1))?;
    t.vm.set_irq_line(PIN, true).ioctl("KVM_IRQ_LINE")?;
    check_eq!("the first vCPU takes the level", guest::take(&t.vm, second)?.vector, 1);
    t.vm.set_irq_line(PIN, false).ioctl("KVM_IRQ_LINE")?;
    guest::set_high(first, PIN, to(0))?;
    check!("a pin that was moved keeps Remote IRR", remote_irr(first)?);
    guest::eoi(second)?;
    check!("the EOI of the vCPU that took the level clears Remote IRR", !remote_irr(first)?);
    t.vm.set_irq_line(PIN, true).ioctl("KVM_IRQ_LINE")?;
    check_eq!("the next interrupt goes to the new vCPU", guest::take(&t.vm, first)?.vector, 1);
    check_eq!(
        "the next interrupt does not go to the old vCPU",
        guest::take(&t.vm, second)?.vector,
        0
    );
    Ok(())
}
