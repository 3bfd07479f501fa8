//! Sizes of a vCPU's machine-check banks, XSAVE area and nested state (api.rst 4.104 to 4.107, 4.43,
//! 4.44, 4.114, 4.115, 4.134).
use crate::prelude::*;
use {
    defs::x86::mce::{self, BANK_MSRS, McgCap, MciStatus},
    defs::x86::xsave::{
        Xcr0,
        area::{FCW, MXCSR, XSTATE_BV},
    },
    msr::{IA32_MC0_CTL, IA32_MCG_CAP, IA32_VMX_BASIC},
};

use crate::common::support::boundary::{probe, word, words};
use request::x86::*;

/// An MSR of `vcpu`, `None` where there is none.
fn msr(vcpu: &Vcpu, index: u32) -> TestResult<Option<u64>> {
    let mut list = words(&[1, 0, index, 0, 0, 0]);
    let read = vcpu.raw(KVM_GET_MSRS, &mut list).ioctl("KVM_GET_MSRS")?;
    Ok((read == 1).then(|| u64::from(word(&list, 5)) << 32 | u64::from(word(&list, 4))))
}

fn setup_mce(vcpu: &Vcpu, mcg_cap: u64) -> Result<i32, Errno> {
    vcpu.raw(KVM_X86_SETUP_MCE, &mut mcg_cap.to_ne_bytes())
}

/// api.rst 4.105: KVM_X86_SETUP_MCE gives a vCPU 1 to KVM_CAP_MCE banks and features that
/// KVM_X86_GET_MCE_CAP_SUPPORTED lists; anything else is EINVAL, and IA32_MCG_CAP stays.
#[kvm_test(requires(cap::MCE))]
fn setup_mce_takes_up_to_its_limit(t: &mut OneVm) -> TestResult {
    /// MCG_CAP: bank count, and extended register count, which KVM lets userspace choose.
    const COUNTS: u64 = bits!(McgCap::{COUNT | MCG_EXT_CNT});
    /// IA32_VMX_BASIC stands where bank 32 would.
    const NR_BANKS_BELOW_VMX: u32 = (IA32_VMX_BASIC - IA32_MC0_CTL) / BANK_MSRS;
    let system = System::get()?;
    let vcpu = t.vm.create_vcpu(0)?;
    let limit = system.check_extension(bindings::KVM_CAP_MCE) as u32;
    let set = |banks: u32| setup_mce(&vcpu, banks.into());
    let want = |banks| if banks == 0 || banks > limit { Err(Errno::EINVAL) } else { Ok(0) };
    probe("banks", limit, set, want, || msr(&vcpu, IA32_MCG_CAP))?;

    for banks in [1, limit - 1, limit] {
        setup_mce(&vcpu, banks.into()).ioctl("KVM_X86_SETUP_MCE")?;
        check_eq!(
            "IA32_MCG_CAP reports the number of banks",
            msr(&vcpu, IA32_MCG_CAP)?,
            Some(banks.into())
        );
        let ctl = |bank| msr(&vcpu, mce::ctl(bank));
        check_eq!("the last bank reports every error", ctl(banks - 1)?, Some(u64::MAX));
        // Behind bank 31 the MSRs of VMX begin, which a CPU may have.
        if banks < NR_BANKS_BELOW_VMX {
            check_eq!("there is no bank behind the last", ctl(banks)?, None);
        }
    }

    let mut supported = [0; 8];
    raw_ioctl(system, KVM_X86_GET_MCE_CAP_SUPPORTED, &mut supported)
        .ioctl("KVM_X86_GET_MCE_CAP_SUPPORTED")?;
    let supported = u64::from_ne_bytes(supported);
    let before = msr(&vcpu, IA32_MCG_CAP)?;
    for bit in (0..64).filter(|bit| (supported | COUNTS) >> bit & 1 == 0) {
        let got = setup_mce(&vcpu, 1 << bit | 1);
        check!(
            "an unsupported MCE feature is EINVAL",
            got == Err(Errno::EINVAL),
            "bit {bit}: {got:?}"
        );
    }
    check_eq!("refused MCE features leave IA32_MCG_CAP", msr(&vcpu, IA32_MCG_CAP)?, before);
    let all = supported & !COUNTS | 1;
    check_eq!("every supported MCE feature is accepted", setup_mce(&vcpu, all), Ok(0));
    // AMD's has a bank count and MCG_CTL_P, and reserves the rest: KVM clears it there.
    let told = msr(&vcpu, IA32_MCG_CAP)?.unwrap_or(0);
    check_eq!("IA32_MCG_CAP reports the bank set up with the features", told & 0xff, 1);
    check_eq!("IA32_MCG_CAP reports no feature that was not asked for", told & !all, 0);
    Ok(())
}

