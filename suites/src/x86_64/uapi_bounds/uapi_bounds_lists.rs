//! Lists whose needed length the kernel writes back: MSR index lists, the register list, Hyper-V's
//! CPUID (api.rst 4.3, 4.81, 4.118), and the list of extended control registers (4.45).
use crate::prelude::*;
use defs::x86::xsave::Xcr0;

use crate::common::support::boundary::{Count, counts, probe, word, words};
use request::x86::*;

/// Entries beyond the claimed or needed ones that buffers have room for, to see that nobody writes there.
const SPARE: u32 = 1;

/// The needed length that an empty list comes back with.
fn needed(request: u64) -> TestResult<u32> {
    let mut empty = words(&[0]);
    let system = System::get()?;
    check_eq!("an empty list is E2BIG", raw_ioctl(system, request, &mut empty), Err(Errno::E2BIG));
    Ok(word(&empty, 0))
}

/// api.rst 4.3: a list that is too short is E2BIG, and `nmsrs` becomes the number of MSRs; with more
/// room than needed, `nmsrs` becomes that number too, and the list is filled.
#[kvm_test(requires(cap::GET_MSR_FEATURES), params = [
    msrs: KVM_GET_MSR_INDEX_LIST,
    features: KVM_GET_MSR_FEATURE_INDEX_LIST,
])]
fn msr_index_list_tells_its_length(_: &mut HostOnly, request: u64) -> TestResult {
    let system = System::get()?;
    let length = needed(request)?;
    check!("the list has at least two MSRs", length > 1, "{length}");
    for Count { name, value } in counts(length) {
        let mut list = words(&vec![0; 1 + (value.min(length) + SPARE) as usize]);
        list[..4].copy_from_slice(&value.to_ne_bytes());
        let got = raw_ioctl(system, request, &mut list);
        check_eq!("room for {name}: nmsrs becomes the number of MSRs", word(&list, 0), length);
        let indices: Vec<u32> = (1..list.len() / 4).map(|i| word(&list, i)).collect();
        if value < length {
            check_eq!("room for {name} in the list is E2BIG", got, Err(Errno::E2BIG));
            check!("room for {name}: no index is written", indices.iter().all(|i| *i == 0));
        } else {
            check_eq!("room for {name} in the list succeeds", got, Ok(0));
            let (there, behind) = indices.split_at(length as usize);
            let mut unique = there.to_vec();
            unique.sort_unstable();
            unique.dedup();
            check_eq!("room for {name}: every MSR is listed once", unique.len(), there.len());
            check!(
                "room for {name}: nothing is written behind the list",
                behind.iter().all(|i| *i == 0)
            );
        }
    }
    Ok(())
}

/// api.rst 4.84: KVM_GET_REG_LIST with too little room is E2BIG, and `n` becomes the number of
/// registers; each listed register can be read by KVM_GET_ONE_REG.
#[kvm_test]
fn register_list_tells_its_length(t: &mut OneVm) -> TestResult {
    /// Room for more registers than any x86 vCPU has.
    const PLENTY: u64 = 1000;
    let vcpu = t.vm.create_vcpu(0)?;
    let mut list = vec![0; 8 * (1 + PLENTY as usize)];
    list[..8].copy_from_slice(&PLENTY.to_ne_bytes());
    let probed = vcpu.raw(request::KVM_GET_REG_LIST, &mut list);
    // x86 has the ioctl since 6.18, and no capability for it.
    require!(!matches!(probed, Err(Errno::EINVAL | Errno::ENOTTY)), "KVM_GET_REG_LIST");
    check_eq!("a list with plenty of room is filled", probed, Ok(0));
    let n = |list: &[u8]| u64::from_ne_bytes(list[..8].try_into().expect("eight bytes"));
    let length = n(&list);
    check!("plenty of room: n becomes the number of registers", length < PLENTY, "{length}");

    let wanted = |room: u64| if room < length { Err(Errno::E2BIG) } else { Ok(0) };
    for (name, room) in [
        ("0", 0),
        ("one less than needed", length.saturating_sub(1)),
        ("as many as needed", length),
    ] {
        let mut list = vec![0; 8 * (1 + room as usize)];
        list[..8].copy_from_slice(&room.to_ne_bytes());
        let got = vcpu.raw(request::KVM_GET_REG_LIST, &mut list);
        check_eq!("room for {name}: the list is filled or E2BIG", got, wanted(room));
        check_eq!("room for {name}: n becomes the number of registers", n(&list), length);
    }
    for (name, room) in
        [("2^31", 1 << 31), ("2^32", 1 << 32), ("2^61", 1 << 61), ("2^64 - 1", u64::MAX)]
    {
        let mut list = vec![0; 8 * (1 + length as usize)];
        list[..8].copy_from_slice(&u64::to_ne_bytes(room));
        let got = vcpu.raw(request::KVM_GET_REG_LIST, &mut list);
        check_eq!("a claim of room for {name} is enough", got, Ok(0));
        check_eq!(
            "a claim of room for {name}: n becomes the number of registers",
            n(&list),
            length
        );
    }
    Ok(())
}

