//! What of Hyper-V's interface is there: the guest OS ID, the hypercall page, and the CPUID leaves that
//! gate MSRs and hypercalls under KVM_CAP_HYPERV_ENFORCE_CPUID (api.rst 7.24; TLFS, "Feature and
//! Interface Discovery").
use crate::prelude::*;
use cpuid::feature::INVARIANT_TSC;
use hyperv::cpuid::{Features, Recommendations};
use hyperv::msr::{self, CrashCtl, LINUX};
use hyperv::{Control, ENABLE, FAST_WORDS, Hypercalls, code, status};
use kvm_pv::error::KVM_ENOSYS;

const HYPERCALL_PAGE: u64 = layout::SCRATCH;
const PATTERN: u64 = 0x5a5a_5a5a_5a5a_5a5a;
guest_asm! {
    RETURNS, bits64:
    "ret",
}

/// Accesses that an MSR allows: read, write of 0.
const R: u8 = 1;
const W: u8 = 2;
const RW: u8 = R | W;

/// MSRs: index, the feature that offers it, accesses.
const MSRS: [(u32, Features, u8); 30] = [
    (msr::VP_RUNTIME, Features::ACCESS_VP_RUN_TIME_REG, R),
    (msr::TIME_REF_COUNT, Features::ACCESS_PARTITION_REFERENCE_COUNTER, R),
    (msr::SCONTROL, Features::ACCESS_SYNIC_REGS, RW),
    (msr::SVERSION, Features::ACCESS_SYNIC_REGS, R),
    (msr::SIEFP, Features::ACCESS_SYNIC_REGS, RW),
    (msr::SIMP, Features::ACCESS_SYNIC_REGS, RW),
    (msr::EOM, Features::ACCESS_SYNIC_REGS, RW),
    (msr::SINT0, Features::ACCESS_SYNIC_REGS, R),
    (msr::SINT15, Features::ACCESS_SYNIC_REGS, R),
    (msr::STIMER0_CONFIG, Features::ACCESS_SYNTHETIC_TIMER_REGS, RW),
    (msr::STIMER0_COUNT, Features::ACCESS_SYNTHETIC_TIMER_REGS, RW),
    (msr::STIMER3_CONFIG, Features::ACCESS_SYNTHETIC_TIMER_REGS, RW),
    (msr::STIMER3_COUNT, Features::ACCESS_SYNTHETIC_TIMER_REGS, RW),
    (msr::TPR, Features::ACCESS_INTR_CTRL_REGS, RW),
    (msr::EOI, Features::ACCESS_INTR_CTRL_REGS, W),
    (msr::VP_ASSIST_PAGE, Features::ACCESS_INTR_CTRL_REGS, RW),
    (msr::VP_INDEX, Features::ACCESS_VP_INDEX, R),
    (msr::RESET, Features::ACCESS_RESET_REG, RW),
    (msr::REFERENCE_TSC, Features::ACCESS_PARTITION_REFERENCE_TSC, RW),
    (msr::TSC_FREQUENCY, Features::ACCESS_FREQUENCY_REGS, R),
    (msr::APIC_FREQUENCY, Features::ACCESS_FREQUENCY_REGS, R),
    (msr::REENLIGHTENMENT_CONTROL, Features::ACCESS_REENLIGHTENMENT_CONTROLS, RW),
    (msr::TSC_EMULATION_CONTROL, Features::ACCESS_REENLIGHTENMENT_CONTROLS, RW),
    (msr::TSC_EMULATION_STATUS, Features::ACCESS_REENLIGHTENMENT_CONTROLS, RW),
    (msr::TSC_INVARIANT_CONTROL, Features::ACCESS_TSC_INVARIANT_CONTROLS, RW),
    (msr::CRASH_P0, Features::GUEST_CRASH_MSRS_AVAILABLE, RW),
    (msr::CRASH_P4, Features::GUEST_CRASH_MSRS_AVAILABLE, RW),
    (msr::CRASH_CTL, Features::GUEST_CRASH_MSRS_AVAILABLE, RW),
    // Last, because they take the hypercall page away.
    (msr::HYPERCALL, Features::ACCESS_HYPERCALL_MSRS, RW),
    (msr::GUEST_OS_ID, Features::ACCESS_HYPERCALL_MSRS, RW),
];

