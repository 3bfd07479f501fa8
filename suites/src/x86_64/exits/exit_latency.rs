//! What exits and interrupts cost, in TSC cycles as the guest counts them, each with a look at what the
//! guest got. `rounds` (docs/results.md) says how many events one measured loop has.
use crate::prelude::*;
use kvm_pv::MSR_KVM_SYSTEM_TIME_NEW;
use kvm_pv::error::KVM_ENOSYS;

const READY: u64 = 1;
const PORT: u16 = 0x94;
const FAST_PORT: u16 = 0x95;
const DEVICE: u64 = layout::FREE;
const FAST_DEVICE: u64 = layout::FREE + 0x1000;
const VECTOR: u8 = 0x61;

const CPUID: u64 = 0;
const PIO: u64 = 1;
const PIO_EVENT: u64 = 2;
const MMIO: u64 = 3;
const MMIO_EVENT: u64 = 4;
const RDMSR: u64 = 5;
const HYPERCALL: u64 = 6;
const SELF_IPI: u64 = 7;
/// A hypercall that is not there.
const NO_HYPERCALL: u64 = 0x7fff_0000;

/// Cycles of `rounds` calls; `event` says whether it got what it should.
fn timed(rounds: u64, mut event: impl FnMut(u64) -> bool) -> [u64; 2] {
    let mut wrong = 0;
    let start = rdtsc_ordered();
    for round in 0..rounds {
        wrong += u64::from(!event(round));
    }
    [rdtsc_ordered() - start, wrong]
}

/// Repeats a loop of the events named by argument 0 as long as the host half wants.
#[guest]
fn causes_exits(g: &mut Guest) {
    let [kind, rounds] = [0, 1].map(|i| g.arg(i));
    let expected = cpuid(cpuid::leaf::VENDOR, 0);
    let hypercall = Hypercall::of_this_cpu();
    let mut result = [0; 2];
    loop {
        let [go, ..] = g.sync(READY, &result);
        if go == 0 {
            return;
        }
        result = match kind {
            CPUID => timed(rounds, |_| cpuid(cpuid::leaf::VENDOR, 0) == expected),
            PIO => timed(rounds, |round| inl(PORT) == round as u32),
            PIO_EVENT => timed(rounds, |_| {
                outb(FAST_PORT, 1);
                true
            }),
            MMIO => timed(rounds, |round| peek::<u32>(DEVICE) == round as u32),
            MMIO_EVENT => timed(rounds, |_| {
                poke(FAST_DEVICE, 1_u32);
                true
            }),
            RDMSR => timed(rounds, |_| rdmsr(MSR_KVM_SYSTEM_TIME_NEW) == 0),
            HYPERCALL => timed(rounds, |_| hypercall.call(NO_HYPERCALL, [0; 4]) == Ok(KVM_ENOSYS)),
            _ => sends_itself_interrupts(rounds),
        };
    }
}

fn sends_itself_interrupts(rounds: u64) -> [u64; 2] {
    let apic = Apic::enable();
    let mut taken = 0_u64;
    let [cycles, _] = with_handler(
        VECTOR,
        |_| {
            taken += 1;
            apic.eoi();
        },
        || {
            timed(rounds, |_| {
                apic.ipi(0, u32::from(VECTOR) | apic::ICR_ASSERT | apic::ICR_SELF);
                sti_hlt();
                cli();
                true
            })
        },
    );
    [cycles, taken.abs_diff(rounds)]
}

/// IPIs that each vCPU has taken.
#[shared]
static BALLS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
#[shared]
static ONLINE: AtomicU64 = AtomicU64::new(0);

/// vCPU 0 sends an IPI, vCPU 1 answers it by one, round after round; each tells the cycles of all.
#[guest]
fn plays_ping_pong(g: &mut Guest) {
    let rounds = g.arg(0);
    let (me, other) = (g.vcpu() as usize, 1 - g.vcpu());
    let apic = Apic::enable();
    let taken = || BALLS[me].load(SeqCst);
    let on_ball = |_: &mut TrapFrame| {
        BALLS[me].fetch_add(1, SeqCst);
        apic.eoi();
    };
    let play = || apic.ipi(other, u32::from(VECTOR) | apic::ICR_ASSERT);
    ONLINE.fetch_add(1, SeqCst);
    wait_until(|| ONLINE.load(SeqCst) == 2);
    let start = rdtsc_ordered();
    with_handler(VECTOR, on_ball, || {
        for round in 0..rounds {
            if me == 0 {
                play();
            }
            while taken() <= round {
                sti_hlt();
                cli();
            }
            if me == 1 {
                play();
            }
        }
    });
    g.sync(READY, &[rdtsc_ordered() - start, taken()]);
}

