//! MSR filters (api.rst 4.97, KVM_X86_SET_MSR_FILTER).
use crate::prelude::*;
use apic::X2APIC_MSRS;

/// How an access came out, as the guest tells it.
const OK: u64 = 0;
const GP_0: u64 = 1;
const OTHER_TRAP: u64 = 2;

fn outcome<T>(result: Result<T, Trap>) -> u64 {
    match result {
        Ok(_) => OK,
        Err(Trap { vector: vector::GP, error: 0, .. }) => GP_0,
        Err(_) => OTHER_TRAP,
    }
}

/// Stages of [`probes`].
const PROBE: u64 = 1;

/// Reads and writes the MSRs that the host names until it names 0.
#[guest]
fn probes(g: &mut Guest) {
    let mut outcomes = [0; 2];
    loop {
        let index = g.sync(PROBE, &outcomes)[0] as u32;
        if index == 0 {
            return;
        }
        outcomes = [outcome(rdmsr_safe(index)), outcome(wrmsr_safe(index, 0))];
    }
}

const BOTH: [u64; 2] = [OK, OK];
const NEITHER: [u64; 2] = [GP_0, GP_0];

/// What userspace answers to accesses that exit.
const ANSWER: u64 = 0xfeed_0000_beef;

#[guest]
fn leaves_denied_accesses_to_userspace(_: &mut Guest) {
    check_eq!("userspace completes a denied read", rdmsr_safe(msr::IA32_LSTAR), Ok(ANSWER));
    check_eq!("userspace completes a denied write", wrmsr_safe(msr::IA32_LSTAR, ANSWER), Ok(()));
    check_eq!("userspace refuses a denied read", outcome(rdmsr_safe(msr::IA32_LSTAR)), GP_0);
    check_eq!(
        "userspace refuses a denied write",
        outcome(wrmsr_safe(msr::IA32_LSTAR, ANSWER)),
        GP_0
    );
}

const NEIGHBOURS: [u32; 2] = [X2APIC_MSRS.start - 1, X2APIC_MSRS.end];

#[guest]
fn uses_x2apic(_: &mut Guest) {
    let apic = Apic::enable_x2apic();
    check_eq!("the x2APIC ID can be read", apic.id(), 0);
    apic.write(apic::reg::TPR, 0x20);
    check_eq!("the x2APIC TPR can be written and read", apic.read(apic::reg::TPR), 0x20);
    let self_ipi = rdmsr_safe(apic::x2apic_msr(apic::reg::SELF_IPI));
    check_eq!("SELF IPI cannot be read, as without a filter", outcome(self_ipi), GP_0);
    for index in NEIGHBOURS {
        check_eq!("userspace completes accesses to MSR {index:#x}", rdmsr_safe(index), Ok(ANSWER));
    }
}

#[guest]
fn reads_the_tsc(_: &mut Guest) {
    check_eq!(
        "RDMSR of the TSC is denied",
        outcome(rdmsr_safe(msr::IA32_TIME_STAMP_COUNTER)),
        GP_0
    );
    let (first, second) = (rdtsc(), rdtsc());
    check!("RDTSC still reads a filtered TSC", second >= first && first != 0, "{first} {second}");
}

#[host]
pub use host::*;

#[host]
mod host {
    use super::*;
    use bindings::{
        KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER,
        KVM_MSR_FILTER_DEFAULT_ALLOW as ALLOW, KVM_MSR_FILTER_DEFAULT_DENY as DENY,
        KVM_MSR_FILTER_MAX_BITMAP_SIZE, KVM_MSR_FILTER_MAX_RANGES, KVM_MSR_FILTER_READ as READ,
        KVM_MSR_FILTER_WRITE as WRITE,
    };
    use vm::arch::{MsrRange, bitmap_bytes};

    kvm_tests! { requires(cap::X86_MSR_FILTER) }