/// #GP, as the vector of a fault.
fn vector_of<T>(result: Result<T, Trap>) -> Option<u8> {
    result.err().map(|trap| trap.vector)
}

/// Arguments: features that must be there, and those that this KVM has at all, in two words each.
#[guest]
fn touches_every_msr(g: &mut Guest) {
    Apic::enable();
    let [offered, known] = [0, 2].map(|i| Features::from_words([g.arg(i), g.arg(i + 1)]));
    for (index, feature, accesses) in MSRS {
        if !known.contains(feature) {
            continue;
        }
        let there = offered.contains(feature);
        if accesses & R != 0 || !there {
            let want = if there { None } else { Some(vector::GP) };
            let got = vector_of(rdmsr_safe(index));
            check_eq!("RDMSR of {index:#x} succeeds with its feature only", got, want);
        }
        let want = if there && accesses & W != 0 { None } else { Some(vector::GP) };
        // Some take writes of fixed bits only.
        if accesses & W != 0 || !there {
            let got = vector_of(wrmsr_safe(index, 0));
            check_eq!("WRMSR of {index:#x} succeeds with its feature only", got, want);
        }
    }
}

#[guest]
fn has_no_hyperv(_: &mut Guest) {
    for (index, ..) in MSRS {
        let got = vector_of(rdmsr_safe(index));
        check_eq!("RDMSR of {index:#x} is #GP without the interface", got, Some(vector::GP));
        let got = vector_of(wrmsr_safe(index, 0));
        check_eq!("WRMSR of {index:#x} is #GP without the interface", got, Some(vector::GP));
    }
}

/// Hypercalls with input that fits in two registers: code, what allows it, and what comes of it then.
const CALLS: [(u16, Gate, u64); 11] = [
    (code::NOTIFY_LONG_SPIN_WAIT, Gate::Spin, status::SUCCESS),
    // Without a SynIC there is nobody to tell.
    (code::POST_MESSAGE, Gate::Feature(Features::POST_MESSAGES), status::INVALID_HYPERCALL_INPUT),
    (code::SIGNAL_EVENT, Gate::Feature(Features::SIGNAL_EVENTS), status::INVALID_HYPERCALL_INPUT),
    (code::FLUSH_VIRTUAL_ADDRESS_SPACE, Gate::Recommended(FLUSHES), status::SUCCESS),
    (code::FLUSH_VIRTUAL_ADDRESS_SPACE_EX, Gate::Recommended(FLUSHES_OF_SETS), status::SUCCESS),
    (code::FLUSH_VIRTUAL_ADDRESS_LIST, Gate::Recommended(FLUSHES), status::INVALID_HYPERCALL_INPUT),
    (
        code::FLUSH_VIRTUAL_ADDRESS_LIST_EX,
        Gate::Recommended(FLUSHES_OF_SETS),
        status::INVALID_HYPERCALL_INPUT,
    ),
    // Vector 0 cannot be sent.
    (code::SEND_IPI, Gate::Recommended(IPIS), status::INVALID_HYPERCALL_INPUT),
    (code::SEND_IPI_EX, Gate::Recommended(IPIS_TO_SETS), status::SUCCESS),
    (code::EXT_QUERY_CAPABILITIES, Gate::Feature(EXTENDED), status::INVALID_PARAMETER),
    (UNKNOWN, Gate::Nothing, status::INVALID_HYPERCALL_CODE),
];
const UNKNOWN: u16 = 0x7fff;
const EXTENDED: Features = Features::ENABLE_EXTENDED_HYPERCALLS;
const FLUSHES: Recommendations =
    Recommendations::USE_HYPERCALL_FOR_REMOTE_FLUSH_AND_LOCAL_FLUSH_ENTIRE;
const IPIS: Recommendations = Recommendations::USE_SYNTHETIC_CLUSTER_IPI;
const SETS: Recommendations = Recommendations::USE_EX_PROCESSOR_MASKS;
const FLUSHES_OF_SETS: Recommendations = FLUSHES.union(SETS);
const IPIS_TO_SETS: Recommendations = IPIS.union(SETS);

