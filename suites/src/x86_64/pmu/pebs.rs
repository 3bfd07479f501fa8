//! PEBS: records of the guest's state that the CPU writes into its DS area (SDM vol. 3, "Processor Event
//! Based Sampling"); where KVM has none for guests, nothing tells of it.
use crate::prelude::*;
use cpuid::feature;
use defs::x86::pmu::{
    INSTRUCTIONS_RETIRED, PebsDataCfg, PerfCapabilities, PerfEvtSel, PerfGlobalStatus, ds,
};
use msr::{
    IA32_DS_AREA, IA32_MISC_ENABLE, IA32_PEBS_ENABLE, IA32_PERF_CAPABILITIES,
    IA32_PERF_GLOBAL_CTRL, IA32_PERF_GLOBAL_OVF_CTRL, IA32_PERF_GLOBAL_STATUS, IA32_PERFEVTSEL0,
    IA32_PMC0, MSR_PEBS_DATA_CFG, MSR_PEBS_LD_LAT, MiscEnable,
};

#[guest]
fn looks_for_pebs(_: &mut Guest) {
    let gp = |result: Result<(), Trap>| result.err().map(|t| t.vector) == Some(vector::GP);
    for (name, msr) in [
        ("IA32_PEBS_ENABLE", IA32_PEBS_ENABLE),
        ("MSR_PEBS_DATA_CFG", MSR_PEBS_DATA_CFG),
        ("MSR_PEBS_LD_LAT", MSR_PEBS_LD_LAT),
        ("IA32_DS_AREA", IA32_DS_AREA),
    ] {
        check!("RDMSR of {name} is #GP without PEBS", gp(rdmsr_safe(msr).map(drop)));
        check!("WRMSR of 0 to {name} is #GP without PEBS", gp(wrmsr_safe(msr, 0)));
        check!("WRMSR of 1 to {name} is #GP without PEBS", gp(wrmsr_safe(msr, 1)));
    }
    check!("CPUID has no DS without PEBS", !cpuid_has(feature::DS));
    check!("CPUID has no DTES64 without PEBS", !cpuid_has(feature::DTES64));
    if cpuid_has(feature::PDCM) {
        let hidden = bits!(PerfCapabilities::{PEBS_TRAP | PEBS_FORMAT | PEBS_BASELINE});
        let told = rdmsr_safe(IA32_PERF_CAPABILITIES).map(|value| value & hidden);
        check_eq!("IA32_PERF_CAPABILITIES reports no PEBS", told, Ok(0));
    } else {
        let read = gp(rdmsr_safe(IA32_PERF_CAPABILITIES).map(drop));
        check!("RDMSR of IA32_PERF_CAPABILITIES is #GP without PDCM", read);
    }
    let both = bits!(MiscEnable::{PEBS_UNAVAIL | BTS_UNAVAIL});
    check_eq!(
        "IA32_MISC_ENABLE reports that PEBS and BTS are unavailable",
        rdmsr(IA32_MISC_ENABLE) & both,
        both
    );
    let value = rdmsr(IA32_MISC_ENABLE);
    for (name, bit) in
        [("PEBS_UNAVAIL", MiscEnable::PEBS_UNAVAIL), ("BTS_UNAVAIL", MiscEnable::BTS_UNAVAIL)]
    {
        let bit = bit.bits();
        check!(
            "IA32_MISC_ENABLE.{name} cannot be cleared",
            gp(wrmsr_safe(IA32_MISC_ENABLE, value & !bit))
        );
        check_eq!("IA32_MISC_ENABLE keeps {name} set", rdmsr(IA32_MISC_ENABLE) & bit, bit);
    }
}

const VECTOR: u8 = 0x61;

const DS: u64 = layout::SCRATCH;
const BUFFER: u64 = layout::SCRATCH + 0x1000;
const BUFFER_END: u64 = BUFFER + 0x4000;

/// Groups of an adaptive record: the bit in MSR_PEBS_DATA_CFG, and the group's bytes.
const GROUPS: [(PebsDataCfg, u64); 3] =
    [(PebsDataCfg::MEMORY_INFO, 32), (PebsDataCfg::GPRS, 144), (PebsDataCfg::XMMS, 256)];
const BASIC_BYTES: u64 = 32;

fn work(loops: u64) {
    let mut value = 1_u64;
    for _ in 0..loops {
        value = core::hint::black_box(value.wrapping_mul(3));
    }
}

