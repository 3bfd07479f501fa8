//! KVM_CAP_ENFORCE_PV_FEATURE_CPUID: paravirtual MSRs and hypercalls that the guest's CPUID does not
//! offer are not there (api.rst 8.27; x86/{cpuid,msr,hypercalls}.rst).
use crate::prelude::*;

/// Bits of KVM_CPUID_FEATURES.EAX (x86/cpuid.rst).
const CLOCKSOURCE: u32 = 1 << 0;
const CLOCKSOURCE2: u32 = 1 << 3;
const ASYNC_PF: u32 = 1 << 4;
const STEAL_TIME: u32 = 1 << 5;
const PV_EOI: u32 = 1 << 6;
const PV_UNHALT: u32 = 1 << 7;
const ASYNC_PF_VMEXIT: u32 = 1 << 10;
const PV_SEND_IPI: u32 = 1 << 11;
const POLL_CONTROL: u32 = 1 << 12;
const PV_SCHED_YIELD: u32 = 1 << 13;
const ASYNC_PF_INT: u32 = 1 << 14;

/// Paravirtual MSRs: name, index, and the feature that offers it (x86/msr.rst).
const MSRS: [(&str, u32, u32); 10] = [
    ("MSR_KVM_WALL_CLOCK", 0x11, CLOCKSOURCE),
    ("MSR_KVM_SYSTEM_TIME", 0x12, CLOCKSOURCE),
    ("MSR_KVM_WALL_CLOCK_NEW", 0x4b56_4d00, CLOCKSOURCE2),
    ("MSR_KVM_SYSTEM_TIME_NEW", 0x4b56_4d01, CLOCKSOURCE2),
    ("MSR_KVM_ASYNC_PF_EN", MSR_KVM_ASYNC_PF_EN, ASYNC_PF),
    ("MSR_KVM_STEAL_TIME", 0x4b56_4d03, STEAL_TIME),
    ("MSR_KVM_PV_EOI_EN", 0x4b56_4d04, PV_EOI),
    ("MSR_KVM_POLL_CONTROL", 0x4b56_4d05, POLL_CONTROL),
    ("MSR_KVM_ASYNC_PF_INT", 0x4b56_4d06, ASYNC_PF_INT),
    ("MSR_KVM_ASYNC_PF_ACK", 0x4b56_4d07, ASYNC_PF_INT),
];
const MSR_KVM_ASYNC_PF_EN: u32 = 0x4b56_4d02;

/// Hypercalls (x86/hypercalls.rst).
const VAPIC_POLL_IRQ: u64 = 1;
const KICK_CPU: u64 = 5;
const SEND_IPI: u64 = 10;
const SCHED_YIELD: u64 = 11;
const MAP_GPA_RANGE: u64 = 12;
const UNKNOWN: u64 = 0xdead;
/// `-KVM_ENOSYS` (include/uapi/linux/kvm_para.h).
const ENOSYS: u64 = -1000_i64 as u64;
const IPI_VECTOR: u8 = 0x55;

const GP: Trap = Trap { vector: vector::GP, error: 0, addr: 0 };

/// #GP as a value: CR2 says nothing about it.
fn trap<T>(result: Result<T, Trap>) -> Option<Trap> {
    result.err().map(|trap| Trap { addr: 0, ..trap })
}

/// Argument 0: the features whose MSRs must be there.
#[guest]
fn touches_every_msr(g: &mut Guest) {
    let offered = g.arg(0) as u32;
    // PV_EOI and asynchronous page faults act on an APIC that is on.
    Apic::enable();
    for (name, index, feature) in MSRS {
        let read = trap(rdmsr_safe(index));
        let write = trap(wrmsr_safe(index, 0));
        if offered & feature != 0 {
            check_eq!("RDMSR of {name} works with its feature", read, None);
            check_eq!("WRMSR of {name} works with its feature", write, None);
        } else {
            check_eq!("RDMSR of {name} is #GP(0) without its feature", read, Some(GP));
            check_eq!("WRMSR of {name} is #GP(0) without its feature", write, Some(GP));
        }
    }
}

#[host]
use bindings::{
    KVM_CAP_ENFORCE_PV_FEATURE_CPUID, KVM_CAP_X86_DISABLE_EXITS, KVM_X86_DISABLE_EXITS_HLT,
    kvm_cpuid_entry2,
};

