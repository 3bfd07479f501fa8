//! MSR accesses that userspace completes (api.rst 7, KVM_CAP_X86_USER_SPACE_MSR; 5,
//! KVM_EXIT_X86_RDMSR and KVM_EXIT_X86_WRMSR).
use crate::prelude::*;
use insn_table::{Form, Gpr::*, State};

/// No CPU and no KVM has this MSR.
const UNKNOWN_MSR: u32 = msr::UNKNOWN;
/// An MSR that KVM has, and that takes every value.
const FILTERED_MSR: u32 = msr::IA32_STAR;
/// EFER's bit 63, which is reserved.
const RESERVED_BIT: u64 = 1 << 63;
const VALUE: u64 = 0x8123_4567_89ab_cdef;
/// What the guest sees of a failed access.
const GP_0: Trap = Trap { vector: vector::GP, error: 0, addr: 0 };

#[guest]
fn reads_unknown(_: &mut Guest) {
    let mut state = State { gprs: [!0; 16], ..State::default() };
    state[Rsp] = 0;
    state[Rcx] = u64::from(UNKNOWN_MSR) | !0 << 32;
    check_eq!(
        "RDMSR for userspace does not fault",
        insn::RDMSR.run(Form::Native, &mut state),
        Ok(())
    );
    let (rax, rdx) = (state[Rax], state[Rdx]);
    check_eq!("RAX gets the low half, and its upper half is cleared", rax, VALUE & 0xffff_ffff);
    check_eq!("RDX gets the high half, and its upper half is cleared", rdx, VALUE >> 32);
    check_eq!("userspace can answer a read with zero", rdmsr_safe(UNKNOWN_MSR), Ok(0));
    check_eq!(
        "a read that userspace fails with 1 is #GP(0)",
        rdmsr_safe(UNKNOWN_MSR).map_err(without_addr),
        Err(GP_0)
    );
    check_eq!(
        "a read that userspace fails with another error is #GP(0)",
        rdmsr_safe(UNKNOWN_MSR).map_err(without_addr),
        Err(GP_0)
    );
    check_eq!("the next read exits to userspace again", rdmsr_safe(UNKNOWN_MSR), Ok(!0));
}

/// CR2 says nothing for #GP.
fn without_addr(trap: Trap) -> Trap {
    Trap { addr: 0, ..trap }
}

#[guest]
fn writes_unknown(_: &mut Guest) {
    let upper = |low: u64| low | !0 << 32;
    let mut state = State::default();
    state[Rcx] = upper(UNKNOWN_MSR.into());
    state[Rax] = upper(VALUE & 0xffff_ffff);
    state[Rdx] = upper(VALUE >> 32);
    check_eq!(
        "WRMSR for userspace does not fault",
        insn::WRMSR.run(Form::Native, &mut state),
        Ok(())
    );
    check_eq!(
        "a write that userspace fails with 1 is #GP(0)",
        wrmsr_safe(UNKNOWN_MSR, 1).map_err(without_addr),
        Err(GP_0)
    );
    check_eq!(
        "a write that userspace fails with another error is #GP(0)",
        wrmsr_safe(UNKNOWN_MSR, 2).map_err(without_addr),
        Err(GP_0)
    );
    check_eq!("a write that userspace completes succeeds", wrmsr_safe(UNKNOWN_MSR, 3), Ok(()));
}

#[guest]
fn fails_in_every_way(g: &mut Guest) {
    let [unknown, invalid, filtered] = [0, 1, 2].map(|i| g.arg(i) != 0);
    let outcome = |exits: bool| if exits { Ok(()) } else { Err(GP_0) };
    let read = |index| rdmsr_safe(index).map_err(without_addr);
    let write = |index, value| wrmsr_safe(index, value).map_err(without_addr);
    let value = |exits: bool| outcome(exits).map(|()| VALUE);
    check_eq!("an unknown MSR is read by userspace or #GP", read(UNKNOWN_MSR), value(unknown));
    check_eq!(
        "an unknown MSR is written by userspace or #GP",
        write(UNKNOWN_MSR, VALUE),
        outcome(unknown)
    );
    let efer = rdmsr(msr::IA32_EFER);
    check_eq!(
        "a reserved bit is written by userspace or #GP",
        write(msr::IA32_EFER, efer | RESERVED_BIT),
        outcome(invalid)
    );
    check_eq!("EFER does not change by userspace's answer", rdmsr(msr::IA32_EFER), efer);
    check_eq!("a filtered MSR is read by userspace or #GP", read(FILTERED_MSR), value(filtered));
    check_eq!(
        "a filtered MSR is written by userspace or #GP",
        write(FILTERED_MSR, VALUE),
        outcome(filtered)
    );
}

