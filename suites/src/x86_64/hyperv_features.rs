//! What of Hyper-V's interface is there: the guest OS ID, the hypercall page, and the CPUID leaves that
//! gate MSRs and hypercalls under KVM_CAP_HYPERV_ENFORCE_CPUID (api.rst 7.24; TLFS, "Feature and
//! Interface Discovery").
use crate::prelude::*;
use hyperv::{ENABLE, FAST_WORDS, Hypercalls, code, control, msr, status};

const GUEST_OS_ID: u64 = 0x8100_0000_0000_0001;
const HYPERCALL_PAGE: u64 = layout::SCRATCH;
const PATTERN: u64 = 0x5a5a_5a5a_5a5a_5a5a;
const RET: u8 = 0xc3;
/// `-KVM_ENOSYS` (include/uapi/linux/kvm_para.h).
const ENOSYS: u64 = -1000_i64 as u64;

/// Registers of the leaf that tells features.
const EAX: usize = 0;
const EDX: usize = 1;

/// Accesses that an MSR allows: read, write of 0.
const R: u8 = 1;
const W: u8 = 2;
const RW: u8 = R | W;

/// MSRs: index, register and bit of the feature that offers it, accesses.
const MSRS: [(u32, usize, u32, u8); 30] = [
    (msr::VP_RUNTIME, EAX, 0, R),
    (msr::TIME_REF_COUNT, EAX, 1, R),
    (msr::SCONTROL, EAX, SYNIC, RW),
    (msr::SVERSION, EAX, SYNIC, R),
    (msr::SIEFP, EAX, SYNIC, RW),
    (msr::SIMP, EAX, SYNIC, RW),
    (msr::EOM, EAX, SYNIC, RW),
    (msr::SINT0, EAX, SYNIC, R),
    (msr::SINT15, EAX, SYNIC, R),
    (msr::STIMER0_CONFIG, EAX, 3, RW),
    (msr::STIMER0_COUNT, EAX, 3, RW),
    (msr::STIMER3_CONFIG, EAX, 3, RW),
    (msr::STIMER3_COUNT, EAX, 3, RW),
    (msr::TPR, EAX, 4, RW),
    (msr::EOI, EAX, 4, W),
    (msr::VP_ASSIST_PAGE, EAX, 4, RW),
    (msr::VP_INDEX, EAX, 6, R),
    (msr::RESET, EAX, 7, RW),
    (msr::REFERENCE_TSC, EAX, 9, RW),
    (msr::TSC_FREQUENCY, EAX, 11, R),
    (msr::APIC_FREQUENCY, EAX, 11, R),
    (msr::REENLIGHTENMENT_CONTROL, EAX, 13, RW),
    (msr::TSC_EMULATION_CONTROL, EAX, 13, RW),
    (msr::TSC_EMULATION_STATUS, EAX, 13, RW),
    (msr::TSC_INVARIANT_CONTROL, EAX, TSC_INVARIANT, RW),
    (msr::CRASH_P0, EDX, 10, RW),
    (msr::CRASH_P4, EDX, 10, RW),
    (msr::CRASH_CTL, EDX, 10, RW),
    // Last, because they take the hypercall page away.
    (msr::HYPERCALL, EAX, HYPERCALL, RW),
    (msr::GUEST_OS_ID, EAX, HYPERCALL, RW),
];
const SYNIC: u32 = 2;
const HYPERCALL: u32 = 5;
const TSC_INVARIANT: u32 = 15;

/// #GP, as the vector of a fault.
fn vector_of<T>(result: Result<T, Trap>) -> Option<u8> {
    result.err().map(|trap| trap.vector)
}

/// Arguments: features that must be there (EAX, EDX), features that this KVM has at all (EAX, EDX).
#[guest]
fn touches_every_msr(g: &mut Guest) {
    Apic::enable();
    let (offered, known) = ([g.arg(0), g.arg(1)], [g.arg(2), g.arg(3)]);
    for (index, register, bit, accesses) in MSRS {
        if known[register] >> bit & 1 == 0 {
            continue;
        }
        let there = offered[register] >> bit & 1 != 0;
        if accesses & R != 0 || !there {
            let want = if there { None } else { Some(vector::GP) };
            let got = vector_of(rdmsr_safe(index));
            check_eq!("RDMSR of {index:#x} works with its feature only", got, want);
        }
        let want = if there && accesses & W != 0 { None } else { Some(vector::GP) };
        // Some take writes of fixed bits only.
        if accesses & W != 0 || !there {
            let got = vector_of(wrmsr_safe(index, 0));
            check_eq!("WRMSR of {index:#x} works with its feature only", got, want);
        }
    }
}