/// Where KVM's leaves are by default, and the first of the other places (x86/cpuid.rst).
#[host]
const SIGNATURE: u32 = 0x4000_0000;
#[host]
const HIGHER_SIGNATURE: u32 = 0x4000_0100;
/// Of KVM_CPUID_FEATURES, behind the signature's leaf.
#[host]
const FEATURES: u32 = 1;
#[host]
const ALL_FEATURES: u32 = CLOCKSOURCE
    | CLOCKSOURCE2
    | ASYNC_PF
    | STEAL_TIME
    | PV_EOI
    | ASYNC_PF_VMEXIT
    | POLL_CONTROL
    | ASYNC_PF_INT;
/// `_IOW(KVMIO, 0xa3, struct kvm_enable_cap)`.
#[host]
const KVM_ENABLE_CAP: u64 = 0x4068_aea3;

#[host]
fn leaf(vm: &mut Vm, function: u32) -> TestResult<&mut kvm_cpuid_entry2> {
    let found = vm.cpuid_mut().as_mut_slice().iter_mut().find(|e| e.function == function);
    found.ok_or_else(|| Failure::Skip(format!("CPUID leaf {function:#x} of KVM")))
}

/// Sets the features that vCPUs made from now on offer; skips if KVM has not all of them.
#[host]
fn offer(vm: &mut Vm, features: u32) -> TestResult {
    let supported = leaf(vm, SIGNATURE | FEATURES)?;
    require!(
        supported.eax & features == features,
        "KVM_CPUID_FEATURES {features:#x} in KVM_GET_SUPPORTED_CPUID"
    );
    supported.eax = features;
    Ok(())
}

#[host]
fn enforce(vcpu: &Vcpu) -> TestResult {
    vcpu.enable_cap(KVM_CAP_ENFORCE_PV_FEATURE_CPUID, [1, 0, 0, 0]).ioctl("KVM_ENABLE_CAP")
}

/// What KVM_GET_CPUID2 gives for the features that vCPU offers below `signature`.
#[host]
fn offered(vcpu: &Vcpu, signature: u32) -> TestResult<u32> {
    let cpuid = vcpu.fd().get_cpuid2(256).ioctl("KVM_GET_CPUID2")?;
    let found = cpuid.as_slice().iter().find(|e| e.function == signature | FEATURES);
    Ok(found.map_or(0, |e| e.eax))
}

/// Runs [`touches_every_msr`] on a vCPU that enforces `features` and nothing else.
#[host]
fn only(t: &mut OneVm, features: u32) -> TestResult {
    offer(&mut t.vm, features)?;
    let mut vcpu = t.vm.add_vcpu(0, guest_fn!(touches_every_msr))?;
    vcpu.set_args(&[features.into()]);
    enforce(&vcpu)?;
    vcpu.run_until_done()
}

/// Enforced, each feature bit offers its own MSRs and no other (api.rst 8.27).
#[kvm_test(requires(cap::ENFORCE_PV_FEATURE_CPUID), irqchip, params = [
    none: 0, all: ALL_FEATURES, clocksource: CLOCKSOURCE, clocksource2: CLOCKSOURCE2,
    async_pf: ASYNC_PF, steal_time: STEAL_TIME, pv_eoi: PV_EOI, poll_control: POLL_CONTROL,
    async_pf_int: ASYNC_PF_INT, pv_unhalt: PV_UNHALT,
])]
fn feature_offers_its_msrs_only(t: &mut OneVm, features: u32) -> TestResult {
    only(t, features)
}

/// Without the capability a guest may use every feature, whatever its CPUID says (api.rst 8.27).
#[kvm_test(requires(cap::ENFORCE_PV_FEATURE_CPUID), irqchip)]
fn not_enforced_every_msr_is_there(t: &mut OneVm) -> TestResult {
    offer(&mut t.vm, ALL_FEATURES)?;
    offer(&mut t.vm, 0)?;
    let mut vcpu = t.vm.add_vcpu(0, guest_fn!(touches_every_msr))?;
    vcpu.set_args(&[ALL_FEATURES.into()]);
    check_eq!("the guest's CPUID offers nothing", offered(&vcpu, SIGNATURE)?, 0);
    vcpu.run_until_done()
}

/// How a vCPU comes to enforce its last CPUID.
#[host]
#[derive(Clone, Copy)]
enum Step {
    Enforce,
    Offer(u32),
}

