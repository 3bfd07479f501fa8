//! Hyper-V's synthetic interrupt controller, as far as its MSRs go: what they hold, what userspace is
//! told of them, and the capability that makes them (api.rst 8, KVM_CAP_HYPERV_SYNIC and SYNIC2; TLFS,
//! "Synthetic Interrupt Controller").
use crate::prelude::*;
use hyperv::sint::{self, FIRST_VALID_VECTOR as LOWEST};
use hyperv::{ENABLE, msr};

const MESSAGE_PAGE: u64 = layout::SCRATCH + 0x2000;
const EVENT_PAGE: u64 = layout::SCRATCH + 0x5000;
const PATTERN: u64 = 0x5a5a_5a5a_5a5a_5a5a;
/// A bit of SIMP and SIEFP that is reserved, and to be preserved.
const RESERVED: u64 = 1 << 5;
const READY: u64 = 1;

fn outcome(index: u32, value: u64) -> Result<(), (u8, u32)> {
    wrmsr_safe(index, value).map_err(|trap| (trap.vector, trap.error))
}

const GP: Result<(), (u8, u32)> = Err((vector::GP, 0));

fn sources() -> impl Iterator<Item = u32> {
    msr::SINT0..=msr::SINT15
}

#[guest]
fn has_registers(_: &mut Guest) {
    check_eq!("HV_X64_MSR_SVERSION reads as 1", rdmsr(msr::SVERSION), msr::SYNIC_VERSION);
    check_eq!(
        "a write to HV_X64_MSR_SVERSION is #GP",
        outcome(msr::SVERSION, msr::SYNIC_VERSION),
        GP
    );
    check_eq!("HV_X64_MSR_SIEFP is 0 at reset", rdmsr(msr::SIEFP), 0);
    check_eq!("HV_X64_MSR_SIMP is 0 at reset", rdmsr(msr::SIMP), 0);
    for index in sources() {
        check_eq!("source {index:#x} is masked at reset", rdmsr(index), sint::MASKED);
    }
    for value in [0, 1, u64::MAX] {
        check_eq!(
            "a write of {value:#x} to HV_X64_MSR_EOM is accepted",
            outcome(msr::EOM, value),
            Ok(())
        );
        check_eq!("HV_X64_MSR_EOM reads as 0", rdmsr(msr::EOM), 0);
    }
    for index in sources() {
        let vector = u64::from(index - msr::SINT0) + LOWEST;
        wrmsr(index, vector | sint::AUTO_EOI);
        let rest = (index + 1..=msr::SINT15).all(|other| rdmsr(other) == sint::MASKED);
        check!("a write of source {index:#x} leaves the sources behind it", rest);
    }
    for index in sources() {
        let vector = u64::from(index - msr::SINT0) + LOWEST;
        let want = vector | sint::AUTO_EOI;
        check_eq!("source {index:#x} reads as written", rdmsr(index), want);
    }
    for index in [msr::SINT0, msr::SINT0 + 2, msr::SINT15] {
        for vector in [LOWEST, 0x7f, 0x80, 0xff] {
            check_eq!(
                "source {index:#x} accepts vector {vector:#x}",
                outcome(index, vector),
                Ok(())
            );
            check_eq!("source {index:#x} keeps vector {vector:#x}", rdmsr(index), vector);
        }
        for vector in [0, 1, LOWEST - 1] {
            let got = outcome(index, vector);
            check_eq!("vector {vector} for source {index:#x} is #GP", got, GP);
            let got = outcome(index, vector | sint::AUTO_EOI);
            check_eq!("vector {vector} with automatic EOI is #GP for {index:#x}", got, GP);
            check_eq!("a refused write leaves source {index:#x}", rdmsr(index), 0xff);
        }
        for vector in [0, LOWEST - 1, 0xff] {
            let value = vector | sint::MASKED;
            check_eq!(
                "masked source {index:#x} accepts vector {vector:#x}",
                outcome(index, value),
                Ok(())
            );
            check_eq!("masked source {index:#x} keeps vector {vector:#x}", rdmsr(index), value);
            wrmsr(index, 0xff);
        }
    }
}