    /// The most MSRs that a range may have.
    const MAX_NMSRS: u32 = KVM_MSR_FILTER_MAX_BITMAP_SIZE * 8;

    /// A range that allows MSRs by the bits of `bitmap`, both ways.
    fn range(base: u32, nmsrs: u32, bitmap: &[u8]) -> MsrRange {
        MsrRange { flags: READ | WRITE, nmsrs, base, bitmap: bitmap.to_vec() }
    }

    /// A range that denies all of its MSRs, both ways.
    pub fn deny(base: u32, nmsrs: u32) -> MsrRange {
        range(base, nmsrs, &vec![0; bitmap_bytes(nmsrs)])
    }

    /// What RDMSR and WRMSR of `index` come to in a guest that runs [`probes`].
    fn probe(vcpu: &mut Vcpu, index: u32) -> TestResult<[u64; 2]> {
        vcpu.answer(&[index.into()]);
        let args = vcpu.run_until_sync(PROBE)?;
        Ok([args[0], args[1]])
    }

    fn finish(vcpu: &mut Vcpu) -> TestResult {
        vcpu.answer(&[0]);
        vcpu.run_until_done()
    }

    /// Without a filter every MSR here can be read and written; with one, bits of the bitmap that are
    /// set allow and clear ones deny, and the default decides outside of the ranges.
    #[kvm_test(probes, params = [default_allow: ALLOW, default_deny: DENY])]
    fn bitmap_decides_inside_and_default_outside(t: &mut OneVcpu, default: u32) -> TestResult {
        const INSIDE: [u32; 3] =
            [msr::IA32_SYSENTER_CS, msr::IA32_SYSENTER_ESP, msr::IA32_SYSENTER_EIP];
        const OUTSIDE: [u32; 5] = [
            msr::IA32_STAR,
            msr::IA32_LSTAR,
            msr::IA32_FMASK,
            msr::IA32_KERNEL_GS_BASE,
            msr::IA32_GS_BASE,
        ];
        t.vcpu.run_until_sync(PROBE)?;
        for index in INSIDE.into_iter().chain(OUTSIDE) {
            check_eq!(
                "MSR {index:#x} is allowed without a filter",
                probe(&mut t.vcpu, index)?,
                BOTH
            );
        }
        t.vm.set_msr_filter(default, &[range(INSIDE[0], 3, &[0b101])])
            .ioctl("KVM_X86_SET_MSR_FILTER")?;
        for (index, want) in INSIDE.into_iter().zip([BOTH, NEITHER, BOTH]) {
            check_eq!("the bitmap decides on MSR {index:#x}", probe(&mut t.vcpu, index)?, want);
        }
        for index in OUTSIDE {
            let want = if default == ALLOW { BOTH } else { NEITHER };
            check_eq!("the default decides on MSR {index:#x}", probe(&mut t.vcpu, index)?, want);
        }
        finish(&mut t.vcpu)
    }

    /// A range guards only the directions in its flags; the default decides on the other.
    #[kvm_test(probes)]
    fn flags_choose_the_direction(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_sync(PROBE)?;
        for (default, flags, bit, want) in [
            (ALLOW, READ, 0, [GP_0, OK]),
            (ALLOW, WRITE, 0, [OK, GP_0]),
            (ALLOW, READ | WRITE, 0, NEITHER),
            (DENY, READ, 1, [OK, GP_0]),
            (DENY, WRITE, 1, [GP_0, OK]),
            (DENY, READ | WRITE, 1, BOTH),
        ] {
            let one = MsrRange { flags, ..range(msr::IA32_STAR, 1, &[bit]) };
            t.vm.set_msr_filter(default, &[one]).ioctl("KVM_X86_SET_MSR_FILTER")?;
            let got = probe(&mut t.vcpu, msr::IA32_STAR)?;
            check_eq!(
                "range flags {flags} choose the direction: default {default}, bit {bit}",
                got,
                want
            );
        }
        let split = [
            MsrRange { flags: READ, ..range(msr::IA32_STAR, 1, &[1]) },
            MsrRange { flags: WRITE, ..range(msr::IA32_STAR, 1, &[0]) },
        ];
        t.vm.set_msr_filter(ALLOW, &split).ioctl("KVM_X86_SET_MSR_FILTER")?;
        check_eq!(
            "each direction follows its own range",
            probe(&mut t.vcpu, msr::IA32_STAR)?,
            [OK, GP_0]
        );
        finish(&mut t.vcpu)
    }

