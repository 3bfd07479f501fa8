//! What KVM/x86 holds of a VM and its vCPUs (api.rst 4; devices/vcpu.rst 4 for the TSC).
#![expect(unsafe_code, reason = "looks at structures of the kernel as bytes")]

use std::collections::BTreeSet;

use defs::x86::apic;
use defs::x86::msr::IA32_MCG_CAP;
use kvm_bindings::{
    CpuId, KVM_CAP_NESTED_STATE, KVM_CAP_SREGS2, KVM_CAP_X86_TRIPLE_FAULT_EVENT, KVM_CAP_XCRS,
    KVM_CAP_XSAVE, KVM_CAP_XSAVE2, KVM_CLOCK_REALTIME, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KVM_MAX_CPUID_ENTRIES, KVM_VCPUEVENT_VALID_PAYLOAD, kvm_clock_data,
    kvm_debugregs, kvm_enable_cap, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_pit_state2,
    kvm_regs, kvm_sregs, kvm_sregs2, kvm_vcpu_events, kvm_xcrs,
};
use zerocopy::IntoBytes;

use super::{Core, Parts, State, keeps, msrs};
use crate::arch::MsrRange;
use crate::failure::TestResult;
use crate::request::x86::{
    KVM_GET_NESTED_STATE, KVM_GET_XSAVE, KVM_GET_XSAVE2, KVM_SET_NESTED_STATE, KVM_SET_XSAVE,
    KVM_X86_SETUP_MCE,
};
use crate::{Ioctl, Irqchip, Vcpu, Vm};

/// Pieces that run on by themselves, and why they are not the same a moment later.
pub const RUNS_ON: &[(&str, &str)] = &[
    ("clock", "kvmclock counts"),
    ("PIT", "its counters' load times are of the host's clock"),
    ("MSR 0x10", "the TSC counts"),
    ("MSR 0x40000010", "HV_X64_MSR_VP_RUNTIME counts"),
    ("MSR 0x40000020", "HV_X64_MSR_TIME_REF_COUNT counts"),
    ("APIC timer's current count", "it counts down"),
];

/// What is the VM's.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "named as the ioctls that read them")]
pub struct SavedVm {
    /// Both PICs and the I/O APIC, where they are in the kernel.
    pub irqchips: Option<[kvm_irqchip; 3]>,
    pub pit: Option<kvm_pit_state2>,
    pub clock: Option<kvm_clock_data>,
}

/// What is a vCPU's.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "named as the ioctls that read them")]
pub struct SavedVcpu {
    pub cpuid: CpuId,
    pub tsc_khz: Option<u32>,
    /// `KVM_VCPU_TSC_OFFSET`: with it the TSC counts on as if nothing had happened.
    pub tsc_offset: Option<u64>,
    /// Index and value of each MSR that there is.
    pub msrs: Vec<(u32, u64)>,
    pub regs: kvm_regs,
    pub sregs: Sregs,
    pub xcrs: Option<kvm_xcrs>,
    /// `KVM_GET_XSAVE2`, or `KVM_GET_XSAVE` where that is all.
    pub xsave: Option<Vec<u8>>,
    pub debugregs: Option<kvm_debugregs>,
    pub events: kvm_vcpu_events,
    pub mp_state: kvm_mp_state,
    /// Where local APICs are in the kernel.
    pub lapic: Option<kvm_lapic_state>,
    pub nested_state: Option<Vec<u8>>,
}

/// `KVM_GET_SREGS2`, which has the PDPTEs too, or `KVM_GET_SREGS` where that is all.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "named as the ioctls that read them")]
pub enum Sregs {
    Sregs(kvm_sregs),
    Sregs2(kvm_sregs2),
}

/// What userspace has set up, and KVM does not give back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Setup {
    /// GSIs that `KVM_IRQ_LINE` holds up.
    pub lines: BTreeSet<u32>,
    /// Flags and ranges of the last `KVM_X86_SET_MSR_FILTER`.
    pub msr_filter: Option<(u32, Vec<MsrRange>)>,
    /// The last `KVM_SET_PMU_EVENT_FILTER`.
    pub pmu_event_filter: Option<Vec<u8>>,
}

const IRQCHIPS: [u32; 3] = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];

/// The interrupt controller that a restored VM begins with: as that of the saved one began.
pub(super) fn saved_irqchip(irqchip: Irqchip) -> Irqchip {
    irqchip
}