/// api.rst 4.107: KVM_X86_SET_MCE of a bank that the vCPU does not have, or of no valid error, is
/// EINVAL and leaves the banks alone.
#[kvm_test(requires(cap::MCE))]
fn set_mce_wants_a_bank_of_the_vcpu(t: &mut OneVm) -> TestResult {
    const BANKS: u8 = 4;
    const VAL: u64 = MciStatus::VAL.bits();
    let vcpu = t.vm.create_vcpu(0)?;
    setup_mce(&vcpu, BANKS.into()).ioctl("KVM_X86_SETUP_MCE")?;
    let inject = |bank: u8, status: u64| {
        let mut mce = vec![0; size_of::<bindings::kvm_x86_mce>()];
        mce[..8].copy_from_slice(&status.to_ne_bytes());
        mce[32] = bank;
        vcpu.raw(KVM_X86_SET_MCE, &mut mce)
    };
    let statuses = || -> TestResult<Vec<Option<u64>>> {
        (0..u32::from(BANKS)).map(|b| msr(&vcpu, mce::status(b))).collect()
    };
    let before = statuses()?;
    for bank in [BANKS, BANKS + 1, 31, 32, 128, 255] {
        check_eq!("an error of bank {bank} of 4 is EINVAL", inject(bank, VAL), Err(Errno::EINVAL));
    }
    check_eq!("an error without VAL is EINVAL", inject(0, VAL - 1), Err(Errno::EINVAL));
    check_eq!("a refused error changes no bank", statuses()?, before);
    for bank in [0, BANKS - 1] {
        check_eq!(
            "an error of bank {bank} of 4 is accepted",
            inject(bank, VAL | u64::from(bank)),
            Ok(0)
        );
        let status = statuses()?[usize::from(bank)];
        check_eq!("bank {bank} of 4 reports its error", status, Some(VAL | u64::from(bank)));
    }
    Ok(())
}

/// api.rst 4.134: KVM_GET_XSAVE2 and KVM_SET_XSAVE move exactly KVM_CAP_XSAVE2 bytes; a shorter
/// buffer is EFAULT. State that XCR0 or MXCSR reserves is EINVAL and leaves the old one.
#[kvm_test(requires(cap::XSAVE, cap::XSAVE2))]
fn xsave2_moves_exactly_its_size(t: &mut OneVm) -> TestResult {
    const FCW_VALUE: u8 = 0x3f;
    let vcpu = t.vm.create_vcpu(0)?;
    let size = t.vm.check_extension(bindings::KVM_CAP_XSAVE2) as usize;
    check!("the area has room for struct kvm_xsave", size >= size_of::<bindings::kvm_xsave>());
    let get = || -> TestResult<Vec<u8>> {
        let mut area = vec![0; size];
        vcpu.raw(KVM_GET_XSAVE2, &mut area).ioctl("KVM_GET_XSAVE2")?;
        Ok(area)
    };
    let mut area = get()?;
    area[FCW] = FCW_VALUE;
    area[XSTATE_BV..XSTATE_BV + 8].copy_from_slice(&bits!(Xcr0::{X87 | SSE}).to_ne_bytes());
    check_eq!("KVM_SET_XSAVE accepts the area", vcpu.raw(KVM_SET_XSAVE, &mut area), Ok(0));
    let before = get()?;
    check_eq!("KVM_GET_XSAVE2 returns what was set", before[FCW], FCW_VALUE);

    let mut short = vec![0; size - 1];
    let got = vcpu.raw(KVM_GET_XSAVE2, &mut short);
    check_eq!("KVM_GET_XSAVE2 into a byte less is EFAULT", got, Err(Errno::EFAULT));
    let got = vcpu.raw(KVM_SET_XSAVE, &mut area[1..].to_vec());
    check_eq!("KVM_SET_XSAVE of a byte less is EFAULT", got, Err(Errno::EFAULT));
    check!("KVM_SET_XSAVE of a byte less changes nothing", get()? == before);

    let bad = |offset: usize, value: u8| {
        let mut area = before.clone();
        area[FCW] = !FCW_VALUE & 0x3f;
        area[offset] = value;
        vcpu.raw(KVM_SET_XSAVE, &mut area)
    };
    let reserved = bad(XSTATE_BV + 7, 0x80);
    check_eq!("reserved bit 63 of XSTATE_BV is EINVAL", reserved, Err(Errno::EINVAL));
    check!("reserved bit 63 of XSTATE_BV changes nothing", get()? == before);
    let reserved = bad(MXCSR + 3, 0x80);
    check_eq!("reserved bit 31 of MXCSR is EINVAL", reserved, Err(Errno::EINVAL));
    check!("reserved bit 31 of MXCSR changes nothing", get()? == before);
    Ok(())
}

