//! What KVM_ENABLE_CAP takes (api.rst 4.37, 7): no flags, no unknown capability, and no argument bit
//! that KVM_CHECK_EXTENSION does not list.
use crate::prelude::*;

use crate::common::support::boundary::{counts, words};
use vm::bindings::*;

/// KVM_ENABLE_CAP with flags, which no capability has.
fn enable_with_flags(fd: &impl std::os::fd::AsRawFd, cap: u32, flags: u32) -> Result<i32, Errno> {
    let mut bytes = words(&[cap, flags]);
    bytes.resize(size_of::<kvm_enable_cap>(), 0);
    raw_ioctl(fd, request::KVM_ENABLE_CAP, &mut bytes)
}

/// api.rst 4.37: a capability that nobody knows, or that cannot be enabled, is EINVAL; so are flags.
#[kvm_test(requires(cap::ENABLE_CAP_VM, cap::ENABLE_CAP))]
fn enable_cap_refuses_unknown_ones(t: &mut OneVm) -> TestResult {
    let vm = &mut t.vm;
    let vcpu = vm.create_vcpu(0)?;
    let unknown = [
        ("KVM_CAP_IRQCHIP", KVM_CAP_IRQCHIP),
        ("KVM_CAP_NR_MEMSLOTS", KVM_CAP_NR_MEMSLOTS),
        ("0x10000", 0x1_0000),
        ("2^31", 1 << 31),
        ("2^32 - 1", u32::MAX),
    ];
    for (what, cap) in unknown {
        let got = vm.enable_cap(cap, [0; 4]);
        check_eq!("{what} on the VM is EINVAL", got, Err(Errno::EINVAL));
        let got = vcpu.enable_cap(cap, [0; 4]);
        check_eq!("{what} on the vCPU is EINVAL", got, Err(Errno::EINVAL));
    }
    for bit in [0, 31] {
        let got = enable_with_flags(vm, KVM_CAP_DISABLE_QUIRKS2, 1 << bit);
        check_eq!("flag bit {bit} on the VM is EINVAL", got, Err(Errno::EINVAL));
        let got = enable_with_flags(&vcpu, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1 << bit);
        check_eq!("flag bit {bit} on the vCPU is EINVAL", got, Err(Errno::EINVAL));
    }
    Ok(())
}

/// A capability whose first argument is a mask, and a value of it that can be enabled wherever its
/// bits are offered.
#[derive(Clone, Copy)]
struct MaskCap {
    cap: u32,
    takes: u64,
}

/// api.rst 7: KVM_CHECK_EXTENSION lists the bits of the argument; every other bit is EINVAL.
#[kvm_test(requires(cap::ENABLE_CAP_VM), params = [
    disable_quirks2: MaskCap { cap: KVM_CAP_DISABLE_QUIRKS2, takes: u64::MAX },
    exit_hypercall: MaskCap { cap: KVM_CAP_EXIT_HYPERCALL, takes: u64::MAX },
    manual_dirty_log_protect2: MaskCap { cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, takes: u64::MAX },
    x2apic_api: MaskCap { cap: KVM_CAP_X2APIC_API, takes: 3 },
    x86_disable_exits: MaskCap { cap: KVM_CAP_X86_DISABLE_EXITS, takes: u64::MAX },
    x86_bus_lock_exit: MaskCap {
        cap: KVM_CAP_X86_BUS_LOCK_EXIT,
        takes: KVM_BUS_LOCK_DETECTION_EXIT as u64,
    },
])]
fn cap_takes_the_bits_that_it_lists(t: &mut OneVm, row: MaskCap) -> TestResult {
    let vm = &t.vm;
    let offered = vm.check_extension(row.cap) as u64;
    require!(offered != 0, "capability {}", row.cap);
    for bit in (0..64).filter(|bit| offered >> bit & 1 == 0) {
        let got = vm.enable_cap(row.cap, [1 << bit, 0, 0, 0]);
        check!(
            "a bit that is not listed is EINVAL",
            got == Err(Errno::EINVAL),
            "bit {bit}: {got:?}"
        );
        let got = vm.enable_cap(row.cap, [1 << bit | offered & row.takes, 0, 0, 0]);
        check!(
            "an unlisted bit beside listed ones is EINVAL",
            got == Err(Errno::EINVAL),
            "bit {bit}: {got:?}"
        );
    }
    check_eq!(
        "all listed bits can be enabled",
        vm.enable_cap(row.cap, [offered & row.takes, 0, 0, 0]),
        Ok(())
    );
    check_eq!("a mask of no bits is accepted", vm.enable_cap(row.cap, [0; 4]), Ok(()));
    Ok(())
}

