//! The MSRs of asynchronous page faults: what they take and keep, what enabling and disabling does, and
//! how they move to another vCPU (x86/msr.rst, MSR_KVM_ASYNC_PF_EN, _INT and _ACK).
use crate::prelude::*;
use crate::x86_64::support::absent_pages::*;
use guest_runtime::ucall::sync;

const READY: u64 = 1;
const GP: Option<(u8, u32)> = Some((vector::GP, 0));

fn write(index: u32, value: u64) -> Option<(u8, u32)> {
    wrmsr_safe(index, value).err().map(|trap| (trap.vector, trap.error))
}

#[guest]
fn sets_msrs(_: &mut Guest) {
    Apic::enable();
    for index in [MSR_KVM_ASYNC_PF_EN, MSR_KVM_ASYNC_PF_INT, MSR_KVM_ASYNC_PF_ACK] {
        check_eq!("MSR {index:#x} is 0 at reset", rdmsr(index), 0);
    }
    for vector in [0, 0x20, 0x7f, 0x80, 0xff] {
        check_eq!("vector {vector:#x} is accepted", write(MSR_KVM_ASYNC_PF_INT, vector), None);
        check_eq!("vector {vector:#x} reads as written", rdmsr(MSR_KVM_ASYNC_PF_INT), vector);
    }
    for bit in [8, 9, 31, 32, 63] {
        let got = write(MSR_KVM_ASYNC_PF_INT, 1 << bit | u64::from(VECTOR));
        check_eq!("bit {bit} beside the vector is #GP", got, GP);
        check_eq!("a refused bit {bit} leaves the vector", rdmsr(MSR_KVM_ASYNC_PF_INT), 0xff);
    }
    for value in [1, 0, u64::MAX] {
        check_eq!("an ACK of {value:#x} is accepted", write(MSR_KVM_ASYNC_PF_ACK, value), None);
        check_eq!("the ACK reads as 0 after {value:#x}", rdmsr(MSR_KVM_ASYNC_PF_ACK), 0);
    }
    poke(AREA - 8, !0_u64);
    poke(AREA, [0_u64; 8]);
    for bit in [4, 5] {
        let got = write(MSR_KVM_ASYNC_PF_EN, AREA | 1 << bit | ON);
        check_eq!("reserved bit {bit} of MSR_KVM_ASYNC_PF_EN is #GP", got, GP);
        check_eq!(
            "reserved bit {bit} leaves MSR_KVM_ASYNC_PF_EN unchanged",
            rdmsr(MSR_KVM_ASYNC_PF_EN),
            0
        );
    }
    for off in [ON & !ENABLED, SEND_ALWAYS, DELIVERY_AS_INT] {
        check_eq!(
            "flags {off:#x} that do not enable are accepted",
            write(MSR_KVM_ASYNC_PF_EN, AREA | off),
            None
        );
        check_eq!(
            "flags {off:#x} that do not enable read as written",
            rdmsr(MSR_KVM_ASYNC_PF_EN),
            AREA | off
        );
        check_eq!("flags {off:#x} that do not enable wake nobody", peek::<u32>(AREA + TOKEN), 0);
    }
    check_eq!("any address is accepted while disabled", write(MSR_KVM_ASYNC_PF_EN, NOWHERE), None);
    check_eq!(
        "enabling on an address without memory is #GP",
        write(MSR_KVM_ASYNC_PF_EN, NOWHERE | ON),
        GP
    );
    check_eq!(
        "a refused address leaves MSR_KVM_ASYNC_PF_EN unchanged",
        rdmsr(MSR_KVM_ASYNC_PF_EN),
        NOWHERE
    );
    check_eq!("enabling on memory is accepted", write(MSR_KVM_ASYNC_PF_EN, AREA | ON), None);
    check_eq!(
        "MSR_KVM_ASYNC_PF_EN reads as written when enabled",
        rdmsr(MSR_KVM_ASYNC_PF_EN),
        AREA | ON
    );
    check_eq!("nothing in front of the structure changes", peek::<u64>(AREA - 8), !0);
}