/// api.rst 4.118: KVM_GET_SUPPORTED_HV_CPUID with too little room is E2BIG and keeps its count.
#[kvm_test(requires(cap::HYPERV_CPUID, cap::SYS_HYPERV_CPUID))]
fn hyperv_cpuid_fits_or_is_refused(_: &mut HostOnly) -> TestResult {
    const HEADER: usize = 2;
    const ENTRY: usize = 10;
    let system = System::get()?;
    let room = |nent: u32, there: u32| {
        let mut list = vec![0; HEADER + ENTRY * there as usize];
        list[0] = nent;
        words(&list)
    };
    let most = bindings::KVM_MAX_CPUID_ENTRIES as u32;
    let mut all = room(most, most);
    raw_ioctl(system, KVM_GET_SUPPORTED_HV_CPUID, &mut all).ioctl("KVM_GET_SUPPORTED_HV_CPUID")?;
    let length = word(&all, 0);
    check!("the list has at least two leaves", length > 1, "{length}");
    for Count { name, value } in counts(length) {
        let mut list = room(value, value.min(length + SPARE));
        let got = raw_ioctl(system, KVM_GET_SUPPORTED_HV_CPUID, &mut list);
        if value < length {
            check_eq!("room for {name} in the list is E2BIG", got, Err(Errno::E2BIG));
            check_eq!("room for {name} keeps the count", word(&list, 0), value);
        } else {
            check_eq!("room for {name} in the list succeeds", got, Ok(0));
            check_eq!("room for {name}: the count becomes the true one", word(&list, 0), length);
        }
    }
    Ok(())
}

/// Words of `struct kvm_xcrs` before its registers, of one register, and of all.
const XCRS: (usize, usize, usize) = (2, 4, 98);

/// `struct kvm_xcrs`: `nr` registers, each XCR0 with `value`.
fn xcrs(nr: u32, flags: u32, value: u32) -> Vec<u8> {
    let (header, entry, all) = XCRS;
    let mut list = vec![0; all];
    (list[0], list[1]) = (nr, flags);
    for i in 0..bindings::KVM_MAX_XCRS as usize {
        list[header + entry * i + 2] = value;
    }
    words(&list)
}

/// api.rst 4.45: KVM_SET_XCRS takes up to KVM_MAX_XCRS registers and no flags; anything else is EINVAL
/// and leaves XCR0 as it was.
#[kvm_test(requires(cap::XCRS, cpu::XSAVE))]
fn set_xcrs_takes_up_to_its_limit(t: &mut OneVm) -> TestResult {
    const X87: u32 = Xcr0::X87.bits() as u32;
    const X87_SSE: u32 = bits!(Xcr0::{X87 | SSE}) as u32;
    const XCR0_VALUE: usize = 4;
    let vcpu = t.vm.create_vcpu(0)?;
    let xcr0 = || -> TestResult<u32> {
        let mut list = vec![0; 4 * XCRS.2];
        vcpu.raw(KVM_GET_XCRS, &mut list).ioctl("KVM_GET_XCRS")?;
        check_eq!("KVM_GET_XCRS counts one register", word(&list, 0), 1);
        Ok(word(&list, XCR0_VALUE))
    };
    let limit = bindings::KVM_MAX_XCRS;
    let want = |nr| if nr > limit { Err(Errno::EINVAL) } else { Ok(0) };
    vcpu.raw(KVM_SET_XCRS, &mut xcrs(1, 0, X87)).ioctl("KVM_SET_XCRS")?;
    check_eq!("KVM_SET_XCRS of one register sets it", xcr0()?, X87);
    vcpu.raw(KVM_SET_XCRS, &mut xcrs(0, 0, X87_SSE)).ioctl("KVM_SET_XCRS")?;
    check_eq!("KVM_SET_XCRS of no register sets none", xcr0()?, X87);
    // Alternate, so that a refused list could be told from the value before it.
    let mut value = X87;
    let set = |nr| {
        value ^= X87 ^ X87_SSE;
        vcpu.raw(KVM_SET_XCRS, &mut xcrs(nr, 0, value))
    };
    probe("KVM_SET_XCRS", limit, set, want, xcr0)?;
    for flag in [0, 31] {
        let before = xcr0()?;
        let other = before ^ X87 ^ X87_SSE;
        let got = vcpu.raw(KVM_SET_XCRS, &mut xcrs(1, 1 << flag, other));
        check_eq!("flag bit {flag} of KVM_SET_XCRS is EINVAL", got, Err(Errno::EINVAL));
        check_eq!("flag bit {flag} of KVM_SET_XCRS, refused, changes nothing", xcr0()?, before);
    }
    Ok(())
}
