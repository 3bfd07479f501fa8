//! Asynchronous page faults: a guest is told that the host has no page for it yet, may do something
//! else, and is told by interrupt when the page is there (x86/msr.rst, MSR_KVM_ASYNC_PF_EN, _INT and
//! _ACK). Pages are absent until userspace supplies them (userfaultfd(2)).
use crate::prelude::*;
use crate::x86_64::support::absent_pages::*;
use guest_runtime::ucall::sync;

/// What the guest reports.
const READY: u64 = 1;
const INDEX: u64 = 2;

/// Arguments: whether ring 3 touches the page, more bits of the MSR.
#[guest]
fn touches_a_page(g: &mut Guest) {
    let (in_ring_3, bits) = (g.arg(0) != 0, g.arg(1));
    let pages = Pages::new(AREA + u64::from(g.vcpu()) * AREA_SIZE);
    PADDING.step_by(8).for_each(|offset| poke(pages.area + offset, !0_u64));
    let on_ready = |_: &mut TrapFrame| {
        pages.take();
        pages.acknowledge();
    };
    with_handler(VECTOR, on_ready, || {
        pages.enable(TOLD | bits);
        check_eq!("enabling wakes all waiters exactly once", pages.ready(), (1, WAKE_ALL));
        let faults = AtomicU64::new(0);
        let on_fault = |frame: &mut TrapFrame| {
            faults.fetch_add(1, SeqCst);
            let token = pages.told(frame);
            sync(NOT_PRESENT, &[token.into()]);
            sti();
            cli();
            check_eq!("nothing is ready while the page is absent", pages.ready(), (1, WAKE_ALL));
            check_eq!("no token is written while the page is absent", pages.token(), 0);
            sync(READY, &[]);
            pages.wait(2);
            check_eq!("a ready page is announced by its fault's token", pages.ready(), (2, token));
        };
        let read = with_handler(vector::PF, on_fault, || {
            if in_ring_3 {
                return user::run(Rflags::IF, reads, page(INDEX));
            }
            sti();
            let read = peek(page(INDEX));
            cli();
            read
        });
        check_eq!("the page can be read once it is ready", read, content(INDEX));
        check_eq!("the guest takes exactly one fault for the page", faults.load(SeqCst), 1);
        check_eq!("the page is announced as ready exactly once", pages.ready().0, 2);
        check_eq!("no flag is left after the page is ready", pages.flags(), 0);
        for offset in PADDING.step_by(8) {
            let padding = peek::<u64>(pages.area + offset);
            check_eq!("the padding of the structure is left alone", padding, !0);
        }
    });
}

/// Arguments: value of the MSR, whether interrupts are on.
#[guest]
fn cannot_be_told(g: &mut Guest) {
    let (bits, interrupts) = (g.arg(0), g.arg(1) != 0);
    let pages = Pages::new(AREA);
    let on_ready = |_: &mut TrapFrame| {
        pages.take();
        pages.acknowledge();
    };
    let faults = AtomicU64::new(0);
    let on_fault = |_: &mut TrapFrame| {
        faults.fetch_add(1, SeqCst);
    };
    with_handler(VECTOR, on_ready, || {
        pages.enable(bits);
        let before = pages.ready();
        let read = with_handler(vector::PF, on_fault, || {
            if interrupts {
                sti();
            }
            let read: u64 = peek(page(INDEX));
            cli();
            read
        });
        check_eq!("the access waits until the page is there", read, content(INDEX));
        sti();
        cli();
        check_eq!("the guest takes no asynchronous page fault", faults.load(SeqCst), 0);
        check_eq!("no flag is set while the access waits", pages.flags(), 0);
        check_eq!("no page is announced as ready", pages.ready(), before);
        check_eq!("no token is left in the structure", pages.token(), 0);
    });
}

/// Goes back to its access at once.
#[guest]
fn tries_again(_: &mut Guest) {
    let pages = Pages::new(AREA);
    let on_ready = |_: &mut TrapFrame| {
        pages.take();
        pages.acknowledge();
    };
    let token = AtomicU64::new(0);
    let on_fault = |frame: &mut TrapFrame| {
        let told = pages.told(frame).into();
        check_eq!(
            "a page is reported once, however often it is tried",
            token.swap(told, SeqCst),
            0
        );
        sync(NOT_PRESENT, &[told]);
    };
    with_handler(VECTOR, on_ready, || {
        pages.enable(TOLD);
        let read = with_handler(vector::PF, on_fault, || user::run(Rflags::IF, reads, page(INDEX)));
        check_eq!("a repeated access is done when the page is there", read, content(INDEX));
        pages.wait(2);
        let ready = (2, token.load(SeqCst) as u32);
        check_eq!("a page that was tried again is announced as ready", pages.ready(), ready);
    });
}

