//! Userspace decides who answers a guest's calls to firmware (Documentation/virt/kvm/devices/vm.rst 6,
//! KVM_ARM_VM_SMCCC_FILTER).
use crate::prelude::*;
use psci::function::PSCI_VERSION;
use smccc::{NOT_SUPPORTED, SMC64, fast, owner};

const BASE: u32 = fast(owner::STANDARD, 0xfe00);
const COUNT: u32 = 16;
/// What userspace answers.
const ANSWER: u64 = 0x0123_4567_89ab_cdef;

#[guest]
fn calls(g: &mut Guest) {
    let answers = [BASE - 1, BASE, BASE + COUNT - 1, BASE + COUNT, PSCI_VERSION]
        .map(|id| hvc(id, [7, 8, 9])[0]);
    g.sync(1, &answers);
}

#[guest]
fn calls_by_smc(g: &mut Guest) {
    let answer = smc(BASE, [0; 3])[0];
    g.sync(1, &[answer]);
}

#[host]
mod host {
    use super::*;
    use vm::bindings::{
        KVM_ARM_VM_SMCCC_CTRL, KVM_ARM_VM_SMCCC_FILTER, KVM_HYPERCALL_EXIT_SMC, kvm_smccc_filter,
    };

    /// The first and the last function of the architecture.
    const FIRST: u32 = fast(owner::ARCHITECTURE, 0);
    const LAST: u32 = fast(owner::ARCHITECTURE, u16::MAX);

    /// Actions of the ABI.
    mod action {
        pub const HANDLE: u8 = 0;
        pub const DENY: u8 = 1;
        pub const FWD_TO_USER: u8 = 2;
    }

    fn set_filter(vm: &Vm, base: u32, n: u32, action: u8) -> Result<(), Errno> {
        let filter = kvm_smccc_filter { base, nr_functions: n, action, pad: [0; 15] };
        vm.set_attr(KVM_ARM_VM_SMCCC_CTRL, KVM_ARM_VM_SMCCC_FILTER, filter)
    }

    fn require_filter(vm: &Vm) -> TestResult {
        let has = vm.has_attr(KVM_ARM_VM_SMCCC_CTRL, KVM_ARM_VM_SMCCC_FILTER);
        require!(has, "KVM_ARM_VM_SMCCC_FILTER");
        Ok(())
    }

    /// A forwarded function is KVM_EXIT_HYPERCALL with its number; X0 is userspace's, and the guest goes on
    /// behind the instruction. Its neighbours are not touched.
    #[kvm_test(calls)]
    fn forwarded_calls_exit(t: &mut OneVcpu) -> TestResult {
        require_filter(&t.vm)?;
        check_eq!(
            "a range can be forwarded",
            set_filter(&t.vm, BASE, COUNT, action::FWD_TO_USER),
            Ok(())
        );
        for id in [BASE, BASE + COUNT - 1] {
            let vcpu = &mut t.vcpu;
            let call = Exit::Hypercall { nr: id.into(), args: [0; 6] };
            vcpu.run_until(ExitMatch::new(format!("KVM_EXIT_HYPERCALL of {id:#x}"), move |e| {
                matches!(e, Exit::Hypercall { .. }) && *e == call
            }))?;
            check_eq!("a forwarded HVC is marked as HVC", vcpu.hypercall_flags(), Some(0));
            for (n, want) in (0..4).zip([id.into(), 7, 8, 9]) {
                check_eq!(
                    "userspace finds X{n} of the call",
                    vcpu.get_reg(core_reg::x(n)),
                    Ok(want)
                );
            }
            vcpu.set_reg(core_reg::x(0), ANSWER).ioctl("KVM_SET_ONE_REG of X0")?;
        }
        let answers = t.vcpu.run_until_sync(1)?;
        check_eq!("the call before the range is KVM's", answers[0], NOT_SUPPORTED);
        check_eq!("the first of the range has userspace's answer", answers[1], ANSWER);
        check_eq!("the last of the range has userspace's answer", answers[2], ANSWER);
        check_eq!("the call behind the range is KVM's", answers[3], NOT_SUPPORTED);
        check!("PSCI_VERSION is still KVM's", answers[4] != NOT_SUPPORTED && answers[4] != ANSWER);
        t.vcpu.run_until_done()
    }

