//! What every KVM answers before a guest runs (api.rst 4.1 to 4.8), and what it refuses.
use crate::prelude::*;

#[guest]
fn returns(_: &mut Guest) {}

#[guest]
fn stops_once(g: &mut Guest) {
    g.sync(1, &[]);
}

#[host]
mod host {
    use super::*;
    use request::*;
    use vm::memory_left;

    /// The only API version there is.
    const API_VERSION: i32 = 12;

    /// KVM_CREATE_VCPU; the descriptor is closed at once, the vCPU stays.
    fn create_vcpu(vm: &Vm, id: u64) -> Result<(), Errno> {
        vm.fd().create_vcpu(id).map(drop).errno()
    }

    /// api.rst 4.1, 4.5: the version is 12 and the size of kvm_run's mapping is whole pages; both take no
    /// argument.
    #[kvm_test]
    fn version_and_mmap_size_take_no_argument(_: &mut HostOnly) -> TestResult {
        let system = System::get()?;
        let call = |request, argument| raw_ioctl_value(system, request, argument);
        check_eq!("the API version is 12", call(KVM_GET_API_VERSION, 0), Ok(API_VERSION));
        let size = call(KVM_GET_VCPU_MMAP_SIZE, 0).ioctl("KVM_GET_VCPU_MMAP_SIZE")? as usize;
        check!(
            "kvm_run's mapping holds struct kvm_run",
            size >= size_of::<bindings::kvm_run>(),
            "{size}"
        );
        check_eq!("kvm_run's mapping is whole pages", size % layout::PAGE_SIZE as usize, 0);
        for argument in [1, 1 << 31, u64::MAX] {
            let got = call(KVM_GET_API_VERSION, argument);
            check_eq!("KVM_GET_API_VERSION with an argument is EINVAL", got, Err(Errno::EINVAL));
            let got = call(KVM_GET_VCPU_MMAP_SIZE, argument);
            check_eq!("KVM_GET_VCPU_MMAP_SIZE with an argument is EINVAL", got, Err(Errno::EINVAL));
        }
        Ok(())
    }

    /// api.rst 4.4: an extension that nobody knows is 0, on /dev/kvm and on a VM.
    #[kvm_test(requires(cap::CHECK_EXTENSION_VM))]
    fn unknown_extension_is_zero(t: &mut OneVm) -> TestResult {
        let system = System::get()?;
        let unknown = [
            ("0x10000", 0x1_0000),
            ("2^31 - 1", (1 << 31) - 1),
            ("2^31", 1 << 31),
            ("2^32 - 1", 0xffff_ffff),
        ];
        for (what, cap) in unknown {
            check_eq!(
                "{what} on /dev/kvm is 0",
                raw_ioctl_value(system, KVM_CHECK_EXTENSION, cap),
                Ok(0)
            );
            check_eq!(
                "{what} on a VM is 0",
                raw_ioctl_value(&t.vm, KVM_CHECK_EXTENSION, cap),
                Ok(0)
            );
        }
        let known = bindings::KVM_CAP_USER_MEMORY.into();
        check_eq!(
            "KVM_CAP_USER_MEMORY on /dev/kvm is 1",
            raw_ioctl_value(system, KVM_CHECK_EXTENSION, known),
            Ok(1)
        );
        check_eq!(
            "KVM_CAP_USER_MEMORY on a VM is 1",
            raw_ioctl_value(&t.vm, KVM_CHECK_EXTENSION, known),
            Ok(1)
        );
        Ok(())
    }

