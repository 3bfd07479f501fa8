//! The in-kernel interval timer (i8254): KVM_CREATE_PIT2, KVM_GET_PIT2 and KVM_SET_PIT2 (api.rst 4.71,
//! 4.72), and what a guest sees of it.
use crate::prelude::*;
use apic::LVT_MASKED;
use defs::x86::pit::{CHANNEL_0, CONTROL, PORT_B, PortB, RW_BOTH};

const VECTOR: u8 = 0x61;
/// The I/O APIC pin of GSI 0 by KVM's default routes.
const PIN: u32 = 0;

fn program(channel: u8, mode: u8, count: u16) {
    outb(CONTROL, channel << 6 | RW_BOTH | mode << 1);
    let [low, high] = count.to_le_bytes();
    outb(CHANNEL_0 + u16::from(channel), low);
    outb(CHANNEL_0 + u16::from(channel), high);
}

/// The count of a channel, latched.
fn latched(channel: u8) -> u16 {
    outb(CONTROL, channel << 6);
    let port = CHANNEL_0 + u16::from(channel);
    u16::from_le_bytes([inb(port), inb(port)])
}

#[guest]
fn counts_time(_: &mut Guest) {
    const COUNT: u16 = 0xf000;
    const PERIODS: u64 = 3;
    const TRIES: u32 = 100;
    const PATIENCE: u64 = 10_000_000;
    let apic = Apic::enable();
    // The PIC, which GSI 0 leads to as well, comes in by LINT0.
    apic.write(apic::reg::LVT_LINT0, LVT_MASKED);
    program(0, 2, COUNT);
    let [first, second] = [latched(0), latched(0)];
    check!(
        "a rate generator counts down from its count",
        (1..=COUNT).contains(&first),
        "{first:#x}"
    );
    check!(
        "channel 0 counts between two reads",
        first != second || latched(0) != first,
        "{first:#x}"
    );

    ioapic::route(PIN, VECTOR, apic.id(), 0);
    // Stopped from within: where an interrupt takes longer than a period, nothing else ever runs.
    let taken = core::cell::Cell::new(0);
    let on_interrupt = |_: &mut TrapFrame| {
        taken.set(taken.get() + 1);
        if taken.get() == PERIODS {
            program(0, 0, 0xffff);
        }
        apic.eoi();
    };
    // 1193 ticks are a millisecond.
    program(0, 2, 1193);
    let came = with_handler(VECTOR, on_interrupt, || {
        sti();
        let came = spin_for(PATIENCE, || taken.get() >= PERIODS);
        cli();
        came
    });
    check!("a rate generator interrupts again and again", came, "{}", taken.get());
    program(0, 0, 0xffff);

    outb(PORT_B, PortB::GATE_2.bits());
    // It is low for 55 ms: now and then the host lets a vCPU wait for longer between two accesses.
    let low = (0..TRIES).any(|_| {
        program(2, 0, 0xffff);
        inb(PORT_B) & PortB::OUT_2.bits() == 0
    });
    check!("channel 2's output is low while it counts", low);
    program(2, 0, 200);
    let high = spin_for(100_000, || inb(PORT_B) & PortB::OUT_2.bits() != 0);
    check!("channel 2's output goes high at its end", high);
    outb(PORT_B, 0);
    program(2, 3, 0x8000);
    let [first, second] = [latched(2), latched(2)];
    check!("a closed gate keeps the count", first == second, "{first:#x} {second:#x}");
    check_eq!("port 0x61 reports channel 2's gate", inb(PORT_B) & PortB::GATE_2.bits(), 0);
}

#[host]
mod host {
    use super::*;

    kvm_tests! { requires(cap::PIT2) }

    fn create(vm: &Vm) -> Result<(), Errno> {
        // With the speaker's port the kernel handles port 0x61 too.
        let config = bindings::kvm_pit_config {
            flags: bindings::KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        };
        vm.fd().create_pit2(config).errno()
    }

    /// The timer needs an in-kernel interrupt controller, and there is one.
    #[kvm_test]
    fn pit_needs_an_irqchip(t: &mut OneVm) -> TestResult {
        check_eq!(
            "KVM_CREATE_PIT2 without an irqchip is ENOENT",
            create(&t.vm),
            Err(Errno::ENOENT)
        );
        Ok(())
    }

    /// What can be done with a timer that is, or is not, there.
    #[kvm_test(irqchip, requires(cap::PIT_STATE2))]
    fn state_round_trips(t: &mut OneVm) -> TestResult {
        let get = || t.vm.fd().get_pit2().errno();
        check_eq!("KVM_GET_PIT2 without a timer is ENXIO", get().map(drop), Err(Errno::ENXIO));
        check_eq!("KVM_CREATE_PIT2 makes a timer", create(&t.vm), Ok(()));
        check_eq!("a second KVM_CREATE_PIT2 is EEXIST", create(&t.vm), Err(Errno::EEXIST));
        let mut state = get().ioctl("KVM_GET_PIT2")?;
        for (i, channel) in state.channels.iter_mut().enumerate() {
            channel.count = 0x1234 + i as u32;
            channel.mode = 2 + (i as u8 & 1);
            channel.rw_mode = 3;
            channel.read_state = 3;
            channel.write_state = 3;
            channel.write_latch = 0x5a;
            channel.gate = 1;
            channel.bcd = 0;
        }
        t.vm.fd().set_pit2(&state).ioctl("KVM_SET_PIT2")?;
        let got = get().ioctl("KVM_GET_PIT2")?;
        for (i, (got, set)) in got.channels.iter().zip(&state.channels).enumerate() {
            check_eq!("channel {i}: the count round-trips", got.count, set.count);
            check_eq!("channel {i}: the mode round-trips", got.mode, set.mode);
            let [got, set] = [got, set]
                .map(|c| [c.rw_mode, c.read_state, c.write_state, c.write_latch, c.gate, c.bcd]);
            check_eq!("channel {i}: all other fields round-trip", got, set);
        }
        Ok(())
    }

    /// Channels count at their rate and interrupt; channel 2 follows its gate (8254 data sheet).
    #[kvm_test(counts_time, irqchip)]
    fn channels_count_and_interrupt(t: &mut OneVm) -> TestResult {
        create(&t.vm).ioctl("KVM_CREATE_PIT2")?;
        t.vm.add_vcpu(0, guest_fn!(counts_time))?.run_until_done()
    }
}
