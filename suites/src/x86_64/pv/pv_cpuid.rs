//! KVM_CAP_ENFORCE_PV_FEATURE_CPUID: paravirtual MSRs and hypercalls that the guest's CPUID does not
//! offer are not there (api.rst 8.27; x86/{cpuid,msr,hypercalls}.rst).
use crate::prelude::*;

use kvm_pv::error::KVM_ENOSYS;
use kvm_pv::{
    AsyncPf, Features, KVM_HC_KICK_CPU, KVM_HC_MAP_GPA_RANGE, KVM_HC_SCHED_YIELD, KVM_HC_SEND_IPI,
    KVM_HC_VAPIC_POLL_IRQ, MSR_KVM_ASYNC_PF_EN,
};

/// Paravirtual MSRs: name, index, and the feature that offers it (x86/msr.rst).
const MSRS: [(&str, u32, Features); 10] = [
    ("MSR_KVM_WALL_CLOCK", kvm_pv::MSR_KVM_WALL_CLOCK, Features::CLOCKSOURCE),
    ("MSR_KVM_SYSTEM_TIME", kvm_pv::MSR_KVM_SYSTEM_TIME, Features::CLOCKSOURCE),
    ("MSR_KVM_WALL_CLOCK_NEW", kvm_pv::MSR_KVM_WALL_CLOCK_NEW, Features::CLOCKSOURCE2),
    ("MSR_KVM_SYSTEM_TIME_NEW", kvm_pv::MSR_KVM_SYSTEM_TIME_NEW, Features::CLOCKSOURCE2),
    ("MSR_KVM_ASYNC_PF_EN", kvm_pv::MSR_KVM_ASYNC_PF_EN, Features::ASYNC_PF),
    ("MSR_KVM_STEAL_TIME", kvm_pv::MSR_KVM_STEAL_TIME, Features::STEAL_TIME),
    ("MSR_KVM_PV_EOI_EN", kvm_pv::MSR_KVM_PV_EOI_EN, Features::PV_EOI),
    ("MSR_KVM_POLL_CONTROL", kvm_pv::MSR_KVM_POLL_CONTROL, Features::POLL_CONTROL),
    ("MSR_KVM_ASYNC_PF_INT", kvm_pv::MSR_KVM_ASYNC_PF_INT, Features::ASYNC_PF_INT),
    ("MSR_KVM_ASYNC_PF_ACK", kvm_pv::MSR_KVM_ASYNC_PF_ACK, Features::ASYNC_PF_INT),
];

const UNKNOWN: u64 = 0xdead;
const IPI_VECTOR: u8 = 0x55;

const GP: Trap = Trap { vector: vector::GP, error: 0, addr: 0 };

/// #GP as a value: CR2 says nothing about it.
fn trap<T>(result: Result<T, Trap>) -> Option<Trap> {
    result.err().map(|trap| Trap { addr: 0, ..trap })
}

/// Argument 0: the features whose MSRs must be there.
#[guest]
fn touches_every_msr(g: &mut Guest) {
    let offered = Features::from_bits_retain(g.arg(0) as u32);
    // PV_EOI and asynchronous page faults act on an APIC that is on.
    Apic::enable();
    for (name, index, feature) in MSRS {
        let read = trap(rdmsr_safe(index));
        let write = trap(wrmsr_safe(index, 0));
        if offered.contains(feature) {
            check_eq!("RDMSR of {name} succeeds with its feature", read, None);
            check_eq!("WRMSR of {name} succeeds with its feature", write, None);
        } else {
            check_eq!("RDMSR of {name} is #GP(0) without its feature", read, Some(GP));
            check_eq!("WRMSR of {name} is #GP(0) without its feature", write, Some(GP));
        }
    }
}