/// Writes of the MSRs that are told to userspace: MSR, value.
const CONTROLS: [(u32, u64); 8] = [
    (msr::SCONTROL, 0),
    (msr::SIEFP, EVENT_PAGE | RESERVED | ENABLE),
    (msr::SIMP, MESSAGE_PAGE | ENABLE),
    (msr::SCONTROL, ENABLE),
    (msr::SIMP, MESSAGE_PAGE | RESERVED),
    (msr::SIEFP, EVENT_PAGE),
    (msr::SIMP, 0),
    // Nothing changes: it is told all the same.
    (msr::SIMP, 0),
];

#[guest]
fn writes_controls(g: &mut Guest) {
    for (index, value) in CONTROLS {
        wrmsr(index, value);
        check_eq!("MSR {index:#x} reads as written: {value:#x}", rdmsr(index), value);
        wrmsr(msr::SINT0 + 1, LOWEST);
        wrmsr(msr::EOM, 0);
    }
    g.sync(READY, &[]);
    check_eq!(
        "the guest reads the message page that userspace set",
        rdmsr(msr::SIMP),
        MESSAGE_PAGE
    );
}

/// Argument 0: whether pages are cleared.
#[guest]
fn gives_pages(g: &mut Guest) {
    let cleared = if g.arg(0) != 0 { 0 } else { PATTERN };
    for (index, page) in [(msr::SIEFP, EVENT_PAGE), (msr::SIMP, MESSAGE_PAGE)] {
        let ends = [page, page + layout::PAGE_SIZE / 2, page + layout::PAGE_SIZE - 8];
        let around = [page - 8, page + layout::PAGE_SIZE];
        let fill = || ends.into_iter().chain(around).for_each(|gpa| poke(gpa, PATTERN));
        let all = |want| ends.into_iter().all(|gpa| peek::<u64>(gpa) == want);
        fill();
        wrmsr(index, page);
        check!("disabling by {index:#x} leaves its page alone", all(PATTERN));
        wrmsr(index, page | ENABLE);
        check!("enabling by {index:#x} clears its page with SYNIC alone", all(cleared));
        for gpa in around {
            check_eq!(
                "memory around the page of {index:#x} is left alone",
                peek::<u64>(gpa),
                PATTERN
            );
        }
        fill();
        g.sync(READY, &[]);
        check!("a page that userspace enables in {index:#x} is left alone", all(PATTERN));
        let nowhere = outcome(index, layout::FREE | ENABLE);
        let want = if cleared == 0 { GP } else { Ok(()) };
        check_eq!("an address without memory in {index:#x} is #GP with SYNIC alone", nowhere, want);
        let kept = if cleared == 0 { page } else { layout::FREE };
        check_eq!(
            "MSR {index:#x} reads back the last accepted address",
            rdmsr(index),
            kept | ENABLE
        );
    }
}

fn synic_msrs() -> impl Iterator<Item = u32> {
    (msr::SCONTROL..=msr::EOM).chain(sources())
}

/// All MSRs of the SynIC and of its timers.
fn all_msrs() -> impl Iterator<Item = u32> {
    synic_msrs().chain(msr::STIMER0_CONFIG..=msr::STIMER3_COUNT)
}

#[guest]
fn has_no_synic(_: &mut Guest) {
    let fault = |trap: Trap| (trap.vector, trap.error);
    for index in synic_msrs() {
        let got = rdmsr_safe(index).map(drop).map_err(fault);
        check_eq!("RDMSR of {index:#x} without a SynIC is #GP", got, GP);
    }
    for index in all_msrs() {
        for value in [0, sint::MASKED] {
            let got = outcome(index, value);
            check_eq!("WRMSR of {value:#x} to {index:#x} without a SynIC is #GP", got, GP);
        }
    }
}