/// api.rst 4.114: KVM_GET_NESTED_STATE into too little room is E2BIG and tells the needed size; a
/// larger claim gets the true one.
#[kvm_test(requires(cap::NESTED_STATE))]
fn nested_state_tells_its_size(t: &mut OneVm) -> TestResult {
    const SIZE: usize = 1;
    let vcpu = t.vm.create_vcpu(0)?;
    let most = t.vm.check_extension(bindings::KVM_CAP_NESTED_STATE) as usize;
    let get = |size: u32| {
        let mut state = vec![0; most];
        state[4..8].copy_from_slice(&size.to_ne_bytes());
        let got = vcpu.raw(KVM_GET_NESTED_STATE, &mut state);
        (got, word(&state, SIZE), state)
    };
    let (got, needed, _) = get(0);
    check_eq!("room for 0 bytes of nested state is E2BIG", got, Err(Errno::E2BIG));
    let range = size_of::<bindings::kvm_nested_state>()..=most;
    check!(
        "the needed size is within the capability's",
        range.contains(&(needed as usize)),
        "{needed}"
    );
    let wanted = |size| if size < needed { Err(Errno::E2BIG) } else { Ok(0) };
    for count in crate::common::support::boundary::counts(needed) {
        let (name, (got, told, _)) = (count.name, get(count.value));
        check_eq!(
            "room for {name}: KVM_GET_NESTED_STATE succeeds or is E2BIG",
            got,
            wanted(count.value)
        );
        check_eq!("room for {name}: size becomes the needed one", told, needed);
    }
    Ok(())
}

/// api.rst 4.115: KVM_SET_NESTED_STATE of less than a header, of unknown flags or of an unknown
/// format is EINVAL, and the state stays.
#[kvm_test(requires(cap::NESTED_STATE))]
fn bad_nested_state_is_refused(t: &mut OneVm) -> TestResult {
    let vcpu = t.vm.create_vcpu(0)?;
    let most = t.vm.check_extension(bindings::KVM_CAP_NESTED_STATE) as usize;
    let get = || -> TestResult<Vec<u8>> {
        let mut state = vec![0; most];
        state[4..8].copy_from_slice(&(most as u32).to_ne_bytes());
        vcpu.raw(KVM_GET_NESTED_STATE, &mut state).ioctl("KVM_GET_NESTED_STATE")?;
        Ok(state)
    };
    let before = get()?;
    let header = size_of::<bindings::kvm_nested_state>() as u32;
    let changed = |offset: usize, bytes: &[u8]| {
        let mut state = before.clone();
        state[offset..offset + bytes.len()].copy_from_slice(bytes);
        vcpu.raw(KVM_SET_NESTED_STATE, &mut state)
    };
    for (what, size) in [("0", 0), ("1", 1), ("the header's - 1", header - 1)] {
        let got = changed(4, &size.to_ne_bytes());
        check_eq!("a nested state of size {what} is EINVAL", got, Err(Errno::EINVAL));
    }
    check_eq!("flag bit 15 of nested state is EINVAL", changed(1, &[0x80]), Err(Errno::EINVAL));
    check_eq!(
        "nested state of format 65535 is EINVAL",
        changed(2, &[0xff, 0xff]),
        Err(Errno::EINVAL)
    );
    check!("refused nested state changes nothing", get()? == before);
    check_eq!("nested state that was read is accepted", changed(0, &[]), Ok(0));
    Ok(())
}