#[host]
use bindings::{
    KVM_CAP_HYPERV_ENFORCE_CPUID, KVM_CAP_HYPERV_SYNIC2, KVM_SYSTEM_EVENT_CRASH,
    KVM_SYSTEM_EVENT_RESET, Msrs, kvm_msr_entry,
};

#[host]
const HYPERV_CPUID_INTERFACE: u32 = 0x4000_0001;
#[host]
const HYPERV_CPUID_FEATURES: u32 = 0x4000_0003;
#[host]
const HYPERV_CPUID_ENLIGHTENMENT_INFO: u32 = 0x4000_0004;

/// KVM_EXIT_HYPERV, and how many of [`MSRS`] end in it: SCONTROL, SIEFP and SIMP.
#[host]
const SYNIC_WRITE: Exit = Exit::Other(bindings::KVM_EXIT_HYPERV);
#[host]
const SYNIC_CONTROLS: u32 = 3;

/// Whether CPUID's features are enforced.
#[host]
#[derive(Clone, Copy, PartialEq)]
enum Enforced {
    Never,
    Yes,
    /// Turned on, and off again.
    NoMore,
}

#[host]
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
#[host]
fn touch(shape: VmShape, offered: impl Fn([u32; 2]) -> [u32; 2], enforced: Enforced) -> TestResult {
    let mut vm = Vm::new(shape)?;
    vm.offer_hyperv()?;
    let features = vm.cpuid_leaf(HYPERV_CPUID_FEATURES)?;
    let known = [features.eax, features.edx];
    let now = offered(known);
    [features.eax, features.edx] = now;
    let mut vcpu = vm.add_vcpu(0, guest_fn!(touches_every_msr))?;
    vcpu.enable_cap(KVM_CAP_HYPERV_SYNIC2, [0; 4]).ioctl("KVM_ENABLE_CAP(SYNIC2)")?;
    enforce(&vcpu, enforced)?;
    let there = if enforced == Enforced::Yes { now } else { known };
    vcpu.set_args(&[there[0], there[1], known[0], known[1]].map(u64::from));
    let mut told = 0;
    while let Some(stop) = vcpu.run_until_exit()? {
        let exit = stop.exit();
        check_eq!("writes of the SynIC's control MSRs are told to userspace", exit, SYNIC_WRITE);
        told += 1;
    }
    let synic = if there[EAX] >> SYNIC & 1 != 0 { SYNIC_CONTROLS } else { 0 };
    check_eq!("each write of them is told once", told, synic);
    Ok(())
}

/// Enforced, each feature offers its own MSRs and no others.
#[kvm_test(requires(cap::HYPERV_ENFORCE_CPUID, cap::HYPERV_SYNIC2), irqchip, params = [
    none: &[] as &[(usize, u32)], all: &[(EAX, !0), (EDX, !0)],
    runtime: &[(EAX, 1 << 0)], counter: &[(EAX, 1 << 1)], synic: &[(EAX, 1 << SYNIC)],
    timers: &[(EAX, 1 << SYNIC | 1 << 3)], apic: &[(EAX, 1 << 4)], hypercall: &[(EAX, 1 << HYPERCALL)],
    index: &[(EAX, 1 << 6)], reset: &[(EAX, 1 << 7)], reference_tsc: &[(EAX, 1 << 9)],
    frequencies: &[(EAX, 1 << 11)], reenlightenment: &[(EAX, 1 << 13)],
    invariant_tsc: &[(EAX, 1 << TSC_INVARIANT)], crash: &[(EDX, 1 << 10)],
])]
fn features_offer_their_msrs(t: &mut HostOnly, features: &[(usize, u32)]) -> TestResult {
    let offer = |known: [u32; 2]| {
        let mut offered = [0; 2];
        for &(register, bits) in features {
            offered[register] = known[register] & bits;
        }
        offered
    };
    touch(t.setup.shape, offer, Enforced::Yes)
}