/// No RAM.
const NOWHERE: u64 = layout::FREE + 0x1000_0000;

#[guest]
fn has_no_apic(_: &mut Guest) {
    check_eq!(
        "enabling without an in-kernel APIC is #GP",
        write(MSR_KVM_ASYNC_PF_EN, AREA | ON),
        GP
    );
    check_eq!("an address without an in-kernel APIC is #GP", write(MSR_KVM_ASYNC_PF_EN, AREA), GP);
    check_eq!(
        "disabling without an in-kernel APIC is accepted",
        write(MSR_KVM_ASYNC_PF_EN, 0),
        None
    );
    check_eq!(
        "MSR_KVM_ASYNC_PF_EN reads as disabled without an APIC",
        rdmsr(MSR_KVM_ASYNC_PF_EN),
        0
    );
    check_eq!(
        "a vector without an in-kernel APIC is #GP",
        write(MSR_KVM_ASYNC_PF_INT, VECTOR.into()),
        GP
    );
    check_eq!("the vector reads as 0 without an APIC", rdmsr(MSR_KVM_ASYNC_PF_INT), 0);
}

#[guest]
fn has_its_apic_off(g: &mut Guest) {
    let pages = Pages::new(AREA);
    Apic::enable().write(apic::reg::SPIV, 0xff);
    wrmsr(MSR_KVM_ASYNC_PF_INT, VECTOR.into());
    wrmsr(MSR_KVM_ASYNC_PF_EN, AREA | ON);
    g.sync(READY, &[]);
    check_eq!("nobody is woken while the APIC is off", pages.token(), 0);
    with_handler(
        VECTOR,
        |_| pages.take(),
        || {
            Apic::enable();
            pages.wait(1);
            check_eq!("all waiters are woken when the APIC is on", pages.ready(), (1, WAKE_ALL));
        },
    );
}

/// Set when the guest is about to disable.
#[shared]
static GIVING_UP: AtomicU64 = AtomicU64::new(0);

#[guest]
fn gives_up_waiting(_: &mut Guest) {
    let pages = Pages::new(AREA);
    let on_ready = |_: &mut TrapFrame| {
        pages.take();
        pages.acknowledge();
    };
    let on_fault = |frame: &mut TrapFrame| {
        pages.told(frame);
        sync(NOT_PRESENT, &[0]);
        GIVING_UP.store(1, SeqCst);
        // KVM may wait here until the page is there.
        wrmsr(MSR_KVM_ASYNC_PF_EN, 0);
    };
    with_handler(VECTOR, on_ready, || {
        pages.enable(ON);
        check_eq!("enabling wakes all waiters exactly once", pages.ready(), (1, WAKE_ALL));
        let read = with_handler(vector::PF, on_fault, || user::run(Rflags::IF, reads, page(0)));
        check_eq!("the page can be read although the guest gave up", read, content(0));
        sti();
        cli();
        check_eq!("a page is not announced after disabling", pages.ready(), (1, WAKE_ALL));
        check_eq!("a page's token is not written after disabling", pages.token(), 0);
        pages.enable(ON);
        check_eq!("all waiters are woken when enabled again", pages.ready(), (2, WAKE_ALL));
    });
}

#[guest]
fn is_enabled(g: &mut Guest) {
    Apic::enable();
    wrmsr(MSR_KVM_ASYNC_PF_INT, VECTOR.into());
    wrmsr(MSR_KVM_ASYNC_PF_EN, AREA | ON);
    g.sync(READY, &[]);
}

#[guest]
fn gets_enabled(g: &mut Guest) {
    let pages = Pages::new(AREA + AREA_SIZE);
    let on_ready = |_: &mut TrapFrame| {
        pages.take();
        pages.acknowledge();
    };
    with_handler(VECTOR, on_ready, || {
        g.sync(READY, &[]);
        pages.wait(1);
        check_eq!("waiters of another vCPU are woken on this one", pages.ready(), (1, WAKE_ALL));
        check_eq!(
            "the guest reads the vector that userspace wrote",
            rdmsr(MSR_KVM_ASYNC_PF_INT),
            u64::from(VECTOR)
        );
        let want = (AREA + AREA_SIZE) | ON;
        check_eq!(
            "the guest reads the address and flags that userspace wrote",
            rdmsr(MSR_KVM_ASYNC_PF_EN),
            want
        );
    });
}