/// What allows a hypercall: nothing needed, a feature, all these recommendations, or a number of spins that
/// is recommended.
#[derive(Clone, Copy)]
enum Gate {
    Nothing,
    Feature(Features),
    Recommended(Recommendations),
    Spin,
}

/// Arguments: the lower word of the features, EAX and EBX of the recommendations; whether enforced; the lower
/// word of the features that KVM has at all.
#[guest]
fn makes_every_hypercall(g: &mut Guest) {
    let [features, known] = [0, 4].map(|i| Features::from_words([g.arg(i), 0]));
    let recommended = Recommendations::from_bits_retain(g.arg(1) as u32);
    let (spins, enforced) = (g.arg(2), g.arg(3) != 0);
    Apic::enable();
    let calls = Hypercalls::enable(HYPERCALL_PAGE, LINUX);
    for (code, gate, result) in CALLS {
        let allowed = match gate {
            Gate::Nothing => true,
            Gate::Feature(feature) => features.contains(feature),
            Gate::Recommended(bits) => recommended.contains(bits),
            Gate::Spin => spins != 0 && spins != u64::from(u32::MAX),
        };
        if code == code::EXT_QUERY_CAPABILITIES && !known.contains(EXTENDED) {
            continue;
        }
        let want = if allowed || !enforced { result } else { status::ACCESS_DENIED };
        let got = calls.fast(Control::of(code), &[0; FAST_WORDS]);
        check_eq!("hypercall {code:#x} is allowed by its feature only", got, Ok(want));
    }
}

/// Argument 0: whether input in XMM registers is offered.
#[guest]
fn passes_input_in_xmm(g: &mut Guest) {
    let offered = g.arg(0) != 0;
    let calls = Hypercalls::enable(HYPERCALL_PAGE, LINUX);
    let by_registers =
        |code| calls.fast(Control::of(code), &[0; FAST_WORDS]).map_err(|trap| trap.vector);
    let want = if offered { Ok(status::SUCCESS) } else { Err(vector::UD) };
    for code in [code::FLUSH_VIRTUAL_ADDRESS_SPACE, code::FLUSH_VIRTUAL_ADDRESS_SPACE_EX] {
        check_eq!("{code:#x} takes XMM input with its feature, else #UD", by_registers(code), want);
    }
    check_eq!(
        "input in two registers needs no feature",
        by_registers(code::NOTIFY_LONG_SPIN_WAIT),
        Ok(0)
    );
    let flush = Control::of(code::FLUSH_VIRTUAL_ADDRESS_SPACE);
    let slow = calls.slow(flush, layout::SCRATCH + 0x2000, 0);
    check_eq!("input in memory needs no feature", slow, Ok(status::SUCCESS));
}

extern "C" fn calls_from_ring_3(_: u64) -> u64 {
    match Hypercalls::at(HYPERCALL_PAGE).fast(Control::of(UNKNOWN), &[0; FAST_WORDS]) {
        Ok(result) => result,
        Err(trap) => u64::from(trap.vector) | FAULT,
    }
}

/// Marks a fault in what [`calls_from_ring_3`] returns.
const FAULT: u64 = 1 << 32;