#[guest]
fn uses_a_known_msr(_: &mut Guest) {
    check_eq!("a value that KVM accepts is written", wrmsr_safe(FILTERED_MSR, VALUE), Ok(()));
    check_eq!("an MSR that KVM completes reads as written", rdmsr_safe(FILTERED_MSR), Ok(VALUE));
}

#[host]
mod host {
    use super::*;
    use bindings::{
        KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER as FILTER,
        KVM_MSR_EXIT_REASON_INVAL as INVAL, KVM_MSR_EXIT_REASON_UNKNOWN as UNKNOWN,
    };

    kvm_tests! { requires(cap::X86_USER_SPACE_MSR) }

    fn exit_on(vm: &Vm, reasons: u32) -> Result<(), Errno> {
        vm.enable_cap(KVM_CAP_X86_USER_SPACE_MSR, [reasons.into(), 0, 0, 0])
    }

    /// RDMSR of an MSR unknown to KVM exits with its index; the guest gets userspace's value, or #GP if
    /// `error` is not zero (api.rst 5).
    #[kvm_test(reads_unknown, requires(host::UNKNOWN_MSRS_FAULT))]
    fn userspace_completes_rdmsr(t: &mut OneVcpu) -> TestResult {
        exit_on(&t.vm, UNKNOWN).ioctl("KVM_ENABLE_CAP")?;
        for (data, error) in [(VALUE, 0), (0, 0), (VALUE, 1), (VALUE, 0xff), (!0, 0)] {
            let mut stop = t.vcpu.run_until(Exit::rdmsr(UNKNOWN_MSR))?;
            let want = Exit::Rdmsr { index: UNKNOWN_MSR, reason: UNKNOWN };
            check_eq!("a read's exit has the reason UNKNOWN", stop.exit(), want);
            stop.complete_rdmsr_with(data, error);
        }
        t.vcpu.run_until_done()
    }

    /// WRMSR to an MSR unknown to KVM exits with its index and EDX:EAX; it succeeds, or is #GP if
    /// userspace sets `error` (api.rst 5).
    #[kvm_test(writes_unknown, requires(host::UNKNOWN_MSRS_FAULT))]
    fn userspace_completes_wrmsr(t: &mut OneVcpu) -> TestResult {
        exit_on(&t.vm, UNKNOWN).ioctl("KVM_ENABLE_CAP")?;
        for (data, error) in [(VALUE, 0), (1, 1), (2, 0xff), (3, 0)] {
            let mut stop = t.vcpu.run_until(Exit::wrmsr(UNKNOWN_MSR))?;
            let want = Exit::Wrmsr { index: UNKNOWN_MSR, reason: UNKNOWN, data };
            check_eq!("the exit has the reason UNKNOWN and the data {data:#x}", stop.exit(), want);
            stop.complete_wrmsr_with(error);
        }
        t.vcpu.run_until_done()
    }

