//! Lists of MSRs and bulk access to them (api.rst 4.3, KVM_GET_MSR_INDEX_LIST and
//! KVM_GET_MSR_FEATURE_INDEX_LIST; 4.18, KVM_GET_MSRS; 4.19, KVM_SET_MSRS).
use crate::prelude::*;

#[guest]
fn nothing(_: &mut Guest) {}

#[host]
mod host {
    use super::*;
    use std::collections::HashSet;

    const KVM_GET_MSR_INDEX_LIST: u64 = 0xc004_ae02;
    const KVM_GET_MSR_FEATURE_INDEX_LIST: u64 = 0xc004_ae0a;
    const KVM_GET_MSRS: u64 = 0xc008_ae88;
    const KVM_SET_MSRS: u64 = 0x4008_ae89;

    /// No CPU and no KVM has this MSR.
    const UNKNOWN_MSR: u32 = msr::UNKNOWN;
    /// Fills what KVM must not touch.
    const CANARY: u8 = 0xc5;

    /// One of the list ioctls with room for `room` indices, saying `nmsrs`: its result, the count that
    /// it wrote, and the indices.
    fn list(
        request: u64,
        nmsrs: u32,
        room: usize,
    ) -> TestResult<(Result<i32, Errno>, u32, Vec<u32>)> {
        let mut bytes = vec![CANARY; 4 + 4 * room];
        bytes[..4].copy_from_slice(&nmsrs.to_ne_bytes());
        let result = raw_ioctl(System::get()?, request, &mut bytes);
        let mut words = bytes.chunks_exact(4).map(|w| u32::from_ne_bytes([w[0], w[1], w[2], w[3]]));
        let count = words.next().unwrap_or(0);
        Ok((result, count, words.collect()))
    }

    fn whole_list(request: u64) -> TestResult<Vec<u32>> {
        let (_, count, _) = list(request, 0, 0)?;
        let (result, count, indices) = list(request, count, count as usize)?;
        result.ioctl("KVM_GET_MSR_(FEATURE_)INDEX_LIST")?;
        check_eq!("the list is as long as announced", count as usize, indices.len());
        Ok(indices)
    }

    fn check_list_contract(request: u64) -> TestResult {
        let canary = u32::from_ne_bytes([CANARY; 4]);
        let (result, count, _) = list(request, 0, 0)?;
        check_eq!("a list without room is E2BIG", result, Err(Errno::E2BIG));
        check!("E2BIG reports how many MSRs there are", count > 0, "{count}");
        let n = count as usize;
        let (result, told, indices) = list(request, count - 1, n)?;
        check_eq!("room for one too few is E2BIG", result, Err(Errno::E2BIG));
        check_eq!("E2BIG for one too few reports the number again", told, count);
        check!("E2BIG writes no index", indices.iter().all(|&i| i == canary));
        let (result, told, exact) = list(request, count, n)?;
        check_eq!("a list with exact room is filled", result, Ok(0));
        check_eq!("a filled list keeps its count", told, count);
        let (result, told, roomy) = list(request, count + 3, n + 3)?;
        check_eq!("a list with more room is filled", result, Ok(0));
        check_eq!("the count is set to what was written", told, count);
        check_eq!("more room gives the same list", roomy[..n], exact);
        check_eq!("nothing is written behind the list", roomy[n..], [canary; 3]);
        let distinct: HashSet<u32> = exact.iter().copied().collect();
        check_eq!("no MSR is listed twice", distinct.len(), n);
        let nowhere = raw_ioctl_value(System::get()?, request, 8);
        check_eq!("an unreadable list is EFAULT", nowhere, Err(Errno::EFAULT));
        Ok(())
    }

    /// KVM_GET_MSR_INDEX_LIST fills in at most what there is room for and tells the number (api.rst 4.3).
    #[kvm_test]
    fn index_list_tells_its_length(_: &mut HostOnly) -> TestResult {
        check_list_contract(KVM_GET_MSR_INDEX_LIST)?;
        let indices = whole_list(KVM_GET_MSR_INDEX_LIST)?;
        for index in [
            msr::IA32_TIME_STAMP_COUNTER,
            msr::IA32_SYSENTER_CS,
            msr::IA32_SYSENTER_ESP,
            msr::IA32_SYSENTER_EIP,
            msr::IA32_PAT,
            msr::IA32_STAR,
            msr::IA32_LSTAR,
            msr::IA32_CSTAR,
            msr::IA32_FMASK,
            msr::IA32_KERNEL_GS_BASE,
        ] {
            check!(
                "MSR {index:#x}, which every x86_64 guest has, is listed",
                indices.contains(&index)
            );
        }
        Ok(())
    }