#[guest]
fn enables_hypercalls(g: &mut Guest) {
    check_eq!("HV_X64_MSR_GUEST_OS_ID is 0 at reset", rdmsr(msr::GUEST_OS_ID), 0);
    check_eq!("HV_X64_MSR_HYPERCALL is 0 at reset", rdmsr(msr::HYPERCALL), 0);
    poke(HYPERCALL_PAGE, [PATTERN; 2]);
    wrmsr(msr::HYPERCALL, HYPERCALL_PAGE | ENABLE);
    check_eq!(
        "the hypercall page cannot be enabled without a guest OS ID",
        rdmsr(msr::HYPERCALL),
        0
    );
    check_eq!(
        "the page's memory is left alone without a guest OS ID",
        peek::<[u64; 2]>(HYPERCALL_PAGE),
        [PATTERN; 2]
    );
    wrmsr(msr::GUEST_OS_ID, LINUX);
    check_eq!("HV_X64_MSR_GUEST_OS_ID reads as written", rdmsr(msr::GUEST_OS_ID), LINUX);
    wrmsr(msr::HYPERCALL, HYPERCALL_PAGE);
    check_eq!(
        "HV_X64_MSR_HYPERCALL reads as written, disabled",
        rdmsr(msr::HYPERCALL),
        HYPERCALL_PAGE
    );
    check_eq!(
        "a disabled hypercall page is left alone",
        peek::<[u64; 2]>(HYPERCALL_PAGE),
        [PATTERN; 2]
    );
    let nowhere = vector_of(wrmsr_safe(msr::HYPERCALL, layout::FREE | ENABLE));
    check_eq!("a hypercall page without memory is #GP", nowhere, Some(vector::GP));
    check_eq!("a refused hypercall page changes nothing", rdmsr(msr::HYPERCALL), HYPERCALL_PAGE);
    let calls = Hypercalls::enable(HYPERCALL_PAGE, LINUX);
    check_eq!(
        "HV_X64_MSR_HYPERCALL reads as written, enabled",
        rdmsr(msr::HYPERCALL),
        HYPERCALL_PAGE | ENABLE
    );
    let page: [u8; 16] = peek(HYPERCALL_PAGE);
    check_eq!("the hypercall page holds a call of three bytes and RET", [page[3]], RETURNS.bytes());
    let unknown = || calls.fast(Control::of(UNKNOWN), &[0; FAST_WORDS]);
    check_eq!(
        "VMCALL is a Hyper-V hypercall with a guest OS ID",
        unknown(),
        Ok(status::INVALID_HYPERCALL_CODE)
    );
    for bit in Control::RESERVED {
        let control = Control::of(code::NOTIFY_LONG_SPIN_WAIT).with_bit(bit);
        let got = calls.fast(control, &[0; FAST_WORDS]);
        check_eq!(
            "reserved bit {bit} of a call is refused",
            got,
            Ok(status::INVALID_HYPERCALL_INPUT)
        );
    }
    let ring_3 = user::run(Rflags::empty(), calls_from_ring_3, 0);
    check_eq!("a hypercall from ring 3 is #UD", ring_3, u64::from(vector::UD) | FAULT);
    g.sync(1, &[]);
    wrmsr(msr::GUEST_OS_ID, 0);
    check_eq!(
        "clearing the guest OS ID disables the hypercall page",
        rdmsr(msr::HYPERCALL),
        HYPERCALL_PAGE
    );
    check_eq!("VMCALL is a KVM hypercall without a guest OS ID", unknown(), Ok(KVM_ENOSYS));
}

#[guest]
fn crashes_and_resets(_: &mut Guest) {
    for i in 0..5 {
        wrmsr(msr::CRASH_P0 + i, PATTERN + u64::from(i));
        check_eq!(
            "crash parameter {i} reads as written",
            rdmsr(msr::CRASH_P0 + i),
            PATTERN + u64::from(i)
        );
    }
    wrmsr(msr::CRASH_CTL, 0);
    wrmsr(msr::RESET, 0);
    wrmsr(msr::RESET, 2);
    wrmsr(msr::CRASH_CTL, CrashCtl::CRASH_NOTIFY.bits());
    wrmsr(msr::RESET, 1);
    check_eq!("HV_X64_MSR_RESET reads as 0", rdmsr(msr::RESET), 0);
}

/// Argument 0: whether the host's TSC is invariant, so that there is something to hide.
#[guest]
fn asks_for_an_invariant_tsc(g: &mut Guest) {
    let invariant = g.arg(0) != 0;
    let shown = || invariant && cpuid_has(INVARIANT_TSC);
    let write = |value| vector_of(wrmsr_safe(msr::TSC_INVARIANT_CONTROL, value));
    check_eq!(
        "HV_X64_MSR_TSC_INVARIANT_CONTROL is 0 at reset",
        rdmsr(msr::TSC_INVARIANT_CONTROL),
        0
    );
    check!("CPUID hides the invariant TSC at reset", !shown());
    for bit in [1, 31, 63] {
        check_eq!("reserved bit {bit} of the control is #GP", write(1 << bit), Some(vector::GP));
    }
    check!("a refused write shows no invariant TSC", !shown());
    check_eq!("the guest can ask for the invariant TSC", write(1), None);
    check_eq!("CPUID shows the invariant TSC that was asked for", shown(), invariant);
    check_eq!("the guest cannot take its request back", write(0), Some(vector::GP));
    check_eq!("the guest may ask for the invariant TSC again", write(1), None);
    check_eq!("CPUID still shows the invariant TSC after a second request", shown(), invariant);
}