/// api.rst 7.5: KVM_CAP_SPLIT_IRQCHIP reserves up to as many I/O APIC pins as there are GSI routes;
/// more is EINVAL and gives the VM no interrupt controller; a second controller is EEXIST.
#[kvm_test(requires(cap::SPLIT_IRQCHIP, cap::IRQ_ROUTING))]
fn split_irqchip_takes_up_to_its_limit(t: &mut HostOnly) -> TestResult {
    let config = &t.setup.config;
    let routes = |vm: &Vm| vm.raw(request::KVM_SET_GSI_ROUTING, &mut words(&[0, 0]));
    let limit = Vm::new(config)?.check_extension(KVM_CAP_IRQ_ROUTING) as u32;
    for count in counts(limit) {
        let (name, pins) = (count.name, count.value);
        let vm = Vm::new(config)?;
        let got = vm.enable_cap(KVM_CAP_SPLIT_IRQCHIP, [pins.into(), 0, 0, 0]);
        if pins > limit {
            check_eq!("a split irqchip with {name} pins is EINVAL", got, Err(Errno::EINVAL));
            check_eq!(
                "a split irqchip with {name} pins, refused, is not there",
                routes(&vm),
                Err(Errno::EINVAL)
            );
        } else {
            check_eq!("a split irqchip with {name} pins is accepted", got, Ok(()));
            check_eq!("a split irqchip with {name} pins can route GSIs", routes(&vm), Ok(0));
            let again = vm.enable_cap(KVM_CAP_SPLIT_IRQCHIP, [pins.into(), 0, 0, 0]);
            check_eq!(
                "a second split irqchip after {name} pins is EEXIST",
                again,
                Err(Errno::EEXIST)
            );
        }
    }
    let vm = Vm::new(config)?;
    for (what, pins) in [("2^32", 1 << 32), ("2^63", 1 << 63), ("2^64 - 1", u64::MAX)] {
        let got = vm.enable_cap(KVM_CAP_SPLIT_IRQCHIP, [pins, 0, 0, 0]);
        check_eq!("a split irqchip with {what} pins is EINVAL", got, Err(Errno::EINVAL));
    }
    Ok(())
}

/// api.rst 8.29: the dirty ring's size is a power of two, a page at least and KVM_CAP_DIRTY_LOG_RING
/// bytes at most (E2BIG above); it is set once, before the first vCPU.
#[kvm_test(requires(cap::DIRTY_LOG_RING))]
fn dirty_ring_size_has_its_limits(t: &mut HostOnly) -> TestResult {
    let config = &t.setup.config;
    let mut vm = Vm::new(config)?;
    let most = vm.check_extension(KVM_CAP_DIRTY_LOG_RING) as u64;
    let entry = size_of::<kvm_dirty_gfn>() as u64;
    let enable = |vm: &Vm, bytes| vm.enable_cap(KVM_CAP_DIRTY_LOG_RING, [bytes, 0, 0, 0]);
    let bad = [
        ("0 bytes", 0, Errno::EINVAL),
        ("1 byte", 1, Errno::EINVAL),
        ("one entry", entry, Errno::EINVAL),
        ("half a page", layout::PAGE_SIZE / 2, Errno::EINVAL),
        ("a page and an entry", layout::PAGE_SIZE + entry, Errno::EINVAL),
        ("an entry less than the limit", most - entry, Errno::EINVAL),
        ("twice the limit", 2 * most, Errno::E2BIG),
        ("2^31 bytes", 1 << 31, Errno::E2BIG),
        ("2^32 - 1 bytes", u32::MAX.into(), Errno::EINVAL),
    ];
    for (what, bytes, errno) in bad {
        check_eq!(
            "a dirty ring of {what} is refused with {errno:?}",
            enable(&vm, bytes),
            Err(errno)
        );
    }
    // It can be set once only: that it still can shows that nothing above was.
    check_eq!("the largest dirty ring is accepted after refused ones", enable(&vm, most), Ok(()));
    check_eq!("a second dirty ring size is EINVAL", enable(&vm, most), Err(Errno::EINVAL));
    let vcpu = vm.create_vcpu(0)?;
    drop(vcpu);

    let mut late = Vm::new(config)?;
    let vcpu = late.create_vcpu(0)?;
    check_eq!(
        "a dirty ring after the first vCPU is EINVAL",
        enable(&late, most),
        Err(Errno::EINVAL)
    );
    drop(vcpu);
    let half = Vm::new(config)?;
    check_eq!("a dirty ring of half the limit is accepted", enable(&half, most / 2), Ok(()));
    Ok(())
}

/// api.rst 7.33 (KVM_CAP_MAX_VCPU_ID): userspace can lower the limit of vCPU ids, once, to anything
/// up to the maximum; ids from there on are EINVAL.
#[kvm_test(requires(cap::MAX_VCPU_ID))]
fn vcpu_id_limit_can_be_lowered(t: &mut OneVm) -> TestResult {
    const IDS: u64 = 4;
    let vm = &t.vm;
    let most = vm.check_extension(KVM_CAP_MAX_VCPU_ID) as u64;
    let enable = |ids| vm.enable_cap(KVM_CAP_MAX_VCPU_ID, [ids, 0, 0, 0]);
    let bad = [most + 1, 1 << 31, u32::MAX.into(), 1 << 32, 1 << 63, u64::MAX];
    for ids in bad {
        let got = enable(ids);
        check!(
            "a limit beyond the maximum is EINVAL",
            got == Err(Errno::EINVAL),
            "{ids:#x}: {got:?}"
        );
    }
    // x86 can enable it since 6.0, and says so nowhere else.
    let got = enable(IDS);
    require!(got != Err(Errno::EINVAL), "KVM_ENABLE_CAP of KVM_CAP_MAX_VCPU_ID");
    check_eq!("a lower vCPU id limit is accepted", got, Ok(()));
    check_eq!("a second vCPU id limit is EINVAL", enable(IDS + 1), Err(Errno::EINVAL));
    check_eq!("a return to the maximum vCPU id is EINVAL", enable(most), Err(Errno::EINVAL));
    let create = |id| vm.fd().create_vcpu(id).map(drop).errno();
    check_eq!("the first id beyond the limit is EINVAL", create(IDS), Err(Errno::EINVAL));
    check_eq!("id 2^32 is not id 0, but EINVAL", create(1 << 32), Err(Errno::EINVAL));
    check_eq!("the last id within the limit is accepted", create(IDS - 1), Ok(()));
    Ok(())
}