/// Not enforced, every MSR is there whatever CPUID offers.
#[kvm_test(requires(cap::HYPERV_ENFORCE_CPUID, cap::HYPERV_SYNIC2), irqchip, params = [
    never: Enforced::Never, no_more: Enforced::NoMore,
])]
fn not_enforced_every_msr_is_there(t: &mut HostOnly, enforced: Enforced) -> TestResult {
    touch(t.setup.shape, |_| [0; 2], enforced)
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

/// Without the signature of the interface nothing of it is there, enforced or not.
#[kvm_test(requires(cap::HYPERV_CPUID, host::UNKNOWN_MSRS_FAULT), irqchip)]
fn signature_makes_the_interface(t: &mut OneVm) -> TestResult {
    t.vm.offer_hyperv()?;
    t.vm.cpuid_leaf(HYPERV_CPUID_INTERFACE)?.eax ^= 1;
    t.vm.add_vcpu(0, guest_fn!(has_no_hyperv))?.run_until_done()
}

/// Hypercalls with input that fits in two registers: code, what allows it, and what comes of it then.
const CALLS: [(u64, Gate, u64); 11] = [
    (code::NOTIFY_LONG_SPIN_WAIT, Gate::Spin, status::SUCCESS),
    // Without a SynIC there is nobody to tell.
    (code::POST_MESSAGE, Gate::Ebx(4), status::INVALID_HYPERCALL_INPUT),
    (code::SIGNAL_EVENT, Gate::Ebx(5), status::INVALID_HYPERCALL_INPUT),
    (code::FLUSH_VIRTUAL_ADDRESS_SPACE, Gate::Recommended(1 << 2), status::SUCCESS),
    (code::FLUSH_VIRTUAL_ADDRESS_SPACE_EX, Gate::Recommended(1 << 2 | 1 << 11), status::SUCCESS),
    (code::FLUSH_VIRTUAL_ADDRESS_LIST, Gate::Recommended(1 << 2), status::INVALID_HYPERCALL_INPUT),
    (
        code::FLUSH_VIRTUAL_ADDRESS_LIST_EX,
        Gate::Recommended(1 << 2 | 1 << 11),
        status::INVALID_HYPERCALL_INPUT,
    ),
    // Vector 0 cannot be sent.
    (code::SEND_IPI, Gate::Recommended(1 << 10), status::INVALID_HYPERCALL_INPUT),
    (code::SEND_IPI_EX, Gate::Recommended(1 << 10 | 1 << 11), status::SUCCESS),
    (code::EXT_QUERY_CAPABILITIES, Gate::Ebx(EXTENDED), status::INVALID_PARAMETER),
    (UNKNOWN, Gate::Nothing, status::INVALID_HYPERCALL_CODE),
];
const UNKNOWN: u64 = 0x7fff;
const EXTENDED: u32 = 20;

/// What allows a hypercall: nothing needed, a bit of the features' EBX, all these bits of the
/// recommendations' EAX, or a number of spins that is recommended.
#[derive(Clone, Copy)]
enum Gate {
    Nothing,
    Ebx(u32),
    Recommended(u64),
    Spin,
}

/// Arguments: EBX of the features, EAX and EBX of the recommendations; whether enforced; EBX that KVM
/// has at all.
#[guest]
fn makes_every_hypercall(g: &mut Guest) {
    let (ebx, recommended, spins) = (g.arg(0), g.arg(1), g.arg(2));
    let (enforced, known_ebx) = (g.arg(3) != 0, g.arg(4));
    Apic::enable();
    let calls = Hypercalls::enable(HYPERCALL_PAGE, GUEST_OS_ID);
    for (code, gate, result) in CALLS {
        let allowed = match gate {
            Gate::Nothing => true,
            Gate::Ebx(bit) => ebx >> bit & 1 != 0,
            Gate::Recommended(bits) => recommended & bits == bits,
            Gate::Spin => spins != 0 && spins != u64::from(u32::MAX),
        };
        if matches!(gate, Gate::Ebx(EXTENDED)) && known_ebx >> EXTENDED & 1 == 0 {
            continue;
        }
        let want = if allowed || !enforced { result } else { status::ACCESS_DENIED };
        let got = calls.fast(code, &[0; FAST_WORDS]);
        check_eq!("hypercall {code:#x} is allowed by its feature only", got, Ok(want));
    }
}

/// The leaves' registers that gate hypercalls.
#[host]
#[derive(Clone, Copy)]
struct Gates {
    ebx: u32,
    recommended: u32,
    spins: u32,
    enforced: Enforced,
}

#[host]
const CLOSED: Gates = Gates { ebx: 0, recommended: 0, spins: 0, enforced: Enforced::Yes };

/// Enforced, each hypercall needs what CPUID says of it, and is denied otherwise.
#[kvm_test(requires(cap::HYPERV_ENFORCE_CPUID), irqchip, params = [
    none: CLOSED,
    all: Gates { ebx: !0, recommended: !0, spins: 0xfff, ..CLOSED },
    messages: Gates { ebx: 1 << 4, ..CLOSED },
    events: Gates { ebx: 1 << 5, ..CLOSED },
    extended: Gates { ebx: 1 << EXTENDED, ..CLOSED },
    flushes: Gates { recommended: 1 << 2, ..CLOSED },
    ipis: Gates { recommended: 1 << 10, ..CLOSED },
    sets_alone: Gates { recommended: 1 << 11, ..CLOSED },
    flushes_of_sets: Gates { recommended: 1 << 2 | 1 << 11, ..CLOSED },
    ipis_to_sets: Gates { recommended: 1 << 10 | 1 << 11, ..CLOSED },
    spins: Gates { spins: 1, ..CLOSED },
    never_spins: Gates { spins: !0, ..CLOSED },
    not_enforced: Gates { enforced: Enforced::Never, ..CLOSED },
])]
fn features_allow_their_hypercalls(t: &mut OneVm, gates: Gates) -> TestResult {
    t.vm.offer_hyperv()?;
    let features = t.vm.cpuid_leaf(HYPERV_CPUID_FEATURES)?;
    let known = features.ebx;
    features.ebx = known & gates.ebx;
    let ebx = features.ebx;
    let recommendations = t.vm.cpuid_leaf(HYPERV_CPUID_ENLIGHTENMENT_INFO)?;
    recommendations.eax &= gates.recommended;
    recommendations.ebx = gates.spins;
    let recommended = recommendations.eax;
    let mut vcpu = t.vm.add_vcpu(0, guest_fn!(makes_every_hypercall))?;
    enforce(&vcpu, gates.enforced)?;
    let enforced = u32::from(gates.enforced == Enforced::Yes);
    vcpu.set_args(&[ebx, recommended, gates.spins, enforced, known].map(u64::from));
    vcpu.run_until_done()
}