#[guest]
fn enables_async_page_faults(g: &mut Guest) {
    const RESERVED: u64 = 3 << 4;
    let offered = Features::from_bits_retain(g.arg(0) as u32);
    Apic::enable();
    let write = |bits| trap(wrmsr_safe(MSR_KVM_ASYNC_PF_EN, layout::SCRATCH | bits));
    for bit in [1 << 4, 1 << 5, RESERVED] {
        check_eq!("reserved bits {bit:#x} of ASYNC_PF_EN are #GP", write(bit), Some(GP));
    }
    let want = |feature| if offered.contains(feature) { None } else { Some(GP) };
    check_eq!(
        "delivery as #PF VM exit needs its feature",
        write(AsyncPf::DELIVERY_AS_PF_VMEXIT.bits()),
        want(Features::ASYNC_PF_VMEXIT)
    );
    check_eq!(
        "delivery as interrupt needs its feature",
        write(AsyncPf::DELIVERY_AS_INT.bits()),
        want(Features::ASYNC_PF_INT)
    );
    if offered.contains(Features::ASYNC_PF_INT) {
        let on = bits!(AsyncPf::{ENABLED | DELIVERY_AS_INT});
        check_eq!("asynchronous page faults can be enabled", write(on), None);
        let kept = rdmsr_safe(MSR_KVM_ASYNC_PF_EN);
        check_eq!("ASYNC_PF_EN reads as written", kept, Ok(layout::SCRATCH | on));
    }
    check_eq!("asynchronous page faults can be disabled", write(0), None);
}

/// Argument 0: the features whose hypercalls must be there.
#[guest]
fn makes_every_hypercall(g: &mut Guest) {
    let offered = Features::from_bits_retain(g.arg(0) as u32);
    let apic = Apic::enable();
    let hypercall = Hypercall::of_this_cpu();
    let mut taken = 0;
    with_handler(
        IPI_VECTOR,
        |_| {
            taken += 1;
            apic.eoi();
        },
        || {
            let own_id = apic.id().into();
            // SEND_IPI: bitmap of APIC IDs from the third argument on, and the ICR's low half.
            let calls = [
                ("KVM_HC_KICK_CPU", KVM_HC_KICK_CPU, Features::PV_UNHALT, [0, own_id, 0, 0], 0),
                (
                    "KVM_HC_SEND_IPI",
                    KVM_HC_SEND_IPI,
                    Features::PV_SEND_IPI,
                    [1, 0, own_id, IPI_VECTOR.into()],
                    1,
                ),
                (
                    "KVM_HC_SCHED_YIELD",
                    KVM_HC_SCHED_YIELD,
                    Features::PV_SCHED_YIELD,
                    [own_id, 0, 0, 0],
                    0,
                ),
            ];
            for (name, nr, feature, args, result) in calls {
                let got = hypercall.call(nr, args);
                if offered.contains(feature) {
                    check_eq!("hypercall {name} succeeds with its feature", got, Ok(result));
                } else {
                    check_eq!(
                        "hypercall {name} is -KVM_ENOSYS without its feature",
                        got,
                        Ok(KVM_ENOSYS)
                    );
                }
            }
            sti();
            cli();
            for nr in [KVM_HC_MAP_GPA_RANGE, UNKNOWN] {
                let got = hypercall.call(nr, [0; 4]);
                check_eq!(
                    "hypercall {nr:#x}, which KVM has not, is -KVM_ENOSYS",
                    got,
                    Ok(KVM_ENOSYS)
                );
            }
            let got = hypercall.call(KVM_HC_VAPIC_POLL_IRQ, [0; 4]);
            check_eq!("KVM_HC_VAPIC_POLL_IRQ needs no feature", got, Ok(0));
        },
    );
    let sent = u64::from(offered.contains(Features::PV_SEND_IPI));
    check_eq!("KVM_HC_SEND_IPI interrupts exactly with its feature", taken, sent);
}

#[host]
mod host {
    use super::*;
    use bindings::{
        KVM_CAP_ENFORCE_PV_FEATURE_CPUID, KVM_CAP_X86_DISABLE_EXITS, KVM_X86_DISABLE_EXITS_HLT,
        kvm_cpuid_entry2,
    };
    use kvm_pv::leaf;

    kvm_tests! { irqchip }

    /// Where KVM's leaves may be too (x86/cpuid.rst): at the next interface's.
    const HIGHER: u32 = leaf::SIGNATURE + cpuid::HYPERVISOR_STEP;
    /// A leaf that is nobody's.
    const ELSEWHERE: u32 = leaf::SIGNATURE + 0xf0;
    const ALL_FEATURES: Features = Features::CLOCKSOURCE
        .union(Features::CLOCKSOURCE2)
        .union(Features::ASYNC_PF)
        .union(Features::STEAL_TIME)
        .union(Features::PV_EOI)
        .union(Features::ASYNC_PF_VMEXIT)
        .union(Features::POLL_CONTROL)
        .union(Features::ASYNC_PF_INT);
    /// `_IOW(KVMIO, 0xa3, struct kvm_enable_cap)`.
    const KVM_ENABLE_CAP: u64 = 0x4068_aea3;