/// Lets counter 0 overflow `-start` instructions on, with `config` as the record's groups where those can
/// be chosen.
fn sample(start: u64, config: Option<u64>) {
    poke(DS + ds::PEBS_BUFFER_BASE, BUFFER);
    poke(DS + ds::PEBS_INDEX, BUFFER);
    poke(DS + ds::PEBS_ABSOLUTE_MAXIMUM, BUFFER_END);
    // The first record interrupts.
    poke(DS + ds::PEBS_INTERRUPT_THRESHOLD, BUFFER + 1);
    (BUFFER..BUFFER_END).step_by(8).for_each(|at| poke(at, 0_u64));
    wrmsr(IA32_DS_AREA, DS);
    if let Some(config) = config {
        wrmsr(MSR_PEBS_DATA_CFG, config);
    }
    wrmsr(IA32_PMC0, start);
    wrmsr(IA32_PERFEVTSEL0, INSTRUCTIONS_RETIRED | bits!(PerfEvtSel::{USR | OS | EN}));
    wrmsr(IA32_PEBS_ENABLE, 1);
    wrmsr(IA32_PERF_GLOBAL_CTRL, 1);
    work(1000);
    wrmsr(IA32_PERF_GLOBAL_CTRL, 0);
    wrmsr(IA32_PEBS_ENABLE, 0);
    wrmsr(IA32_PERFEVTSEL0, 0);
}

#[guest]
fn takes_records(g: &mut Guest) {
    let adaptive = g.arg(0) & PerfCapabilities::PEBS_BASELINE.bits() != 0;
    let apic = Apic::enable();
    let mut interrupts = 0;
    let configs = if adaptive { 1 << GROUPS.len() } else { 1 };
    for config in 0..configs {
        let taken = &mut interrupts;
        let on_interrupt = |_: &mut TrapFrame| {
            *taken += 1;
            apic.eoi();
        };
        with_handler(VECTOR, on_interrupt, || {
            apic.write(apic::reg::LVT_PMI, VECTOR.into());
            sample(u64::from(500_u32.wrapping_neg()), adaptive.then_some(config));
            sti();
            spin_for(1000, || false);
            cli();
        });
        let groups = GROUPS.iter().filter(|(bit, _)| config & bit.bits() != 0);
        let size = BASIC_BYTES + groups.map(|(_, bytes)| bytes).sum::<u64>();
        let written = peek::<u64>(DS + ds::PEBS_INDEX) - BUFFER;
        check!("an overflow writes records with groups {config:#b}", written >= size, "{written}");
        check_eq!("the index moves by whole records with groups {config:#b}", written % size, 0);
        for at in (BUFFER..BUFFER + written).step_by(size as usize) {
            let format: u64 = peek(at);
            check_eq!("a record has its size with groups {config:#b}", format >> 48, size);
            check_eq!(
                "a record names its groups with groups {config:#b}",
                format & 0xffff_ffff,
                config
            );
            check_eq!(
                "a record names its counter with groups {config:#b}",
                peek::<u64>(at + 16),
                1
            );
        }
        let behind = (BUFFER + written..BUFFER_END).step_by(8).all(|at| peek::<u64>(at) == 0);
        check!("no record is written behind the index with groups {config:#b}", behind);
        let status = rdmsr(IA32_PERF_GLOBAL_STATUS);
        check!(
            "GLOBAL_STATUS reports the full buffer with groups {config:#b}",
            status & PerfGlobalStatus::OVF_BUFFER.bits() != 0,
            "{status:#x}"
        );
        wrmsr(IA32_PERF_GLOBAL_OVF_CTRL, status);
        let left = rdmsr(IA32_PERF_GLOBAL_STATUS) & PerfGlobalStatus::OVF_BUFFER.bits();
        check_eq!("IA32_PERF_GLOBAL_OVF_CTRL clears the flag OVF_BUFFER", left, 0);
    }
    check_eq!("each full buffer is one interrupt", interrupts, configs);
    sample(0, adaptive.then_some(0));
    check_eq!("no record is written without an overflow", peek::<u64>(DS + ds::PEBS_INDEX), BUFFER);
}