    /// api.rst 4.4: limits are consistent, and the same on /dev/kvm and on a VM.
    #[kvm_test(requires(cap::CHECK_EXTENSION_VM, cap::NR_VCPUS, cap::MAX_VCPUS, cap::MAX_VCPU_ID))]
    fn vcpu_limits_are_consistent(t: &mut OneVm) -> TestResult {
        let limit = |cap| -> TestResult<i64> {
            let (system, vm) = (System::get()?.check_extension(cap), t.vm.check_extension(cap));
            check_eq!("/dev/kvm and a VM report the same limits", i64::from(vm), system);
            Ok(system)
        };
        let recommended = limit(bindings::KVM_CAP_NR_VCPUS)?;
        let most = limit(bindings::KVM_CAP_MAX_VCPUS)?;
        let ids = limit(bindings::KVM_CAP_MAX_VCPU_ID)?;
        check!(
            "the recommended number of vCPUs is within the maximum",
            recommended <= most,
            "{recommended} of {most}"
        );
        check!("there are at least as many vCPU ids as vCPUs", ids >= most, "{ids} for {most}");
        check!("at least one vCPU is recommended", recommended > 0);
        Ok(())
    }

    /// api.rst 4.2: an unknown machine type is EINVAL, and makes no VM.
    #[kvm_test]
    fn unknown_vm_type_is_einval(_: &mut HostOnly) -> TestResult {
        let system = System::get()?;
        // On arm64 the size of the VM's addresses is in bits 7:0, and KVM for protected guests uses bit 31.
        let unused: &[u32] = if cfg!(target_arch = "aarch64") { &[30, 63] } else { &[30, 31, 63] };
        for bit in unused {
            let got = raw_ioctl_fd_value(system, 1 << bit);
            check_eq!("VM type 2^{bit} is EINVAL", got, Some(Errno::EINVAL));
        }
        check_eq!(
            "VM type 2^64 - 1 is EINVAL",
            raw_ioctl_fd_value(system, u64::MAX),
            Some(Errno::EINVAL)
        );
        // Type 0 is one of 40 bits of address on arm64, which is more than some hosts have.
        let most_bits = system.check_extension(bindings::KVM_CAP_ARM_VM_IPA_SIZE) as u64;
        if cfg!(target_arch = "aarch64") && most_bits > 0 {
            let made = raw_ioctl_fd_value(system, most_bits);
            check_eq!("a VM type of KVM_CAP_ARM_VM_IPA_SIZE is accepted", made, None);
            let made = raw_ioctl_fd_value(system, most_bits + 1);
            check_eq!(
                "a VM type beyond KVM_CAP_ARM_VM_IPA_SIZE is EINVAL",
                made,
                Some(Errno::EINVAL)
            );
        }
        if most_bits == 0 || most_bits >= 40 {
            check_eq!("VM type 0 is accepted", raw_ioctl_fd_value(system, 0), None);
        }
        Ok(())
    }

    /// KVM_CREATE_VM, closed at once; the errno if there is no VM.
    fn raw_ioctl_fd_value(system: &System, kind: u64) -> Option<Errno> {
        let made = system.fd().create_vm_with_type(kind);
        made.errno().err()
    }

    /// api.rst 4.7: an id that is taken is EEXIST, whether its descriptor is open or not; an id of
    /// KVM_CAP_MAX_VCPU_ID or more is EINVAL.
    #[kvm_test(requires(cap::MAX_VCPU_ID))]
    fn vcpu_ids_are_unique_and_below_their_limit(t: &mut OneVm) -> TestResult {
        let vm = &t.vm;
        let ids = vm.check_extension(bindings::KVM_CAP_MAX_VCPU_ID) as u64;
        check_eq!("vCPU id 0 is accepted", create_vcpu(vm, 0), Ok(()));
        check_eq!("the last vCPU id is accepted", create_vcpu(vm, ids - 1), Ok(()));
        for (what, id) in [("0", 0), ("of the last", ids - 1)] {
            check_eq!("vCPU id {what} again is EEXIST", create_vcpu(vm, id), Err(Errno::EEXIST));
        }
        let beyond = [
            ("KVM_CAP_MAX_VCPU_ID", ids),
            ("KVM_CAP_MAX_VCPU_ID + 1", ids + 1),
            ("2^31", 1 << 31),
            ("2^32 - 1", 0xffff_ffff),
            ("2^32", 1 << 32),
            ("2^32 + 1", (1 << 32) + 1),
            ("2^64 - 1", u64::MAX),
        ];
        for (what, id) in beyond {
            check_eq!("vCPU id {what} is EINVAL", create_vcpu(vm, id), Err(Errno::EINVAL));
        }
        check_eq!("vCPU ids in between are still free", create_vcpu(vm, 2), Ok(()));
        Ok(())
    }