    /// A range covers exactly `nmsrs` MSRs, also where they do not fill a word of the bitmap, up to the
    /// longest bitmap.
    #[kvm_test(probes)]
    fn ranges_cover_exactly_their_msrs(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_sync(PROBE)?;
        for nmsrs in [1, 2, 63, 64, 65, 128, MAX_NMSRS - 1, MAX_NMSRS] {
            let ends_before = deny(msr::IA32_GS_BASE - nmsrs, nmsrs);
            t.vm.set_msr_filter(ALLOW, &[ends_before]).ioctl("KVM_X86_SET_MSR_FILTER")?;
            let got =
                [probe(&mut t.vcpu, msr::IA32_FS_BASE)?, probe(&mut t.vcpu, msr::IA32_GS_BASE)?];
            check_eq!("a range of {nmsrs} MSRs ends with its last one", got, [NEITHER, BOTH]);
            let starts_after = deny(msr::IA32_GS_BASE, nmsrs);
            t.vm.set_msr_filter(ALLOW, &[starts_after]).ioctl("KVM_X86_SET_MSR_FILTER")?;
            let got =
                [probe(&mut t.vcpu, msr::IA32_FS_BASE)?, probe(&mut t.vcpu, msr::IA32_GS_BASE)?];
            check_eq!("a range of {nmsrs} MSRs starts with its first one", got, [BOTH, NEITHER]);
            let mut only_last = deny(msr::IA32_FS_BASE + 1 - nmsrs, nmsrs);
            only_last.bitmap[(nmsrs - 1) as usize / 8] = 1 << ((nmsrs - 1) % 8);
            t.vm.set_msr_filter(DENY, &[only_last]).ioctl("KVM_X86_SET_MSR_FILTER")?;
            let got = [probe(&mut t.vcpu, msr::IA32_FS_BASE)?, probe(&mut t.vcpu, msr::IA32_STAR)?];
            check_eq!("the last of {nmsrs} bits guards the last MSR", got, [BOTH, NEITHER]);
        }
        finish(&mut t.vcpu)
    }

    /// All of a filter's ranges count, whichever of them are empty.
    #[kvm_test(probes)]
    fn every_range_counts(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_sync(PROBE)?;
        let empty = range(0, 0, &[]);
        for place in 0..KVM_MSR_FILTER_MAX_RANGES as usize {
            let mut ranges = vec![empty.clone(); KVM_MSR_FILTER_MAX_RANGES as usize];
            ranges[place] = deny(msr::IA32_LSTAR, 1);
            t.vm.set_msr_filter(ALLOW, &ranges).ioctl("KVM_X86_SET_MSR_FILTER")?;
            check_eq!(
                "a range at place {place} counts among empty ones",
                probe(&mut t.vcpu, msr::IA32_LSTAR)?,
                NEITHER
            );
        }
        let other = (0..15).map(|i| deny(0x2000_0000 + i, 1));
        let full: Vec<MsrRange> = other.chain([deny(msr::IA32_LSTAR, 1)]).collect();
        t.vm.set_msr_filter(ALLOW, &full).ioctl("KVM_X86_SET_MSR_FILTER")?;
        check_eq!("the last of 16 ranges counts", probe(&mut t.vcpu, msr::IA32_LSTAR)?, NEITHER);
        check_eq!(
            "the last of 16 ranges guards its own MSR only",
            probe(&mut t.vcpu, msr::IA32_STAR)?,
            BOTH
        );
        finish(&mut t.vcpu)
    }

