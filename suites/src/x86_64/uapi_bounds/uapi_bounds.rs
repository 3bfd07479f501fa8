//! How many CPUID entries the CPUID ioctls take and give (api.rst 4.20, 4.46, 4.47, 4.88).
use crate::prelude::*;

use crate::common::support::boundary::{Count, counts, probe, word, words};
use request::x86::*;

/// `KVM_MAX_CPUID_ENTRIES`.
const LIMIT: u32 = bindings::KVM_MAX_CPUID_ENTRIES as u32;
/// Words of a `struct kvm_cpuid2` before its entries.
const HEADER: usize = 2;
/// Words of a `struct kvm_cpuid_entry2`.
const ENTRY2: usize = 10;
/// Words of a `struct kvm_cpuid_entry`.
const ENTRY: usize = 6;
/// Leaves that neither hardware nor KVM gives a meaning.
const UNUSED_LEAF: u32 = 0x2000_0000;

/// `kvm_cpuid2` (or `kvm_cpuid`) that claims `nent` entries of `size` words; one entry beyond the
/// limit are really there.
fn cpuid(nent: u32, size: usize) -> Vec<u8> {
    let there = nent.min(LIMIT + 1);
    let mut list = vec![nent, 0];
    for i in 0..there {
        let mut entry = vec![0; size];
        entry[0] = UNUSED_LEAF + i;
        list.extend(entry);
    }
    words(&list)
}

/// A list that claims room for `nent` entries, with nothing in it, and an entry more; never more than
/// that beyond the limit.
fn room(nent: u32) -> Vec<u8> {
    let mut list = vec![0; HEADER + ENTRY2 * (nent.min(LIMIT) + 1) as usize];
    list[0] = nent;
    words(&list)
}

/// What KVM_GET_CPUID2 tells.
fn stored(vcpu: &Vcpu) -> TestResult<Vec<u8>> {
    let mut list = room(LIMIT);
    vcpu.raw(KVM_GET_CPUID2, &mut list).ioctl("KVM_GET_CPUID2")?;
    let nent = word(&list, 0) as usize;
    list.truncate(4 * (HEADER + ENTRY2 * nent));
    Ok(list)
}

/// api.rst 4.20: KVM_SET_CPUID and KVM_SET_CPUID2 take up to KVM_MAX_CPUID_ENTRIES entries; more is
/// E2BIG, and the vCPU keeps the CPUID that it had.
#[kvm_test(params = [
    set_cpuid: ("KVM_SET_CPUID", KVM_SET_CPUID, ENTRY),
    set_cpuid2: ("KVM_SET_CPUID2", KVM_SET_CPUID2, ENTRY2),
])]
fn set_cpuid_takes_up_to_its_limit(t: &mut OneVm, row: (&str, u64, usize)) -> TestResult {
    let (what, request, size) = row;
    let vcpu = t.vm.create_vcpu(0)?;
    let set = |nent| vcpu.raw(request, &mut cpuid(nent, size));
    let want = |nent| if nent > LIMIT { Err(Errno::E2BIG) } else { Ok(0) };
    probe(what, LIMIT, set, want, || stored(&vcpu))?;

    for nent in [1, LIMIT] {
        vcpu.raw(request, &mut cpuid(nent, size)).ioctl(what)?;
        let list = stored(&vcpu)?;
        let leaves: Vec<u32> = (0..nent as usize)
            .filter_map(|i| list.get(4 * (HEADER + ENTRY2 * i)..).filter(|rest| !rest.is_empty()))
            .map(|entry| word(entry, 0))
            .collect();
        let want: Vec<u32> = (0..nent).map(|i| UNUSED_LEAF + i).collect();
        check!("{what}: KVM_GET_CPUID2 returns all of {nent} entries", leaves == want);
        // Kernels before 6.5 leave the count as it was: then there are empty entries behind.
        let behind = list.get(4 * (HEADER + ENTRY2 * nent as usize)..).unwrap_or_default();
        let empty = behind.iter().all(|byte| *byte == 0);
        check!("{what}: KVM_GET_CPUID2 returns nothing behind {nent} entries", empty);
    }
    Ok(())
}