/// It makes no difference whether the capability or KVM_SET_CPUID2 comes first, or how often: the
/// last CPUID counts.
#[kvm_test(requires(cap::ENFORCE_PV_FEATURE_CPUID), irqchip, params = [
    before_cpuid: &[Step::Enforce, Step::Offer(POLL_CONTROL)],
    after_cpuid: &[Step::Offer(POLL_CONTROL), Step::Enforce],
    twice: &[Step::Enforce, Step::Offer(POLL_CONTROL), Step::Enforce],
    cpuid_grows: &[Step::Offer(0), Step::Enforce, Step::Offer(POLL_CONTROL)],
    cpuid_shrinks: &[Step::Offer(STEAL_TIME | POLL_CONTROL), Step::Enforce, Step::Offer(POLL_CONTROL)],
])]
fn last_cpuid_counts(t: &mut OneVm, steps: &[Step]) -> TestResult {
    offer(&mut t.vm, STEAL_TIME | POLL_CONTROL)?;
    let mut vcpu = t.vm.create_vcpu(0)?;
    for step in steps {
        match *step {
            Step::Enforce => enforce(&vcpu)?,
            Step::Offer(features) => {
                leaf(&mut t.vm, SIGNATURE | FEATURES)?.eax = features;
                vcpu.fd().set_cpuid2(t.vm.cpuid_mut()).ioctl("KVM_SET_CPUID2")?;
            }
        }
    }
    vcpu.set_args(&[POLL_CONTROL.into()]);
    vcpu.start_at(guest_fn!(touches_every_msr))?;
    check_eq!("KVM_GET_CPUID2 gives what was set", offered(&vcpu, SIGNATURE)?, POLL_CONTROL);
    vcpu.run_until_done()
}

/// The features are those of the leaf behind KVM's signature, wherever that is (x86/cpuid.rst):
/// without either, nothing is offered.
#[kvm_test(requires(cap::ENFORCE_PV_FEATURE_CPUID), irqchip, params = [
    no_leaf: (SIGNATURE, 0x4000_00f0, 0), no_signature: (0x4000_00f0, SIGNATURE | FEATURES, 0),
    higher: (HIGHER_SIGNATURE, HIGHER_SIGNATURE | FEATURES, ALL_FEATURES),
])]
fn features_are_found_by_signature(t: &mut OneVm, leaves: (u32, u32, u32)) -> TestResult {
    let (signature, features, expected) = leaves;
    offer(&mut t.vm, ALL_FEATURES)?;
    leaf(&mut t.vm, SIGNATURE | FEATURES)?.function = features;
    let base = leaf(&mut t.vm, SIGNATURE)?;
    (base.function, base.eax) = (signature, features);
    let mut vcpu = t.vm.add_vcpu(0, guest_fn!(touches_every_msr))?;
    vcpu.set_args(&[expected.into()]);
    enforce(&vcpu)?;
    vcpu.run_until_done()
}

#[guest]
fn enables_async_page_faults(g: &mut Guest) {
    const ENABLED: u64 = 1 << 0;
    const DELIVERY_AS_PF_VMEXIT: u64 = 1 << 2;
    const DELIVERY_AS_INT: u64 = 1 << 3;
    const RESERVED: u64 = 3 << 4;
    let offered = g.arg(0) as u32;
    Apic::enable();
    let write = |bits| trap(wrmsr_safe(MSR_KVM_ASYNC_PF_EN, layout::SCRATCH | bits));
    for bit in [1 << 4, 1 << 5, RESERVED] {
        check_eq!("reserved bits {bit:#x} of ASYNC_PF_EN are #GP", write(bit), Some(GP));
    }
    let want = |feature| if offered & feature == 0 { Some(GP) } else { None };
    check_eq!(
        "delivery as #PF VM exit needs its feature",
        write(DELIVERY_AS_PF_VMEXIT),
        want(ASYNC_PF_VMEXIT)
    );
    check_eq!(
        "delivery as interrupt needs its feature",
        write(DELIVERY_AS_INT),
        want(ASYNC_PF_INT)
    );
    if offered & ASYNC_PF_INT != 0 {
        let on = ENABLED | DELIVERY_AS_INT;
        check_eq!("asynchronous page faults can be enabled", write(on), None);
        let kept = rdmsr_safe(MSR_KVM_ASYNC_PF_EN);
        check_eq!("ASYNC_PF_EN reads as written", kept, Ok(layout::SCRATCH | on));
    }
    check_eq!("asynchronous page faults can be disabled", write(0), None);
}

/// Enforced, the ways of delivery that MSR_KVM_ASYNC_PF_EN takes are features of their own
/// (x86/msr.rst).
#[kvm_test(requires(cap::ENFORCE_PV_FEATURE_CPUID, cap::ASYNC_PF_INT), irqchip, params = [
    neither: ASYNC_PF, interrupt: ASYNC_PF | ASYNC_PF_INT,
    vmexit: ASYNC_PF | ASYNC_PF_VMEXIT, both: ASYNC_PF | ASYNC_PF_INT | ASYNC_PF_VMEXIT,
])]
fn async_page_fault_delivery_is_enforced(t: &mut OneVm, features: u32) -> TestResult {
    offer(&mut t.vm, features)?;
    let mut vcpu = t.vm.add_vcpu(0, guest_fn!(enables_async_page_faults))?;
    vcpu.set_args(&[features.into()]);
    enforce(&vcpu)?;
    vcpu.run_until_done()
}