/// Argument 0: whether input in XMM registers is offered.
#[guest]
fn passes_input_in_xmm(g: &mut Guest) {
    let offered = g.arg(0) != 0;
    let calls = Hypercalls::enable(HYPERCALL_PAGE, GUEST_OS_ID);
    let by_registers = |code| calls.fast(code, &[0; FAST_WORDS]).map_err(|trap| trap.vector);
    let want = if offered { Ok(status::SUCCESS) } else { Err(vector::UD) };
    for code in [code::FLUSH_VIRTUAL_ADDRESS_SPACE, code::FLUSH_VIRTUAL_ADDRESS_SPACE_EX] {
        check_eq!("{code:#x} takes XMM input with its feature, else #UD", by_registers(code), want);
    }
    check_eq!("two registers need no feature", by_registers(code::NOTIFY_LONG_SPIN_WAIT), Ok(0));
    let slow = calls.slow(code::FLUSH_VIRTUAL_ADDRESS_SPACE, layout::SCRATCH + 0x2000, 0);
    check_eq!("nor does memory", slow, Ok(status::SUCCESS));
}

/// Enforced, input in XMM registers is a feature of its own.
#[kvm_test(requires(cap::HYPERV_ENFORCE_CPUID), params = [offered: true, not_offered: false])]
fn xmm_input_is_a_feature(t: &mut OneVm, offered: bool) -> TestResult {
    const XMM_INPUT: u32 = 1 << 4;
    t.vm.offer_hyperv()?;
    let features = t.vm.cpuid_leaf(HYPERV_CPUID_FEATURES)?;
    require!(features.edx & XMM_INPUT != 0, "HV_X64_HYPERCALL_XMM_INPUT_AVAILABLE");
    if !offered {
        features.edx &= !XMM_INPUT;
    }
    let mut vcpu = t.vm.add_vcpu(0, guest_fn!(passes_input_in_xmm))?;
    enforce(&vcpu, Enforced::Yes)?;
    vcpu.set_args(&[offered.into()]);
    vcpu.run_until_done()
}