    fn entry(vm: &mut Vm, function: u32) -> TestResult<&mut kvm_cpuid_entry2> {
        let found = vm.cpuid_mut().as_mut_slice().iter_mut().find(|e| e.function == function);
        found.ok_or_else(|| Failure::Skip(format!("CPUID leaf {function:#x} of KVM")))
    }

    /// Sets the features that vCPUs made from now on offer; skips if KVM has not all of them.
    fn offer(vm: &mut Vm, features: Features) -> TestResult {
        let supported = entry(vm, leaf::FEATURES)?;
        require!(
            Features::from_bits_retain(supported.eax).contains(features),
            "KVM_CPUID_FEATURES {features:#x} in KVM_GET_SUPPORTED_CPUID"
        );
        supported.eax = features.bits();
        Ok(())
    }

    fn enforce(vcpu: &Vcpu) -> TestResult {
        vcpu.enable_cap(KVM_CAP_ENFORCE_PV_FEATURE_CPUID, [1, 0, 0, 0]).ioctl("KVM_ENABLE_CAP")
    }

    /// What KVM_GET_CPUID2 gives for the features that vCPU offers below `signature`.
    fn offered(vcpu: &Vcpu, signature: u32) -> TestResult<Features> {
        let cpuid = vcpu.fd().get_cpuid2(256).ioctl("KVM_GET_CPUID2")?;
        let found = cpuid
            .as_slice()
            .iter()
            .find(|e| e.function == signature + (leaf::FEATURES - leaf::SIGNATURE));
        Ok(found.map_or(Features::empty(), |e| Features::from_bits_retain(e.eax)))
    }

    /// Runs [`touches_every_msr`] on a vCPU that enforces `features` and nothing else.
    fn only(t: &mut OneVm, features: Features) -> TestResult {
        offer(&mut t.vm, features)?;
        let mut vcpu = t.vm.add_vcpu(0, guest_fn!(touches_every_msr))?;
        vcpu.set_args(&[features.bits().into()]);
        enforce(&vcpu)?;
        vcpu.run_until_done()
    }