    /// A new filter replaces the old one at once; one without ranges ends filtering, and it may not deny
    /// by default (api.rst 4.97).
    #[kvm_test(probes, moved)]
    fn a_new_filter_replaces_the_old_one(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_sync(PROBE)?;
        t.vm.set_msr_filter(ALLOW, &[deny(msr::IA32_STAR, 1)]).ioctl("KVM_X86_SET_MSR_FILTER")?;
        check_eq!("the first filter denies its MSR", probe(&mut t.vcpu, msr::IA32_STAR)?, NEITHER);
        t.vm.set_msr_filter(ALLOW, &[deny(msr::IA32_LSTAR, 1)]).ioctl("KVM_X86_SET_MSR_FILTER")?;
        check_eq!(
            "a new filter allows what only the old one denied",
            probe(&mut t.vcpu, msr::IA32_STAR)?,
            BOTH
        );
        check_eq!(
            "a new filter denies what it names",
            probe(&mut t.vcpu, msr::IA32_LSTAR)?,
            NEITHER
        );
        check_eq!(
            "a filter that denies everything is EINVAL",
            t.vm.set_msr_filter(DENY, &[]),
            Err(Errno::EINVAL)
        );
        check_eq!(
            "a refused filter changes nothing",
            probe(&mut t.vcpu, msr::IA32_LSTAR)?,
            NEITHER
        );
        t.vm.set_msr_filter(ALLOW, &[]).ioctl("KVM_X86_SET_MSR_FILTER")?;
        check_eq!("an empty filter allows every MSR", probe(&mut t.vcpu, msr::IA32_LSTAR)?, BOTH);
        finish(&mut t.vcpu)
    }

    /// A filter holds for all vCPUs, also those made later.
    #[kvm_test(probes, vcpus = 2)]
    fn every_vcpu_is_filtered(t: &mut OneVcpu) -> TestResult {
        let mut early = t.vm.add_vcpu(1, guest_fn!(probes))?;
        early.run_until_sync(PROBE)?;
        t.vcpu.run_until_sync(PROBE)?;
        t.vm.set_msr_filter(ALLOW, &[deny(msr::IA32_KERNEL_GS_BASE, 1)])
            .ioctl("KVM_X86_SET_MSR_FILTER")?;
        let mut late = t.vm.add_vcpu(2, guest_fn!(probes))?;
        late.run_until_sync(PROBE)?;
        for vcpu in [&mut t.vcpu, &mut early, &mut late] {
            let index = vcpu.index();
            check_eq!(
                "vCPU {index} is denied the filtered MSR",
                probe(vcpu, msr::IA32_KERNEL_GS_BASE)?,
                NEITHER
            );
            check_eq!("vCPU {index} is allowed the other MSRs", probe(vcpu, msr::IA32_STAR)?, BOTH);
            finish(vcpu)?;
        }
        Ok(())
    }

    /// The filter is for guests: KVM_GET_MSRS and KVM_SET_MSRS reach what it denies.
    #[kvm_test(probes)]
    fn userspace_is_not_filtered(t: &mut OneVcpu) -> TestResult {
        const VALUE: u64 = 0x1234_5678_9abc_def0;
        t.vm.set_msr_filter(ALLOW, &[deny(msr::IA32_STAR, 1)]).ioctl("KVM_X86_SET_MSR_FILTER")?;
        t.vcpu.run_until_sync(PROBE)?;
        check_eq!(
            "the guest is denied the filtered MSR",
            probe(&mut t.vcpu, msr::IA32_STAR)?,
            NEITHER
        );
        let entry =
            |data| bindings::kvm_msr_entry { index: msr::IA32_STAR, data, ..Default::default() };
        let msrs = |data| {
            bindings::Msrs::from_entries(&[entry(data)])
                .map_err(|e| Failure::Error(format!("{e:?}")))
        };
        let written = t.vcpu.fd().set_msrs(&msrs(VALUE)?).ioctl("KVM_SET_MSRS")?;
        check_eq!("KVM_SET_MSRS writes a denied MSR", written, 1);
        let mut read = msrs(0)?;
        let count = t.vcpu.fd().get_msrs(&mut read).ioctl("KVM_GET_MSRS")?;
        check_eq!("KVM_GET_MSRS reads a denied MSR", (count, read.as_slice()[0].data), (1, VALUE));
        finish(&mut t.vcpu)
    }