extern "C" fn calls_from_ring_3(_: u64) -> u64 {
    match Hypercalls::at(HYPERCALL_PAGE).fast(UNKNOWN, &[0; FAST_WORDS]) {
        Ok(result) => result,
        Err(trap) => u64::from(trap.vector) | FAULT,
    }
}

/// Marks a fault in what [`calls_from_ring_3`] returns.
const FAULT: u64 = 1 << 32;

#[guest]
fn enables_hypercalls(g: &mut Guest) {
    check_eq!("at first there is no guest OS", rdmsr(msr::GUEST_OS_ID), 0);
    check_eq!("at first there is no hypercall page", rdmsr(msr::HYPERCALL), 0);
    poke(HYPERCALL_PAGE, [PATTERN; 2]);
    wrmsr(msr::HYPERCALL, HYPERCALL_PAGE | ENABLE);
    check_eq!("without a guest OS the page stays off", rdmsr(msr::HYPERCALL), 0);
    check_eq!("and its memory as it was", peek::<[u64; 2]>(HYPERCALL_PAGE), [PATTERN; 2]);
    wrmsr(msr::GUEST_OS_ID, GUEST_OS_ID);
    check_eq!("the guest OS reads as written", rdmsr(msr::GUEST_OS_ID), GUEST_OS_ID);
    wrmsr(msr::HYPERCALL, HYPERCALL_PAGE);
    check_eq!("the MSR reads as written, disabled", rdmsr(msr::HYPERCALL), HYPERCALL_PAGE);
    check_eq!("a disabled page is left alone", peek::<[u64; 2]>(HYPERCALL_PAGE), [PATTERN; 2]);
    let nowhere = vector_of(wrmsr_safe(msr::HYPERCALL, layout::FREE | ENABLE));
    check_eq!("a page where no memory is is #GP", nowhere, Some(vector::GP));
    check_eq!("and changes nothing", rdmsr(msr::HYPERCALL), HYPERCALL_PAGE);
    let calls = Hypercalls::enable(HYPERCALL_PAGE, GUEST_OS_ID);
    check_eq!("the MSR reads as written, enabled", rdmsr(msr::HYPERCALL), HYPERCALL_PAGE | ENABLE);
    let page: [u8; 16] = peek(HYPERCALL_PAGE);
    check_eq!("the page is a hypercall of three bytes and RET", page[3], RET);
    let unknown = || calls.fast(UNKNOWN, &[0; FAST_WORDS]);
    check_eq!("hypercalls are Hyper-V's", unknown(), Ok(status::INVALID_HYPERCALL_CODE));
    for bit in control::RESERVED {
        let got = calls.fast(code::NOTIFY_LONG_SPIN_WAIT | 1 << bit, &[0; FAST_WORDS]);
        check_eq!("reserved bit {bit} is refused", got, Ok(status::INVALID_HYPERCALL_INPUT));
    }
    let ring_3 = user::run(Rflags::empty(), calls_from_ring_3, 0);
    check_eq!("ring 3 gets #UD", ring_3, u64::from(vector::UD) | FAULT);
    g.sync(1, &[]);
    wrmsr(msr::GUEST_OS_ID, 0);
    check_eq!("without a guest OS the page is off again", rdmsr(msr::HYPERCALL), HYPERCALL_PAGE);
    check_eq!("and hypercalls are KVM's", unknown(), Ok(ENOSYS));
}

