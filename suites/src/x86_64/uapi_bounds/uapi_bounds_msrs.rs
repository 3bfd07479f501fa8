//! How many MSRs one call reads or writes, and how far it gets (api.rst 4.18, 4.19).
use crate::prelude::*;
use msr::{IA32_SYSENTER_CS, IA32_SYSENTER_ESP, UNKNOWN as NO_MSR};

use crate::common::support::boundary::{probe, word, words};
use request::x86::*;

/// `MAX_IO_MSRS`: a call takes fewer than this many.
const MAX_IO_MSRS: u32 = 256;
const LIMIT: u32 = MAX_IO_MSRS - 1;

/// Words of `struct kvm_msrs` before its entries, and of `struct kvm_msr_entry`.
const HEADER: usize = 2;
const ENTRY: usize = 4;

/// `struct kvm_msrs` that claims `nmsrs` entries; at most one beyond the limit is really there.
fn msrs(nmsrs: u32, entry: impl Fn(u32) -> (u32, u32)) -> Vec<u8> {
    let mut list = vec![nmsrs, 0];
    for i in 0..nmsrs.min(LIMIT + 1) {
        let (index, data) = entry(i);
        list.extend([index, 0, data, 0]);
    }
    words(&list)
}

fn data(list: &[u8], entry: usize) -> u32 {
    word(list, HEADER + ENTRY * entry + 2)
}

fn get(vcpu: &Vcpu, index: u32) -> TestResult<u32> {
    let mut list = msrs(1, |_| (index, 0));
    check_eq!("KVM_GET_MSRS reads one MSR", vcpu.raw(KVM_GET_MSRS, &mut list), Ok(1));
    Ok(data(&list, 0))
}

/// api.rst 4.19: KVM_SET_MSRS returns the number of MSRs that it set. 256 and more are E2BIG, and
/// none is set.
#[kvm_test]
fn set_msrs_takes_up_to_its_limit(t: &mut OneVm) -> TestResult {
    let vcpu = t.vm.create_vcpu(0)?;
    // Every call writes other values: a refused one that wrote would show.
    let mut value = 0;
    let set = |nmsrs| {
        value += 1;
        vcpu.raw(KVM_SET_MSRS, &mut msrs(nmsrs, |_| (IA32_SYSENTER_CS, value)))
    };
    let want = |nmsrs| if nmsrs > LIMIT { Err(Errno::E2BIG) } else { Ok(nmsrs as i32) };
    probe("KVM_SET_MSRS", LIMIT, set, want, || get(&vcpu, IA32_SYSENTER_CS))?;

    vcpu.raw(KVM_SET_MSRS, &mut msrs(LIMIT, |i| (IA32_SYSENTER_CS, i))).ioctl("KVM_SET_MSRS")?;
    check_eq!(
        "the last entry of a full list is set last",
        get(&vcpu, IA32_SYSENTER_CS)?,
        LIMIT - 1
    );
    Ok(())
}

/// api.rst 4.18: KVM_GET_MSRS returns the number of MSRs that it read. 256 and more are E2BIG, and no
/// value is written.
#[kvm_test]
fn get_msrs_takes_up_to_its_limit(t: &mut OneVm) -> TestResult {
    const VALUE: u32 = 0x1234;
    const UNTOUCHED: u32 = 0x5555;
    let vcpu = t.vm.create_vcpu(0)?;
    vcpu.raw(KVM_SET_MSRS, &mut msrs(1, |_| (IA32_SYSENTER_CS, VALUE))).ioctl("KVM_SET_MSRS")?;
    let read = |nmsrs: u32| {
        let mut list = msrs(nmsrs, |_| (IA32_SYSENTER_CS, UNTOUCHED));
        let there = (list.len() / 4 - HEADER) / ENTRY;
        let got = vcpu.raw(KVM_GET_MSRS, &mut list);
        check_eq!("KVM_GET_MSRS leaves the field nmsrs", word(&list, 0), nmsrs);
        let want = if got.is_ok() { VALUE } else { UNTOUCHED };
        check!(
            "KVM_GET_MSRS writes all values of an accepted list only",
            (0..there).all(|i| data(&list, i) == want),
            "{nmsrs} MSRs: {got:?}"
        );
        got
    };
    let want = |nmsrs| if nmsrs > LIMIT { Err(Errno::E2BIG) } else { Ok(nmsrs as i32) };
    probe("KVM_GET_MSRS", LIMIT, read, want, || get(&vcpu, IA32_SYSENTER_CS))
}

