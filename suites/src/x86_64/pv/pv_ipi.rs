//! KVM's own hypercalls between vCPUs: KVM_HC_SEND_IPI, KVM_HC_KICK_CPU and KVM_HC_SCHED_YIELD
//! (x86/hypercalls.rst).
use crate::prelude::*;

const VECTOR: u64 = 0x71;
const READY: u64 = 1;

#[guest]
fn has_an_apic(g: &mut Guest) {
    Apic::enable();
    g.sync(READY, &[]);
}

/// Makes the hypercalls that the host answers with.
#[guest]
fn calls(g: &mut Guest) {
    Apic::enable();
    let hypercall = Hypercall::of_this_cpu();
    let mut result = 0;
    loop {
        let request = g.sync(READY, &[result]);
        let args = [request[1], request[2], request[3], request[4]];
        result = hypercall.call(request[0], args).unwrap_or(!0);
    }
}

/// How often vCPU 1 went on behind HLT.
#[shared]
static WOKEN: AtomicU64 = AtomicU64::new(0);
#[shared]
static HALTING: AtomicU64 = AtomicU64::new(0);

/// Halts with interrupts off, so that only a kick can wake it.
#[guest]
fn halts(_: &mut Guest) {
    Apic::enable();
    cli();
    for round in 1..=KICKS {
        HALTING.store(round, SeqCst);
        hlt();
        WOKEN.fetch_add(1, SeqCst);
    }
}

const KICKS: u64 = 10;

#[host]
mod host {
    use super::*;
    use kvm_pv::error::KVM_EINVAL;
    use kvm_pv::{KVM_HC_KICK_CPU, KVM_HC_SCHED_YIELD, KVM_HC_SEND_IPI};

    kvm_tests! { irqchip }

    const NR_VCPUS: u32 = 4;

    /// A caller, and others with their APICs on; APIC IDs are their numbers.
    struct Group {
        caller: Vcpu,
        others: Vec<Vcpu>,
    }

    impl Group {
        fn new(vm: &mut Vm) -> TestResult<Self> {
            let mut caller = vm.add_vcpu(0, guest_fn!(calls))?;
            let mut others = Vec::new();
            for vcpu in 1..NR_VCPUS {
                let mut other = vm.add_vcpu(vcpu, guest_fn!(has_an_apic))?;
                other.run_until_sync(READY)?;
                others.push(other);
            }
            caller.run_until_sync(READY)?;
            Ok(Self { caller, others })
        }

        fn call(&mut self, nr: u64, args: [u64; 4]) -> TestResult<u64> {
            let [a, b, c, d] = args;
            self.caller.answer(&[nr, a, b, c, d]);
            Ok(self.caller.run_until_sync(READY)?[0])
        }

        /// Which vCPUs have `vector` pending, as a mask; takes it from them.
        fn interrupted(&self, vector: u64) -> TestResult<u64> {
            let mut mask = 0;
            let all = std::iter::once(&self.caller).chain(&self.others);
            for (bit, vcpu) in all.enumerate() {
                mask |= u64::from(vcpu.drop_pending(vector as u8)?) << bit;
            }
            Ok(mask)
        }
    }

    /// The bitmap names APIC IDs from the lowest on that the third argument tells; the result is how many vCPUs
    /// were interrupted.
    #[kvm_test]
    fn ipis_go_to_the_bitmaps_vcpus(t: &mut OneVm) -> TestResult {
        let mut group = Group::new(&mut t.vm)?;
        for mask in 0..1_u64 << NR_VCPUS {
            let sent = group.call(KVM_HC_SEND_IPI, [mask, 0, 0, VECTOR])?;
            check_eq!(
                "the result for bitmap {mask:#b} is its number of vCPUs",
                sent,
                u64::from(mask.count_ones())
            );
            check_eq!(
                "an IPI by bitmap interrupts exactly {mask:#b}",
                group.interrupted(VECTOR)?,
                mask
            );
        }
        for (what, args, want) in [
            ("from ID 2 on", [0b11, 0, 2, VECTOR], 0b1100),
            ("from the last ID on", [u64::MAX, 0, 3, VECTOR], 0b1000),
            ("beyond the last ID", [u64::MAX, u64::MAX, 4, VECTOR], 0),
            ("far beyond the last ID", [u64::MAX, u64::MAX, 0xffff_ffff, VECTOR], 0),
            ("of IDs that are not there", [1 << 5 | 1 << 63, u64::MAX, 0, VECTOR], 0),
            ("of some that are not there", [0xff00_0000_0000_0002, u64::MAX, 0, VECTOR], 0b10),
            ("in the upper word alone", [0, u64::MAX, 0, VECTOR], 0),
            ("of all", [u64::MAX, u64::MAX, 0, VECTOR], 0b1111),
        ] {
            let sent = group.call(KVM_HC_SEND_IPI, args)?;
            check_eq!(
                "the result for a bitmap {what} is its number of vCPUs",
                sent,
                u64::from(u64::count_ones(want))
            );
            check_eq!(
                "a bitmap {what} interrupts exactly the existing vCPUs",
                group.interrupted(VECTOR)?,
                want
            );
        }
        Ok(())
    }

