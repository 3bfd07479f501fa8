//! The I/O APIC in the kernel (82093AA data sheet): its registers, and what becomes of a line's edges
//! and levels (KVM_IRQ_LINE, api.rst 4.25). Whom it
//! interrupts, its state and the split irqchip: `ioapic_targets`, `ioapic_state`, `ioapic_split`.
use crate::prelude::*;
use ioapic::{MASKED, REMOTE_IRR, SEND_PENDING, WRITABLE};

#[guest]
fn reads_and_writes_registers(_: &mut Guest) {
    let select = || peek::<u32>(ioapic::BASE);
    poke(ioapic::BASE, 0xffff_ff01_u32);
    check_eq!("IOREGSEL has eight bits", select(), 0x01);
    let version = ioapic::read(ioapic::VERSION);
    check_eq!("IOREGSEL reads as written", select(), ioapic::VERSION);
    check_eq!("IOAPICVER has the version of an 82093AA", version & 0xff, 0x11);
    check_eq!("IOAPICVER has the number of the last pin", version >> 16 & 0xff, ioapic::PINS - 1);
    ioapic::write(ioapic::VERSION, !version);
    check_eq!("IOAPICVER is read-only for the guest", ioapic::read(ioapic::VERSION), version);
    for id in [0xffff_ffff, 0x0500_0000, 0] {
        ioapic::write(ioapic::ID, id);
        check_eq!("IOAPICID has bits 24 to 27", ioapic::read(ioapic::ID), id & 0x0f00_0000);
        ioapic::write(ioapic::ARBITRATION, !id);
        let arbitration = ioapic::read(ioapic::ARBITRATION);
        check_eq!("IOAPICARB follows IOAPICID and is read-only", arbitration, id & 0x0f00_0000);
    }

    for pin in 0..ioapic::PINS {
        check_eq!("every pin is masked and otherwise 0 at reset", ioapic::entry(pin), MASKED);
    }
    // Vector, modes, polarity, trigger, mask; destination.
    for pin in 0..ioapic::PINS {
        ioapic::set_entry(pin, u64::MAX);
        let got = ioapic::entry(pin);
        check_eq!("every writable bit of an entry can be set", got & WRITABLE, WRITABLE);
        let read_only = got & (REMOTE_IRR | SEND_PENDING);
        check_eq!("Remote IRR and the delivery status are read-only", read_only, 0);
        ioapic::set_entry(pin, MASKED);
        check_eq!("every writable bit of an entry can be cleared", ioapic::entry(pin), MASKED);
    }
    let own = |pin: u32| u64::from(pin) << 59 | MASKED | u64::from(0x40 + pin);
    (0..ioapic::PINS).for_each(|pin| ioapic::set_entry(pin, own(pin)));
    // The first registers that stand for no pin, and the last.
    for index in [0x03, 0x0f, ioapic::redirection(ioapic::PINS), 0xff] {
        ioapic::write(index, 0);
    }
    for pin in 0..ioapic::PINS {
        check_eq!("every pin has an entry of its own", ioapic::entry(pin), own(pin));
    }
}

#[host]
mod host {
    use super::*;
    use {
        crate::x86_64::support::ioapic_guest::{self as guest, OTHER_VECTOR, VECTOR},
        ioapic::{ACTIVE_LOW, LEVEL},
    };

    kvm_tests! { irqchip }