    /// Enforced, each feature bit offers its own MSRs and no other (api.rst 8.27).
    #[kvm_test(requires(cap::ENFORCE_PV_FEATURE_CPUID, host::UNKNOWN_MSRS_FAULT), params = [
    none: Features::empty(), all: ALL_FEATURES, clocksource: Features::CLOCKSOURCE, clocksource2: Features::CLOCKSOURCE2,
    async_pf: Features::ASYNC_PF, steal_time: Features::STEAL_TIME, pv_eoi: Features::PV_EOI, poll_control: Features::POLL_CONTROL,
    async_pf_int: Features::ASYNC_PF_INT, pv_unhalt: Features::PV_UNHALT,
])]
    fn feature_offers_its_msrs_only(t: &mut OneVm, features: Features) -> TestResult {
        only(t, features)
    }

    /// Without the capability a guest may use every feature, whatever its CPUID says (api.rst 8.27).
    #[kvm_test(requires(cap::ENFORCE_PV_FEATURE_CPUID, host::UNKNOWN_MSRS_FAULT))]
    fn not_enforced_every_msr_is_there(t: &mut OneVm) -> TestResult {
        offer(&mut t.vm, ALL_FEATURES)?;
        offer(&mut t.vm, Features::empty())?;
        let mut vcpu = t.vm.add_vcpu(0, guest_fn!(touches_every_msr))?;
        vcpu.set_args(&[ALL_FEATURES.bits().into()]);
        check_eq!(
            "the guest's CPUID offers nothing",
            offered(&vcpu, leaf::SIGNATURE)?,
            Features::empty()
        );
        vcpu.run_until_done()
    }

    /// How a vCPU comes to enforce its last CPUID.
    #[derive(Clone, Copy)]
    enum Step {
        Enforce,
        Offer(Features),
    }

    /// It makes no difference whether the capability or KVM_SET_CPUID2 comes first, or how often: the
    /// last CPUID counts.
    #[kvm_test(requires(cap::ENFORCE_PV_FEATURE_CPUID, host::UNKNOWN_MSRS_FAULT), params = [
    before_cpuid: &[Step::Enforce, Step::Offer(Features::POLL_CONTROL)],
    after_cpuid: &[Step::Offer(Features::POLL_CONTROL), Step::Enforce],
    twice: &[Step::Enforce, Step::Offer(Features::POLL_CONTROL), Step::Enforce],
    cpuid_grows: &[Step::Offer(Features::empty()), Step::Enforce, Step::Offer(Features::POLL_CONTROL)],
    cpuid_shrinks: &[Step::Offer(Features::STEAL_TIME.union(Features::POLL_CONTROL)), Step::Enforce, Step::Offer(Features::POLL_CONTROL)],
])]
    fn last_cpuid_counts(t: &mut OneVm, steps: &[Step]) -> TestResult {
        offer(&mut t.vm, Features::STEAL_TIME | Features::POLL_CONTROL)?;
        let mut vcpu = t.vm.create_vcpu(0)?;
        for step in steps {
            match *step {
                Step::Enforce => enforce(&vcpu)?,
                Step::Offer(features) => {
                    entry(&mut t.vm, leaf::FEATURES)?.eax = features.bits();
                    vcpu.fd().set_cpuid2(t.vm.cpuid_mut()).ioctl("KVM_SET_CPUID2")?;
                }
            }
        }
        vcpu.set_args(&[Features::POLL_CONTROL.bits().into()]);
        vcpu.start_at(guest_fn!(touches_every_msr))?;
        check_eq!(
            "KVM_GET_CPUID2 returns the CPUID that was set",
            offered(&vcpu, leaf::SIGNATURE)?,
            Features::POLL_CONTROL
        );
        vcpu.run_until_done()
    }

    /// The features are those of the leaf behind KVM's signature, wherever that is (x86/cpuid.rst):
    /// without either, nothing is offered.
    #[kvm_test(requires(cap::ENFORCE_PV_FEATURE_CPUID, host::UNKNOWN_MSRS_FAULT), params = [
    no_leaf: (leaf::SIGNATURE, ELSEWHERE, Features::empty()),
    no_signature: (ELSEWHERE, leaf::FEATURES, Features::empty()),
    higher: (HIGHER, HIGHER + 1, ALL_FEATURES),
])]
    fn features_are_found_by_signature(t: &mut OneVm, leaves: (u32, u32, Features)) -> TestResult {
        let (signature, features, expected) = leaves;
        offer(&mut t.vm, ALL_FEATURES)?;
        entry(&mut t.vm, leaf::FEATURES)?.function = features;
        let base = entry(&mut t.vm, leaf::SIGNATURE)?;
        (base.function, base.eax) = (signature, features);
        let mut vcpu = t.vm.add_vcpu(0, guest_fn!(touches_every_msr))?;
        vcpu.set_args(&[expected.bits().into()]);
        enforce(&vcpu)?;
        vcpu.run_until_done()
    }

    /// Enforced, the ways of delivery that MSR_KVM_ASYNC_PF_EN takes are features of their own
    /// (x86/msr.rst).
    #[kvm_test(requires(cap::ENFORCE_PV_FEATURE_CPUID, cap::ASYNC_PF_INT), params = [
    neither: Features::ASYNC_PF,
    interrupt: Features::ASYNC_PF.union(Features::ASYNC_PF_INT),
    vmexit: Features::ASYNC_PF.union(Features::ASYNC_PF_VMEXIT),
    both: Features::ASYNC_PF.union(Features::ASYNC_PF_INT).union(Features::ASYNC_PF_VMEXIT),
])]
    fn async_page_fault_delivery_is_enforced(t: &mut OneVm, features: Features) -> TestResult {
        offer(&mut t.vm, features)?;
        let mut vcpu = t.vm.add_vcpu(0, guest_fn!(enables_async_page_faults))?;
        vcpu.set_args(&[features.bits().into()]);
        enforce(&vcpu)?;
        vcpu.run_until_done()
    }

    /// Enforced, hypercalls of features that CPUID does not offer return -KVM_ENOSYS (api.rst 8.27).
    #[kvm_test(requires(cap::ENFORCE_PV_FEATURE_CPUID))]
    fn feature_offers_its_hypercalls_only(t: &mut HostOnly) -> TestResult {
        let all = Features::PV_UNHALT | Features::PV_SEND_IPI | Features::PV_SCHED_YIELD;
        for features in [
            Features::empty(),
            Features::PV_UNHALT,
            Features::PV_SEND_IPI,
            Features::PV_SCHED_YIELD,
            all,
        ] {
            let mut vm = Vm::new(&t.setup.config)?;
            offer(&mut vm, features)?;
            let mut vcpu = vm.add_vcpu(0, guest_fn!(makes_every_hypercall))?;
            vcpu.set_args(&[features.bits().into()]);
            enforce(&vcpu)?;
            vcpu.run_until_done()?;
        }
        Ok(())
    }

    /// Without the capability every hypercall is there, whatever CPUID says.
    #[kvm_test(requires(cap::ENFORCE_PV_FEATURE_CPUID))]
    fn not_enforced_every_hypercall_is_there(t: &mut OneVm) -> TestResult {
        let all = Features::PV_UNHALT | Features::PV_SEND_IPI | Features::PV_SCHED_YIELD;
        offer(&mut t.vm, all)?;
        offer(&mut t.vm, Features::empty())?;
        let mut vcpu = t.vm.add_vcpu(0, guest_fn!(makes_every_hypercall))?;
        vcpu.set_args(&[all.bits().into()]);
        vcpu.run_until_done()
    }

    /// KVM_ENABLE_CAP refuses flags (api.rst 4.37).
    #[kvm_test(no_irqchip, requires(cap::ENFORCE_PV_FEATURE_CPUID))]
    fn enabling_takes_no_flags(t: &mut OneVm) -> TestResult {
        let vcpu = t.vm.create_vcpu(0)?;
        let mut request = [0; 104];
        request[0..4].copy_from_slice(&KVM_CAP_ENFORCE_PV_FEATURE_CPUID.to_ne_bytes());
        request[8] = 1;
        for bit in [0, 31] {
            request[4..8].copy_from_slice(&(1_u32 << bit).to_ne_bytes());
            let refused = vcpu.raw(KVM_ENABLE_CAP, &mut request);
            check_eq!("flag bit {bit} of KVM_ENABLE_CAP is EINVAL", refused, Err(Errno::EINVAL));
        }
        request[4..8].fill(0);
        check_eq!(
            "KVM_ENABLE_CAP without flags is accepted",
            vcpu.raw(KVM_ENABLE_CAP, &mut request),
            Ok(0)
        );
        check_eq!(
            "KVM_ENABLE_CAP of an enabled capability is accepted",
            vcpu.raw(KVM_ENABLE_CAP, &mut request),
            Ok(0)
        );
        Ok(())
    }

    /// Lets the guest halt without an exit; skips where KVM cannot.
    fn disable_hlt_exits(vm: &Vm) -> TestResult {
        let can = vm.check_extension(KVM_CAP_X86_DISABLE_EXITS) as u32;
        require!(can & KVM_X86_DISABLE_EXITS_HLT != 0, "KVM_X86_DISABLE_EXITS_HLT");
        let args = [KVM_X86_DISABLE_EXITS_HLT.into(), 0, 0, 0];
        vm.enable_cap(KVM_CAP_X86_DISABLE_EXITS, args).ioctl("KVM_ENABLE_CAP(disable exits)")
    }

    /// A vCPU whose HLT does not exit cannot be kicked: KVM takes PV_UNHALT out of its CPUID (api.rst
    /// 7.13), and finds the leaf by its signature.
    #[kvm_test(requires(cap::X86_DISABLE_EXITS))]
    fn pv_unhalt_is_cleared_without_hlt_exits(t: &mut OneVm) -> TestResult {
        offer(&mut t.vm, Features::PV_UNHALT | Features::CLOCKSOURCE2)?;
        disable_hlt_exits(&t.vm)?;
        let vcpu = t.vm.create_vcpu(0)?;
        let seen = offered(&vcpu, leaf::SIGNATURE)?;
        check_eq!("PV_UNHALT is cleared without HLT exits", seen, Features::CLOCKSOURCE2);
        entry(&mut t.vm, leaf::SIGNATURE)?.ebx ^= 1;
        vcpu.fd().set_cpuid2(t.vm.cpuid_mut()).ioctl("KVM_SET_CPUID2(no signature)")?;
        let seen = offered(&vcpu, leaf::SIGNATURE)?;
        check_eq!(
            "a leaf without KVM's signature is left alone",
            seen,
            Features::PV_UNHALT | Features::CLOCKSOURCE2
        );
        entry(&mut t.vm, leaf::SIGNATURE)?.ebx ^= 1;
        vcpu.fd().set_cpuid2(t.vm.cpuid_mut()).ioctl("KVM_SET_CPUID2(signature)")?;
        let seen = offered(&vcpu, leaf::SIGNATURE)?;
        check_eq!(
            "PV_UNHALT is cleared again with the signature back",
            seen,
            Features::CLOCKSOURCE2
        );
        for step in [leaf::SIGNATURE, leaf::FEATURES] {
            entry(&mut t.vm, step)?.function += cpuid::HYPERVISOR_STEP;
        }
        vcpu.fd().set_cpuid2(t.vm.cpuid_mut()).ioctl("KVM_SET_CPUID2(higher)")?;
        let seen = offered(&vcpu, HIGHER)?;
        check_eq!("PV_UNHALT is cleared in a leaf at another base", seen, Features::CLOCKSOURCE2);
        Ok(())
    }

    /// So it is when userspace sets the same CPUID again, with PV_UNHALT in it.
    #[kvm_test(requires(cap::X86_DISABLE_EXITS))]
    fn pv_unhalt_is_cleared_each_time(t: &mut OneVm) -> TestResult {
        offer(&mut t.vm, Features::PV_UNHALT | Features::CLOCKSOURCE2)?;
        disable_hlt_exits(&t.vm)?;
        let vcpu = t.vm.create_vcpu(0)?;
        for time in ["second", "third"] {
            vcpu.fd().set_cpuid2(t.vm.cpuid_mut()).ioctl("KVM_SET_CPUID2(again)")?;
            let seen = offered(&vcpu, leaf::SIGNATURE)?;
            check_eq!("PV_UNHALT is cleared the {time} time", seen, Features::CLOCKSOURCE2);
        }
        Ok(())
    }

    /// With HLT exits PV_UNHALT stays, and nothing else is taken out of the leaf.
    #[kvm_test]
    fn pv_unhalt_stays_with_hlt_exits(t: &mut OneVm) -> TestResult {
        offer(&mut t.vm, Features::PV_UNHALT | Features::CLOCKSOURCE2)?;
        let vcpu = t.vm.create_vcpu(0)?;
        let seen = offered(&vcpu, leaf::SIGNATURE)?;
        check_eq!(
            "PV_UNHALT stays with HLT exits",
            seen,
            Features::PV_UNHALT | Features::CLOCKSOURCE2
        );
        Ok(())
    }

    /// Exits can be disabled before the first vCPU only, and only those that exist (api.rst 7.13).
    #[kvm_test(no_irqchip, requires(cap::X86_DISABLE_EXITS))]
    fn exits_are_disabled_before_the_first_vcpu(t: &mut OneVm) -> TestResult {
        let disable = |vm: &Vm, exits| vm.enable_cap(KVM_CAP_X86_DISABLE_EXITS, [exits, 0, 0, 0]);
        for bit in [8, 31, 63] {
            let refused = disable(&t.vm, 1 << bit);
            check_eq!("unknown exit bit {bit} is EINVAL", refused, Err(Errno::EINVAL));
        }
        disable_hlt_exits(&t.vm)?;
        let hlt = KVM_X86_DISABLE_EXITS_HLT.into();
        check_eq!("disabling HLT exits twice succeeds", disable(&t.vm, hlt), Ok(()));
        let _vcpu = t.vm.create_vcpu(0)?;
        check_eq!(
            "disabling exits behind a vCPU is EINVAL",
            disable(&t.vm, hlt),
            Err(Errno::EINVAL)
        );
        Ok(())
    }
}