impl SavedVm {
    /// Reads it.
    pub(super) fn save(core: &Core, _: &mut [&mut Vcpu]) -> TestResult<Self> {
        let vm = &core.fd;
        let read = |chip_id| {
            let mut chip = kvm_irqchip { chip_id, ..Default::default() };
            vm.get_irqchip(&mut chip).ioctl("KVM_GET_IRQCHIP").map(|()| chip)
        };
        let irqchips = match core.inventory().irqchip {
            Irqchip::Kernel => {
                let [master, slave, ioapic] = IRQCHIPS;
                Some([read(master)?, read(slave)?, read(ioapic)?])
            }
            _ => None,
        };
        // ENXIO where there is none; a KVM without kvmclock has no clock.
        Ok(Self { irqchips, pit: vm.get_pit2().ok(), clock: vm.get_clock().ok() })
    }

    /// Nothing has to come before the first vCPU.
    pub(super) fn init(&self, _: &Vm) -> TestResult {
        Ok(())
    }

    /// Writes VM and vCPUs. The order of what is a vCPU's:
    /// - the TSC's frequency before all that counts by it;
    /// - IA32_FEATURE_CONTROL before nested state, which it may forbid;
    /// - sregs before nested state (EFER.SVME), before the local APIC (APIC base) and before MSRs;
    /// - the local APIC before MSRs: the TSC deadline is taken in its mode only, and paravirtual features
    ///   want one;
    /// - xcrs before xsave, whose header they bound;
    /// - the TSC before other MSRs, the TSC deadline behind all others;
    /// - regs before events: they drop a pending exception;
    /// - the multiprocessing state behind all that could wake or reset a vCPU.
    ///
    /// Then the VM's: filters first, which are userspace's to know; lines before the interrupt controllers,
    /// which KVM tells as if there were none; the I/O APIC delivers what is pending when it is set, so it comes behind the local
    /// APICs; the PIT behind both; the clock behind the TSCs, from which KVM computes it.
    pub(super) fn restore(&self, vm: &mut Vm, vcpus: &mut [Vcpu], state: &State) -> TestResult {
        let Setup { lines, msr_filter, pmu_event_filter } = &state.inventory.arch;
        if keeps("msr filter")
            && let Some((flags, ranges)) = msr_filter
        {
            vm.set_msr_filter(*flags, ranges).ioctl("KVM_X86_SET_MSR_FILTER again")?;
        }
        if keeps("pmu event filter")
            && let Some(filter) = pmu_event_filter
        {
            vm.set_pmu_event_filter(filter).ioctl("KVM_SET_PMU_EVENT_FILTER again")?;
        }
        for (vcpu, saved) in vcpus.iter_mut().zip(&state.vcpus) {
            saved.restore(vcpu)?;
        }
        for line in lines.iter().filter(|_| keeps("irq lines")) {
            vm.set_irq_line(*line, true).ioctl("KVM_IRQ_LINE again")?;
        }
        for chip in self.irqchips.iter().flatten().filter(|_| keeps("irqchip")) {
            vm.fd().set_irqchip(chip).ioctl("KVM_SET_IRQCHIP")?;
        }
        if let Some(pit) = &self.pit {
            vm.fd().create_pit2(Default::default()).ioctl("KVM_CREATE_PIT2")?;
            if keeps("pit") {
                vm.fd().set_pit2(pit).ioctl("KVM_SET_PIT2")?;
            }
        }
        if let Some(saved) = self.clock
            && keeps("clock")
        {
            // With it KVM adds the time since then.
            let flags = saved.flags & KVM_CLOCK_REALTIME;
            let (clock, realtime) = (saved.clock, saved.realtime);
            let clock = kvm_clock_data { clock, flags, realtime, ..Default::default() };
            vm.fd().set_clock(&clock).ioctl("KVM_SET_CLOCK")?;
        }
        Ok(())
    }

    /// All of it, as named pieces.
    pub(super) fn parts(&self, parts: &mut Parts) {
        for (name, chip) in
            ["PIC 0", "PIC 1", "I/O APIC"].iter().zip(self.irqchips.iter().flatten())
        {
            // SAFETY: as many plain bytes in whichever controller it is.
            parts.add(*name, unsafe { &chip.chip.dummy }.as_bytes());
        }
        for (channel, number) in self.pit.iter().flat_map(|pit| &pit.channels).zip(0..) {
            let mut channel = *channel;
            // On the host's clock.
            channel.count_load_time = 0;
            parts.add(format!("PIT channel {number}"), bytes_of(&channel));
        }
        if let Some(pit) = &self.pit {
            parts.number("PIT flags", pit.flags.into());
        }
        if let Some(clock) = &self.clock {
            parts.number("clock", clock.clock);
        }
    }
}