#[host]
mod host {
    use super::*;
    use bindings::{
        KVM_CAP_HYPERV_ENFORCE_CPUID, KVM_CAP_HYPERV_SYNIC2, KVM_SYSTEM_EVENT_CRASH,
        KVM_SYSTEM_EVENT_RESET, Msrs, kvm_msr_entry,
    };
    use hyperv::cpuid::leaf;

    /// KVM_EXIT_HYPERV, and how many of [`MSRS`] end in it: SCONTROL, SIEFP and SIMP.
    const SYNIC_WRITE: Exit = Exit::Other(bindings::KVM_EXIT_HYPERV);
    const SYNIC_CONTROLS: u32 = 3;

    /// Whether CPUID's features are enforced.
    #[derive(Clone, Copy, PartialEq)]
    enum Enforced {
        Never,
        Yes,
        /// Turned on, and off again.
        NoMore,
    }

    fn enforce(vcpu: &Vcpu, enforced: Enforced) -> TestResult {
        let set = |on| {
            vcpu.enable_cap(KVM_CAP_HYPERV_ENFORCE_CPUID, [on, 0, 0, 0])
                .ioctl("KVM_ENABLE_CAP(KVM_CAP_HYPERV_ENFORCE_CPUID)")
        };
        match enforced {
            Enforced::Never => Ok(()),
            Enforced::Yes => set(1),
            Enforced::NoMore => set(1).and_then(|()| set(0)),
        }
    }

    /// A VM of a vCPU that offers these of Hyper-V's features and finds those in `there`; with a SynIC.
    fn touch(config: &VmConfig, offered: Features, enforced: Enforced) -> TestResult {
        let mut vm = Vm::new(config)?;
        vm.offer_hyperv()?;
        let known = vm.hyperv_features()?;
        let now = known & offered;
        vm.set_hyperv_features(now)?;
        let mut vcpu = vm.add_vcpu(0, guest_fn!(touches_every_msr))?;
        vcpu.enable_cap(KVM_CAP_HYPERV_SYNIC2, [0; 4]).ioctl("KVM_ENABLE_CAP(SYNIC2)")?;
        enforce(&vcpu, enforced)?;
        let there = if enforced == Enforced::Yes { now } else { known };
        let ([low, high], [known_low, known_high]) = (there.to_words(), known.to_words());
        vcpu.set_args(&[low, high, known_low, known_high]);
        let mut told = 0;
        while let Some(stop) = vcpu.run_until_exit()? {
            let exit = stop.exit();
            check_eq!("writes of the SynIC's control MSRs exit to userspace", exit, SYNIC_WRITE);
            told += 1;
        }
        let synic = if there.contains(Features::ACCESS_SYNIC_REGS) { SYNIC_CONTROLS } else { 0 };
        check_eq!("each write of a control MSR exits exactly once", told, synic);
        Ok(())
    }

    /// Every feature.
    const ALL: Features = Features::from_bits_retain(!0);

