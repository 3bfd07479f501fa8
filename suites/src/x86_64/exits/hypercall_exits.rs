//! KVM_CAP_EXIT_HYPERCALL: hypercalls for userspace (api.rst 7.31; x86/hypercalls.rst,
//! KVM_HC_MAP_GPA_RANGE).
use crate::prelude::*;
use kvm_pv::error::{KVM_EINVAL, KVM_ENOSYS, KVM_EPERM};
use kvm_pv::{
    KVM_HC_MAP_GPA_RANGE, KVM_HC_VAPIC_POLL_IRQ, KVM_MAP_GPA_RANGE_ENCRYPTED,
    KVM_MAP_GPA_RANGE_PAGE_SZ_2M,
};

/// A range and its attributes: encrypted, 2 MiB pages.
const GPA: u64 = 0x20_0000;
const NPAGES: u64 = 0x1200;
const ATTRIBUTES: u64 = KVM_MAP_GPA_RANGE_ENCRYPTED | KVM_MAP_GPA_RANGE_PAGE_SZ_2M;
/// The number of the last page that an address can have.
const LAST_PAGE: u64 = u64::MAX >> 12;

fn map(gpa: u64, npages: u64) -> Result<u64, Trap> {
    // The fourth argument is not one of this hypercall's.
    Hypercall::of_this_cpu().call(KVM_HC_MAP_GPA_RANGE, [gpa, npages, ATTRIBUTES, 0x77])
}

/// Argument 0: whether the hypercall is userspace's.
#[guest]
fn maps_ranges(g: &mut Guest) {
    let enabled = g.arg(0) != 0;
    let refused = if enabled { KVM_EINVAL } else { KVM_ENOSYS };
    for (what, gpa, npages) in [
        ("an unaligned address", GPA + 1, 1),
        ("an address that is off by half a page", GPA + 0x800, 1),
        ("no pages", GPA, 0),
        ("more pages than there are addresses", GPA, u64::MAX),
        ("a range that wraps", LAST_PAGE << 12, LAST_PAGE.wrapping_neg()),
    ] {
        check_eq!("a hypercall with {what} never reaches userspace", map(gpa, npages), Ok(refused));
    }
    if enabled {
        for result in RESULTS {
            check_eq!("the guest gets {result:#x} from userspace", map(GPA, NPAGES), Ok(result));
        }
        check_eq!("the last page alone is a valid range", map(LAST_PAGE << 12, 1), Ok(0));
    } else {
        check_eq!(
            "a hypercall that is not enabled is -KVM_ENOSYS",
            map(GPA, NPAGES),
            Ok(KVM_ENOSYS)
        );
    }
    let poll = Hypercall::of_this_cpu().call(KVM_HC_VAPIC_POLL_IRQ, [0; 4]);
    check_eq!("other hypercalls are still completed by KVM", poll, Ok(0));
}

/// What userspace answers, in turn.
const RESULTS: [u64; 4] = [0, KVM_EINVAL, 0x1234_5678_9abc_def0, KVM_EPERM];

extern "C" fn maps_from_ring_3(_: u64) -> u64 {
    map(GPA, NPAGES).unwrap_or(!0)
}

#[guest]
fn calls_from_ring_3(_: &mut Guest) {
    check_eq!(
        "a hypercall from ring 3 is -KVM_EPERM",
        user::run(Rflags::empty(), maps_from_ring_3, 0),
        KVM_EPERM
    );
}

#[host]
mod host {
    use super::*;

    kvm_tests! { requires(cap::EXIT_HYPERCALL) }

    const CAP: u32 = bindings::KVM_CAP_EXIT_HYPERCALL;
    const MAP_GPA_RANGE: u64 = 1 << KVM_HC_MAP_GPA_RANGE;
    /// KVM_EXIT_HYPERCALL_LONG_MODE.
    const LONG_MODE: u64 = 1;

    /// Enabled, a valid range exits with its arguments, and the guest gets userspace's result; an invalid one
    /// is refused without an exit.
    #[kvm_test(maps_ranges)]
    fn enabled_hypercall_exits(t: &mut OneVcpu) -> TestResult {
        t.vm.enable_cap(CAP, [MAP_GPA_RANGE, 0, 0, 0]).ioctl("KVM_CAP_EXIT_HYPERCALL")?;
        t.vcpu.set_args(&[1]);
        let mut exits = 0;
        while let Some(mut stop) = t.vcpu.run_until_exit()? {
            let Exit::Hypercall { nr, args } = stop.exit() else {
                fail!("{:x?} instead of a hypercall", stop.exit());
            };
            check_eq!("the exit reports the hypercall's number", nr, KVM_HC_MAP_GPA_RANGE);
            let (gpa, npages, result) = match RESULTS.get(exits) {
                Some(result) => (GPA, NPAGES, *result),
                None => (LAST_PAGE << 12, 1, 0),
            };
            check_eq!(
                "the exit reports address, pages and attributes",
                args[..3],
                [gpa, npages, ATTRIBUTES]
            );
            let flags = stop.complete_hypercall(result);
            check_eq!("the exit reports long mode and no other flag", flags, LONG_MODE);
            exits += 1;
        }
        check_eq!("each valid call exits exactly once", exits, RESULTS.len() + 1);
        Ok(())
    }

    /// Not enabled, or disabled again, there is no such hypercall.
    #[kvm_test(maps_ranges, params = [never: false, no_more: true])]
    fn disabled_hypercall_does_not_exit(t: &mut OneVcpu, before: bool) -> TestResult {
        for mask in [MAP_GPA_RANGE, 0].into_iter().filter(|_| before) {
            t.vm.enable_cap(CAP, [mask, 0, 0, 0]).ioctl("KVM_CAP_EXIT_HYPERCALL")?;
        }
        t.vcpu.run_until_done()
    }

    /// KVM_CHECK_EXTENSION tells which hypercalls can be enabled; others, and arguments that do not exist, are
    /// refused.
    #[kvm_test]
    fn unknown_hypercalls_are_refused(t: &mut OneVm) -> TestResult {
        let known = t.vm.check_extension(CAP) as u32;
        check_eq!("KVM_HC_MAP_GPA_RANGE alone can be enabled", u64::from(known), MAP_GPA_RANGE);
        for bit in [0, 1, 11, 13, 31, 32, 63] {
            let refused = t.vm.enable_cap(CAP, [1 << bit, 0, 0, 0]);
            check_eq!("enabling hypercall {bit} is EINVAL", refused, Err(Errno::EINVAL));
            let refused = t.vm.enable_cap(CAP, [1 << bit | MAP_GPA_RANGE, 0, 0, 0]);
            check_eq!(
                "enabling hypercall {bit} beside a valid one is EINVAL",
                refused,
                Err(Errno::EINVAL)
            );
        }
        check_eq!(
            "KVM_HC_MAP_GPA_RANGE can be enabled",
            t.vm.enable_cap(CAP, [MAP_GPA_RANGE, 0, 0, 0]),
            Ok(())
        );
        Ok(())
    }

    /// Hypercalls are ring 0's (x86/hypercalls.rst): ring 3 never reaches userspace.
    #[kvm_test(calls_from_ring_3)]
    fn ring_3_makes_no_hypercalls(t: &mut OneVcpu) -> TestResult {
        t.vm.enable_cap(CAP, [MAP_GPA_RANGE, 0, 0, 0]).ioctl("KVM_CAP_EXIT_HYPERCALL")?;
        t.vcpu.run_until_done()
    }
}