    /// With KVM_MSR_EXIT_REASON_FILTER enabled a denied access is userspace's to complete; KVM's own copy
    /// of the MSR stays (api.rst 4.97).
    #[kvm_test(leaves_denied_accesses_to_userspace, requires(cap::X86_USER_SPACE_MSR))]
    fn denied_accesses_exit_if_enabled(t: &mut OneVcpu) -> TestResult {
        const REASON: u32 = KVM_MSR_EXIT_REASON_FILTER;
        t.vm.enable_cap(KVM_CAP_X86_USER_SPACE_MSR, [REASON.into(), 0, 0, 0])
            .ioctl("KVM_ENABLE_CAP")?;
        t.vm.set_msr_filter(ALLOW, &[deny(msr::IA32_LSTAR, 1)]).ioctl("KVM_X86_SET_MSR_FILTER")?;
        for taken in [true, false] {
            let mut stop = t.vcpu.run_until(Exit::rdmsr(msr::IA32_LSTAR))?;
            check_eq!(
                "a denied read has the reason FILTER",
                stop.exit(),
                Exit::Rdmsr { index: msr::IA32_LSTAR, reason: REASON }
            );
            stop.complete_rdmsr(taken.then_some(ANSWER));
            let mut stop = t.vcpu.run_until(Exit::wrmsr(msr::IA32_LSTAR))?;
            let want = Exit::Wrmsr { index: msr::IA32_LSTAR, reason: REASON, data: ANSWER };
            check_eq!("a denied write has the reason FILTER and its data", stop.exit(), want);
            stop.complete_wrmsr(taken);
        }
        t.vcpu.run_until_done()?;
        let entry =
            bindings::kvm_msr_entry { index: msr::IA32_LSTAR, data: 1, ..Default::default() };
        let mut msrs =
            bindings::Msrs::from_entries(&[entry]).map_err(|e| Failure::Error(format!("{e:?}")))?;
        t.vcpu.fd().get_msrs(&mut msrs).ioctl("KVM_GET_MSRS")?;
        check_eq!("a denied write leaves KVM's own copy", msrs.as_slice()[0].data, 0);
        Ok(())
    }

    /// Filters never apply to x2APIC MSRs: neither ranges over them nor the default (api.rst 4.97). All
    /// else still exits.
    #[kvm_test(uses_x2apic, irqchip, requires(cap::X86_USER_SPACE_MSR, cap::IRQCHIP, cpu::X2APIC))]
    fn x2apic_msrs_cannot_be_filtered(t: &mut OneVcpu) -> TestResult {
        const REASON: u32 = KVM_MSR_EXIT_REASON_FILTER;
        t.vm.enable_cap(KVM_CAP_X86_USER_SPACE_MSR, [REASON.into(), 0, 0, 0])
            .ioctl("KVM_ENABLE_CAP")?;
        let nmsrs = X2APIC_MSRS.end - X2APIC_MSRS.start;
        let ranges = [deny(X2APIC_MSRS.start, nmsrs), range(msr::IA32_APIC_BASE, 1, &[1])];
        t.vm.set_msr_filter(DENY, &ranges).ioctl("KVM_X86_SET_MSR_FILTER")?;
        for index in NEIGHBOURS {
            let mut stop = t.vcpu.run_until(Exit::rdmsr(index))?;
            check_eq!(
                "the default denies MSR {index:#x}",
                stop.exit(),
                Exit::Rdmsr { index, reason: REASON }
            );
            stop.complete_rdmsr(Some(ANSWER));
        }
        t.vcpu.run_until_done()
    }