    /// The same for the list of MSRs that tell features (api.rst 4.3).
    #[kvm_test(requires(cap::GET_MSR_FEATURES))]
    fn feature_list_tells_its_length(_: &mut HostOnly) -> TestResult {
        check_list_contract(KVM_GET_MSR_FEATURE_INDEX_LIST)
    }

    /// Entries of KVM_GET_MSRS and KVM_SET_MSRS.
    type Entries = Vec<(u32, u64)>;

    /// KVM_GET_MSRS or KVM_SET_MSRS on a vCPU or on /dev/kvm: entries processed, and the entries after it.
    fn transfer(
        fd: &impl std::os::fd::AsRawFd,
        request: u64,
        entries: &[(u32, u64)],
    ) -> (Result<i32, Errno>, Entries) {
        let mut bytes = (entries.len() as u64).to_ne_bytes().to_vec();
        for (index, data) in entries {
            bytes.extend_from_slice(&u64::from(*index).to_ne_bytes());
            bytes.extend_from_slice(&data.to_ne_bytes());
        }
        let result = raw_ioctl(fd, request, &mut bytes);
        let word = |w: &[u8]| u64::from_ne_bytes(w.try_into().unwrap_or_default());
        let entries =
            bytes[8..].chunks_exact(16).map(|e| (word(&e[..8]) as u32, word(&e[8..]))).collect();
        (result, entries)
    }

    /// Every MSR of the list can be read with KVM_GET_MSRS, and what was read can be written back
    /// (api.rst 4.3: "the guest msrs that are supported"). Some paravirtual ones want a local APIC.
    #[kvm_test(nothing, irqchip, requires(cap::IRQCHIP))]
    fn listed_msrs_can_be_read_and_written_back(t: &mut OneVcpu) -> TestResult {
        let indices = whole_list(KVM_GET_MSR_INDEX_LIST)?;
        let (mut unreadable, mut unwritable) = (Vec::new(), Vec::new());
        for &index in &indices {
            let (read, values) = transfer(&t.vcpu, KVM_GET_MSRS, &[(index, 0)]);
            if read != Ok(1) {
                unreadable.push(index);
            } else if transfer(&t.vcpu, KVM_SET_MSRS, &values).0 != Ok(1) {
                unwritable.push(index);
            }
        }
        check_eq!("every listed MSR can be read", unreadable, Vec::<u32>::new());
        check_eq!("every listed MSR can be written back", unwritable, Vec::<u32>::new());
        Ok(())
    }

    /// KVM_GET_MSRS on /dev/kvm reads every MSR of the feature list (api.rst 4.18).
    #[kvm_test(requires(cap::GET_MSR_FEATURES))]
    fn feature_msrs_can_be_read_from_the_system(_: &mut HostOnly) -> TestResult {
        let indices = whole_list(KVM_GET_MSR_FEATURE_INDEX_LIST)?;
        let unreadable: Vec<u32> = indices
            .iter()
            .copied()
            .filter(|&index| match System::get() {
                Ok(system) => transfer(system, KVM_GET_MSRS, &[(index, 0)]).0 != Ok(1),
                Err(_) => true,
            })
            .collect();
        check_eq!("every feature MSR can be read", unreadable, Vec::<u32>::new());
        let all: Entries = indices.iter().map(|&index| (index, 0)).collect();
        let (count, _) = transfer(System::get()?, KVM_GET_MSRS, &all);
        check_eq!("all feature MSRs can be read at once", count, Ok(all.len() as i32));
        Ok(())
    }

    /// The system-wide KVM_GET_MSRS reads feature MSRs only, and stops at the first other one.
    #[kvm_test(requires(cap::GET_MSR_FEATURES, host::UNKNOWN_MSRS_FAULT))]
    fn system_reads_only_feature_msrs(_: &mut HostOnly) -> TestResult {
        let features = whole_list(KVM_GET_MSR_FEATURE_INDEX_LIST)?;
        let (count, _) = transfer(System::get()?, KVM_GET_MSRS, &[(UNKNOWN_MSR, 0)]);
        check_eq!("the system's KVM_GET_MSRS does not read an unknown MSR", count, Ok(0));
        let (count, _) = transfer(
            System::get()?,
            KVM_GET_MSRS,
            &[(features[0], 0), (UNKNOWN_MSR, 0), (features[0], 0)],
        );
        check_eq!("the system's KVM_GET_MSRS stops at the first failure", count, Ok(1));
        Ok(())
    }