/// Argument 0: the features whose hypercalls must be there.
#[guest]
fn makes_every_hypercall(g: &mut Guest) {
    let offered = g.arg(0) as u32;
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
                ("KVM_HC_KICK_CPU", KICK_CPU, PV_UNHALT, [0, own_id, 0, 0], 0),
                ("KVM_HC_SEND_IPI", SEND_IPI, PV_SEND_IPI, [1, 0, own_id, IPI_VECTOR.into()], 1),
                ("KVM_HC_SCHED_YIELD", SCHED_YIELD, PV_SCHED_YIELD, [own_id, 0, 0, 0], 0),
            ];
            for (name, nr, feature, args, result) in calls {
                let got = hypercall.call(nr, args);
                if offered & feature != 0 {
                    check_eq!("{name} works with its feature", got, Ok(result));
                } else {
                    check_eq!("{name} is -KVM_ENOSYS without its feature", got, Ok(ENOSYS));
                }
            }
            sti();
            cli();
            for nr in [MAP_GPA_RANGE, UNKNOWN] {
                let got = hypercall.call(nr, [0; 4]);
                check_eq!("hypercall {nr:#x}, which KVM has not, is -KVM_ENOSYS", got, Ok(ENOSYS));
            }
            let got = hypercall.call(VAPIC_POLL_IRQ, [0; 4]);
            check_eq!("KVM_HC_VAPIC_POLL_IRQ needs no feature", got, Ok(0));
        },
    );
    let sent = u64::from(offered & PV_SEND_IPI != 0);
    check_eq!("KVM_HC_SEND_IPI sends the vector if it is there", taken, sent);
}

/// Enforced, hypercalls of features that CPUID does not offer return -KVM_ENOSYS (api.rst 8.27).
#[kvm_test(requires(cap::ENFORCE_PV_FEATURE_CPUID), irqchip)]
fn feature_offers_its_hypercalls_only(t: &mut HostOnly) -> TestResult {
    let all = PV_UNHALT | PV_SEND_IPI | PV_SCHED_YIELD;
    for features in [0, PV_UNHALT, PV_SEND_IPI, PV_SCHED_YIELD, all] {
        let mut vm = Vm::new(t.setup.shape)?;
        offer(&mut vm, features)?;
        let mut vcpu = vm.add_vcpu(0, guest_fn!(makes_every_hypercall))?;
        vcpu.set_args(&[features.into()]);
        enforce(&vcpu)?;
        vcpu.run_until_done()?;
    }
    Ok(())
}

/// Without the capability every hypercall is there, whatever CPUID says.
#[kvm_test(requires(cap::ENFORCE_PV_FEATURE_CPUID), irqchip)]
fn not_enforced_every_hypercall_is_there(t: &mut OneVm) -> TestResult {
    let all = PV_UNHALT | PV_SEND_IPI | PV_SCHED_YIELD;
    offer(&mut t.vm, all)?;
    offer(&mut t.vm, 0)?;
    let mut vcpu = t.vm.add_vcpu(0, guest_fn!(makes_every_hypercall))?;
    vcpu.set_args(&[all.into()]);
    vcpu.run_until_done()
}

/// KVM_ENABLE_CAP refuses flags (api.rst 4.37).
#[kvm_test(requires(cap::ENFORCE_PV_FEATURE_CPUID))]
fn enabling_takes_no_flags(t: &mut OneVm) -> TestResult {
    let vcpu = t.vm.create_vcpu(0)?;
    let mut request = [0; 104];
    request[0..4].copy_from_slice(&KVM_CAP_ENFORCE_PV_FEATURE_CPUID.to_ne_bytes());
    request[8] = 1;
    for bit in [0, 31] {
        request[4..8].copy_from_slice(&(1_u32 << bit).to_ne_bytes());
        let refused = vcpu.raw(KVM_ENABLE_CAP, &mut request);
        check_eq!("flag bit {bit} is EINVAL", refused, Err(Errno::EINVAL));
    }
    request[4..8].fill(0);
    check_eq!("without flags it is taken", vcpu.raw(KVM_ENABLE_CAP, &mut request), Ok(0));
    check_eq!("and again", vcpu.raw(KVM_ENABLE_CAP, &mut request), Ok(0));
    Ok(())
}

