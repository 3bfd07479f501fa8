//! Guests that misbehave: tests of the harness, not of KVM. In group `nodefault`;
//! `suites/tests/hostile.rs` runs each and compares what the user is told.
use crate::prelude::*;

#[guest]
fn loops_for_ever(_: &mut Guest) {
    wait_until(|| false);
}

#[guest]
fn halts_for_ever(_: &mut Guest) {
    guest_runtime::arch::halt_forever();
}

#[guest]
fn panics(g: &mut Guest) {
    panic!("the argument is {}", g.arg(0));
}

/// Uses up its stack.
#[guest]
pub fn recurses(g: &mut Guest) {
    fn deeper(n: u64) -> u64 {
        let room = core::hint::black_box([n; 64]);
        if n == u64::MAX { 0 } else { deeper(core::hint::black_box(n + 1)) + room[3] }
    }
    core::hint::black_box(deeper(g.arg(0)));
}

#[guest]
fn returns_at_once(_: &mut Guest) {}

#[guest]
fn waits_in_sync(g: &mut Guest) {
    g.sync(1, &[]);
}

#[guest]
fn fails_a_check(g: &mut Guest) {
    check_eq!("two and two are five", 2 + 2, 5);
    check!("the argument is given", g.arg(0) == 0);
}

#[guest]
fn scribbles(g: &mut Guest) {
    log!("a good message first");
    let message = layout::vcpu_area(0) + layout::vcpu_area::MESSAGE;
    match g.arg(0) {
        0 => poke(message, 0x6261_6463_u32),
        1 => poke(message + 4, 99_u32),
        2 => poke(message + 8, 3_u32),
        3 => poke(message + 12, 2_u32),
        _ => poke(message + 16 + 8 * guest_runtime::protocol::NR_ARGS as u64, 0xffff_u16),
    }
    guest_runtime::arch::ring_doorbell(message as u32);
}

#[guest]
fn rings_wildly(g: &mut Guest) {
    guest_runtime::arch::ring_doorbell(g.arg(0) as u32);
}

#[host]
mod host {
    use super::*;

    /// The deadline cuts it off, and its last state is told.
    #[kvm_test(loops_for_ever, groups("nodefault"))]
    fn guest_loops_for_ever(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// Where several vCPUs run into the deadline, each is told of.
    #[kvm_test(loops_for_ever, vcpus = 2, groups("nodefault"))]
    fn both_guests_loop_for_ever(t: &mut OneVcpu) -> TestResult {
        let mut second = t.vm.add_vcpu(1, guest_fn!(loops_for_ever))?;
        run_together([&mut t.vcpu, &mut second], Vcpu::run_until_done)?;
        Ok(())
    }

    /// Without an interrupt controller, HLT is an exit that nobody waited for.
    #[kvm_test(halts_for_ever, groups("nodefault"))]
    fn guest_halts_in_userspace(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// With one, the vCPU sleeps until the deadline.
    #[kvm_test(halts_for_ever, irqchip, groups("nodefault"))]
    fn guest_halts_in_the_kernel(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// A guest panic is told with its message and line.
    #[kvm_test(panics, groups("nodefault"))]
    fn guest_panics(t: &mut OneVcpu) -> TestResult {
        t.vcpu.set_args(&[7]);
        t.vcpu.run_until_done()
    }

    /// A stack overflow is told as one.
    #[kvm_test(recurses, groups("nodefault"))]
    fn guest_overflows_its_stack(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// A guest function that ends before the exit that the test waits for.
    #[kvm_test(returns_at_once, groups("nodefault"))]
    fn guest_ends_early(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_sync(1).map(|_| ())
    }

    /// A host half that hangs between two KVM_RUNs.
    #[kvm_test(waits_in_sync, groups("nodefault"))]
    fn host_half_never_returns(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_sync(1)?;
        loop {
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
    }

    /// A failed check fails the test, whatever comes after it.
    #[kvm_test(fails_a_check, groups("nodefault"))]
    fn guest_fails_a_check(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// Garbage in the message page is an error with the bytes, never a crash of the host.
    #[kvm_test(scribbles, groups("nodefault"), params = [
    magic: 0, verb: 1, vcpu: 2, level: 3, text_length: 4,
])]
    fn guest_scribbles_over_its_message(t: &mut OneVcpu, field: u64) -> TestResult {
        t.vcpu.set_args(&[field]);
        t.vcpu.run_until_done()
    }

    /// A doorbell with any address but the vCPU's own message page is an error.
    #[kvm_test(rings_wildly, groups("nodefault"), params = [
    null: 0,
    unaligned: 0x10_0001,
    another_vcpu: 0x11_0000,
    no_guests_area: layout::NESTED_AREA,
    beyond_ram: 0xffff_f000,
    broken_guest: 0xffff_ffff,
])]
    fn guest_rings_with_a_wild_address(t: &mut OneVcpu, address: u64) -> TestResult {
        t.vcpu.set_args(&[address]);
        t.vcpu.run_until_done()
    }

    /// A guest function of another build is missed before anything runs.
    #[kvm_test(groups("nodefault"))]
    fn payload_lacks_the_guest_function(t: &mut OneVm) -> TestResult {
        t.vm.add_vcpu(0, GuestFn { name: "suites::selftest::gone" }).map(|_| ())
    }

    /// A VM that outlives its test is told: the next test on this host would share it.
    #[kvm_test(groups("nodefault"))]
    fn vm_is_left_open(t: &mut HostOnly) -> TestResult {
        std::mem::forget(Vm::new(&t.setup.config)?);
        Ok(())
    }

    /// A skip that only shows late is told with the requirement's name.
    #[kvm_test(groups("nodefault"))]
    fn late_skip(_: &mut HostOnly) -> TestResult {
        skip!("a host with a flux capacitor");
    }

    /// A host that dies is told with its last words, and a fresh one goes on with the next test.
    #[kvm_test(requires(host::EXPENDABLE), groups("nodefault"))]
    fn host_panics(_: &mut HostOnly) -> TestResult {
        let written = std::fs::write("/proc/sysrq-trigger", "c");
        fail!("the host lives: {written:?}");
    }
}