    /// Each reason exits if and only if its bit is enabled; the others are #GP for the guest, without an
    /// exit (api.rst 7, KVM_CAP_X86_USER_SPACE_MSR). All subsets of the three reasons.
    #[kvm_test(fails_in_every_way, requires(cap::X86_MSR_FILTER, host::UNKNOWN_MSRS_FAULT), params = [
    none: 0, inval: INVAL, unknown: UNKNOWN, filter: FILTER,
    inval_unknown: INVAL | UNKNOWN, inval_filter: INVAL | FILTER, unknown_filter: UNKNOWN | FILTER,
    all: INVAL | UNKNOWN | FILTER,
])]
    fn only_enabled_reasons_exit(t: &mut OneVcpu, reasons: u32) -> TestResult {
        t.vm.set_msr_filter(0, &[crate::x86_64::exits::msr_filter::deny(FILTERED_MSR, 1)])
            .ioctl("KVM_X86_SET_MSR_FILTER")?;
        exit_on(&t.vm, INVAL | UNKNOWN | FILTER).ioctl("KVM_ENABLE_CAP")?;
        exit_on(&t.vm, reasons).ioctl("KVM_ENABLE_CAP")?;
        t.vcpu.set_args(&[UNKNOWN, INVAL, FILTER].map(|bit| (reasons & bit).into()));
        let mut exits = Vec::new();
        while let Some(mut stop) = t.vcpu.run_until_exit()? {
            exits.push(stop.exit());
            match stop.exit() {
                Exit::Rdmsr { .. } => stop.complete_rdmsr(Some(VALUE)),
                Exit::Wrmsr { .. } => stop.complete_wrmsr(true),
                other => fail!("{other:x?} from an MSR access"),
            }
        }
        let efer = t.vcpu.fd().get_sregs().ioctl("KVM_GET_SREGS")?.efer;
        let all = [
            (UNKNOWN, Exit::Rdmsr { index: UNKNOWN_MSR, reason: UNKNOWN }),
            (UNKNOWN, Exit::Wrmsr { index: UNKNOWN_MSR, reason: UNKNOWN, data: VALUE }),
            (
                INVAL,
                Exit::Wrmsr { index: msr::IA32_EFER, reason: INVAL, data: efer | RESERVED_BIT },
            ),
            (FILTER, Exit::Rdmsr { index: FILTERED_MSR, reason: FILTER }),
            (FILTER, Exit::Wrmsr { index: FILTERED_MSR, reason: FILTER, data: VALUE }),
        ];
        let want: Vec<Exit> =
            all.into_iter().filter(|(bit, _)| reasons & bit != 0).map(|(_, exit)| exit).collect();
        check_eq!("accesses exit with the reasons enabled, and no others", exits, want);
        Ok(())
    }

    /// Accesses that KVM completes do not exit, whatever is enabled.
    #[kvm_test(uses_a_known_msr)]
    fn good_accesses_do_not_exit(t: &mut OneVcpu) -> TestResult {
        exit_on(&t.vm, INVAL | UNKNOWN | FILTER).ioctl("KVM_ENABLE_CAP")?;
        let exit = t.vcpu.run_until_exit()?.map(|stop| stop.exit());
        check_eq!("KVM completes accesses to an MSR that it knows", exit, None);
        Ok(())
    }

    /// Bits that are no reason are refused (api.rst 7, KVM_CAP_X86_USER_SPACE_MSR: args\[0\] is the mask of
    /// KVM_MSR_EXIT_REASON_*).
    #[kvm_test]
    fn unknown_reasons_are_refused(t: &mut OneVm) -> TestResult {
        for reasons in [0, INVAL, UNKNOWN, FILTER, bindings::KVM_MSR_EXIT_REASON_VALID_MASK] {
            check_eq!("the reasons {reasons:#x} are accepted", exit_on(&t.vm, reasons), Ok(()));
        }
        for reasons in [1 << 3, 1 << 31, INVAL | 1 << 3] {
            check_eq!(
                "the reasons {reasons:#x} are EINVAL",
                exit_on(&t.vm, reasons),
                Err(Errno::EINVAL)
            );
        }
        let wide = t.vm.enable_cap(KVM_CAP_X86_USER_SPACE_MSR, [1 << 32, 0, 0, 0]);
        check_eq!("bit 32 of the reasons is EINVAL", wide, Err(Errno::EINVAL));
        let flags = bindings::kvm_enable_cap {
            cap: KVM_CAP_X86_USER_SPACE_MSR,
            flags: 1,
            ..Default::default()
        };
        let result = t.vm.fd().enable_cap(&flags).errno();
        check_eq!("flags other than 0 are EINVAL", result, Err(Errno::EINVAL));
        Ok(())
    }
}