    /// The fourth argument is the ICR's low half: vector and delivery mode; a destination or shorthand is not
    /// for it to tell.
    #[kvm_test]
    fn icr_of_ipis_is_checked(t: &mut OneVm) -> TestResult {
        let mut group = Group::new(&mut t.vm)?;
        for (what, icr) in [
            ("shorthand self", VECTOR | u64::from(apic::ICR_SELF)),
            ("shorthand all", VECTOR | u64::from(apic::ICR_ALL)),
            ("shorthand others", VECTOR | u64::from(apic::ICR_OTHERS)),
            ("a logical destination", VECTOR | u64::from(apic::ICR_LOGICAL)),
        ] {
            let result = group.call(KVM_HC_SEND_IPI, [0b1111, 0, 0, icr])?;
            check_eq!("an ICR with {what} is -KVM_EINVAL", result, KVM_EINVAL);
            check_eq!("an ICR with {what} interrupts nobody", group.interrupted(VECTOR)?, 0);
        }
        for vector in [0x10, 0x20, 0xff] {
            let sent = group.call(KVM_HC_SEND_IPI, [0b0110, 0, 0, vector | 1 << 14])?;
            check_eq!("an IPI with vector {vector:#x} is sent", sent, 2);
            check_eq!("an IPI with vector {vector:#x} arrives", group.interrupted(vector)?, 0b0110);
        }
        let nmi = u64::from(apic::ICR_NMI);
        check_eq!(
            "an NMI can be sent to a bitmap",
            group.call(KVM_HC_SEND_IPI, [0b0100, 0, 0, nmi])?,
            1
        );
        for (number, vcpu) in (1..).zip(&group.others) {
            let events = vcpu.fd().get_vcpu_events().ioctl("KVM_GET_VCPU_EVENTS")?;
            let pending = events.nmi.pending != 0;
            check_eq!("the NMI is pending where it was sent (vCPU {number})", pending, number == 2);
        }
        Ok(())
    }

    /// A vCPU whose APIC is off takes no IPI, and is not counted.
    #[kvm_test]
    fn vcpu_without_apic_is_not_counted(t: &mut OneVm) -> TestResult {
        let mut group = Group::new(&mut t.vm)?;
        let vcpu = &group.others[0];
        let mut lapic = vcpu.fd().get_lapic().ioctl("KVM_GET_LAPIC")?;
        // APIC software enable.
        lapic.regs[apic::reg::SPIV as usize + 1] &= !1;
        vcpu.fd().set_lapic(&lapic).ioctl("KVM_SET_LAPIC")?;
        let sent = group.call(KVM_HC_SEND_IPI, [0b1111, 0, 0, VECTOR])?;
        check_eq!("only vCPUs with their APIC on are counted", sent, 3);
        check_eq!("vCPUs with their APIC on are interrupted", group.interrupted(VECTOR)?, 0b1101);
        Ok(())
    }

    /// A kick wakes a vCPU from HLT whatever RFLAGS.IF says, once; one that comes first is kept.
    #[kvm_test(vcpus = 2)]
    fn kick_wakes_a_halted_vcpu(t: &mut OneVm) -> TestResult {
        const NOBODY: u64 = 77;
        let mut caller = t.vm.add_vcpu(0, guest_fn!(calls))?;
        let mut sleeper = t.vm.add_vcpu(1, guest_fn!(halts))?;
        caller.run_until_sync(READY)?;
        let mut kick = |id| -> TestResult<u64> {
            caller.answer(&[KVM_HC_KICK_CPU, 0, id, 0, 0]);
            Ok(caller.run_until_sync(READY)?[0])
        };
        let (woken, halting) =
            (t.vm.shared(shared_static!(WOKEN)), t.vm.shared(shared_static!(HALTING)));
        check_eq!("a kick of a vCPU that does not sleep yet succeeds", kick(1)?, 0);
        together(|threads| {
            let sleeper = threads.run(&mut sleeper, Vcpu::run_until_done);
            let mut all = || -> TestResult {
                for round in 1..KICKS {
                    let there = eventually(|| halting.load(SeqCst) == round + 1);
                    check!("each kick wakes the halted vCPU", there, "{round}");
                    check_eq!(
                        "each kick wakes the halted vCPU exactly once",
                        woken.load(SeqCst),
                        round
                    );
                    check_eq!("a kick of an absent APIC ID succeeds", kick(NOBODY)?, 0);
                    std::thread::sleep(std::time::Duration::from_micros(200));
                    check_eq!(
                        "a kick of an absent APIC ID wakes nobody",
                        woken.load(SeqCst),
                        round
                    );
                    check_eq!("a kick of a halted vCPU succeeds", kick(1)?, 0);
                }
                Ok(())
            };
            all()?;
            // However many it missed, the sleeper must come to its end.
            while !sleeper.is_finished() {
                kick(1)?;
                std::thread::yield_now();
            }
            Ok(())
        })?;
        check_eq!("the vCPU goes on as often as it was kicked", woken.load(SeqCst), KICKS);
        Ok(())
    }

    /// Yielding to another vCPU is a hint: it succeeds whoever is named.
    #[kvm_test]
    fn yield_succeeds_for_every_id(t: &mut OneVm) -> TestResult {
        let mut group = Group::new(&mut t.vm)?;
        for id in [0, 1, 3, 4, 255, 0xffff_ffff, u64::MAX] {
            let result = group.call(KVM_HC_SCHED_YIELD, [id, 0, 0, 0])?;
            check_eq!("yielding to APIC ID {id:#x} succeeds", result, 0);
        }
        Ok(())
    }
}
