//! Port I/O exits (api.rst 5, KVM_EXIT_IO).
use crate::prelude::*;

const PORT: u16 = 0x80;
const VALUE: u8 = 0xaa;

#[guest]
fn guest_code(_: &mut Guest) {
    assert_eq!(inb(PORT), VALUE);
}

/// KVM returns to the guest the byte userspace placed in `kvm_run`.
#[kvm_test(guest_code)]
fn pio_in_returns_userspace_value(t: &mut OneVcpu) -> TestResult {
    t.vcpu.run_until(Exit::io_in(PORT))?.set_data(&[VALUE]);
    t.vcpu.run_until_done()
}

#[guest]
fn faults(_: &mut Guest) {
    check_eq!("UD2 is #UD", ud2_safe().unwrap_err().vector, vector::UD);
    check_eq!(
        "reading MSR 0xdead0000 is #GP",
        rdmsr_safe(0xdead_0000).unwrap_err().vector,
        vector::GP
    );
    check_eq!(
        "null is #PF",
        read_safe::<u8>(8),
        Err(Trap { vector: vector::PF, error: 0, addr: 8 })
    );
    let mut seen = 0;
    with_handler(
        vector::UD,
        |f| {
            seen += 1;
            f.rip += 2;
        },
        ud2,
    );
    check_eq!("handler ran", seen, 1);
    log!("hello {}", 42);
    extern "C" fn usr(x: u64) -> u64 {
        x + 1
    }
    check_eq!("user", user::run(0x202, usr, 41), 42);
    panic!("now {}", 5);
}

/// Faults are values.
#[kvm_test(faults)]
fn faults_are_values(t: &mut OneVcpu) -> TestResult {
    t.vcpu.run_until_done()
}

#[guest]
fn overflow(_: &mut Guest) {
    fn deep(n: u64) -> u64 {
        let a = [n; 64];
        if n == 0 {
            0
        } else {
            core::hint::black_box(deep(core::hint::black_box(n - 1)) + a[core::hint::black_box(3)])
        }
    }
    deep(10000);
}

/// Stack overflow is told.
#[kvm_test(overflow)]
fn stack_overflow(t: &mut OneVcpu) -> TestResult {
    t.vcpu.run_until_done()
}