    /// Registers are as in the data sheet: which bits there are, which can be written.
    #[kvm_test(reads_and_writes_registers, requires(cap::IRQCHIP))]
    fn registers_are_those_of_the_data_sheet(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// The pins of the tests, which are the GSIs too; behind the 16 that the PIC shares by default.
    const PIN: u32 = 20;
    const OTHER_PIN: u32 = 21;
    const EDGE: u64 = VECTOR as u64;
    const LEVEL_ENTRY: u64 = LEVEL | VECTOR as u64;

    /// The one vCPU, with [`PIN`] set to `entry`.
    fn start(t: &mut OneVm, entry: u64) -> TestResult<Vcpu> {
        let mut cpu = guest::start(&mut t.vm, 0)?;
        guest::set(&mut cpu, PIN, entry)?;
        Ok(cpu)
    }

    fn up(t: &OneVm) -> TestResult {
        t.vm.set_irq_line(PIN, true).ioctl("KVM_IRQ_LINE(1)")
    }

    fn down(t: &OneVm) -> TestResult {
        t.vm.set_irq_line(PIN, false).ioctl("KVM_IRQ_LINE(0)")
    }

    /// Interrupts of [`VECTOR`] that the guest takes when they are let in.
    fn take(t: &OneVm, cpu: &mut Vcpu) -> TestResult<u64> {
        Ok(guest::take(&t.vm, cpu)?.vector)
    }

    fn remote_irr(cpu: &mut Vcpu) -> TestResult<bool> {
        Ok(guest::entry(cpu, PIN)? & REMOTE_IRR != 0)
    }

    /// An edge-triggered pin interrupts once for each rising edge, however long the line stays up; an
    /// edge that comes while its interrupt is in service waits for the EOI.
    #[kvm_test(requires(cap::IRQCHIP))]
    fn rising_edge_is_one_interrupt(t: &mut OneVm) -> TestResult {
        let mut cpu = start(t, EDGE)?;
        for _ in 0..2 {
            up(t)?;
            check!("a rising edge is requested at once", cpu.is_pending(VECTOR)?);
            check_eq!("a rising edge is taken exactly once", take(t, &mut cpu)?, 1);
            check!("an edge leaves Remote IRR clear", !remote_irr(&mut cpu)?);
            guest::eoi(&mut cpu)?;
            check_eq!("a line that stays up is no new edge", take(t, &mut cpu)?, 0);
            up(t)?;
            check_eq!("a line that is up already has no rising edge", take(t, &mut cpu)?, 0);
            down(t)?;
            check_eq!("a falling edge is no interrupt", take(t, &mut cpu)?, 0);
        }
        up(t)?;
        check_eq!("the line can rise a third time", take(t, &mut cpu)?, 1);
        down(t)?;
        up(t)?;
        down(t)?;
        check!("an edge while the interrupt is in service is kept", cpu.is_pending(VECTOR)?);
        check_eq!("an edge while in service is not taken before the EOI", take(t, &mut cpu)?, 0);
        guest::eoi(&mut cpu)?;
        check_eq!("an edge while in service is taken behind the EOI", take(t, &mut cpu)?, 1);
        Ok(())
    }

    /// An edge at a masked pin is lost: it is neither delivered nor held pending (data sheet, "Interrupt
    /// Mask").
    #[kvm_test(requires(cap::IRQCHIP))]
    fn edge_at_a_masked_pin_is_lost(t: &mut OneVm) -> TestResult {
        let mut cpu = start(t, MASKED | EDGE)?;
        up(t)?;
        check_eq!("a masked pin interrupts nobody", take(t, &mut cpu)?, 0);
        guest::set_low(&mut cpu, PIN, EDGE)?;
        check_eq!("an edge at a masked pin is not delivered when unmasked", take(t, &mut cpu)?, 0);
        down(t)?;
        up(t)?;
        check_eq!("the next edge after unmasking is delivered", take(t, &mut cpu)?, 1);
        guest::eoi(&mut cpu)?;
        down(t)?;
        guest::set_low(&mut cpu, PIN, MASKED | EDGE)?;
        up(t)?;
        down(t)?;
        guest::set_low(&mut cpu, PIN, EDGE)?;
        check_eq!("a pulse at a masked pin is lost", take(t, &mut cpu)?, 0);
        up(t)?;
        guest::set_low(&mut cpu, PIN, MASKED | EDGE)?;
        check_eq!("masking does not take back an accepted interrupt", take(t, &mut cpu)?, 1);
        Ok(())
    }

    /// A level-triggered pin interrupts while its line is up, once for each EOI; Remote IRR is set from
    /// the local APIC's acceptance to the EOI (data sheet, "Remote IRR").
    #[kvm_test(requires(cap::IRQCHIP))]
    fn level_interrupts_until_the_line_falls(t: &mut OneVm) -> TestResult {
        let mut cpu = start(t, LEVEL_ENTRY)?;
        check!("Remote IRR is clear before the line rises", !remote_irr(&mut cpu)?);
        up(t)?;
        check!("a line that goes up is requested at once", cpu.is_pending(VECTOR)?);
        check!("Remote IRR is set when the level is accepted", remote_irr(&mut cpu)?);
        check_eq!("an asserted level is taken exactly once", take(t, &mut cpu)?, 1);
        check!("Remote IRR is set while the interrupt is in service", remote_irr(&mut cpu)?);
        up(t)?;
        check!("an asserted line is not requested before the EOI", !cpu.is_pending(VECTOR)?);
        for _ in 0..2 {
            guest::eoi(&mut cpu)?;
            check!("the EOI requests again while the line is up", cpu.is_pending(VECTOR)?);
            check!("the new request sets Remote IRR", remote_irr(&mut cpu)?);
            check_eq!("the new request is taken exactly once", take(t, &mut cpu)?, 1);
        }
        down(t)?;
        check!("a falling line leaves Remote IRR to the EOI", remote_irr(&mut cpu)?);
        guest::eoi(&mut cpu)?;
        check!("the EOI clears Remote IRR", !remote_irr(&mut cpu)?);
        check_eq!("no interrupt follows the EOI while the line is down", take(t, &mut cpu)?, 0);
        up(t)?;
        down(t)?;
        check_eq!("an accepted level is taken though the line fell", take(t, &mut cpu)?, 1);
        guest::eoi(&mut cpu)?;
        check_eq!("no interrupt follows a level whose line fell", take(t, &mut cpu)?, 0);
        Ok(())
    }

    /// A masked level-triggered pin interrupts nobody; unmasked, it does if its line is up then.
    #[kvm_test(requires(cap::IRQCHIP))]
    fn masked_level_is_delivered_when_unmasked(t: &mut OneVm) -> TestResult {
        let mut cpu = start(t, MASKED | LEVEL_ENTRY)?;
        up(t)?;
        check_eq!("a masked pin interrupts nobody", take(t, &mut cpu)?, 0);
        check!("a masked pin has no Remote IRR", !remote_irr(&mut cpu)?);
        guest::set_low(&mut cpu, PIN, LEVEL_ENTRY)?;
        check_eq!("a line that is up interrupts when unmasked", take(t, &mut cpu)?, 1);
        guest::set_low(&mut cpu, PIN, MASKED | LEVEL_ENTRY)?;
        check!("masking leaves Remote IRR set", remote_irr(&mut cpu)?);
        guest::set_low(&mut cpu, PIN, LEVEL_ENTRY)?;
        check!("unmasking in service requests nothing", !cpu.is_pending(VECTOR)?);
        guest::set_low(&mut cpu, PIN, MASKED | LEVEL_ENTRY)?;
        guest::eoi(&mut cpu)?;
        check!("the EOI clears a masked pin's Remote IRR", !remote_irr(&mut cpu)?);
        check_eq!("the EOI of a masked pin requests nothing", take(t, &mut cpu)?, 0);
        guest::set_low(&mut cpu, PIN, LEVEL_ENTRY)?;
        check_eq!(
            "a line that is up interrupts when unmasked behind the EOI",
            take(t, &mut cpu)?,
            1
        );
        guest::set_low(&mut cpu, PIN, MASKED | LEVEL_ENTRY)?;
        guest::eoi(&mut cpu)?;
        down(t)?;
        guest::set_low(&mut cpu, PIN, LEVEL_ENTRY)?;
        check_eq!("a line that is down does not interrupt when unmasked", take(t, &mut cpu)?, 0);
        Ok(())
    }

    /// Making a level-triggered pin edge-triggered for a moment clears Remote IRR: that is how kernels
    /// end an interrupt of an I/O APIC that has no EOI register. What the line does then decides.
    #[kvm_test(requires(cap::IRQCHIP), params = [line_down: false, line_up: true])]
    fn edge_mode_clears_remote_irr(t: &mut OneVm, stays_up: bool) -> TestResult {
        let mut cpu = start(t, LEVEL_ENTRY)?;
        up(t)?;
        check_eq!("the asserted level is taken exactly once", take(t, &mut cpu)?, 1);
        if !stays_up {
            down(t)?;
        }
        guest::set_low(&mut cpu, PIN, MASKED | EDGE)?;
        check!("edge mode clears Remote IRR", !remote_irr(&mut cpu)?);
        guest::set_low(&mut cpu, PIN, MASKED | LEVEL_ENTRY)?;
        check!("Remote IRR stays clear back in masked level mode", !remote_irr(&mut cpu)?);
        guest::set_low(&mut cpu, PIN, LEVEL_ENTRY)?;
        let pending = cpu.is_pending(VECTOR)?;
        check_eq!("unmasking requests again if the line is up", pending, stays_up);
        check_eq!(
            "Remote IRR follows the request after unmasking",
            remote_irr(&mut cpu)?,
            stays_up
        );
        Ok(())
    }

    /// An EOI ends the interrupts of every pin with its vector, and of no other pin.
    #[kvm_test(requires(cap::IRQCHIP))]
    fn eoi_ends_every_pin_of_its_vector(t: &mut OneVm) -> TestResult {
        let mut cpu = start(t, LEVEL_ENTRY)?;
        let irrs = |cpu: &mut Vcpu| -> TestResult<[bool; 2]> {
            Ok([remote_irr(cpu)?, guest::entry(cpu, OTHER_PIN)? & REMOTE_IRR != 0])
        };
        let line = |up| t.vm.set_irq_line(OTHER_PIN, up).ioctl("KVM_IRQ_LINE");
        guest::set(&mut cpu, OTHER_PIN, LEVEL_ENTRY)?;
        up(t)?;
        line(true)?;
        check_eq!("two pins of one vector make one interrupt", take(t, &mut cpu)?, 1);
        check_eq!("both pins of the vector have Remote IRR", irrs(&mut cpu)?, [true, true]);
        down(t)?;
        guest::eoi(&mut cpu)?;
        check_eq!("the pin whose line is up is requested again", irrs(&mut cpu)?, [false, true]);
        line(false)?;
        check_eq!("the request of the pin that is up is taken", take(t, &mut cpu)?, 1);
        guest::eoi(&mut cpu)?;
        check_eq!("the last EOI clears Remote IRR of both pins", irrs(&mut cpu)?, [false, false]);

        guest::set(&mut cpu, OTHER_PIN, LEVEL | u64::from(OTHER_VECTOR))?;
        up(t)?;
        line(true)?;
        let taken = guest::take(&t.vm, &mut cpu)?;
        check_eq!(
            "the pin with the higher vector interrupts first",
            (taken.vector, taken.other),
            (0, 1)
        );
        down(t)?;
        line(false)?;
        guest::eoi(&mut cpu)?;
        check_eq!("an EOI leaves the pin of another vector", irrs(&mut cpu)?, [true, false]);
        check_eq!("the pin with the lower vector interrupts second", take(t, &mut cpu)?, 1);
        guest::eoi(&mut cpu)?;
        check_eq!(
            "the lower vector's EOI clears its pin's Remote IRR",
            irrs(&mut cpu)?,
            [false, false]
        );
        Ok(())
    }

    /// Level 1 of KVM_IRQ_LINE means active, whatever polarity the guest sets (api.rst 4.25,
    /// KVM_CAP_X86_IOAPIC_POLARITY_IGNORED).
    #[kvm_test(requires(cap::IOAPIC_POLARITY_IGNORED), params = [edge: EDGE, level: LEVEL_ENTRY])]
    fn active_low_pins_are_active_at_level_1(t: &mut OneVm, entry: u64) -> TestResult {
        let mut cpu = start(t, ACTIVE_LOW | entry)?;
        check_eq!("an active-low line is inactive before it is touched", take(t, &mut cpu)?, 0);
        down(t)?;
        check_eq!("level 0 of an active-low line is inactive", take(t, &mut cpu)?, 0);
        up(t)?;
        check_eq!("level 1 of an active-low line is active", take(t, &mut cpu)?, 1);
        down(t)?;
        guest::eoi(&mut cpu)?;
        check_eq!("an active-low line is inactive again at level 0", take(t, &mut cpu)?, 0);
        Ok(())
    }

    /// A line is up while any of its sources is: here KVM_IRQ_LINE and an irqfd with resampling.
    #[kvm_test(requires(cap::IRQFD_RESAMPLE))]
    fn line_is_up_while_any_source_is(t: &mut OneVm) -> TestResult {
        let mut cpu = start(t, LEVEL_ENTRY)?;
        let (trigger, resample) = (Event::new()?, Event::new()?);
        t.vm.assign_level_irqfd(&trigger, PIN, &resample).ioctl("KVM_IRQFD(resample)")?;
        trigger.signal(1)?;
        let risen = eventually(|| t.vm.ioapic_line(PIN).unwrap_or(false));
        check!("the event asserts the line", risen);
        up(t)?;
        down(t)?;
        check!("level 0 of one source leaves the line up", t.vm.ioapic_line(PIN)?);
        check_eq!("two sources of one line make one interrupt", take(t, &mut cpu)?, 1);
        guest::eoi(&mut cpu)?;
        check!("the line is down when its last source is gone", !t.vm.ioapic_line(PIN)?);
        check_eq!("a line without sources interrupts no more", take(t, &mut cpu)?, 0);
        Ok(())
    }
}