    /// A forwarded SMC is told as one; KVM has moved the program counter behind it already.
    #[kvm_test(calls_by_smc)]
    fn forwarded_smc_is_told(t: &mut OneVcpu) -> TestResult {
        require_filter(&t.vm)?;
        set_filter(&t.vm, BASE, 1, action::FWD_TO_USER).ioctl("KVM_ARM_VM_SMCCC_FILTER")?;
        let call = Exit::Hypercall { nr: BASE.into(), args: [0; 6] };
        t.vcpu.run_until(call)?;
        check_eq!(
            "a forwarded SMC is marked as SMC",
            t.vcpu.hypercall_flags(),
            Some(KVM_HYPERCALL_EXIT_SMC.into())
        );
        t.vcpu.set_reg(core_reg::x(0), ANSWER).ioctl("KVM_SET_ONE_REG of X0")?;
        let answer = t.vcpu.run_until_sync(1)?[0];
        check_eq!("the guest has userspace's answer to SMC", answer, ANSWER);
        t.vcpu.run_until_done()
    }

    /// A denied function is NOT_SUPPORTED, even one that KVM has; `HANDLE` leaves it to KVM.
    #[kvm_test(calls, params = [denied: (action::DENY, false), handled: (action::HANDLE, true)])]
    fn denied_calls_are_not_supported(t: &mut OneVcpu, (action, there): (u8, bool)) -> TestResult {
        require_filter(&t.vm)?;
        check_eq!(
            "a single function can be filtered",
            set_filter(&t.vm, PSCI_VERSION, 1, action),
            Ok(())
        );
        let answers = t.vcpu.run_until_sync(1)?;
        check_eq!("PSCI_VERSION is there if it is not denied", answers[4] != NOT_SUPPORTED, there);
        t.vcpu.run_until_done()
    }

    /// A filter is a range of functions that no other filter has, outside the architecture's own range, with
    /// a known action, before the first KVM_RUN.
    #[kvm_test(calls)]
    fn bad_filters_are_refused(t: &mut OneVcpu) -> TestResult {
        require_filter(&t.vm)?;
        let vm = &t.vm;
        let deny = action::DENY;
        for (what, base, n, action) in [
            ("no function", BASE, 0, deny),
            ("a range beyond 2^32", u32::MAX, 2, deny),
            ("a range of 2^32 - 1 that starts late", BASE, u32::MAX, deny),
            ("action 3", BASE, 1, 3),
            ("action 255", BASE, 1, 255),
        ] {
            check_eq!(
                "a filter for {what} is EINVAL",
                set_filter(vm, base, n, action),
                Err(Errno::EINVAL)
            );
        }
        for byte in [0, 14] {
            let mut filter =
                kvm_smccc_filter { base: BASE, nr_functions: 1, action: deny, pad: [0; 15] };
            filter.pad[byte] = 1;
            let set = vm.set_attr(KVM_ARM_VM_SMCCC_CTRL, KVM_ARM_VM_SMCCC_FILTER, filter);
            check_eq!("byte {byte} of the padding is EINVAL", set, Err(Errno::EINVAL));
        }
        let nowhere = vm.set_attr_at(KVM_ARM_VM_SMCCC_CTRL, KVM_ARM_VM_SMCCC_FILTER, 0);
        check_eq!("a filter at address 0 is EFAULT", nowhere, Err(Errno::EFAULT));
        for (what, base, n) in [
            ("the first 32-bit call of the architecture", FIRST, 1),
            ("the last 32-bit call of the architecture", LAST, 1),
            ("the first 64-bit call of the architecture", FIRST | SMC64, 1),
            ("the last 64-bit call of the architecture", LAST | SMC64, 1),
            ("everything", 0, u32::MAX),
        ] {
            check_eq!(
                "a filter for {what} is EEXIST",
                set_filter(vm, base, n, deny),
                Err(Errno::EEXIST)
            );
        }
        check_eq!("a range of functions can be denied", set_filter(vm, BASE, COUNT, deny), Ok(()));
        for (what, base, n) in [
            ("the same range again", BASE, COUNT),
            ("its first function", BASE, 1),
            ("its last function", BASE + COUNT - 1, 1),
            ("a range into it", BASE - 1, 2),
            ("a range around it", BASE - 1, COUNT + 2),
        ] {
            check_eq!(
                "a filter over {what} is EEXIST",
                set_filter(vm, base, n, deny),
                Err(Errno::EEXIST)
            );
        }
        check_eq!("the range before a filter is free", set_filter(vm, BASE - 1, 1, deny), Ok(()));
        check_eq!(
            "the range behind a filter is free",
            set_filter(vm, BASE + COUNT, 1, deny),
            Ok(())
        );
        check_eq!("the last function number is free", set_filter(vm, u32::MAX, 1, deny), Ok(()));
        t.vcpu.run_until_sync(1)?;
        let late = set_filter(&t.vm, BASE + COUNT + 1, 1, deny);
        check_eq!("a filter after KVM_RUN is EBUSY", late, Err(Errno::EBUSY));
        t.vcpu.run_until_done()
    }
}