/// api.rst 4.18, 4.19: at the first MSR that cannot be accessed the call stops and returns how many
/// came before it: those are done, the others are not.
#[kvm_test(requires(host::UNKNOWN_MSRS_FAULT))]
fn msr_calls_stop_at_the_first_bad_one(t: &mut OneVm) -> TestResult {
    const OLD: u32 = 7;
    const NEW: u32 = 9;
    const UNTOUCHED: u32 = 0x5555;
    let vcpu = t.vm.create_vcpu(0)?;
    let order = [
        ("first", [NO_MSR, IA32_SYSENTER_CS, IA32_SYSENTER_ESP], 0),
        ("second", [IA32_SYSENTER_CS, NO_MSR, IA32_SYSENTER_ESP], 1),
        ("last", [IA32_SYSENTER_CS, IA32_SYSENTER_ESP, NO_MSR], 2),
    ];
    for (place, indices, good) in order {
        let list = |value| msrs(3, |i| (indices[i as usize], value));
        for index in [IA32_SYSENTER_CS, IA32_SYSENTER_ESP] {
            vcpu.raw(KVM_SET_MSRS, &mut msrs(1, |_| (index, OLD))).ioctl("KVM_SET_MSRS")?;
        }
        let set = vcpu.raw(KVM_SET_MSRS, &mut list(NEW));
        check_eq!("a bad MSR in {place} place: KVM_SET_MSRS counts those before it", set, Ok(good));
        for (i, index) in indices.into_iter().enumerate().filter(|(_, index)| *index != NO_MSR) {
            let done = i < good as usize;
            let want = if done { NEW } else { OLD };
            check_eq!(
                "a bad MSR in {place} place: those before it are set, those behind are not",
                get(&vcpu, index)?,
                want
            );
        }
        let mut read = list(UNTOUCHED);
        let got = vcpu.raw(KVM_GET_MSRS, &mut read);
        check_eq!("a bad MSR in {place} place: KVM_GET_MSRS counts those before it", got, Ok(good));
        let read_before = (0..good as usize).all(|i| data(&read, i) == NEW);
        if good > 0 {
            check!("a bad MSR in {place} place: those before it are read", read_before);
        }
        let behind = good as usize + 1;
        if behind < indices.len() {
            let untouched = (behind..indices.len()).all(|i| data(&read, i) == UNTOUCHED);
            check!("a bad MSR in {place} place: no value is read behind it", untouched);
        }
    }
    Ok(())
}

/// The first of KVM's feature MSRs.
fn feature_msr(system: &System) -> TestResult<u32> {
    let mut list = words(&[0; 1 + MAX_IO_MSRS as usize]);
    list[..4].copy_from_slice(&MAX_IO_MSRS.to_ne_bytes());
    raw_ioctl(system, KVM_GET_MSR_FEATURE_INDEX_LIST, &mut list)
        .ioctl("KVM_GET_MSR_FEATURE_INDEX_LIST")?;
    require!(word(&list, 0) > 0, "a feature MSR");
    Ok(word(&list, 1))
}

/// api.rst 4.18: KVM_GET_MSRS of /dev/kvm reads feature MSRs, with the same limit.
#[kvm_test(requires(cap::GET_MSR_FEATURES))]
fn feature_msrs_have_the_same_limit(_: &mut HostOnly) -> TestResult {
    let system = System::get()?;
    let feature = feature_msr(system)?;
    let value = || -> TestResult<u32> {
        let mut list = msrs(1, |_| (feature, 0));
        check_eq!("one feature MSR can be read", raw_ioctl(system, KVM_GET_MSRS, &mut list), Ok(1));
        Ok(data(&list, 0))
    };
    let read = |nmsrs| raw_ioctl(system, KVM_GET_MSRS, &mut msrs(nmsrs, |_| (feature, 0)));
    let want = |nmsrs| if nmsrs > LIMIT { Err(Errno::E2BIG) } else { Ok(nmsrs as i32) };
    probe("KVM_GET_MSRS of /dev/kvm", LIMIT, read, want, value)?;

    let set = raw_ioctl(system, KVM_SET_MSRS, &mut msrs(1, |_| (feature, 0)));
    check!(
        "feature MSRs cannot be set by /dev/kvm",
        matches!(set, Err(Errno::EINVAL | Errno::ENOTTY)),
        "{set:?}"
    );
    Ok(())
}

/// api.rst 4.18: KVM_GET_MSRS of /dev/kvm stops at the first MSR that is no feature MSR.
#[kvm_test(requires(cap::GET_MSR_FEATURES, host::UNKNOWN_MSRS_FAULT))]
fn feature_msr_reads_stop_at_the_first_unknown_one(_: &mut HostOnly) -> TestResult {
    let system = System::get()?;
    let feature = feature_msr(system)?;
    let stop = |i| (if i == 1 { NO_MSR } else { feature }, 0);
    let got = raw_ioctl(system, KVM_GET_MSRS, &mut msrs(3, stop));
    check_eq!("reading feature MSRs stops at an unknown one", got, Ok(1));
    Ok(())
}