/// Waits for a second page while it waits for a first.
#[guest]
fn waits_for_two(_: &mut Guest) {
    let pages = Pages::new(AREA);
    let on_second = |frame: &mut TrapFrame, first: u32| {
        let second = pages.told(frame);
        check!(
            "two absent pages have different tokens",
            first != second,
            "{first:#x} and {second:#x}"
        );
        sync(NOT_PRESENT, &[0]);
        wait_until(|| pages.token() != 0);
        check_eq!("the page that came first is announced first", pages.token(), second);
        sync(READY, &[]);
        check_eq!("the later page does not overwrite the first's token", pages.token(), second);
        pages.wait(2);
        check_eq!("the first page's interrupt is taken exactly once", pages.ready(), (2, second));
        pages.acknowledge();
        pages.wait(3);
        check_eq!("the later page is announced after the ACK", pages.ready(), (3, first));
        pages.acknowledge();
    };
    let on_first = |frame: &mut TrapFrame| {
        let first = pages.told(frame);
        sync(NOT_PRESENT, &[0]);
        let nested = |frame: &mut TrapFrame| on_second(frame, first);
        let read: u64 = with_handler(vector::PF, nested, || {
            sti();
            let read = peek(page(1));
            cli();
            read
        });
        check_eq!("the second page can be read", read, content(1));
    };
    with_handler(
        VECTOR,
        |_| pages.take(),
        || {
            pages.enable(ON);
            check_eq!("enabling wakes all waiters exactly once", pages.ready(), (1, WAKE_ALL));
            pages.acknowledge();
            let read: u64 = with_handler(vector::PF, on_first, || {
                sti();
                let read = peek(page(0));
                cli();
                read
            });
            check_eq!("the first page can be read", read, content(0));
            check_eq!("each page is announced as ready exactly once", pages.ready().0, 3);
        },
    );
}

#[host]
mod host {
    use super::*;
    use std::thread;

    kvm_tests! {
        irqchip,
        requires(cap::ASYNC_PF, cap::ASYNC_PF_INT),
        sees(
            moved: "holds page faults open, for which a VM waits before it ends",
            paged: "decides itself when memory is absent",
            logged: "leaves memory absent, which a look at all of it would bring in",
        ),
    }

    /// A guest that may be told (in ring 0 by KVM_ASYNC_PF_SEND_ALWAYS) gets #PF with a token in CR2 while
    /// the host has no page, and an interrupt with the same token when it has, which wakes a halted vCPU.
    #[kvm_test(params = [
    ring_0: (0, SEND_ALWAYS), ring_3: (1, 0), ring_3_always: (1, SEND_ALWAYS),
])]
    fn absent_page_is_told_and_then_ready(
        t: &mut OneVm,
        (in_ring_3, bits): (u64, u64),
    ) -> TestResult {
        let absent = Absent::new(&mut t.vm)?;
        let mut vcpu = t.vm.add_vcpu(0, guest_fn!(touches_a_page))?;
        vcpu.set_args(&[in_ring_3, bits]);
        absent.told(&mut vcpu, INDEX)?;
        thread::sleep(MOMENT);
        vcpu.run_until_sync(READY)?;
        absent.meanwhile(&mut vcpu, || {
            // The vCPU halts by now.
            thread::sleep(MOMENT);
            absent.supply(INDEX)
        })
    }

    /// Each vCPU is told of a page that it waits for itself, by a token of its own.
    #[kvm_test]
    fn each_vcpu_waits_for_itself(t: &mut OneVm) -> TestResult {
        let absent = Absent::new(&mut t.vm)?;
        let mut vcpus = Vec::new();
        let mut tokens = Vec::new();
        for index in 0..2 {
            let mut vcpu = t.vm.add_vcpu(index, guest_fn!(touches_a_page))?;
            vcpu.set_args(&[1, 0]);
            tokens.push(absent.told(&mut vcpu, INDEX)?);
            vcpus.push(vcpu);
        }
        check!("each vCPU is given a token of its own", tokens[0] != tokens[1], "{tokens:x?}");
        for vcpu in &mut vcpus {
            vcpu.run_until_sync(READY)?;
        }
        absent.supply(INDEX)?;
        vcpus.iter_mut().try_for_each(Vcpu::run_until_done)
    }

    /// Where the guest cannot be told, its access waits: without the enable bit, without delivery by
    /// interrupt, with interrupts off, and in ring 0 without KVM_ASYNC_PF_SEND_ALWAYS.
    #[kvm_test(params = [
    disabled: (SEND_ALWAYS | DELIVERY_AS_INT, true), no_delivery: (ENABLED | SEND_ALWAYS, true),
    interrupts_off: (ON, false), ring_0: (TOLD, true),
])]
    fn otherwise_the_access_waits(t: &mut OneVm, (bits, interrupts): (u64, bool)) -> TestResult {
        let absent = Absent::new(&mut t.vm)?;
        let mut vcpu = t.vm.add_vcpu(0, guest_fn!(cannot_be_told))?;
        vcpu.set_args(&[bits, interrupts.into()]);
        absent.meanwhile(&mut vcpu, || {
            check_eq!("the vCPU asks for the absent page", absent.asked()?, INDEX);
            thread::sleep(MOMENT);
            absent.supply(INDEX)
        })
    }

    /// A guest that was told may try again: its access waits then, and the page is told as ready as to any
    /// other.
    #[kvm_test]
    fn another_try_waits_for_the_page(t: &mut OneVm) -> TestResult {
        let absent = Absent::new(&mut t.vm)?;
        let mut vcpu = t.vm.add_vcpu(0, guest_fn!(tries_again))?;
        absent.told(&mut vcpu, INDEX)?;
        absent.meanwhile(&mut vcpu, || {
            thread::sleep(MOMENT);
            absent.supply(INDEX)
        })
    }

    /// Pages are told as they come, one at a time: the next takes the token's place when that is free
    /// again and MSR_KVM_ASYNC_PF_ACK is written.
    #[kvm_test]
    fn faults_in_flight_are_told_apart(t: &mut OneVm) -> TestResult {
        let absent = Absent::new(&mut t.vm)?;
        let mut vcpu = t.vm.add_vcpu(0, guest_fn!(waits_for_two))?;
        for index in 0..2 {
            absent.told(&mut vcpu, index)?;
        }
        absent.supply(1)?;
        vcpu.run_until_sync(READY)?;
        absent.supply(0)?;
        thread::sleep(MOMENT);
        vcpu.run_until_done()
    }
}