#[host]
mod host {
    use super::*;
    use {
        bindings::{KVM_CAP_HYPERV_SYNIC, KVM_CAP_HYPERV_SYNIC2},
        vm::arch::hyperv::HypervExit,
    };

    kvm_tests! { irqchip, requires(cap::HYPERV_SYNIC2) }

    /// vCPU `index` of a VM that offers Hyper-V, with a SynIC.
    fn vcpu_with_synic(vm: &mut Vm, index: u32, guest: GuestFn, cap: u32) -> TestResult<Vcpu> {
        vm.offer_hyperv()?;
        let vcpu = vm.add_vcpu(index, guest)?;
        vcpu.enable_cap(cap, [0; 4]).ioctl("KVM_ENABLE_CAP(HYPERV_SYNIC)")?;
        Ok(vcpu)
    }

    /// Sources start masked and take the vectors that exist; the version is 1. None of these writes is
    /// told to userspace.
    #[kvm_test(requires(cap::HYPERV_SYNIC), params = [
    synic: KVM_CAP_HYPERV_SYNIC, synic2: KVM_CAP_HYPERV_SYNIC2,
])]
    fn registers_are_as_specified(t: &mut OneVm, cap: u32) -> TestResult {
        vcpu_with_synic(&mut t.vm, 0, guest_fn!(has_registers), cap)?.run_until_done()
    }

    /// Each write of SCONTROL, SIEFP and SIMP by the guest exits with all three values as they are after
    /// it (api.rst 5, KVM_EXIT_HYPERV_SYNIC); userspace's own writes do not.
    #[kvm_test]
    fn control_writes_exit_to_userspace(t: &mut OneVm) -> TestResult {
        let guest = guest_fn!(writes_controls);
        let mut vcpu = vcpu_with_synic(&mut t.vm, 0, guest, KVM_CAP_HYPERV_SYNIC2)?;
        let (mut control, mut evt_page, mut msg_page) = (0, 0, 0);
        for (msr, value) in CONTROLS {
            match msr {
                msr::SCONTROL => control = value,
                msr::SIEFP => evt_page = value,
                _ => msg_page = value,
            }
            let want = HypervExit::Synic { msr, control, evt_page, msg_page };
            check_eq!(
                "a write of {value:#x} to {msr:#x} exits to userspace",
                vcpu.run_until_hyperv()?,
                want
            );
            let got = vcpu.msr(msr)?;
            check_eq!("userspace reads MSR {msr:#x} as written: {value:#x}", got, Some(value));
        }
        vcpu.run_until_sync(READY)?;
        check!("userspace can write HV_X64_MSR_SIMP", vcpu.set_msr(msr::SIMP, MESSAGE_PAGE)?);
        check!("userspace can write HV_X64_MSR_SCONTROL", vcpu.set_msr(msr::SCONTROL, 0)?);
        // An exit would be no end of the guest function.
        vcpu.run_until_done()
    }

    /// KVM_CAP_HYPERV_SYNIC clears the event and message page that the guest enables; SYNIC2 leaves them
    /// to userspace, which may have put something there (api.rst 8, KVM_CAP_HYPERV_SYNIC2).
    #[kvm_test(requires(cap::HYPERV_SYNIC), params = [
    synic: KVM_CAP_HYPERV_SYNIC, synic2: KVM_CAP_HYPERV_SYNIC2,
])]
    fn first_version_clears_pages(t: &mut OneVm, cap: u32) -> TestResult {
        let mut vcpu = vcpu_with_synic(&mut t.vm, 0, guest_fn!(gives_pages), cap)?;
        let clears = cap == KVM_CAP_HYPERV_SYNIC;
        vcpu.set_args(&[clears.into()]);
        let pages = [(msr::SIEFP, EVENT_PAGE), (msr::SIMP, MESSAGE_PAGE)];
        for (index, page) in pages {
            vcpu.run_until_hyperv()?;
            vcpu.run_until_hyperv()?;
            vcpu.run_until_sync(READY)?;
            check!("userspace can disable the page of {index:#x}", vcpu.set_msr(index, page)?);
            check!(
                "userspace can enable the page of {index:#x}",
                vcpu.set_msr(index, page | ENABLE)?
            );
            if !clears {
                vcpu.run_until_hyperv()?;
            }
        }
        vcpu.run_until_done()
    }

    /// A vCPU whose SynIC was not enabled has none, whatever other vCPUs have; userspace may write zeroes
    /// to its MSRs alone (api.rst 8, KVM_CAP_HYPERV_SYNIC: enabled per vCPU).
    #[kvm_test]
    fn each_vcpu_enables_its_own(t: &mut OneVm) -> TestResult {
        let with = vcpu_with_synic(&mut t.vm, 0, guest_fn!(has_registers), KVM_CAP_HYPERV_SYNIC2)?;
        let mut without = t.vm.add_vcpu(1, guest_fn!(has_no_synic))?;
        for index in all_msrs() {
            let value = if index == msr::SVERSION { msr::SYNIC_VERSION } else { sint::MASKED };
            check!(
                "userspace can write {index:#x} of an enabled SynIC",
                with.set_msr(index, value)?
            );
            check!(
                "userspace can write 0 to {index:#x} without a SynIC",
                without.set_msr(index, 0)?
            );
            check!(
                "userspace cannot write {value:#x} to {index:#x} without a SynIC",
                !without.set_msr(index, value)?
            );
            check!("userspace can read {index:#x} without a SynIC", without.msr(index)?.is_some());
        }
        without.run_until_done()
    }

    /// A SynIC needs local APICs in the kernel; what the capability does not define must be 0.
    #[kvm_test(no_irqchip, requires(cap::HYPERV_SYNIC), params = [
    synic: KVM_CAP_HYPERV_SYNIC, synic2: KVM_CAP_HYPERV_SYNIC2,
])]
    fn malformed_enabling_is_refused(t: &mut HostOnly, cap: u32) -> TestResult {
        const EINVAL: Result<(), Errno> = Err(Errno::EINVAL);
        let mut vm = Vm::new(&t.setup.config)?;
        vm.offer_hyperv()?;
        let vcpu = vm.create_vcpu(0)?;
        check_eq!(
            "enabling a SynIC without an irqchip is EINVAL",
            vcpu.enable_cap(cap, [0; 4]),
            EINVAL
        );
        check!("a refused capability enables no SynIC", !vcpu.set_msr(msr::SINT0, sint::MASKED)?);
        for irqchip in [Irqchip::Kernel, Irqchip::Split] {
            let mut vm = Vm::new(irqchip)?;
            vm.offer_hyperv()?;
            let vcpu = vm.create_vcpu(0)?;
            for flags in [1_u32, 1 << 31] {
                let mut bytes = vec![0; size_of::<bindings::kvm_enable_cap>()];
                bytes[..4].copy_from_slice(&cap.to_ne_bytes());
                bytes[4..8].copy_from_slice(&flags.to_ne_bytes());
                let got = vcpu.raw(request::KVM_ENABLE_CAP, &mut bytes).map(drop);
                check_eq!("flags {flags:#x} with {irqchip:?} are EINVAL", got, EINVAL);
            }
            if cap == KVM_CAP_HYPERV_SYNIC2 {
                let got = vcpu.enable_cap(cap, [1, 0, 0, 0]);
                check_eq!("an argument of the capability with {irqchip:?} is EINVAL", got, EINVAL);
            }
            let kept = !vcpu.set_msr(msr::SINT0, sint::MASKED)?;
            check!("a refused capability with {irqchip:?} enables no SynIC", kept);
            check_eq!(
                "a SynIC can be enabled with {irqchip:?}",
                vcpu.enable_cap(cap, [0; 4]),
                Ok(())
            );
            check!(
                "an enabled SynIC with {irqchip:?} takes its MSRs",
                vcpu.set_msr(msr::SINT0, sint::MASKED)?
            );
        }
        Ok(())
    }
}