/// Lets the guest halt without an exit; skips where KVM cannot.
#[host]
fn disable_hlt_exits(vm: &Vm) -> TestResult {
    let can = vm.check_extension(KVM_CAP_X86_DISABLE_EXITS) as u32;
    require!(can & KVM_X86_DISABLE_EXITS_HLT != 0, "KVM_X86_DISABLE_EXITS_HLT");
    let args = [KVM_X86_DISABLE_EXITS_HLT.into(), 0, 0, 0];
    vm.enable_cap(KVM_CAP_X86_DISABLE_EXITS, args).ioctl("KVM_ENABLE_CAP(disable exits)")
}

/// A vCPU whose HLT does not exit cannot be kicked: KVM takes PV_UNHALT out of its CPUID (api.rst
/// 7.13), and finds the leaf by its signature.
#[kvm_test(requires(cap::X86_DISABLE_EXITS), irqchip)]
fn pv_unhalt_is_cleared_without_hlt_exits(t: &mut OneVm) -> TestResult {
    offer(&mut t.vm, PV_UNHALT | CLOCKSOURCE2)?;
    disable_hlt_exits(&t.vm)?;
    let vcpu = t.vm.create_vcpu(0)?;
    let seen = offered(&vcpu, SIGNATURE)?;
    check_eq!("PV_UNHALT is cleared without HLT exits", seen, CLOCKSOURCE2);
    leaf(&mut t.vm, SIGNATURE)?.ebx ^= 1;
    vcpu.fd().set_cpuid2(t.vm.cpuid_mut()).ioctl("KVM_SET_CPUID2(no signature)")?;
    let seen = offered(&vcpu, SIGNATURE)?;
    check_eq!("a leaf without KVM's signature is left alone", seen, PV_UNHALT | CLOCKSOURCE2);
    leaf(&mut t.vm, SIGNATURE)?.ebx ^= 1;
    vcpu.fd().set_cpuid2(t.vm.cpuid_mut()).ioctl("KVM_SET_CPUID2(signature)")?;
    let seen = offered(&vcpu, SIGNATURE)?;
    check_eq!("PV_UNHALT is cleared again with the signature back", seen, CLOCKSOURCE2);
    for step in [SIGNATURE, SIGNATURE | FEATURES] {
        leaf(&mut t.vm, step)?.function += HIGHER_SIGNATURE - SIGNATURE;
    }
    vcpu.fd().set_cpuid2(t.vm.cpuid_mut()).ioctl("KVM_SET_CPUID2(higher)")?;
    let seen = offered(&vcpu, HIGHER_SIGNATURE)?;
    check_eq!("PV_UNHALT is cleared in a leaf at another base", seen, CLOCKSOURCE2);
    Ok(())
}

/// So it is when userspace sets the same CPUID again, with PV_UNHALT in it.
#[kvm_test(requires(cap::X86_DISABLE_EXITS), irqchip)]
fn pv_unhalt_is_cleared_each_time(t: &mut OneVm) -> TestResult {
    offer(&mut t.vm, PV_UNHALT | CLOCKSOURCE2)?;
    disable_hlt_exits(&t.vm)?;
    let vcpu = t.vm.create_vcpu(0)?;
    for time in ["second", "third"] {
        vcpu.fd().set_cpuid2(t.vm.cpuid_mut()).ioctl("KVM_SET_CPUID2(again)")?;
        let seen = offered(&vcpu, SIGNATURE)?;
        check_eq!("PV_UNHALT is cleared the {time} time", seen, CLOCKSOURCE2);
    }
    Ok(())
}

/// With HLT exits PV_UNHALT stays, and nothing else is taken out of the leaf.
#[kvm_test(irqchip)]
fn pv_unhalt_stays_with_hlt_exits(t: &mut OneVm) -> TestResult {
    offer(&mut t.vm, PV_UNHALT | CLOCKSOURCE2)?;
    let vcpu = t.vm.create_vcpu(0)?;
    let seen = offered(&vcpu, SIGNATURE)?;
    check_eq!("PV_UNHALT stays with HLT exits", seen, PV_UNHALT | CLOCKSOURCE2);
    Ok(())
}

/// Exits can be disabled before the first vCPU only, and only those that exist (api.rst 7.13).
#[kvm_test(requires(cap::X86_DISABLE_EXITS))]
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
    check_eq!("disabling exits behind a vCPU is EINVAL", disable(&t.vm, hlt), Err(Errno::EINVAL));
    Ok(())
}