#[host]
mod host {
    use super::*;
    use std::{thread, time::Duration};

    kvm_tests! { irqchip, requires(cap::ASYNC_PF, cap::ASYNC_PF_INT) }

    /// The vector has 8 bits; the structure's address, aligned to 64 bytes, must be memory when it counts;
    /// reserved bits are #GP.
    #[kvm_test]
    fn registers_are_as_documented(t: &mut OneVm) -> TestResult {
        t.vm.add_vcpu(0, guest_fn!(sets_msrs))?.run_until_done()
    }

    /// Without a local APIC in the kernel pages could not be told as ready: nothing can be enabled.
    #[kvm_test(has_no_apic, no_irqchip)]
    fn without_an_apic_it_stays_off(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// A vCPU whose local APIC is off could not take the interrupt: what is ready waits for the APIC, and
    /// is not lost.
    #[kvm_test(has_its_apic_off)]
    fn apic_that_is_off_delays_what_is_ready(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_sync(READY)?;
        t.vcpu.run_until_done()
    }

    /// What is outstanding when the guest disables asynchronous page faults is not told any more; enabling
    /// wakes whoever may wait, by a token of its own.
    #[kvm_test]
    fn disabling_forgets_what_is_outstanding(t: &mut OneVm) -> TestResult {
        let absent = Absent::new(&mut t.vm)?;
        let mut vcpu = t.vm.add_vcpu(0, guest_fn!(gives_up_waiting))?;
        let giving_up = t.vm.shared(shared_static!(GIVING_UP));
        absent.told(&mut vcpu, 0)?;
        absent.meanwhile(&mut vcpu, || {
            check!(
                "the guest disables while a page is outstanding",
                eventually(|| giving_up.load(SeqCst) != 0)
            );
            // Enough for the one instruction that is left.
            thread::sleep(Duration::from_millis(20));
            absent.supply(0)
        })
    }

    /// What userspace reads of the MSRs enables them on another vCPU, where everybody is woken: pages that
    /// were outstanding are not told any more (migration). Userspace's reserved bits are refused too.
    #[kvm_test]
    fn msrs_move_to_another_vcpu(t: &mut OneVm) -> TestResult {
        let mut from = t.vm.add_vcpu(0, guest_fn!(is_enabled))?;
        from.run_until_sync(READY)?;
        let vector = from.msr(MSR_KVM_ASYNC_PF_INT)?;
        check_eq!("userspace reads the guest's vector", vector, Some(VECTOR.into()));
        let enabled = from.msr(MSR_KVM_ASYNC_PF_EN)?;
        check_eq!("userspace reads the guest's address and flags", enabled, Some(AREA | ON));
        let mut to = t.vm.add_vcpu(1, guest_fn!(gets_enabled))?;
        to.run_until_sync(READY)?;
        let moved = |index, value| to.set_msr(index, value);
        for bit in [8, 63] {
            check!(
                "userspace's bit {bit} beside the vector is refused",
                !moved(MSR_KVM_ASYNC_PF_INT, 1 << bit)?
            );
        }
        for bit in [4, 5] {
            let refused = !moved(MSR_KVM_ASYNC_PF_EN, AREA | 1 << bit | ON)?;
            check!("userspace's reserved bit {bit} is refused", refused);
        }
        check!(
            "userspace's write of the vector is accepted",
            moved(MSR_KVM_ASYNC_PF_INT, VECTOR.into())?
        );
        check!(
            "userspace's write of address and flags is accepted",
            moved(MSR_KVM_ASYNC_PF_EN, (AREA + AREA_SIZE) | ON)?
        );
        to.run_until_done()
    }
}