/// Interrupts that the guest has taken.
#[shared]
static TAKEN: AtomicU64 = AtomicU64::new(0);
/// Events that the host sends in all: [`u64::MAX`] until it sends the last.
#[shared]
static EVENTS: AtomicU64 = AtomicU64::new(u64::MAX);
const PIN: u32 = 20;

#[guest]
fn waits_for_interrupts(g: &mut Guest) {
    let apic = Apic::enable();
    ioapic::route(PIN, VECTOR, apic.id(), 0);
    g.sync(READY, &[]);
    let on_interrupt = |_: &mut TrapFrame| {
        TAKEN.fetch_add(1, SeqCst);
        apic.eoi();
    };
    with_handler(VECTOR, on_interrupt, || {
        while TAKEN.load(SeqCst) < EVENTS.load(SeqCst) {
            sti_hlt();
            cli();
        }
        // An interrupt without an event would be pending now.
        sti();
        cli();
    });
}

/// Bus cycles of the APIC timer's shot: 1 ns each unless userspace says otherwise.
const SHOT: u32 = 100_000;

/// Takes shots of the APIC timer; tells how long each took, and what went wrong.
#[guest]
fn shoots_its_timer(g: &mut Guest) {
    let apic = Apic::enable();
    apic.write(apic::reg::TDCR, apic::DIVIDE_BY_1);
    apic.write(apic::reg::LVT_TIMER, VECTOR.into());
    let mut taken = 0;
    with_handler(
        VECTOR,
        |_| {
            taken += 1;
            apic.eoi();
        },
        || {
            for _ in 0..g.arg(0) {
                let start = rdtsc_ordered();
                apic.write(apic::reg::TMICT, SHOT);
                sti_hlt();
                cli();
                let cycles = rdtsc_ordered() - start;
                let left = apic.read(apic::reg::TMCCT);
                g.sync(READY, &[cycles, left.into()]);
            }
        },
    );
    check_eq!("each shot is one interrupt", taken, g.arg(0));
}

#[host]
mod host {
    use super::*;
    use std::{os::fd::AsRawFd, time::Instant};
    use vm::perf::TestOption;
    use vm::record;

    kvm_tests! { irqchip, options = [ROUNDS] }

    /// Loops that are measured: the median and the spread are of so many.
    const SAMPLES: usize = 9;

    /// Runs the vCPU to its next sync, answering port and device reads by counting up; gives the guest's
    /// cycles and wrong answers, and how many exits there were.
    fn one_loop(vcpu: &mut Vcpu) -> TestResult<[u64; 3]> {
        vcpu.answer(&[1]);
        let mut exits = 0;
        loop {
            match vcpu.run_until_next()? {
                Next::Sync([_, cycles, wrong, ..]) => return Ok([cycles, wrong, exits]),
                Next::Exit(mut stop) => {
                    let device = matches!(
                        stop.exit(),
                        Exit::Io { port: PORT, direction: IoDirection::In, .. }
                            | Exit::Mmio { gpa: DEVICE, len: 4, is_write: false }
                    );
                    if !device {
                        fail!("{:x?} instead of a read of the device", stop.exit());
                    }
                    stop.set_data(&(exits as u32).to_ne_bytes());
                    exits += 1;
                }
                Next::Done => fail!("the guest is done"),
            }
        }
    }

    const ROUNDS: TestOption = TestOption::new("rounds", "events in one measured loop");