impl SavedVcpu {
    /// Reads it.
    pub(super) fn save(core: &Core, vcpu: &mut Vcpu) -> TestResult<Self> {
        let offers = |cap: u32| core.fd.check_extension_raw(cap.into());
        let fd = vcpu.fd();
        with_triple_faults(core);
        // First: it takes in what has come for the vCPU, such as an INIT or a SIPI.
        let mp_state = fd.get_mp_state().ioctl("KVM_GET_MP_STATE")?;
        let sregs = match offers(KVM_CAP_SREGS2) > 0 {
            true => Sregs::Sregs2(vcpu.sregs2().ioctl("KVM_GET_SREGS2")?),
            false => Sregs::Sregs(fd.get_sregs().ioctl("KVM_GET_SREGS")?),
        };
        let xsave = match (offers(KVM_CAP_XSAVE2), offers(KVM_CAP_XSAVE)) {
            (size @ 1.., _) => {
                let mut bytes = vec![0; size as usize];
                vcpu.raw(KVM_GET_XSAVE2, &mut bytes).ioctl("KVM_GET_XSAVE2")?;
                Some(bytes)
            }
            (_, 1..) => {
                let mut bytes = vec![0; 4096];
                vcpu.raw(KVM_GET_XSAVE, &mut bytes).ioctl("KVM_GET_XSAVE")?;
                Some(bytes)
            }
            _ => None,
        };
        let xcrs = offers(KVM_CAP_XCRS) > 0;
        let has_lapic = core.inventory().irqchip != Irqchip::None;
        Ok(Self {
            cpuid: fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES).ioctl("KVM_GET_CPUID2")?,
            tsc_khz: fd.get_tsc_khz().ok(),
            tsc_offset: vcpu.tsc_offset().ok(),
            msrs: msrs::read_all(vcpu)?,
            regs: fd.get_regs().ioctl("KVM_GET_REGS")?,
            sregs,
            xcrs: xcrs.then(|| fd.get_xcrs().ioctl("KVM_GET_XCRS")).transpose()?,
            xsave,
            debugregs: fd.get_debug_regs().ok(),
            events: fd.get_vcpu_events().ioctl("KVM_GET_VCPU_EVENTS")?,
            mp_state,
            lapic: has_lapic.then(|| fd.get_lapic().ioctl("KVM_GET_LAPIC")).transpose()?,
            nested_state: nested_state(vcpu, offers(KVM_CAP_NESTED_STATE))?,
        })
    }

    /// Gives a fresh vCPU what must come first: its CPUID, by which KVM judges all the rest.
    pub(super) fn init(&self, vcpu: &Vcpu) -> TestResult {
        vcpu.core().iter().for_each(|core| with_triple_faults(core));
        vcpu.fd().set_cpuid2(&self.cpuid).ioctl("KVM_SET_CPUID2 again")
    }

    fn restore(&self, vcpu: &mut Vcpu) -> TestResult {
        let fd = vcpu.fd();
        if let Some(khz) = self.tsc_khz
            && fd.get_tsc_khz().ok() != Some(khz)
            && keeps("tsc frequency")
        {
            fd.set_tsc_khz(khz).ioctl("KVM_SET_TSC_KHZ")?;
        }
        msrs::write_first(vcpu, &self.msrs)?;
        match &self.sregs {
            _ if !keeps("sregs") => {}
            Sregs::Sregs(sregs) => fd.set_sregs(sregs).ioctl("KVM_SET_SREGS")?,
            Sregs::Sregs2(sregs) => vcpu.set_sregs2(sregs).ioctl("KVM_SET_SREGS2")?,
        }
        for nested_state in self.nested_state.iter().filter(|_| keeps("nested state")) {
            vcpu.raw(KVM_SET_NESTED_STATE, &mut nested_state.clone())
                .ioctl("KVM_SET_NESTED_STATE")?;
        }
        for lapic in self.lapic.iter().filter(|_| keeps("lapic")) {
            fd.set_lapic(lapic).ioctl("KVM_SET_LAPIC")?;
        }
        for xcrs in self.xcrs.iter().filter(|_| keeps("xcrs")) {
            fd.set_xcrs(xcrs).ioctl("KVM_SET_XCRS")?;
        }
        for xsave in self.xsave.iter().filter(|_| keeps("xsave")) {
            vcpu.raw(KVM_SET_XSAVE, &mut xsave.clone()).ioctl("KVM_SET_XSAVE")?;
        }
        match self.tsc_offset {
            _ if !keeps("tsc offset") => {}
            Some(offset) => vcpu.set_tsc_offset(offset).ioctl("KVM_VCPU_TSC_OFFSET")?,
            None => msrs::write_tsc(vcpu, &self.msrs)?,
        }
        self.restore_mcg_cap(vcpu)?;
        if keeps("msrs") {
            msrs::write(vcpu, &self.msrs)?;
        }
        if keeps("regs") {
            fd.set_regs(&self.regs).ioctl("KVM_SET_REGS")?;
        }
        if keeps("events") {
            fd.set_vcpu_events(&self.events).ioctl("KVM_SET_VCPU_EVENTS")?;
        }
        for debugregs in self.debugregs.iter().filter(|_| keeps("debugregs")) {
            fd.set_debug_regs(debugregs).ioctl("KVM_SET_DEBUGREGS")?;
        }
        if keeps("mp state") {
            fd.set_mp_state(self.mp_state).ioctl("KVM_SET_MP_STATE")?;
        }
        Ok(())
    }

    /// The machine-check capabilities, where they are not what a vCPU begins with.
    fn restore_mcg_cap(&self, vcpu: &Vcpu) -> TestResult {
        let saved = self.msr(IA32_MCG_CAP);
        let Some(cap) = saved.filter(|_| keeps("mcg_cap")) else { return Ok(()) };
        if vcpu.msr(IA32_MCG_CAP)? != saved {
            vcpu.raw(KVM_X86_SETUP_MCE, &mut cap.to_ne_bytes()).ioctl("KVM_X86_SETUP_MCE")?;
        }
        Ok(())
    }

    /// The value of an MSR.
    pub fn msr(&self, index: u32) -> Option<u64> {
        self.msrs.iter().find(|(other, _)| *other == index).map(|(_, value)| *value)
    }

    /// All of it, as named pieces.
    pub(super) fn parts(&self, parts: &mut Parts) {
        for e in self.cpuid.as_slice() {
            let words = [e.flags, e.eax, e.ebx, e.ecx, e.edx];
            parts.add(format!("CPUID {:#x}.{:#x}", e.function, e.index), words.as_bytes());
        }
        self.msrs.iter().for_each(|(msr, value)| parts.number(format!("MSR {msr:#x}"), *value));
        let mut events = self.events;
        if events.flags & KVM_VCPUEVENT_VALID_PAYLOAD == 0 {
            // One that is pending goes for injected without KVM_CAP_EXCEPTION_PAYLOAD (api.rst 4.31).
            events.exception.pending = 0;
        }
        for (name, bytes) in [
            ("regs", Some(bytes_of(&self.regs))),
            match &self.sregs {
                Sregs::Sregs(sregs) => ("sregs", Some(bytes_of(sregs))),
                Sregs::Sregs2(sregs) => ("sregs2", Some(bytes_of(sregs))),
            },
            ("xcrs", self.xcrs.as_ref().map(bytes_of)),
            ("xsave", self.xsave.as_deref()),
            ("debugregs", self.debugregs.as_ref().map(bytes_of)),
            ("events", Some(bytes_of(&events))),
            ("mp_state", Some(bytes_of(&self.mp_state))),
            ("nested state", self.nested_state.as_deref()),
        ] {
            bytes.into_iter().for_each(|bytes| parts.add(name, bytes));
        }
        for (name, number) in
            [("TSC offset", self.tsc_offset), ("TSC frequency", self.tsc_khz.map(u64::from))]
        {
            number.into_iter().for_each(|number| parts.number(name, number));
        }
        if let Some(lapic) = &self.lapic {
            let mut regs: Vec<u8> = bytes_of(lapic).to_vec();
            let count = regs[TMCCT..TMCCT + 4].to_vec();
            regs[TMCCT..TMCCT + 4].fill(0);
            parts.add("local APIC", &regs);
            parts.add("APIC timer's current count", &count);
        }
    }
}