/// Hypercalls are Hyper-V's while there is a guest OS ID; only then can the page be enabled (TLFS,
/// "Establishing the Hypercall Interface"). Both are the partition's, not the vCPU's.
#[kvm_test(requires(cap::HYPERV_CPUID))]
fn guest_os_id_enables_hypercalls(t: &mut OneVm) -> TestResult {
    t.vm.offer_hyperv()?;
    let mut vcpu = t.vm.add_vcpu(0, guest_fn!(enables_hypercalls))?;
    let other = t.vm.create_vcpu(1)?;
    vcpu.run_until_sync(1)?;
    for (index, want) in
        [(msr::GUEST_OS_ID, GUEST_OS_ID), (msr::HYPERCALL, HYPERCALL_PAGE | ENABLE)]
    {
        let entry = kvm_msr_entry { index, ..Default::default() };
        let mut msrs =
            Msrs::from_entries(&[entry]).map_err(|e| Failure::Error(format!("{e:?}")))?;
        let read = other.fd().get_msrs(&mut msrs).ioctl("KVM_GET_MSRS")?;
        check_eq!("userspace reads {index:#x}", read, 1);
        check_eq!("the other vCPU has the same {index:#x}", msrs.as_slice()[0].data, want);
    }
    vcpu.run_until_done()
}

#[guest]
fn crashes_and_resets(_: &mut Guest) {
    const CRASH_NOTIFY: u64 = 1 << 63;
    for i in 0..5 {
        wrmsr(msr::CRASH_P0 + i, PATTERN + u64::from(i));
        check_eq!("crash parameter {i} is kept", rdmsr(msr::CRASH_P0 + i), PATTERN + u64::from(i));
    }
    wrmsr(msr::CRASH_CTL, 0);
    wrmsr(msr::RESET, 0);
    wrmsr(msr::RESET, 2);
    wrmsr(msr::CRASH_CTL, CRASH_NOTIFY);
    wrmsr(msr::RESET, 1);
    check_eq!("RESET reads as 0", rdmsr(msr::RESET), 0);
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
    check_eq!("the crash is told", event("crash")?, crash);
    let reset = Exit::SystemEvent { kind: KVM_SYSTEM_EVENT_RESET };
    check_eq!("the reset is told", event("reset")?, reset);
    vcpu.run_until_done()
}

const INVARIANT_TSC: u32 = 1 << 8;

/// Argument 0: whether the host's TSC is invariant, so that there is something to hide.
#[guest]
fn asks_for_an_invariant_tsc(g: &mut Guest) {
    let invariant = g.arg(0) != 0;
    let shown = || invariant && cpuid(0x8000_0007, 0)[3] & INVARIANT_TSC != 0;
    let write = |value| vector_of(wrmsr_safe(msr::TSC_INVARIANT_CONTROL, value));
    check_eq!("at first the control is 0", rdmsr(msr::TSC_INVARIANT_CONTROL), 0);
    check!("CPUID hides the invariant TSC at first", !shown());
    for bit in [1, 31, 63] {
        check_eq!("reserved bit {bit} of the control is #GP", write(1 << bit), Some(vector::GP));
    }
    check!("what is refused shows nothing", !shown());
    check_eq!("the guest can ask for it", write(1), None);
    check_eq!("then CPUID shows it", shown(), invariant);
    check_eq!("the guest cannot take that back", write(0), Some(vector::GP));
    check_eq!("and may ask again", write(1), None);
    check_eq!("CPUID goes on showing it", shown(), invariant);
}

/// With the control of the invariant TSC, CPUID shows that only to guests that ask for it (TLFS, "TSC
/// Invariant Control").
#[kvm_test(requires(cap::HYPERV_CPUID))]
fn invariant_tsc_shows_when_asked_for(t: &mut OneVm) -> TestResult {
    t.vm.offer_hyperv()?;
    let features = t.vm.cpuid_leaf(HYPERV_CPUID_FEATURES)?.eax;
    require!(features >> TSC_INVARIANT & 1 != 0, "HV_ACCESS_TSC_INVARIANT");
    let invariant = t.vm.cpuid_leaf(0x8000_0007)?.edx & INVARIANT_TSC;
    let mut vcpu = t.vm.add_vcpu(0, guest_fn!(asks_for_an_invariant_tsc))?;
    vcpu.set_args(&[invariant.into()]);
    vcpu.run_until_done()
}