    /// Memory that a test leaves to others.
    const ENOUGH_BYTES: u64 = 48 << 20;

    /// api.rst 4.7: a VM has up to KVM_CAP_MAX_VCPUS vCPUs; the next one is EINVAL.
    #[kvm_test(requires(cap::MAX_VCPUS, cap::MAX_VCPU_ID))]
    fn vcpus_up_to_the_limit(t: &mut OneVm) -> TestResult {
        let vm = &t.vm;
        let most = vm.check_extension(bindings::KVM_CAP_MAX_VCPUS) as u64;
        let ids = vm.check_extension(bindings::KVM_CAP_MAX_VCPU_ID) as u64;
        let mut made = 0;
        while made < most && create_vcpu(vm, made).is_ok() {
            made += 1;
            // Where the kernel's own memory runs out, it ends processes, and not this one alone.
            let left = if made % 16 == 0 { memory_left() } else { None };
            require!(
                left.is_none_or(|left| left > ENOUGH_BYTES),
                "memory for {most} vCPUs (it has run out at {made})"
            );
        }
        check_eq!("KVM_CAP_MAX_VCPUS vCPUs can be made", made, most);
        require!(ids > most, "a vCPU id behind KVM_CAP_MAX_VCPUS");
        check_eq!("one vCPU more is EINVAL", create_vcpu(vm, most), Err(Errno::EINVAL));
        check_eq!(
            "one vCPU more is EINVAL with any id",
            create_vcpu(vm, ids - 1),
            Err(Errno::EINVAL)
        );
        Ok(())
    }

    /// An ioctl of no number that KVM has, and one of another type, is ENOTTY or EINVAL on every kind of
    /// descriptor, and leaves it usable.
    #[kvm_test(returns)]
    fn unknown_ioctl_is_refused(t: &mut OneVcpu) -> TestResult {
        /// `_IO(KVMIO, 0xff)`, which KVM does not use.
        const UNKNOWN: u64 = io(0xff);
        /// `_IO('?', 0)`.
        const OTHER_TYPE: u64 = 0x3f00;
        let system = System::get()?;
        let unknown = [("an unknown ioctl", UNKNOWN), ("an ioctl of another type", OTHER_TYPE)];
        for (what, request) in unknown {
            let ends = [
                ("/dev/kvm", raw_ioctl_value(system, request, 0)),
                ("a VM", raw_ioctl_value(&t.vm, request, 0)),
                ("a vCPU", raw_ioctl_value(&t.vcpu, request, 0)),
            ];
            for (kind, got) in ends {
                let refused = matches!(got, Err(Errno::ENOTTY | Errno::EINVAL));
                check!("{what} of {kind} is ENOTTY or EINVAL", refused, "{got:?}");
            }
        }
        if t.vm.check_extension(bindings::KVM_CAP_BINARY_STATS_FD) > 0 {
            let stats = raw_ioctl_fd(&t.vm, KVM_GET_STATS_FD, &mut []).ioctl("KVM_GET_STATS_FD")?;
            for (what, request) in unknown {
                let got = raw_ioctl_value(&stats, request, 0);
                check_eq!("{what} of a statistics descriptor is ENOTTY", got, Err(Errno::ENOTTY));
            }
        }
        t.vcpu.run_until_done()
    }