/// A list that ends in memory that cannot be read is EFAULT, and the vCPU keeps the CPUID it had.
#[kvm_test(params = [
    set_cpuid: ("KVM_SET_CPUID", KVM_SET_CPUID, ENTRY),
    set_cpuid2: ("KVM_SET_CPUID2", KVM_SET_CPUID2, ENTRY2),
])]
fn set_cpuid_of_a_truncated_list_is_efault(t: &mut OneVm, row: (&str, u64, usize)) -> TestResult {
    let (what, request, size) = row;
    let vcpu = t.vm.create_vcpu(0)?;
    let before = stored(&vcpu)?;
    let mut list = cpuid(2, size);
    list.truncate(list.len() - 4);
    check_eq!(
        "{what}: a list cut short is EFAULT",
        vcpu.raw(request, &mut list),
        Err(Errno::EFAULT)
    );
    check!("{what}: a list cut short changes nothing", stored(&vcpu)? == before);
    Ok(())
}

/// api.rst 4.47: KVM_GET_CPUID2 with room for fewer entries than there are is E2BIG and touches
/// neither the count nor the entries; with more room, the count becomes the true one.
#[kvm_test]
fn get_cpuid2_counts_its_entries(t: &mut OneVm) -> TestResult {
    const STORED: u32 = 5;
    let vcpu = t.vm.create_vcpu(0)?;
    vcpu.raw(KVM_SET_CPUID2, &mut cpuid(STORED, ENTRY2)).ioctl("KVM_SET_CPUID2")?;
    for Count { name, value } in counts(STORED) {
        let mut list = room(value);
        let before = list.clone();
        let got = vcpu.raw(KVM_GET_CPUID2, &mut list);
        if value < STORED {
            check_eq!("KVM_GET_CPUID2 with room for {name} is E2BIG", got, Err(Errno::E2BIG));
            check!(
                "KVM_GET_CPUID2 with room for {name} keeps count and entries",
                list == before,
                "{list:x?}"
            );
        } else {
            check_eq!("KVM_GET_CPUID2 with room for {name} succeeds", got, Ok(0));
            check_eq!(
                "KVM_GET_CPUID2 with room for {name} returns the true count",
                word(&list, 0),
                STORED
            );
            let behind = 4 * (HEADER + ENTRY2 * STORED as usize);
            check!(
                "KVM_GET_CPUID2 with room for {name} writes nothing behind",
                list[behind..].iter().all(|b| *b == 0)
            );
        }
    }
    Ok(())
}

/// Leaf and subleaf of every entry. (Some registers differ between the host's CPUs.)
fn leaves(list: &[u8]) -> Vec<[u32; 2]> {
    let entry = |i| HEADER + ENTRY2 * i;
    let leaf = |i| [word(list, entry(i)), word(list, entry(i) + 1)];
    (0..word(list, 0) as usize).map(leaf).collect()
}

/// api.rst 4.46, 4.88: KVM_GET_SUPPORTED_CPUID and KVM_GET_EMULATED_CPUID refuse too little room with
/// E2BIG and leave the count; however large the count, they give only what there is.
#[kvm_test(requires(cap::EXT_CPUID, cap::EXT_EMUL_CPUID), params = [
    supported: ("KVM_GET_SUPPORTED_CPUID", KVM_GET_SUPPORTED_CPUID),
    emulated: ("KVM_GET_EMULATED_CPUID", KVM_GET_EMULATED_CPUID),
])]
fn cpuid_of_the_system_fits_or_is_refused(_: &mut HostOnly, row: (&str, u64)) -> TestResult {
    let (what, request) = row;
    let system = System::get()?;
    let mut all = room(LIMIT);
    raw_ioctl(system, request, &mut all).ioctl(what)?;
    let needed = word(&all, 0);
    all.truncate(4 * (HEADER + ENTRY2 * needed as usize));
    check!("{what}: the system has CPUID entries", (1..=LIMIT).contains(&needed), "{needed}");

    for Count { name, value } in counts(needed) {
        let mut list = room(value);
        let got = raw_ioctl(system, request, &mut list);
        if value < needed {
            check_eq!("{what}: room for {name} is E2BIG", got, Err(Errno::E2BIG));
            check_eq!("{what}: room for {name} keeps its count", word(&list, 0), value);
        } else {
            if !check_eq!("{what}: room for {name} is enough", got, Ok(0)) {
                continue;
            }
            check_eq!("{what}: room for {name} counts the entries", word(&list, 0), needed);
            check_eq!(
                "{what}: room for {name} returns the same leaves",
                leaves(&list),
                leaves(&all)
            );
        }
    }
    Ok(())
}