/// Makes a triple fault that is pending one of the vCPUs' events, where KVM can do so.
fn with_triple_faults(core: &Core) {
    let enable = kvm_enable_cap {
        cap: KVM_CAP_X86_TRIPLE_FAULT_EVENT,
        args: [1, 0, 0, 0],
        ..Default::default()
    };
    let _ = core.fd.enable_cap(&enable);
}

/// The APIC timer's current count.
const TMCCT: usize = apic::reg::TMCCT as usize;

/// `KVM_GET_NESTED_STATE`, where KVM has nested virtualization: of at most `size` bytes.
fn nested_state(vcpu: &Vcpu, size: i32) -> TestResult<Option<Vec<u8>>> {
    /// Offset of `kvm_nested_state.size`.
    const SIZE: usize = 4;
    if size <= 0 {
        return Ok(None);
    }
    let mut bytes = vec![0; size as usize];
    bytes[SIZE..SIZE + 4].copy_from_slice(&(size as u32).to_ne_bytes());
    vcpu.raw(KVM_GET_NESTED_STATE, &mut bytes).ioctl("KVM_GET_NESTED_STATE")?;
    let used = u32::from_ne_bytes(bytes[SIZE..SIZE + 4].try_into().unwrap_or_default());
    bytes.truncate(used as usize);
    Ok(Some(bytes))
}

/// The bytes of a structure of plain integers.
fn bytes_of<T: Copy>(value: &T) -> &[u8] {
    // SAFETY: structures of the kernel's API, whose padding it names and fills.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}