    /// KVM_GET_MSRS and KVM_SET_MSRS process entries in order, stop at the first that fails, and return
    /// how many they did (api.rst 4.18, 4.19).
    #[kvm_test(nothing, requires(host::UNKNOWN_MSRS_FAULT))]
    fn transfers_stop_at_the_first_failure(t: &mut OneVcpu) -> TestResult {
        const CANARY_DATA: u64 = 0xc5c5_c5c5;
        let good =
            [(msr::IA32_STAR, 0x1111), (msr::IA32_SYSENTER_CS, 0x22), (msr::IA32_FMASK, 0x3333)];
        check_eq!(
            "three MSRs are written in one call",
            transfer(&t.vcpu, KVM_SET_MSRS, &good).0,
            Ok(3)
        );
        let blank = good.map(|(index, _)| (index, 0));
        let (count, read) = transfer(&t.vcpu, KVM_GET_MSRS, &blank);
        check_eq!("three MSRs are read in one call", count, Ok(3));
        check_eq!("each MSR has the value written to it", read, good);
        let broken = [(msr::IA32_STAR, 0x4444), (UNKNOWN_MSR, 0), (msr::IA32_SYSENTER_CS, 0x55)];
        check_eq!(
            "writing stops at an unknown MSR",
            transfer(&t.vcpu, KVM_SET_MSRS, &broken).0,
            Ok(1)
        );
        let (_, read) = transfer(&t.vcpu, KVM_GET_MSRS, &blank);
        check_eq!(
            "entries before a failed write are done, later ones not",
            read[..2],
            [(msr::IA32_STAR, 0x4444), (msr::IA32_SYSENTER_CS, 0x22)]
        );
        let holes =
            [(msr::IA32_STAR, 0), (UNKNOWN_MSR, CANARY_DATA), (msr::IA32_SYSENTER_CS, CANARY_DATA)];
        let (count, read) = transfer(&t.vcpu, KVM_GET_MSRS, &holes);
        check_eq!("reading stops at an unknown MSR", count, Ok(1));
        check_eq!("entries before a failed read are handed out", read[0], (msr::IA32_STAR, 0x4444));
        check_eq!(
            "an unknown MSR as first entry transfers none",
            transfer(&t.vcpu, KVM_GET_MSRS, &holes[1..]).0,
            Ok(0)
        );
        check_eq!("a call without entries succeeds", transfer(&t.vcpu, KVM_GET_MSRS, &[]).0, Ok(0));
        let twice = [(msr::IA32_STAR, 1), (msr::IA32_STAR, 2)];
        check_eq!(
            "one call may write an MSR twice",
            transfer(&t.vcpu, KVM_SET_MSRS, &twice).0,
            Ok(2)
        );
        let (_, read) = transfer(&t.vcpu, KVM_GET_MSRS, &blank[..1]);
        check_eq!("the later of two writes stays", read, [(msr::IA32_STAR, 2)]);
        Ok(())
    }

    /// More entries than KVM_MAX_MSR_ENTRIES (256) are E2BIG, before any is looked at; fewer are not.
    #[kvm_test(nothing)]
    fn too_many_entries_are_refused(t: &mut OneVcpu) -> TestResult {
        const MAX_ENTRIES: usize = 256;
        let entries = vec![(msr::IA32_STAR, 7); MAX_ENTRIES + 1];
        for request in [KVM_GET_MSRS, KVM_SET_MSRS] {
            let (result, _) = transfer(&t.vcpu, request, &entries);
            check_eq!("request {request:#x}: 257 entries are E2BIG", result, Err(Errno::E2BIG));
            let (result, _) = transfer(&t.vcpu, request, &entries[..MAX_ENTRIES - 1]);
            check_eq!(
                "request {request:#x}: 255 entries are not E2BIG",
                result,
                Ok(MAX_ENTRIES as i32 - 1)
            );
            let result = raw_ioctl_value(&t.vcpu, request, 8);
            check_eq!(
                "request {request:#x}: an unreadable header is EFAULT",
                result,
                Err(Errno::EFAULT)
            );
            let mut short = 2_u64.to_ne_bytes().to_vec();
            short.extend_from_slice(&[0; 16]);
            let result = t.vcpu.raw(request, &mut short);
            check_eq!(
                "request {request:#x}: entries that end too early are EFAULT",
                result,
                Err(Errno::EFAULT)
            );
        }
        Ok(())
    }
}