    /// An ioctl on a descriptor of the wrong kind is refused: a VM is no system, a vCPU no VM.
    #[kvm_test(returns)]
    fn ioctl_of_another_descriptor_is_refused(t: &mut OneVcpu) -> TestResult {
        let system = System::get()?;
        let ends = [
            ("KVM_CREATE_VCPU on /dev/kvm", raw_ioctl_value(system, KVM_CREATE_VCPU, 1)),
            ("KVM_RUN on /dev/kvm", raw_ioctl_value(system, KVM_RUN, 0)),
            ("KVM_CREATE_VM on a VM", raw_ioctl_value(&t.vm, KVM_CREATE_VM, 0)),
            ("KVM_RUN on a VM", raw_ioctl_value(&t.vm, KVM_RUN, 0)),
            ("KVM_CREATE_VM on a vCPU", raw_ioctl_value(&t.vcpu, KVM_CREATE_VM, 0)),
            ("KVM_CREATE_VCPU on a vCPU", raw_ioctl_value(&t.vcpu, KVM_CREATE_VCPU, 1)),
        ];
        for (what, got) in ends {
            check!(
                "{what} is ENOTTY or EINVAL",
                matches!(got, Err(Errno::ENOTTY | Errno::EINVAL)),
                "{got:?}"
            );
        }
        let got = raw_ioctl_value(&t.vcpu, KVM_RUN, 1);
        check_eq!("KVM_RUN with an argument is EINVAL", got, Err(Errno::EINVAL));
        t.vcpu.run_until_done()
    }

    /// api.rst 4.23 (KVM_SET_SIGNAL_MASK): the mask replaces the thread's while KVM_RUN runs; one of
    /// another length than a sigset is EINVAL and leaves the old mask; no mask at all removes it.
    #[kvm_test(stops_once, requires(host::SIGNALS_FIRST))]
    fn signal_mask_has_one_length(t: &mut OneVcpu) -> TestResult {
        use nix::sys::signal::{SigSet, Signal, raise};
        /// Bytes of the kernel's sigset_t.
        const SIGSET: u32 = 8;
        const ALL: u64 = u64::MAX;
        const NONE: u64 = 0;
        let set = |vcpu: &Vcpu, len: u32, mask: u64| {
            let mut bytes = [len.to_ne_bytes().as_slice(), &mask.to_ne_bytes()].concat();
            vcpu.raw(KVM_SET_SIGNAL_MASK, &mut bytes)
        };
        // Pending for this thread from here on; only KVM_RUN's own mask can let it in.
        SigSet::from(Signal::SIGUSR2).thread_block().map_err(|e| Failure::Error(e.to_string()))?;
        raise(Signal::SIGUSR2).map_err(|e| Failure::Error(e.to_string()))?;

        let vcpu = &mut t.vcpu;
        check_eq!("a signal mask that blocks nothing is accepted", set(vcpu, SIGSET, NONE), Ok(0));
        check_eq!(
            "a signal that the mask does not block ends KVM_RUN",
            vcpu.run_once()?,
            Exit::Intr
        );
        for len in [0, 1, SIGSET - 1, SIGSET + 1, 128, 1 << 31, u32::MAX] {
            check_eq!(
                "a signal mask of {len} bytes is EINVAL",
                set(vcpu, len, ALL),
                Err(Errno::EINVAL)
            );
            check_eq!(
                "a signal mask of {len} bytes, refused, leaves the old one",
                vcpu.run_once()?,
                Exit::Intr
            );
        }
        check_eq!(
            "a signal mask that blocks everything is accepted",
            set(vcpu, SIGSET, ALL),
            Ok(0)
        );
        vcpu.run_until_sync(1)?;
        check_eq!(
            "a signal mask that blocks nothing is accepted again",
            set(vcpu, SIGSET, NONE),
            Ok(0)
        );
        check_eq!("an unblocked signal ends KVM_RUN again", vcpu.run_once()?, Exit::Intr);
        let got = raw_ioctl_value(vcpu, KVM_SET_SIGNAL_MASK, 0);
        check_eq!("KVM_SET_SIGNAL_MASK without a mask is accepted", got, Ok(0));
        // The thread's own mask blocks the signal.
        vcpu.run_until_done()
    }
}