    /// Instructions that read an MSR's value by another way are not filtered.
    #[kvm_test(reads_the_tsc)]
    fn rdtsc_is_not_filtered(t: &mut OneVcpu) -> TestResult {
        t.vm.set_msr_filter(ALLOW, &[deny(msr::IA32_TIME_STAMP_COUNTER, 1)])
            .ioctl("KVM_X86_SET_MSR_FILTER")?;
        t.vcpu.run_until_done()
    }

    /// Filters that KVM must refuse, with their errno (api.rst 4.97).
    #[kvm_test]
    fn malformed_filters_are_refused(t: &mut OneVm) -> TestResult {
        let good = deny(msr::IA32_STAR, 1);
        let with = |flags| MsrRange { flags, ..good.clone() };
        check_eq!(
            "a well-formed filter is accepted",
            t.vm.set_msr_filter(ALLOW, std::slice::from_ref(&good)),
            Ok(())
        );
        check_eq!(
            "the longest range is accepted",
            t.vm.set_msr_filter(ALLOW, &[deny(0, MAX_NMSRS)]),
            Ok(())
        );
        check_eq!(
            "a range of one MSR more is EINVAL",
            t.vm.set_msr_filter(ALLOW, &[deny(0, MAX_NMSRS + 1)]),
            Err(Errno::EINVAL)
        );
        check_eq!(
            "a range of 2^32 - 1 MSRs is EINVAL",
            t.vm.set_msr_filter(ALLOW, &[MsrRange { nmsrs: u32::MAX, ..good.clone() }]),
            Err(Errno::EINVAL)
        );
        check_eq!(
            "a range without a direction is EINVAL",
            t.vm.set_msr_filter(ALLOW, &[with(0)]),
            Err(Errno::EINVAL)
        );
        check_eq!(
            "a range with an unknown direction is EINVAL",
            t.vm.set_msr_filter(ALLOW, &[with(READ | 1 << 2)]),
            Err(Errno::EINVAL)
        );
        check_eq!(
            "an unknown flag of the filter is EINVAL",
            t.vm.set_msr_filter(1 << 1, std::slice::from_ref(&good)),
            Err(Errno::EINVAL)
        );
        check_eq!(
            "the highest flag of the filter is EINVAL",
            t.vm.set_msr_filter(1 << 31, std::slice::from_ref(&good)),
            Err(Errno::EINVAL)
        );
        check_eq!(
            "a bad range behind a good one is EINVAL",
            t.vm.set_msr_filter(ALLOW, &[good.clone(), with(4)]),
            Err(Errno::EINVAL)
        );
        let unreadable = t.vm.set_msr_filter_at(ALLOW, std::slice::from_ref(&good), &[8]);
        check_eq!("an unreadable bitmap is EFAULT", unreadable, Err(Errno::EFAULT));
        let short = GuardedBuffer::new(&[0; 8]);
        let too_short = t.vm.set_msr_filter_at(
            ALLOW,
            &[MsrRange { nmsrs: 65, ..good.clone() }],
            &[short.address()],
        );
        check_eq!("a bitmap that ends too early is EFAULT", too_short, Err(Errno::EFAULT));
        let exact =
            t.vm.set_msr_filter_at(ALLOW, &[MsrRange { nmsrs: 64, ..good }], &[short.address()]);
        check_eq!("a bitmap of 8 bytes is enough for 64 MSRs", exact, Ok(()));
        let nowhere = raw_ioctl_value(&t.vm, request::x86::KVM_X86_SET_MSR_FILTER, 8);
        check_eq!("an unreadable filter is EFAULT", nowhere, Err(Errno::EFAULT));
        Ok(())
    }
}