    fn measure(t: &mut OneVcpu, name: &str, kind: u64, rounds: u64) -> TestResult {
        let rounds = ROUNDS.count(rounds)?;
        let (port, device) = (Event::new()?, Event::new()?);
        let pio = IoEventfd {
            addr: FAST_PORT.into(),
            len: 1,
            fd: port.as_raw_fd(),
            flags: 1 << bindings::kvm_ioeventfd_flag_nr_pio,
            ..Default::default()
        };
        let mmio =
            IoEventfd { addr: FAST_DEVICE, len: 4, fd: device.as_raw_fd(), ..Default::default() };
        t.vm.ioeventfd(pio).ioctl("KVM_IOEVENTFD")?;
        t.vm.ioeventfd(mmio).ioctl("KVM_IOEVENTFD")?;
        t.vcpu.set_args(&[kind, rounds]);
        t.vcpu.run_until_sync(READY)?;
        let mut cycles = Vec::new();
        for _ in 0..SAMPLES {
            let [sample, wrong, exits] = one_loop(&mut t.vcpu)?;
            check_eq!("the guest reads the expected value each time", wrong, 0);
            let to_userspace = if matches!(kind, PIO | MMIO) { rounds } else { 0 };
            check_eq!("exactly the accesses of a userspace device exit", exits, to_userspace);
            let events = [port.count(), device.count()];
            let expected =
                [PIO_EVENT, MMIO_EVENT].map(|event| if kind == event { rounds } else { 0 });
            check_eq!("each access of an ioeventfd is one event", events, expected);
            check!("the guest's clock advances during the loop", sample > 0);
            cycles.push(sample as f64 / rounds as f64);
        }
        record::samples(name, "cycles", &cycles);
        t.vcpu.answer(&[0]);
        t.vcpu.run_until_done()
    }

