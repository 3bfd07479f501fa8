//! A guest for tests of I/O APICs: it does what the host half asks for, and ends no interrupt on its
//! own, so that each step of a line can be looked at.
use crate::prelude::*;
use apic::reg;

/// The vector of most pins.
pub const VECTOR: u8 = 0x61;
/// Of a higher priority class.
pub const OTHER_VECTOR: u8 = 0x72;

const READY: u64 = 1;
/// A port exit with interrupts on: what is pending is taken here at the latest.
const WINDOW_PORT: u16 = 0x92;
/// What can be asked for: set a pin's entry; one half of it alone; read it; let in what is pending;
/// end the interrupt in service.
const SET: u64 = 1;
const SET_LOW: u64 = 2;
const SET_HIGH: u64 = 3;
const ENTRY: u64 = 4;
const TAKE: u64 = 5;
const EOI: u64 = 6;

/// Interrupts taken: of [`VECTOR`], of [`OTHER_VECTOR`], NMIs.
#[shared]
static TAKEN: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

/// Arguments: destination format and logical ID of this CPU's local APIC.
#[guest]
fn obeys(g: &mut Guest) {
    let apic = Apic::enable();
    apic.write(reg::DFR, g.arg(0) as u32);
    apic.write(reg::LDR, (g.arg(1) as u32) << 24);
    let count = |index: usize| {
        TAKEN[index].fetch_add(1, SeqCst);
    };
    let serve = || {
        let mut told = 0;
        loop {
            let [command, pin, entry, ..] = g.sync(READY, &[told]);
            let pin = pin as u32;
            told = 0;
            match command {
                SET => ioapic::set_entry(pin, entry),
                SET_LOW => ioapic::write(ioapic::redirection(pin), entry as u32),
                SET_HIGH => ioapic::write(ioapic::redirection(pin) + 1, (entry >> 32) as u32),
                ENTRY => told = ioapic::entry(pin),
                EOI => apic.eoi(),
                TAKE => {
                    sti();
                    outb(WINDOW_PORT, 0);
                    cli();
                }
                unknown => panic!("command {unknown}"),
            }
        }
    };
    let taking_nmis = || with_handler(vector::NMI, |_| count(2), serve);
    let taking_other = || with_handler(OTHER_VECTOR, |_| count(1), taking_nmis);
    with_handler(VECTOR, |_| count(0), taking_other);
}

#[host]
pub use host::*;

#[host]
mod host {
    use super::*;
    use apic::DFR_FLAT;

    /// vCPU `index`, ready to be asked, with a bit of its own in flat logical destinations.
    pub fn start(vm: &mut Vm, index: u32) -> TestResult<Vcpu> {
        start_as(vm, index, DFR_FLAT, 1 << index)
    }

    /// The same with a destination format and a logical ID.
    pub fn start_as(vm: &mut Vm, index: u32, format: u32, logical_id: u8) -> TestResult<Vcpu> {
        let mut cpu = vm.add_vcpu(index, guest_fn!(obeys))?;
        cpu.set_args(&[format.into(), logical_id.into()]);
        cpu.run_until_sync(READY)?;
        Ok(cpu)
    }

    fn ask(cpu: &mut Vcpu, command: u64, pin: u32, entry: u64) -> TestResult<u64> {
        cpu.answer(&[command, pin.into(), entry]);
        Ok(cpu.run_until_sync(READY)?[0])
    }

    /// Sets a pin's redirection entry; it is masked meanwhile.
    pub fn set(cpu: &mut Vcpu, pin: u32, entry: u64) -> TestResult {
        ask(cpu, SET, pin, entry).map(drop)
    }

    /// Sets the lower half of a pin's redirection entry in one write.
    pub fn set_low(cpu: &mut Vcpu, pin: u32, entry: u64) -> TestResult {
        ask(cpu, SET_LOW, pin, entry).map(drop)
    }

    /// Sets the upper half, the destination, of a pin's redirection entry in one write.
    pub fn set_high(cpu: &mut Vcpu, pin: u32, entry: u64) -> TestResult {
        ask(cpu, SET_HIGH, pin, entry).map(drop)
    }

    /// A pin's redirection entry, as the guest reads it.
    pub fn entry(cpu: &mut Vcpu, pin: u32) -> TestResult<u64> {
        ask(cpu, ENTRY, pin, 0)
    }

    /// Ends the interrupt in service.
    pub fn eoi(cpu: &mut Vcpu) -> TestResult {
        ask(cpu, EOI, 0, 0).map(drop)
    }

    /// Ends the interrupt in service: what comes then, the guest's being ready again or another exit.
    pub fn eoi_until_next(cpu: &mut Vcpu) -> TestResult<Next<'_>> {
        cpu.answer(&[EOI]);
        cpu.run_until_next()
    }

    /// Goes on after an exit until the guest is ready again.
    pub fn until_ready(cpu: &mut Vcpu) -> TestResult {
        cpu.run_until_sync(READY).map(drop)
    }

    /// How many interrupts a vCPU took.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Taken {
        /// Of [`VECTOR`].
        pub vector: u64,
        /// Of [`OTHER_VECTOR`].
        pub other: u64,
        /// NMIs.
        pub nmi: u64,
    }

    /// Lets the guest take what is pending.
    pub fn take(vm: &Vm, cpu: &mut Vcpu) -> TestResult<Taken> {
        cpu.answer(&[TAKE]);
        cpu.run_until(Exit::io_out(WINDOW_PORT))?;
        cpu.run_until_sync(READY)?;
        let [vector, other, nmi] =
            [0, 1, 2].map(|index| vm.shared(shared_static!(TAKEN))[index].swap(0, SeqCst));
        Ok(Taken { vector, other, nmi })
    }
}