#[guest]
fn tries_registers(g: &mut Guest) {
    let offered = g.arg(0);
    let gp = |result: Result<(), Trap>| result.err().map(|t| t.vector) == Some(vector::GP);
    check_eq!(
        "RDMSR of IA32_PERF_CAPABILITIES returns what is offered",
        rdmsr(IA32_PERF_CAPABILITIES),
        offered
    );
    check!(
        "IA32_PERF_CAPABILITIES is read-only for the guest",
        gp(wrmsr_safe(IA32_PERF_CAPABILITIES, offered))
    );
    check!("CPUID has DS with PEBS", cpuid_has(feature::DS));
    for value in [1, 0] {
        wrmsr(IA32_PEBS_ENABLE, value);
        check_eq!("IA32_PEBS_ENABLE reads as written", rdmsr(IA32_PEBS_ENABLE), value);
    }
    let reserved = gp(wrmsr_safe(IA32_PEBS_ENABLE, 1 << 31));
    check!("enabling PEBS of an absent counter is #GP", reserved);
    wrmsr(IA32_DS_AREA, DS);
    check_eq!("IA32_DS_AREA reads as written", rdmsr(IA32_DS_AREA), DS);
    check!("a non-canonical IA32_DS_AREA is #GP", gp(wrmsr_safe(IA32_DS_AREA, 1 << 63)));
    if offered & PerfCapabilities::PEBS_BASELINE.bits() == 0 {
        check!(
            "RDMSR of MSR_PEBS_DATA_CFG is #GP without adaptive PEBS",
            gp(rdmsr_safe(MSR_PEBS_DATA_CFG).map(drop))
        );
        check!(
            "WRMSR of MSR_PEBS_DATA_CFG is #GP without adaptive PEBS",
            gp(wrmsr_safe(MSR_PEBS_DATA_CFG, 0))
        );
    } else {
        wrmsr(MSR_PEBS_DATA_CFG, 1);
        check_eq!("MSR_PEBS_DATA_CFG reads as written", rdmsr(MSR_PEBS_DATA_CFG), 1);
        check!(
            "a reserved bit of MSR_PEBS_DATA_CFG is #GP",
            gp(wrmsr_safe(MSR_PEBS_DATA_CFG, 1 << 63))
        );
    }
}

#[host]
mod host {
    use super::*;

    /// IA32_PERF_CAPABILITIES as KVM offers it (KVM_GET_MSRS on /dev/kvm); 0 where it does not.
    fn offered_capabilities() -> TestResult<u64> {
        let system = System::get()?;
        let entry = bindings::kvm_msr_entry { index: IA32_PERF_CAPABILITIES, ..Default::default() };
        let mut msrs =
            bindings::Msrs::from_entries(&[entry]).map_err(|e| Failure::Error(format!("{e:?}")))?;
        let read = system.fd().get_msrs(&mut msrs).unwrap_or(0);
        Ok(if read == 1 { msrs.as_slice()[0].data } else { 0 })
    }

    /// Without PEBS for guests its MSRs are #GP, and neither CPUID nor any MSR tells of it.
    #[kvm_test(looks_for_pebs, requires(host::UNKNOWN_MSRS_FAULT))]
    fn absent_pebs_is_hidden(t: &mut OneVcpu) -> TestResult {
        let offered = offered_capabilities()?;
        require!(
            offered & PerfCapabilities::PEBS_FORMAT.bits() == 0,
            "a host without PEBS for guests"
        );
        check_eq!(
            "the feature MSR reports no PEBS",
            offered & bits!(PerfCapabilities::{PEBS_TRAP | PEBS_BASELINE}),
            0
        );
        t.vcpu.run_until_done()
    }

    /// A vCPU with all of PEBS that KVM offers, told to the guest in its first argument.
    fn add_vcpu_with_pebs(vm: &mut Vm, guest: GuestFn) -> TestResult<Vcpu> {
        let offered = offered_capabilities()?;
        // Records of earlier formats are longer and tell no size; KVM offers none on CPUs that write them.
        require!(
            (offered & PerfCapabilities::PEBS_FORMAT.bits()) >> 8 >= 4,
            "PEBS for guests (IA32_PERF_CAPABILITIES.PEBS_FMT)"
        );
        let mut vcpu = vm.add_vcpu(0, guest)?;
        let foreign = (16..).map(|bit| 1 << bit).find(|bit| offered & bit == 0).unwrap_or(0);
        let more = vcpu.set_msr(IA32_PERF_CAPABILITIES, offered | foreign)?;
        check_eq!("userspace cannot offer PEBS where KVM does not", more, false);
        let same = vcpu.set_msr(IA32_PERF_CAPABILITIES, offered)?;
        check_eq!("userspace can offer PEBS where KVM does", same, true);
        check_eq!("userspace can mark PEBS as available", vcpu.set_msr(IA32_MISC_ENABLE, 1)?, true);
        vcpu.set_args(&[offered]);
        Ok(vcpu)
    }

    /// An overflow of a counter in PEBS mode writes records of the groups asked for, and interrupts when the
    /// buffer is at its threshold. Groups can be asked for where PEBS is adaptive.
    #[kvm_test(takes_records, irqchip, requires(host::FREE_COUNTERS))]
    fn overflow_writes_records(t: &mut OneVm) -> TestResult {
        add_vcpu_with_pebs(&mut t.vm, guest_fn!(takes_records))?.run_until_done()
    }

    /// Registers of PEBS take what there is and no more; MSR_PEBS_DATA_CFG is there where PEBS is adaptive.
    #[kvm_test(tries_registers)]
    fn registers_keep_their_rules(t: &mut OneVm) -> TestResult {
        add_vcpu_with_pebs(&mut t.vm, guest_fn!(tries_registers))?.run_until_done()
    }
}