    /// Every way out of the guest and back gives the guest what it should, and is told in cycles.
    #[kvm_test(causes_exits, params = [
    cpuid: ("CPUID", CPUID),
    port: ("port read by userspace", PIO),
    port_event: ("port write to an ioeventfd", PIO_EVENT),
    mmio: ("MMIO read by userspace", MMIO),
    mmio_event: ("MMIO write to an ioeventfd", MMIO_EVENT),
    rdmsr: ("RDMSR", RDMSR),
    hypercall: ("hypercall", HYPERCALL),
    self_ipi: ("self-IPI to its handler's end", SELF_IPI),
])]
    fn exits_and_back(t: &mut OneVcpu, (name, kind): (&str, u64)) -> TestResult {
        // Some hosts take milliseconds to wake a vCPU from HLT.
        measure(t, name, kind, if kind == SELF_IPI { 4 } else { 20 })
    }

    /// The same, measured: by default loops of 5,000; of 500 where the guest halts.
    #[kvm_test(causes_exits, exclusive, groups("perf"), params = [
    cpuid: ("CPUID", CPUID),
    port: ("port read by userspace", PIO),
    port_event: ("port write to an ioeventfd", PIO_EVENT),
    mmio: ("MMIO read by userspace", MMIO),
    mmio_event: ("MMIO write to an ioeventfd", MMIO_EVENT),
    rdmsr: ("RDMSR", RDMSR),
    hypercall: ("hypercall", HYPERCALL),
    self_ipi: ("self-IPI to its handler's end", SELF_IPI),
])]
    fn measured(t: &mut OneVcpu, (name, kind): (&str, u64)) -> TestResult {
        measure(t, name, kind, if kind == SELF_IPI { 500 } else { 5_000 })
    }

    fn ping_pong(t: &mut OneVm, rounds: u64) -> TestResult {
        let rounds = ROUNDS.count(rounds)?;
        let vcpus = [0, 1].map(|index| t.vm.add_vcpu(index, guest_fn!(plays_ping_pong)));
        let mut vcpus: Vec<Vcpu> = vcpus.into_iter().collect::<TestResult<_>>()?;
        let ends = run_together(&mut vcpus, |vcpu| {
            vcpu.set_args(&[rounds]);
            let [cycles, taken, ..] = vcpu.run_until_sync(READY)?;
            vcpu.run_until_done()?;
            Ok([cycles, taken])
        })?;
        for [_, taken] in &ends {
            check_eq!("each IPI is taken exactly once", *taken, rounds);
        }
        let cycles = ends[0][0] as f64 / rounds as f64;
        record::samples("IPI to another vCPU and its answer", "cycles", &[cycles]);
        Ok(())
    }

    /// Two vCPUs answer each other's IPIs: none is lost, none comes twice.
    #[kvm_test(vcpus = 2)]
    fn ipi_and_its_answer(t: &mut OneVm) -> TestResult {
        ping_pong(t, 20)
    }

    /// The same, measured: by default 1,000 rounds.
    #[kvm_test(vcpus = 2, exclusive, groups("perf"))]
    fn ipi_measured(t: &mut OneVm) -> TestResult {
        ping_pong(t, 1_000)
    }

    fn event_to_interrupt(t: &mut OneVcpu, rounds: u64) -> TestResult {
        let rounds = ROUNDS.count(rounds)?;
        t.vcpu.run_until_sync(READY)?;
        let event = Event::new()?;
        t.vm.assign_irqfd(&event, PIN).ioctl("KVM_IRQFD")?;
        let (taken, events) =
            (t.vm.shared(shared_static!(TAKEN)), t.vm.shared(shared_static!(EVENTS)));
        let vcpu = &mut t.vcpu;
        let mut times = Vec::new();
        together(|threads| {
            let _guest = threads.run(vcpu, Vcpu::run_until_done);
            for round in 1..=rounds {
                let start = Instant::now();
                event.signal(1)?;
                threads.wait_until("the event's interrupt", || taken.load(SeqCst) >= round)?;
                times.push(start.elapsed().as_nanos() as f64 / 1e3);
                check_eq!("each event is taken as one interrupt", taken.load(SeqCst), round);
            }
            events.store(rounds + 1, SeqCst);
            event.signal(1)
        })?;
        check_eq!("no interrupt comes without an event", taken.load(SeqCst), rounds + 1);
        record::samples("eventfd to the guest's handler", "us", &times);
        Ok(())
    }

    /// An eventfd's signal becomes the guest's interrupt, told in microseconds of the host.
    #[kvm_test(waits_for_interrupts, vcpus = 2, requires(cap::IRQFD))]
    fn irqfd_to_handler(t: &mut OneVcpu) -> TestResult {
        event_to_interrupt(t, 20)
    }

    /// The same, measured: by default 2,000 events.
    #[kvm_test(waits_for_interrupts, vcpus = 2, exclusive, groups("perf"), requires(cap::IRQFD))]
    fn irqfd_measured(t: &mut OneVcpu) -> TestResult {
        event_to_interrupt(t, 2_000)
    }

    fn timer_to_handler(t: &mut OneVcpu, rounds: u64) -> TestResult {
        let rounds = ROUNDS.count(rounds)?;
        t.vcpu.set_args(&[rounds]);
        let khz = f64::from(t.vcpu.fd().get_tsc_khz().ioctl("KVM_GET_TSC_KHZ")?);
        let mut late = Vec::new();
        for _ in 0..rounds {
            let [cycles, left, ..] = t.vcpu.run_until_sync(READY)?;
            let micros = cycles as f64 * 1e3 / khz;
            // The guest's TSC and the host's clock may differ by what an oscillator does.
            let shot = f64::from(SHOT) / 1e3 * 0.99;
            check!("no timer interrupt comes before its time", micros >= shot, "{micros} us");
            check_eq!("the timer's count is 0 after its shot", left, 0);
            late.push(micros - f64::from(SHOT) / 1e3);
        }
        record::samples("timer to the guest's handler, beyond its time", "us", &late);
        t.vcpu.run_until_done()
    }

    /// A shot of the APIC timer comes once and not before its time; how much later is told in microseconds
    /// (SDM vol. 3, "APIC Timer").
    #[kvm_test(shoots_its_timer, requires(cap::GET_TSC_KHZ))]
    fn timer_shot_to_handler(t: &mut OneVcpu) -> TestResult {
        timer_to_handler(t, 10)
    }

    /// The same, measured: by default 1,000 shots.
    #[kvm_test(shoots_its_timer, exclusive, groups("perf"), requires(cap::GET_TSC_KHZ))]
    fn timer_measured(t: &mut OneVcpu) -> TestResult {
        timer_to_handler(t, 1_000)
    }
}