    /// Enforced, each feature offers its own MSRs and no others.
    #[kvm_test(requires(cap::HYPERV_ENFORCE_CPUID, cap::HYPERV_SYNIC2), irqchip, params = [
    none: Features::empty(), all: ALL,
    runtime: Features::ACCESS_VP_RUN_TIME_REG, counter: Features::ACCESS_PARTITION_REFERENCE_COUNTER, synic: Features::ACCESS_SYNIC_REGS,
    timers: Features::ACCESS_SYNIC_REGS.union(Features::ACCESS_SYNTHETIC_TIMER_REGS), apic: Features::ACCESS_INTR_CTRL_REGS, hypercall: Features::ACCESS_HYPERCALL_MSRS,
    index: Features::ACCESS_VP_INDEX, reset: Features::ACCESS_RESET_REG, reference_tsc: Features::ACCESS_PARTITION_REFERENCE_TSC,
    frequencies: Features::ACCESS_FREQUENCY_REGS, reenlightenment: Features::ACCESS_REENLIGHTENMENT_CONTROLS,
    invariant_tsc: Features::ACCESS_TSC_INVARIANT_CONTROLS, crash: Features::GUEST_CRASH_MSRS_AVAILABLE,
])]
    fn features_offer_their_msrs(t: &mut HostOnly, features: Features) -> TestResult {
        touch(&t.setup.config, features, Enforced::Yes)
    }

    /// Not enforced, every MSR is there whatever CPUID offers.
    #[kvm_test(requires(cap::HYPERV_ENFORCE_CPUID, cap::HYPERV_SYNIC2), irqchip, params = [
    never: Enforced::Never, no_more: Enforced::NoMore,
])]
    fn not_enforced_every_msr_is_there(t: &mut HostOnly, enforced: Enforced) -> TestResult {
        touch(&t.setup.config, Features::empty(), enforced)
    }

    /// Without the signature of the interface nothing of it is there, enforced or not.
    #[kvm_test(requires(cap::HYPERV_CPUID, host::UNKNOWN_MSRS_FAULT), irqchip)]
    fn signature_makes_the_interface(t: &mut OneVm) -> TestResult {
        t.vm.offer_hyperv()?;
        t.vm.cpuid_leaf(leaf::INTERFACE)?.eax ^= 1;
        t.vm.add_vcpu(0, guest_fn!(has_no_hyperv))?.run_until_done()
    }

    /// What gates hypercalls.
    #[derive(Clone, Copy)]
    struct Gates {
        features: Features,
        recommended: Recommendations,
        spins: u32,
        enforced: Enforced,
    }

    const CLOSED: Gates = Gates {
        features: Features::empty(),
        recommended: Recommendations::empty(),
        spins: 0,
        enforced: Enforced::Yes,
    };

    /// Features that gate hypercalls.
    const GATING: Features = Features::POST_MESSAGES
        .union(Features::SIGNAL_EVENTS)
        .union(Features::ENABLE_EXTENDED_HYPERCALLS);

    /// Enforced, each hypercall needs what CPUID says of it, and is denied otherwise.
    #[kvm_test(requires(cap::HYPERV_ENFORCE_CPUID), irqchip, params = [
    none: CLOSED,
    all: Gates { features: GATING, recommended: Recommendations::from_bits_retain(!0), spins: 0xfff, ..CLOSED },
    messages: Gates { features: Features::POST_MESSAGES, ..CLOSED },
    events: Gates { features: Features::SIGNAL_EVENTS, ..CLOSED },
    extended: Gates { features: EXTENDED, ..CLOSED },
    flushes: Gates { recommended: FLUSHES, ..CLOSED },
    ipis: Gates { recommended: IPIS, ..CLOSED },
    sets_alone: Gates { recommended: SETS, ..CLOSED },
    flushes_of_sets: Gates { recommended: FLUSHES_OF_SETS, ..CLOSED },
    ipis_to_sets: Gates { recommended: IPIS_TO_SETS, ..CLOSED },
    spins: Gates { spins: 1, ..CLOSED },
    never_spins: Gates { spins: !0, ..CLOSED },
    not_enforced: Gates { enforced: Enforced::Never, ..CLOSED },
])]
    fn features_allow_their_hypercalls(t: &mut OneVm, gates: Gates) -> TestResult {
        t.vm.offer_hyperv()?;
        let known = t.vm.hyperv_features()?;
        let features = (known - GATING) | known & gates.features;
        t.vm.set_hyperv_features(features)?;
        let recommendations = t.vm.cpuid_leaf(leaf::ENLIGHTENMENT_INFO)?;
        recommendations.eax &= gates.recommended.bits();
        recommendations.ebx = gates.spins;
        let recommended = recommendations.eax;
        let mut vcpu = t.vm.add_vcpu(0, guest_fn!(makes_every_hypercall))?;
        enforce(&vcpu, gates.enforced)?;
        let enforced = u64::from(gates.enforced == Enforced::Yes);
        let ([features, _], [known, _]) = (features.to_words(), known.to_words());
        vcpu.set_args(&[features, recommended.into(), gates.spins.into(), enforced, known]);
        vcpu.run_until_done()
    }

    /// Enforced, input in XMM registers is a feature of its own.
    #[kvm_test(requires(cap::HYPERV_ENFORCE_CPUID), params = [offered: true, not_offered: false])]
    fn xmm_input_is_a_feature(t: &mut OneVm, offered: bool) -> TestResult {
        const XMM_INPUT: Features = Features::XMM_REGISTERS_FOR_FAST_HYPERCALL_AVAILABLE;
        t.vm.offer_hyperv()?;
        let features = t.vm.hyperv_features()?;
        require!(features.contains(XMM_INPUT), "HV_X64_HYPERCALL_XMM_INPUT_AVAILABLE");
        if !offered {
            t.vm.set_hyperv_features(features - XMM_INPUT)?;
        }
        let mut vcpu = t.vm.add_vcpu(0, guest_fn!(passes_input_in_xmm))?;
        enforce(&vcpu, Enforced::Yes)?;
        vcpu.set_args(&[offered.into()]);
        vcpu.run_until_done()
    }

    /// Hypercalls are Hyper-V's while there is a guest OS ID; only then can the page be enabled (TLFS,
    /// "Establishing the Hypercall Interface"). Both are the partition's, not the vCPU's.
    #[kvm_test(requires(cap::HYPERV_CPUID))]
    fn guest_os_id_enables_hypercalls(t: &mut OneVm) -> TestResult {
        t.vm.offer_hyperv()?;
        let mut vcpu = t.vm.add_vcpu(0, guest_fn!(enables_hypercalls))?;
        let other = t.vm.create_vcpu(1)?;
        vcpu.run_until_sync(1)?;
        for (index, want) in [(msr::GUEST_OS_ID, LINUX), (msr::HYPERCALL, HYPERCALL_PAGE | ENABLE)]
        {
            let entry = kvm_msr_entry { index, ..Default::default() };
            let mut msrs =
                Msrs::from_entries(&[entry]).map_err(|e| Failure::Error(format!("{e:?}")))?;
            let read = other.fd().get_msrs(&mut msrs).ioctl("KVM_GET_MSRS")?;
            check_eq!("userspace can read MSR {index:#x}", read, 1);
            check_eq!("the other vCPU reads the same {index:#x}", msrs.as_slice()[0].data, want);
        }
        vcpu.run_until_done()
    }

    /// A crash that the guest tells of, and a reset that it asks for, are KVM_EXIT_SYSTEM_EVENTs; other
    /// values of the MSRs are none.
    #[kvm_test(requires(cap::HYPERV_CPUID))]
    fn crash_and_reset_exit_to_userspace(t: &mut OneVm) -> TestResult {
        t.vm.offer_hyperv()?;
        let mut vcpu = t.vm.add_vcpu(0, guest_fn!(crashes_and_resets))?;
        let mut event = |want: &str| -> TestResult<Exit> {
            match vcpu.run_until_exit()? {
                Some(stop) => Ok(stop.exit()),
                None => fail!("no {want}"),
            }
        };
        let crash = Exit::SystemEvent { kind: KVM_SYSTEM_EVENT_CRASH };
        check_eq!("a crash exits with KVM_SYSTEM_EVENT_CRASH", event("crash")?, crash);
        let reset = Exit::SystemEvent { kind: KVM_SYSTEM_EVENT_RESET };
        check_eq!("a reset exits with KVM_SYSTEM_EVENT_RESET", event("reset")?, reset);
        vcpu.run_until_done()
    }

    /// With the control of the invariant TSC, CPUID shows that only to guests that ask for it (TLFS, "TSC
    /// Invariant Control").
    #[kvm_test(requires(cap::HYPERV_CPUID))]
    fn invariant_tsc_shows_when_asked_for(t: &mut OneVm) -> TestResult {
        t.vm.offer_hyperv()?;
        let controls = t.vm.hyperv_features()?.contains(Features::ACCESS_TSC_INVARIANT_CONTROLS);
        require!(controls, "HV_ACCESS_TSC_INVARIANT");
        let invariant = t.vm.cpuid_leaf(INVARIANT_TSC.leaf)?.edx & INVARIANT_TSC.mask();
        let mut vcpu = t.vm.add_vcpu(0, guest_fn!(asks_for_an_invariant_tsc))?;
        vcpu.set_args(&[invariant.into()]);
        vcpu.run_until_done()
    }
}
